// Package redis keeps elections in Redis, where all distributors meet. Each is
// one string: the elected replica, when a sample of it was last received, and a
// signature. A distributor reads it, decides by election.Decide, and writes the
// outcome if nobody else did meanwhile, so that two distributors cannot elect two
// replicas. Times are Redis' own. What is in it may be lost at any time: the
// distributors elect again from what they know. Others may write to the keys, too:
// what no distributor of this cluster signed is ignored and replaced.
package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	goredis "github.com/redis/go-redis/v9"

	"github.com/palliumhq/pallium/backend/election"
)

// Signer signs what this distributor elects, and verifies what others elected. An
// error of Verify means that no member of the cluster signed the parts.
type Signer interface {
	Sign(purpose string, parts ...string) (string, error)
	Verify(signature, host, purpose string, parts ...string) (aged bool, err error)
}

const (
	purpose = "election of a replica"
	// maxAhead is how far a record may be ahead of Redis' time. It is ahead only
	// when that was set back.
	maxAhead = 10 * time.Second
	// news is into how many parts the failover time is divided: that an elected
	// replica was received less than one of them later is not written.
	news = 30
	// attempts bounds how often a claim begins again because another distributor
	// wrote first.
	attempts = 5
)

// script replaces the record KEYS[1] by ARGV[2], which expires after ARGV[3] ms, if
// it is ARGV[1] and if ARGV[2] is not empty. It answers Redis' time in ms, the
// record as it was found (empty: there is none), and whether it was replaced. It
// needs the commands EVALSHA, EVAL, TIME, GET and SET.
const script = `
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
local v = redis.pcall('GET', KEYS[1])
if not v then v = '' elseif type(v) == 'table' then v = 'of another type' elseif #v > 65536 then v = 'too long' end
if ARGV[2] == '' or v ~= ARGV[1] then return {now, v, '0'} end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return {now, v, '1'}`

// Options of a Store. All may be left out.
type Options struct {
	Prefix     string // of the keys; default "pallium:ha"
	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Store implements election.Store. It is safe for concurrent use.
type Store struct {
	client  goredis.UniversalClient
	signer  Signer
	o       Options
	script  *goredis.Script
	ignored *prometheus.CounterVec

	mu     sync.Mutex
	logged time.Time
}

// New returns a Store that uses client, which stays the caller's.
func New(client goredis.UniversalClient, signer Signer, o Options) *Store {
	if o.Prefix == "" {
		o.Prefix = "pallium:ha"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{client: client, signer: signer, o: o, script: goredis.NewScript(script)}
	s.ignored = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pallium_distributor_ha_ignored_records_total",
		Help: "Records of elections in Redis that no distributor of this cluster wrote as they are, by reason (damaged, forged, future).",
	}, []string{"reason"})
	for _, reason := range []string{damaged, forged, future} {
		s.ignored.WithLabelValues(reason)
	}
	if o.Registerer != nil {
		o.Registerer.MustRegister(s.ignored)
	}
	return s
}

// Claim implements election.Store. Ages are counted in milliseconds, rounded so
// that nothing is taken for fresher than it is.
func (s *Store) Claim(ctx context.Context, c election.Cluster, seen []election.Sighting, r election.Rules) (election.Sighting, error) {
	out, err := s.claim(ctx, c, seen, r)
	if err != nil {
		return election.Sighting{}, fmt.Errorf("elect a replica of cluster %q: %w", c.Name, err)
	}
	return out, nil
}

func (s *Store) claim(ctx context.Context, c election.Cluster, seen []election.Sighting, r election.Rules) (election.Sighting, error) {
	// The alphabet of tenants has no colon, so that the key says whose it is.
	key := s.o.Prefix + ":" + string(c.Tenant) + ":" + c.Name
	a, err := s.run(ctx, key, "", "", 0)
	if err != nil {
		return election.Sighting{}, err
	}
	left := attempts
	for began := s.o.Now(); ; {
		decided, text, err := s.decide(key, a, aged(seen, s.o.Now().Sub(began)), r)
		if err != nil || text == a.record {
			return decided, err
		}
		expires := r.Idle - decided.Age
		a, err = s.run(ctx, key, a.record, text, max(expires, time.Millisecond))
		if err != nil || a.replaced {
			return decided, err
		}
		if left--; left == 0 {
			return election.Sighting{}, errors.New("other processes write the record at the same time, again and again")
		}
	}
}

// aged is what was seen, so much later, in whole milliseconds.
func aged(seen []election.Sighting, later time.Duration) []election.Sighting {
	out := make([]election.Sighting, len(seen))
	for i, v := range seen {
		out[i] = election.Sighting{Replica: v.Replica, Age: (v.Age + later + time.Millisecond - 1).Truncate(time.Millisecond)}
	}
	return out
}

// decide returns the outcome of an election and the record that says so, which is
// the one that there is while that need not change.
func (s *Store) decide(key string, a answer, seen []election.Sighting, r election.Rules) (election.Sighting, string, error) {
	current, err := s.verify(key, a)
	if err != nil { // it is as if there were none
		reason := reasonOf(err)
		s.ignored.WithLabelValues(reason).Inc()
		s.log(key, reason)
	}
	decided := election.Decide(current, seen, r.Failover)
	if decided.Replica == "" {
		return decided, a.record, nil
	}
	// To tell what is hardly news would only keep others from telling theirs.
	if current != nil && decided.Replica == current.Replica && (decided.Age == current.Age ||
		current.Age <= r.Failover/2 && current.Age-decided.Age <= r.Failover/news) {
		return *current, a.record, nil
	}
	text, err := s.sign(key, decided, a.now)
	return decided, text, err
}

// answer is what the script answers.
type answer struct {
	now      int64 // Redis' time in Unix ms
	record   string
	replaced bool
}

func (s *Store) run(ctx context.Context, key, was, becomes string, expires time.Duration) (answer, error) {
	list, err := s.script.Run(ctx, s.client, []string{key}, was, becomes, expires.Milliseconds()).StringSlice()
	if err != nil {
		return answer{}, err
	}
	if len(list) != 3 {
		return answer{}, fmt.Errorf("an answer of %d parts", len(list))
	}
	now, err := strconv.ParseInt(list[0], 10, 64)
	if err != nil {
		return answer{}, fmt.Errorf("time of Redis: %w", err)
	}
	return answer{now: now, record: list[1], replaced: list[2] == "1"}, nil
}

// Why a record is ignored, as the metric says it.
const (
	damaged = "damaged"
	forged  = "forged"
	future  = "future"
)

var (
	errDamaged = errors.New("the record is damaged")
	errFuture  = errors.New("the record's time is in the future")
)

func reasonOf(err error) string {
	switch {
	case errors.Is(err, errFuture):
		return future
	case errors.Is(err, errDamaged):
		return damaged
	}
	return forged
}

// version begins each record.
const version = "1"

// sign makes a record: version, when a sample of the replica was last received (by
// Redis' clock, in ms), signature, and the replica, separated by blanks.
func (s *Store) sign(key string, elected election.Sighting, now int64) (string, error) {
	received := strconv.FormatInt(now-elected.Age.Milliseconds(), 10)
	sig, err := s.signer.Sign(purpose, key, received, elected.Replica)
	if err != nil {
		return "", fmt.Errorf("sign the election: %w", err)
	}
	return strings.Join([]string{version, received, sig, elected.Replica}, " "), nil
}

// verify decodes a record that a distributor of this cluster wrote; nil without
// one.
func (s *Store) verify(key string, a answer) (*election.Sighting, error) {
	if a.record == "" {
		return nil, nil
	}
	parts := strings.SplitN(a.record, " ", 4)
	if len(parts) != 4 || parts[0] != version {
		return nil, errDamaged
	}
	received, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil || received < 0 {
		return nil, errDamaged
	}
	if _, err := s.signer.Verify(parts[2], "", purpose, key, parts[1], parts[3]); err != nil {
		return nil, err
	}
	age := time.Duration(a.now-received) * time.Millisecond
	if age < -maxAhead {
		return nil, errFuture
	}
	return &election.Sighting{Replica: parts[3], Age: max(age, 0)}, nil
}

// log tells of records that are ignored, at most once a minute.
func (s *Store) log(key, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.o.Now(); s.logged.IsZero() || now.Sub(s.logged) >= time.Minute {
		s.logged = now
		s.o.Logger.Warn("ignoring and replacing an election in Redis that no distributor of this cluster wrote", "key", key, "reason", reason)
	}
}
