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

// beat says that this process is alive, and registers it when Redis does not
// have it as it is. m.mu is held.
func (m *Membership) beat(ctx context.Context) error {
	if err := m.checkZone(ctx); err != nil {
		return err
	}
	for range 20 {
		if m.self.Registered.IsZero() || (m.o.File != "" && len(m.self.Tokens) == 0) {
			again, err := m.first(ctx)
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
			if err := m.look(ctx); err != nil { // a Redis that lost us may have lost others
				return err
			}
		}
		_, err := m.register(ctx, m.self, "")
		return err
	}
	return errors.New("register in the ring: it changes all the time")
}

// registered reports whether what was registered last is what this process is now.
func (m *Membership) registered() bool {
	now := entryOf(m.self)
	return m.mine.value != "" && m.mine.Addr == now.Addr && m.mine.Zone == now.Zone &&
		slices.Equal(m.mine.Roles, now.Roles) && m.mine.State == now.State &&
		m.mine.Incarnation == now.Incarnation && m.mine.Registered == now.Registered && m.mine.Tokens == now.Tokens
}

// register writes this process's entry, with a version that is larger than all
// before. It reports false if the ring has another version than of, unless that is
// empty.
func (m *Membership) register(ctx context.Context, self ring.Instance, of string) (bool, error) {
	e := entryOf(self)
	e.Version = max(m.newest, m.ended[self.ID].Version, m.redisNow()) + 1
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
	m.members[self.ID] = known{entry: e, used: true, beat: m.redisNow()}
	m.changes++
	return true, nil
}

// redisNow is Redis' time in ms as far as it is known here.
func (m *Membership) redisNow() int64 { return m.seenAt + time.Since(m.looked).Milliseconds() }

// checkZone compares the zone with that in Redis, once, if an older version wrote
// the file, which did not keep it.
func (m *Membership) checkZone(ctx context.Context) error {
	if m.zoneKnown || m.o.File == "" || m.fresh {
		return nil
	}
	if err := m.look(ctx); err != nil {
		return err
	}
	if old, ok := m.members[m.self.ID]; ok && old.Zone != m.self.Zone && m.o.Holds {
		return zoneChanged(old.Zone, m.self.Zone)
	}
	m.zoneKnown = true
	return m.saveFile()
}

func zoneChanged(from, to string) error {
	return fmt.Errorf("%w: cluster.zone is %q, and what is in the data directory was taken as a replica of zone %q; set cluster.zone back, "+
		"or, to move the ingester, start it with its old zone, take it out of the ring by POST "+
		"/admin/v1/ring/leave?instance=NAME&wait=true, and start it in the new zone with an empty data directory", ErrZoneChanged, to, from)
}

// first registers an instance that was never a member as far as it knows: it
// takes over an earlier entry of its ID, or finds its place among the others.
// again is true when the ring changed meanwhile.
func (m *Membership) first(ctx context.Context) (again bool, err error) {
	if err := m.look(ctx); err != nil {
		return false, err
	}
	self := m.self
	if old, ok := m.members[self.ID]; ok {
		if err := m.takeOver(&self, old.instance()); err != nil {
			return false, err
		}
	}
	if self.Registered.IsZero() {
		self.Registered = time.UnixMilli(m.seenAt)
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

// takeOver gives self what an earlier instance of its ID has in the ring: when it was
// registered, and its tokens if it is of the same zone.
func (m *Membership) takeOver(self *ring.Instance, old ring.Instance) error {
	self.Registered = old.Registered
	if old.Zone != self.Zone && m.o.File != "" && m.o.Holds {
		return zoneChanged(old.Zone, self.Zone)
	}
	if len(self.Tokens) == 0 && len(old.Tokens) > 0 && old.Zone == self.Zone { // places are those of a zone
		self.Tokens, self.State = old.Tokens, ring.Active
	}
	if self.Incarnation != old.Incarnation && m.o.File != "" {
		m.replaced, m.lostZone = true, old.Zone
		m.o.Logger.Warn("an instance of this ID is or was a member with another data directory; its place is taken over",
			"id", self.ID, "address", old.Addr)
	}
	return nil
}

// placed returns the members of a zone that have tokens, by ID.
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

// restore writes back members that are known here and that Redis does not have.
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

// lookAtAll is how many heartbeats are between two looks at everything. Who changes
// the ring increases its version, but who damages it need not: the entry of a member
// that is down has no owner that would notice.
const lookAtAll = 10

// look reads what changed. m.mu is held.
func (m *Membership) look(ctx context.Context) error {
	version := m.version
	if m.readAll || time.Since(m.sawAll) >= lookAtAll*m.o.Heartbeat {
		version = "all of it" // no version of a ring
	}
	answer, err := m.scripts.look.Run(ctx, m.o.Client, m.keys, m.epoch, version).Slice()
	if err != nil {
		return fmt.Errorf("look at the ring: %w", err)
	}
	if len(answer) < 5 {
		return fmt.Errorf("look at the ring: an answer of %d parts", len(answer))
	}
	now, _ := answer[0].(int64)
	epoch, _ := answer[1].(string)
	began, _ := strconv.ParseInt(fmt.Sprint(answer[2]), 10, 64)
	version = fmt.Sprint(answer[3])
	m.seenAt, m.looked = now, time.Now()
	m.beats = pairs(answer[4])
	if len(answer) >= 7 {
		m.readAll, m.sawAll = false, m.looked
		if err := m.adopt(ctx, pairs(answer[5]), pairs(answer[6])); err != nil {
			return err
		}
		m.epoch, m.version = epoch, version
	} else {
		m.choose()
	}
	// A ring that has only begun may be that of a Redis that was emptied: who knew
	// the old one writes it back within a heartbeat. Who never saw one waits.
	if m.current.Load() == nil && (epoch == "" || now-began < (2*m.o.Heartbeat).Milliseconds()) {
		return nil
	}
	m.publish()
	return nil
}

// publish makes the ring that others of this process use. While no member
// changed, only what is known of their health does.
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
				in.Addr = "" // nobody connects to it
			}
			instances = append(instances, in)
		}
		r, m.published = ring.New(instances), of
	}
	silent, active := 0, 0
	for _, in := range r.Instances() {
		if in.State == ring.Active && m.members[in.ID].used {
			active++
			if m.silence(in.ID) > m.o.Timeout {
				silent++
			}
		}
	}
	frozen := 2*silent > active // not they are sick but the heartbeats
	m.current.Store(r.Refresh(func(in *ring.Instance) {
		in.Silent = m.silence(in.ID)
		in.Unhealthy = !m.members[in.ID].used || in.Silent > m.o.Timeout && !frozen
	}))
}

func (m *Membership) silence(id string) time.Duration {
	if id == m.self.ID && m.joined {
		return 0
	}
	return time.Duration(max(m.seenAt-m.members[id].beat, 0)) * time.Millisecond
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

// saved is what an ingester keeps of its place in the ring.
type saved struct {
	ID          string `json:"id"`
	Incarnation string `json:"incarnation"`
	Registered  int64  `json:"registered"`
	Tokens      string `json:"tokens"`
	// Zone is that for which the samples of the directory were taken; nil in files of
	// older versions.
	Zone *string `json:"zone,omitempty"`
	// Fresh is set until what an instance of the same name may have lost with
	// another disk is dealt with; Replaced, when there was one in the ring.
	Fresh    bool `json:"fresh,omitempty"`
	Replaced bool `json:"replaced,omitempty"`
	// LostZone is the zone of the one that was replaced.
	LostZone string `json:"lost_zone,omitempty"`
}

// loadFile reads the tokens of an earlier run. An ingester without the file is a
// new incarnation, and one with a damaged file as well, since the file may have said
// that a loss is not dealt with: it counts as lost with what it had, until the
// others have uploaded that, and nothing is lost if it was not.
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
		return fmt.Errorf("place in the ring: %w", err)
	}
	s, tokens, err := decodeFile(data)
	if err != nil {
		m.o.Logger.Warn("file of the place in the ring is damaged: the ingester takes its place from Redis, "+
			"as one that comes back without its disk", "file", m.o.File, "err", err)
		m.begin()
		return nil
	}
	if s.ID != m.self.ID {
		return fmt.Errorf("the data directory belongs to instance %q, this process is configured as %q: "+
			"give each ingester a directory of its own, or set cluster.instance back", s.ID, m.self.ID)
	}
	if s.Zone != nil && *s.Zone != m.self.Zone {
		if m.o.Holds {
			return zoneChanged(*s.Zone, m.self.Zone)
		}
		m.begin()
		return nil
	}
	m.self.Tokens, m.zoneKnown = tokens, s.Zone != nil
	m.self.Incarnation, m.self.Registered = s.Incarnation, time.UnixMilli(s.Registered)
	m.fresh, m.replaced, m.lostZone = s.Fresh, s.Replaced, s.LostZone
	if s.Replaced && s.Zone == nil {
		m.lostZone = m.self.Zone // an older version had no other
	}
	return nil
}

// begin makes this a new incarnation.
func (m *Membership) begin() {
	m.self.Incarnation, m.fresh, m.zoneKnown = newEpoch(), true, true
}

// decodeFile reads the content of the file.
func decodeFile(data []byte) (s saved, tokens []uint32, err error) {
	if err := json.Unmarshal(data, &s); err != nil {
		return s, nil, err
	}
	if s.ID == "" || s.Incarnation == "" {
		return s, nil, errors.New("it names no instance")
	}
	tokens, err = decodeTokens(s.Tokens)
	return s, tokens, err
}

// zone is what the file says of it.
func (m *Membership) zone() *string {
	if !m.zoneKnown {
		return nil
	}
	return &m.self.Zone
}

// saveFile writes the tokens before they are used for long: losing the file in a
// crash means that they are read from Redis.
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
		return fmt.Errorf("keep the place in the ring: %w", err)
	}
	return nil
}
