// Package redis stores elections in Redis, which all distributors share. An election
// is one string: the elected replica, the time of its last received sample, and a
// signature. A distributor reads it, decides with election.Decide, and writes the
// outcome unless another distributor wrote in between, so that two distributors
// cannot elect two replicas. Times are from the clock of Redis. The data may be lost
// at any time: the distributors then elect again from their own state. Records that
// no distributor of this cluster signed are ignored and replaced.
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

// Signer signs the elections of this distributor and verifies the elections of others.
// An error of Verify means that no member of the cluster signed the parts.
type Signer interface {
	Sign(purpose string, parts ...string) (string, error)
	Verify(signature, host, purpose string, parts ...string) (aged bool, err error)
}

const (
	purpose = "election of a replica"
	// maxAhead is how far a record may be ahead of the clock of Redis, which happens
	// only when that clock was set back.
	maxAhead = 10 * time.Second
	// updateFraction limits writes: a newer sample of the elected replica is written
	// only if it is more than 1/updateFraction of the failover time newer than the
	// stored one, or that one is older than half of the failover time.
	updateFraction = 30
	// attempts is how often a claim tries to write its outcome when other
	// distributors write concurrently.
	attempts = 5
)

// script replaces the record at KEYS[1] by ARGV[2], which expires after ARGV[3] ms,
// if the record equals ARGV[1] and ARGV[2] is not empty. It returns the time of Redis
// in Unix ms, the record before (empty if none), and whether it was replaced. It
// needs the commands EVALSHA, EVAL, TIME, GET and SET.
const script = `
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
local v = redis.pcall('GET', KEYS[1])
if not v then v = '' elseif type(v) == 'table' then v = 'of another type' elseif #v > 65536 then v = 'too long' end
if ARGV[2] == '' or v ~= ARGV[1] then return {now, v, '0'} end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return {now, v, '1'}`

// Options configure a Store. All are optional.
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

// New returns a Store that uses client. The caller closes client.
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
		Help: "Election records in Redis that were ignored and replaced, by reason (damaged, forged, future).",
	}, []string{"reason"})
	for _, reason := range []string{damaged, forged, future} {
		s.ignored.WithLabelValues(reason)
	}
	if o.Registerer != nil {
		o.Registerer.MustRegister(s.ignored)
	}
	return s
}

// Claim implements election.Store. Ages are rounded up to milliseconds, so that no
// sample seems newer than it is.
func (s *Store) Claim(ctx context.Context, c election.Cluster, seen []election.Sighting, r election.Rules) (election.Sighting, error) {
	out, err := s.claim(ctx, c, seen, r)
	if err != nil {
		return election.Sighting{}, fmt.Errorf("elect a replica of cluster %q: %w", c.Name, err)
	}
	return out, nil
}

func (s *Store) claim(ctx context.Context, c election.Cluster, seen []election.Sighting, r election.Rules) (election.Sighting, error) {
	// Tenant IDs contain no colon, so the key is unambiguous.
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
			return election.Sighting{}, fmt.Errorf("gave up after %d conflicting updates of the record", attempts)
		}
	}
}

// aged returns the sightings with later added to their ages, rounded up to
// milliseconds.
func aged(seen []election.Sighting, later time.Duration) []election.Sighting {
	out := make([]election.Sighting, len(seen))
	for i, v := range seen {
		out[i] = election.Sighting{Replica: v.Replica, Age: (v.Age + later + time.Millisecond - 1).Truncate(time.Millisecond)}
	}
	return out
}

// decide returns the outcome of an election and its record, which is the current
// record if nothing has to be written.
func (s *Store) decide(key string, a result, seen []election.Sighting, r election.Rules) (election.Sighting, string, error) {
	current, err := s.verify(key, a)
	if err != nil { // treated as no record
		reason := reasonOf(err)
		s.ignored.WithLabelValues(reason).Inc()
		s.logIgnored(key, reason)
	}
	decided := election.Decide(current, seen, r.Failover)
	if decided.Replica == "" {
		return decided, a.record, nil
	}
	// Frequent writes would only make the claims of other distributors fail.
	if current != nil && decided.Replica == current.Replica && (decided.Age == current.Age ||
		current.Age <= r.Failover/2 && current.Age-decided.Age <= r.Failover/updateFraction) {
		return *current, a.record, nil
	}
	text, err := s.sign(key, decided, a.now)
	return decided, text, err
}

// result is the result of the script.
type result struct {
	now      int64 // Redis' time in Unix ms
	record   string
	replaced bool
}

func (s *Store) run(ctx context.Context, key, was, becomes string, expires time.Duration) (result, error) {
	list, err := s.script.Run(ctx, s.client, []string{key}, was, becomes, expires.Milliseconds()).StringSlice()
	if err != nil {
		return result{}, err
	}
	if len(list) != 3 {
		return result{}, fmt.Errorf("script returned %d values, want 3", len(list))
	}
	now, err := strconv.ParseInt(list[0], 10, 64)
	if err != nil {
		return result{}, fmt.Errorf("parse the time of Redis: %w", err)
	}
	return result{now: now, record: list[1], replaced: list[2] == "1"}, nil
}

// The reasons in the metric why a record is ignored.
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

// version is the first field of a record.
const version = "1"

// sign returns a signed record: version, the time of the replica's last received
// sample (in Unix ms by the clock of Redis), signature and replica, separated by
// spaces.
func (s *Store) sign(key string, elected election.Sighting, now int64) (string, error) {
	received := strconv.FormatInt(now-elected.Age.Milliseconds(), 10)
	sig, err := s.signer.Sign(purpose, key, received, elected.Replica)
	if err != nil {
		return "", fmt.Errorf("sign the election: %w", err)
	}
	return strings.Join([]string{version, received, sig, elected.Replica}, " "), nil
}

// verify decodes a record and checks its signature. It returns nil if there is no
// record.
func (s *Store) verify(key string, a result) (*election.Sighting, error) {
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

// logIgnored logs an ignored record, at most once a minute.
func (s *Store) logIgnored(key, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.o.Now(); s.logged.IsZero() || now.Sub(s.logged) >= time.Minute {
		s.logged = now
		s.o.Logger.Warn("ignoring and replacing an invalid HA election record in Redis", "key", key, "reason", reason)
	}
}
