package redis

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/palliumhq/pallium/authn/cluster"
)

// maxAhead is how far the version of an entry may be ahead of Redis' time.
const maxAhead = 10 * time.Minute

const (
	// maxRemembered bounds what is remembered of instances that are no members.
	maxRemembered = 10_000
	// maxLogged bounds the log's lines about what is ignored, each minute.
	maxLogged = 20
	// maxNamed bounds the bytes of a name in such a line.
	maxNamed = 128
	// signAgainAfter is how many heartbeats are between two signatures of the same
	// silent member's entry: while secrets are swapped, processes differ in which
	// secret is the first.
	signAgainAfter = 20
)

// known is what this process knows of a member.
type known struct {
	entry
	// used is false until there was a heartbeat of the entry that counted. Nobody
	// connects to a member that is not used; it counts as one that does not answer.
	used bool
	beat int64 // ms of Redis, of the last heartbeat that counted
	said string
}

// The reasons for which something in Redis is ignored.
const (
	badSignature = "signature"
	badDecode    = "decode"
	badVersion   = "version"
	badHeartbeat = "heartbeat"
	badRemoval   = "removal"
)

// adopt takes over what Redis has of the members, as far as it can be trusted, and
// writes back what it lost or what somebody put in its place.
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

// noteRemovals remembers how far each instance's entries have ended, for as long as
// Redis keeps it.
func (m *Membership) noteRemovals(gone map[string]string) {
	for id, r := range m.ended {
		if _, there := gone[id]; !there && m.seenAt-r.At > keepRemovals.Milliseconds() {
			delete(m.ended, id)
		}
	}
	for id, value := range gone {
		if m.ended[id].value == value {
			continue
		}
		r, err := decodeRemoval(m.o.Signer, id, value)
		if err != nil {
			m.ignore(id, badRemoval, value, err)
			continue
		}
		if r.Version >= m.ended[id].Version && (len(m.ended) < maxRemembered || m.ended[id].value != "") {
			m.ended[id] = r
		}
	}
	for id, k := range m.members {
		if r, ok := m.ended[id]; ok && k.Version <= r.Version && id != m.self.ID {
			delete(m.members, id)
			delete(m.wrote, id)
			m.changes++
		}
	}
}

var (
	errOlder = errors.New("its version is not newer than the known one")
	errAhead = errors.New("its version is more than ten minutes ahead of Redis' time and of the last one that was used")

	errHeartbeat = errors.New("the heartbeat does not belong to the instance's entry, or is ahead of Redis' time")
)

// consider makes a value of Redis a candidate for the member's entry.
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
	if r, ok := m.ended[id]; ok && e.Version <= r.Version {
		return "", nil // it is about to go
	}
	switch {
	case e.expired:
		if !has { // it may be somebody with data
			m.members[id] = known{entry: e, beat: e.Registered}
			m.changes++
		}
		return badSignature, cluster.ErrExpired
	case has && e.text == k.text: // signed again
		k.value, k.aged = e.value, e.aged
		m.members[id] = k
		return "", nil
	case has && e.Version <= k.Version:
		return badVersion, errOlder
	case e.Version > max(m.seenAt, k.Version)+maxAhead.Milliseconds(): // the known one is ahead, too, where Redis' time was set back
		if !has { // it may be somebody with data
			m.members[id] = known{entry: e, beat: e.Registered}
			m.changes++
		}
		return badVersion, errAhead
	}
	m.candidates[id] = e
	return "", nil
}

// choose makes candidates members: those with a heartbeat that counts, and those
// of which nothing else is known. It notes the heartbeats of all.
func (m *Membership) choose() {
	m.chooseCandidates()
	m.noteHeartbeats()
}

// chooseCandidates makes members of the candidates that can be.
func (m *Membership) chooseCandidates() {
	for id, e := range m.candidates {
		text := m.beats[id]
		at, ok := e.beatAt(text, m.seenAt)
		fresh := ok && m.counts(at)
		_, has := m.members[id]
		switch {
		case fresh:
			m.members[id] = known{entry: e, used: true, beat: at, said: text}
			delete(m.candidates, id)
			m.changes++
		case !has:
			if !ok {
				at = e.Registered
			}
			m.members[id] = known{entry: e, beat: at}
			delete(m.candidates, id)
			m.changes++
		}
		// Otherwise what is known stays until the new one is alive.
	}
}

// noteHeartbeats notes the heartbeats of all members.
func (m *Membership) noteHeartbeats() {
	for id, k := range m.members {
		if k.beat > m.seenAt { // Redis' time was set back, which must not make the heartbeat count for longer
			k.beat = m.seenAt
			m.members[id] = k
		}
		text, ok := m.beats[id]
		if !ok || text == k.said || id == m.self.ID {
			continue
		}
		k.said = text
		at, ok := k.beatAt(text, m.seenAt)
		if !ok {
			if _, waits := m.candidates[id]; !waits {
				m.ignore(id, badHeartbeat, text, errHeartbeat)
			}
			m.members[id] = k
			continue
		}
		k.beat = max(k.beat, at)
		if !k.used && !k.expired && m.counts(k.beat) && k.Version <= m.seenAt+maxAhead.Milliseconds() {
			k.used = true
			m.changes++
		}
		m.members[id] = k
	}
}

// counts reports whether a heartbeat of the time counts.
func (m *Membership) counts(at int64) bool {
	return m.seenAt-at <= m.o.Timeout.Milliseconds()
}

// ignore counts and logs, once for each value, that something is not trusted. What
// somebody writes to Redis must fill neither memory nor the log.
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
	m.o.Logger.Warn("untrusted value of the ring in Redis ignored", "instance", id[:min(len(id), maxNamed)], "reason", reason, "err", err)
}

// lost is a member whose entry Redis has lost, or another value in its place.
type lost struct{ id, has, gone, value string }

// writeBack writes back members that are known here and that Redis does not have
// as they are. Entries of silent instances that an old secret has signed are signed
// again, so that it can be removed.
func (m *Membership) writeBack(ctx context.Context, values, gone map[string]string) error {
	var list []lost
	for _, id := range slices.Sorted(maps.Keys(m.members)) {
		k := m.members[id]
		has, there := values[id]
		_, waits := m.candidates[id]
		if id == m.self.ID || waits || k.Version > m.seenAt+maxAhead.Milliseconds() {
			continue
		}
		switch {
		case !there || has != k.value && m.untrusted[id] == has:
			if m.wroteWithin(id, m.o.Heartbeat) { // somebody writes over it again and again: not at their pace
				m.readAll = true
				continue
			}
		case k.aged && !m.counts(k.beat):
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

// wroteWithin reports whether this process wrote a member's entry so short a time
// ago.
func (m *Membership) wroteWithin(id string, d time.Duration) bool {
	at, ok := m.wrote[id]
	return ok && time.Since(at) < d
}
