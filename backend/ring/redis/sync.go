package redis

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/palliumhq/pallium/backend/disk"
	"github.com/palliumhq/pallium/backend/ring"
)

// beat sends a heartbeat, and registers this process if Redis does not have its
// current entry. m.mu must be held.
func (m *Membership) beat(ctx context.Context) error {
	if err := m.checkZone(ctx); err != nil {
		return err
	}
	for range registerAttempts {
		if m.self.Registered.IsZero() || (m.o.File != "" && len(m.self.Tokens) == 0) {
			again, err := m.registerFirst(ctx)
			if err != nil {
				return err
			}
			if again {
				continue
			}
		}
		if m.registered() {
			ok, err := m.scripts.beat.Run(ctx, m.o.Client, m.keys, m.self.ID, digest(m.mine.value),
				newHeartbeat(m.key, m.self.ID, m.redisNow(), m.mine.hash)).Int()
			if err != nil {
				return fmt.Errorf("heartbeat: %w", err)
			}
			if ok == 1 {
				return nil
			}
			if err := m.readRing(ctx); err != nil { // if Redis lost this member, it may have lost others
				return err
			}
		}
		_, err := m.register(ctx, m.self, "")
		return err
	}
	return fmt.Errorf("could not register in the ring after %d attempts: concurrent updates", registerAttempts)
}

// registered reports whether the last registered entry of this process is current.
func (m *Membership) registered() bool {
	now := entryOf(m.self)
	return m.mine.value != "" && m.mine.Addr == now.Addr && m.mine.Zone == now.Zone &&
		slices.Equal(m.mine.Roles, now.Roles) && m.mine.State == now.State &&
		m.mine.Incarnation == now.Incarnation && m.mine.Registered == now.Registered && m.mine.Tokens == now.Tokens
}

// register writes this process's entry with a version larger than all before. The
// parameter `of` is the required version of the ring, or empty for any. If the ring
// has another version, register returns false and writes nothing.
func (m *Membership) register(ctx context.Context, self ring.Instance, of string) (bool, error) {
	e := entryOf(self)
	e.Version = max(m.newest, m.removals[self.ID].Version, m.redisNow()) + 1
	public, _ := m.key.Public().(ed25519.PublicKey)
	e.Key, e.key = base64.RawStdEncoding.EncodeToString(public), public
	if err := e.seal(m.o.Signer); err != nil {
		return false, err
	}
	ok, err := m.scripts.register.Run(ctx, m.o.Client, m.keys, newEpoch(), m.channel, self.ID, e.value,
		newHeartbeat(m.key, self.ID, m.redisNow(), e.hash), of).Int()
	if err != nil {
		return false, fmt.Errorf("register in the ring: %w", err)
	}
	if ok == 0 {
		return false, nil
	}
	m.newest, m.mine = e.Version, e
	m.members[self.ID] = memberState{entry: e, used: true, beat: m.redisNow()}
	m.changes++
	return true, nil
}

// redisNow returns the estimated time of Redis in Unix ms.
func (m *Membership) redisNow() int64 { return m.readAt + time.Since(m.readHere).Milliseconds() }

// checkZone compares the zone with the one in Redis, once, if the file was written by
// an older version that did not store the zone.
func (m *Membership) checkZone(ctx context.Context) error {
	if m.zoneKnown || m.o.File == "" || m.fresh {
		return nil
	}
	if err := m.readRing(ctx); err != nil {
		return err
	}
	if old, ok := m.members[m.self.ID]; ok && old.Zone != m.self.Zone && m.o.HasData {
		return zoneChanged(old.Zone, m.self.Zone)
	}
	m.zoneKnown = true
	return m.saveFile()
}

func zoneChanged(from, to string) error {
	return fmt.Errorf("%w: cluster.zone is %q, but the samples in the data directory are replicas of zone %q; set cluster.zone back, "+
		"or, to move the ingester, start it with its old zone, run 'pallium ring leave INSTANCE', and start it in the new zone with "+
		"an empty data directory", ErrZoneChanged, to, from)
}

// registerFirst registers an instance that has no record of being a member before: it
// takes over an earlier entry of its ID, or chooses tokens. `again` is true if the ring
// changed in the meantime.
func (m *Membership) registerFirst(ctx context.Context) (again bool, err error) {
	if err := m.readRing(ctx); err != nil {
		return false, err
	}
	self := m.self
	if old, ok := m.members[self.ID]; ok {
		if err := m.takeOver(&self, old.instance()); err != nil {
			return false, err
		}
	}
	if self.Registered.IsZero() {
		self.Registered = time.UnixMilli(m.readAt)
	}
	version := ""
	if m.o.File != "" && len(self.Tokens) == 0 {
		version = m.version
		self.Tokens = ring.PlaceTokens(self.Zone, m.placed(self.Zone))
	}
	if version == "0" {
		version = "1" // registering begins the epoch
	}
	ok, err := m.register(ctx, self, version)
	if err != nil || !ok {
		return err == nil, err
	}
	m.self = self
	return false, m.saveFile()
}

// takeOver copies to self from the earlier instance of its ID: the registration time,
// and the tokens if the zone is the same.
func (m *Membership) takeOver(self *ring.Instance, old ring.Instance) error {
	self.Registered = old.Registered
	if old.Zone != self.Zone && m.o.File != "" && m.o.HasData {
		return zoneChanged(old.Zone, self.Zone)
	}
	if len(self.Tokens) == 0 && len(old.Tokens) > 0 && old.Zone == self.Zone { // tokens are chosen per zone
		self.Tokens, self.State = old.Tokens, ring.Active
	}
	if self.Incarnation != old.Incarnation && m.o.File != "" {
		m.replaced, m.lostZone = true, old.Zone
		m.o.Logger.Warn("this ingester's data directory is new: it replaces the earlier instance of its name in the ring; "+
			"replicas must upload the pending windows of that instance", "id", self.ID, "earlier_address", old.Addr)
	}
	return nil
}

// placed returns the members of a zone that have tokens, sorted by ID.
func (m *Membership) placed(zone string) []ring.Instance {
	var out []ring.Instance
	for _, id := range slices.Sorted(maps.Keys(m.members)) {
		e := m.members[id]
		if in := e.instance(); in.Zone == zone && len(in.Tokens) > 0 {
			out = append(out, in)
		}
	}
	return out
}

// restore writes entries of members back that are missing or overwritten in Redis.
func (m *Membership) restore(ctx context.Context, list []lost) error {
	if len(list) == 0 {
		return nil
	}
	args := []any{newEpoch(), m.channel}
	for _, l := range list {
		args = append(args, l.id, l.has, l.gone, l.value)
	}
	n, err := m.scripts.restore.Run(ctx, m.o.Client, m.keys, args...).Int()
	if err != nil {
		return fmt.Errorf("restore the ring: %w", err)
	}
	if n > 0 {
		m.o.Logger.Warn("ring members missing or overwritten in Redis: restored", "members", n)
	}
	return nil
}

// fullReadEvery is how many heartbeat intervals are between two full reads of the ring.
// A change of the ring increases its version, but damage may not. A member that is up
// restores its own damaged entry, but a member that is down cannot.
const fullReadEvery = 10

// registerAttempts is how often registering is tried while the ring changes.
const registerAttempts = 20

// readRing reads the heartbeats and, if the ring changed, its members from Redis. m.mu
// must be held.
func (m *Membership) readRing(ctx context.Context) error {
	version := m.version
	if m.readAll || time.Since(m.allReadAt) >= fullReadEvery*m.o.Heartbeat {
		version = "all of it" // no ring has this version
	}
	result, err := m.scripts.read.Run(ctx, m.o.Client, m.keys, m.epoch, version).Slice()
	if err != nil {
		return fmt.Errorf("read the ring: %w", err)
	}
	if len(result) < 5 {
		return fmt.Errorf("read the ring: script returned %d values, want at least 5", len(result))
	}
	now, _ := result[0].(int64)
	epoch, _ := result[1].(string)
	began, _ := strconv.ParseInt(fmt.Sprint(result[2]), 10, 64)
	version = fmt.Sprint(result[3])
	m.readAt, m.readHere = now, time.Now()
	m.beats = pairs(result[4])
	if len(result) >= 7 {
		m.readAll, m.allReadAt = false, m.readHere
		if err := m.adopt(ctx, pairs(result[5]), pairs(result[6])); err != nil {
			return err
		}
		m.epoch, m.version = epoch, version
	} else {
		m.choose()
	}
	// A new epoch may mean that Redis was emptied: processes with the old ring write it
	// back within a heartbeat interval. A process that has no ring yet waits for them.
	if m.current.Load() == nil && (epoch == "" || now-began < (2*m.o.Heartbeat).Milliseconds()) {
		return nil
	}
	m.publish()
	return nil
}

// publish replaces the ring that Ring returns. If no member changed, only the
// instances' health is updated.
func (m *Membership) publish() {
	r := m.current.Load()
	if of := string(m.self.State) + " " + strconv.Itoa(m.changes); r == nil || of != m.published {
		instances := make([]ring.Instance, 0, len(m.members))
		for id, k := range m.members {
			in := k.instance()
			if id == m.self.ID {
				in.State = m.self.State
			}
			if !k.used {
				in.Addr = "" // no process may connect to it
			}
			instances = append(instances, in)
		}
		r, m.published = ring.New(instances), of
	}
	stale, active := 0, 0
	for _, in := range r.Instances() {
		if in.State == ring.Active && m.members[in.ID].used {
			active++
			if m.sinceHeartbeat(in.ID) > m.o.Timeout {
				stale++
			}
		}
	}
	frozen := 2*stale > active // most likely heartbeats are lost, not the ingesters
	m.current.Store(r.Refresh(func(in *ring.Instance) {
		in.SinceHeartbeat = m.sinceHeartbeat(in.ID)
		in.Unhealthy = !m.members[in.ID].used || in.SinceHeartbeat > m.o.Timeout && !frozen
	}))
}

func (m *Membership) sinceHeartbeat(id string) time.Duration {
	if id == m.self.ID && m.joined {
		return 0
	}
	return time.Duration(max(m.readAt-m.members[id].beat, 0)) * time.Millisecond
}

func pairs(v any) map[string]string {
	list, _ := v.([]any)
	out := map[string]string{}
	for i := 0; i+1 < len(list); i += 2 {
		k, _ := list[i].(string)
		out[k] = fmt.Sprint(list[i+1])
	}
	return out
}

// saved is the content of Options.File: an ingester's membership across restarts.
type saved struct {
	ID          string `json:"id"`
	Incarnation string `json:"incarnation"`
	Registered  int64  `json:"registered"`
	Tokens      string `json:"tokens"`
	// Zone is the zone of the samples in the directory; nil in files of older versions.
	Zone *string `json:"zone,omitempty"`
	// Fresh is true until it is recorded that an earlier instance of the same name may
	// have been lost with its disk. Replaced is true if the ring had such an instance.
	Fresh    bool `json:"fresh,omitempty"`
	Replaced bool `json:"replaced,omitempty"`
	// LostZone is the zone of the replaced instance.
	LostZone string `json:"lost_zone,omitempty"`
}

// loadFile reads the membership of an earlier run. An ingester without the file is a
// new incarnation. So is an ingester without data whose zone changed, and one with a
// damaged file, because the file may have had Fresh set: its earlier incarnation counts
// as lost until replicas have uploaded its pending windows. The samples that are still
// on the disk are kept.
func (m *Membership) loadFile() error {
	if m.o.File == "" {
		return nil
	}
	data, err := os.ReadFile(m.o.File)
	if errors.Is(err, fs.ErrNotExist) {
		m.begin()
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the ring file: %w", err)
	}
	s, tokens, err := decodeFile(data)
	if err != nil {
		m.o.Logger.Warn("ring file damaged: treated as a lost disk; restoring the tokens from Redis",
			"file", m.o.File, "err", err)
		m.begin()
		return nil
	}
	if s.ID != m.self.ID {
		return fmt.Errorf("the data directory belongs to instance %q, this process is configured as %q: "+
			"give each ingester its own directory, or set cluster.instance back", s.ID, m.self.ID)
	}
	if s.Zone != nil && *s.Zone != m.self.Zone {
		if m.o.HasData {
			return zoneChanged(*s.Zone, m.self.Zone)
		}
		m.begin()
		return nil
	}
	m.self.Tokens, m.zoneKnown = tokens, s.Zone != nil
	m.self.Incarnation, m.self.Registered = s.Incarnation, time.UnixMilli(s.Registered)
	m.fresh, m.replaced, m.lostZone = s.Fresh, s.Replaced, s.LostZone
	if s.Replaced && s.Zone == nil {
		m.lostZone = m.self.Zone // older versions did not support changing the zone
	}
	return nil
}

// begin makes this instance a new incarnation.
func (m *Membership) begin() {
	m.self.Incarnation, m.fresh, m.zoneKnown = newEpoch(), true, true
}

// decodeFile decodes the content of the file.
func decodeFile(data []byte) (s saved, tokens []uint32, err error) {
	if err := json.Unmarshal(data, &s); err != nil {
		return s, nil, err
	}
	if s.ID == "" || s.Incarnation == "" {
		return s, nil, errors.New("ring file lacks instance or incarnation")
	}
	tokens, err = decodeTokens(s.Tokens)
	return s, tokens, err
}

// zone returns the zone to store in the file, or nil while it is unknown.
func (m *Membership) zone() *string {
	if !m.zoneKnown {
		return nil
	}
	return &m.self.Zone
}

// saveFile writes the membership to the file. If a crash prevents that, the tokens are
// read from Redis at the next start.
func (m *Membership) saveFile() error {
	if m.o.File == "" {
		return nil
	}
	data, err := json.Marshal(saved{ID: m.self.ID, Incarnation: m.self.Incarnation, Registered: m.self.Registered.UnixMilli(),
		Tokens: encodeTokens(m.self.Tokens), Fresh: m.fresh, Replaced: m.replaced, LostZone: m.lostZone, Zone: m.zone()})
	if err == nil {
		err = disk.ReplaceFile(m.o.File, data)
	}
	if err != nil {
		return fmt.Errorf("write the ring file: %w", err)
	}
	return nil
}
