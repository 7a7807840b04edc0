package redis

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/palliumhq/pallium/authn/cluster"
)

// maxAhead is how far the version of an entry may be ahead of the clock of Redis.
const maxAhead = 10 * time.Minute

const (
	// maxRemembered bounds the removals and the ignored values in memory.
	maxRemembered = 10_000
	// maxLogged bounds the log lines about ignored values per minute.
	maxLogged = 20
	// maxNamed bounds the bytes of an instance's name in such a line.
	maxNamed = 128
	// signAgainAfter is the minimum number of heartbeat intervals between two new
	// signatures of an unavailable member's entry: while secrets are rotated, processes
	// have different first secrets and would replace each other's signatures.
	signAgainAfter = 20
)

// memberState is the state of a member in this process.
type memberState struct {
	entry
	// used is false until a recent heartbeat of the entry was read. No process connects
	// to a member that is not used; such a member counts as unavailable.
	used     bool
	beat     int64  // time of the last valid heartbeat, Unix ms by the clock of Redis
	beatText string // the last heartbeat in Redis, valid or not
}

// The reasons in the metric why a value in Redis is ignored.
const (
	badSignature = "signature"
	badDecode    = "decode"
	badVersion   = "version"
	badHeartbeat = "heartbeat"
	badRemoval   = "removal"
)

// adopt updates the members from the trusted entries in Redis, and writes back entries
// that are missing or overwritten.
func (m *Membership) adopt(ctx context.Context, values, gone map[string]string) error {
	m.noteRemovals(gone)
	ignored := map[string]string{}
	m.candidates = map[string]entry{}
	for id, value := range values {
		if k, ok := m.members[id]; ok && k.value == value {
			continue
		}
		if reason, err := m.consider(id, value); err != nil {
			ignored[id] = value
			m.ignore(id, reason, value, err)
		}
	}
	m.untrusted = ignored
	m.choose()
	return m.writeBack(ctx, values, gone)
}

// noteRemovals records the removals that it finds in Redis and deletes the members
// that they remove. It drops removals that have expired and are no longer in Redis.
func (m *Membership) noteRemovals(gone map[string]string) {
	for id, r := range m.removals {
		if _, there := gone[id]; !there && m.readAt-r.At > keepRemovals.Milliseconds() {
			delete(m.removals, id)
		}
	}
	for id, value := range gone {
		if m.removals[id].value == value {
			continue
		}
		r, err := decodeRemoval(m.o.Signer, id, value)
		if err != nil {
			m.ignore(id, badRemoval, value, err)
			continue
		}
		if r.Version >= m.removals[id].Version && (len(m.removals) < maxRemembered || m.removals[id].value != "") {
			m.removals[id] = r
		}
	}
	for id, k := range m.members {
		if r, ok := m.removals[id]; ok && k.Version <= r.Version && id != m.self.ID {
			delete(m.members, id)
			delete(m.wrote, id)
			m.changes++
		}
	}
}

var (
	errOlder = errors.New("the entry's version is not newer than the current one")
	errAhead = errors.New("the entry's version is more than ten minutes in the future, by the time of Redis")

	errHeartbeat = errors.New("the heartbeat does not belong to the instance's entry, or is ahead of the time of Redis")
)

// consider makes a value in Redis a candidate for the member's entry, or returns why
// the value is ignored.
func (m *Membership) consider(id, value string) (reason string, err error) {
	e, err := decodeEntry(m.o.Signer, id, value)
	switch {
	case errors.Is(err, cluster.ErrNotSigned), errors.Is(err, errForeign):
		return badSignature, err
	case err != nil:
		return badDecode, err
	}
	if id == m.self.ID {
		m.newest = max(m.newest, e.Version)
	}
	k, has := m.members[id]
	if r, ok := m.removals[id]; ok && e.Version <= r.Version {
		return "", nil // removed
	}
	switch {
	case e.expired:
		if !has { // the instance may be an ingester with data
			m.members[id] = memberState{entry: e, beat: e.Registered}
			m.changes++
		}
		return badSignature, cluster.ErrExpired
	case has && e.text == k.text: // only the signature is new
		k.value, k.aged = e.value, e.aged
		m.members[id] = k
		return "", nil
	case has && e.Version <= k.Version:
		return badVersion, errOlder
	// After the clock of Redis was set back, the current version is ahead, too.
	case e.Version > max(m.readAt, k.Version)+maxAhead.Milliseconds():
		if !has { // the instance may be an ingester with data
			m.members[id] = memberState{entry: e, beat: e.Registered}
			m.changes++
		}
		return badVersion, errAhead
	}
	m.candidates[id] = e
	return "", nil
}

// choose turns candidates into members where possible and reads the heartbeats of all
// members.
func (m *Membership) choose() {
	m.chooseCandidates()
	m.noteHeartbeats()
}

// chooseCandidates turns candidates into members if they have a recent heartbeat, or if
// the instance has no other entry.
func (m *Membership) chooseCandidates() {
	for id, e := range m.candidates {
		text := m.beats[id]
		at, ok := e.beatAt(text, m.readAt)
		fresh := ok && m.recent(at)
		_, has := m.members[id]
		switch {
		case fresh:
			m.members[id] = memberState{entry: e, used: true, beat: at, beatText: text}
			delete(m.candidates, id)
			m.changes++
		case !has:
			if !ok {
				at = e.Registered
			}
			m.members[id] = memberState{entry: e, beat: at}
			delete(m.candidates, id)
			m.changes++
		}
		// Otherwise the current entry is used until the candidate has a recent heartbeat.
	}
}

// noteHeartbeats updates all members from their heartbeats.
func (m *Membership) noteHeartbeats() {
	for id, k := range m.members {
		if k.beat > m.readAt { // the clock of Redis was set back, which must not extend the heartbeat
			k.beat = m.readAt
			m.members[id] = k
		}
		text, ok := m.beats[id]
		if !ok || text == k.beatText || id == m.self.ID {
			continue
		}
		k.beatText = text
		at, ok := k.beatAt(text, m.readAt)
		if !ok {
			if _, waits := m.candidates[id]; !waits {
				m.ignore(id, badHeartbeat, text, errHeartbeat)
			}
			m.members[id] = k
			continue
		}
		k.beat = max(k.beat, at)
		if !k.used && !k.expired && m.recent(k.beat) && k.Version <= m.readAt+maxAhead.Milliseconds() {
			k.used = true
			m.changes++
		}
		m.members[id] = k
	}
}

// recent reports whether a heartbeat at the given time of Redis is not older than
// the timeout.
func (m *Membership) recent(at int64) bool {
	return m.readAt-at <= m.o.Timeout.Milliseconds()
}

// ignore counts and logs an untrusted value, once per value. Memory and log lines are
// bounded, whatever is written to Redis.
func (m *Membership) ignore(id, reason, value string, err error) {
	at, hash := hashOf(reason+" "+id), hashOf(value)
	if m.noted[at] == hash {
		return
	}
	if len(m.noted) >= maxRemembered {
		m.noted = map[string]string{}
	}
	m.noted[at] = hash
	m.metrics.untrusted.WithLabelValues(reason).Inc()
	if time.Since(m.logSince) >= time.Minute {
		m.logSince, m.logLines = time.Now(), 0
	}
	if m.logLines++; m.logLines > maxLogged {
		return
	}
	m.o.Logger.Warn("ignoring untrusted value of the ring in Redis", "instance", id[:min(len(id), maxNamed)], "reason", reason, "err", err)
}

// UntrustedIDs returns the IDs of all instances for which Untrusted is true, sorted.
func (m *Membership) UntrustedIDs() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for id := range m.untrusted {
		if _, member := m.members[id]; !member {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// lost is a member whose entry is missing or overwritten in Redis: its ID, the
// entry and the removal that Redis has instead, and the value to write.
type lost struct{ id, has, gone, value string }

// writeBack writes back entries of members that are missing or overwritten in Redis.
// Entries of unavailable instances that are signed with an old secret are signed again,
// so that the secret can be removed from the configuration.
func (m *Membership) writeBack(ctx context.Context, values, gone map[string]string) error {
	var list []lost
	for _, id := range slices.Sorted(maps.Keys(m.members)) {
		k := m.members[id]
		has, there := values[id]
		_, waits := m.candidates[id]
		if id == m.self.ID || waits || k.Version > m.readAt+maxAhead.Milliseconds() {
			continue
		}
		switch {
		case !there || has != k.value && m.untrusted[id] == has:
			if m.wroteWithin(id, m.o.Heartbeat) { // overwritten repeatedly: write it back at a bounded rate
				m.readAll = true
				continue
			}
		case k.aged && !m.recent(k.beat):
			if m.wroteWithin(id, signAgainAfter*m.o.Heartbeat) {
				continue
			}
			if err := k.sign(m.o.Signer); err != nil {
				return err
			}
			m.members[id] = k
		default:
			continue
		}
		m.wrote[id] = time.Now()
		list = append(list, lost{id, has, gone[id], k.value})
	}
	return m.restore(ctx, list)
}

// wroteWithin reports whether this process wrote a member's entry less than d ago.
func (m *Membership) wroteWithin(id string, d time.Duration) bool {
	at, ok := m.wrote[id]
	return ok && time.Since(at) < d
}
