package redis

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/palliumhq/pallium/backend/ring"
)

// entry is a member as it stands in Redis.
type entry struct {
	ID          string   `json:"id"`
	Addr        string   `json:"addr,omitempty"`
	Zone        string   `json:"zone,omitempty"`
	Roles       []string `json:"roles,omitempty"`
	State       string   `json:"state"`
	Incarnation string   `json:"incarnation,omitempty"`
	Registered  int64    `json:"registered"` // Unix ms
	Tokens      string   `json:"tokens,omitempty"`

	value string // as it stands there
}

const digestBytes = 16

// encode writes the value of a field: a digest, by which a heartbeat finds out
// whether Redis still has what the instance registered, and the description.
func (e *entry) encode() string {
	data, err := json.Marshal(e)
	if err != nil { // of strings and numbers
		panic(err)
	}
	sum := sha256.Sum256(data)
	e.value = hex.EncodeToString(sum[:digestBytes/2]) + string(data)
	return e.value
}

func (e *entry) digest() string { return e.value[:digestBytes] }

func decodeEntry(id, value string) (entry, error) {
	e := entry{value: value}
	if len(value) < digestBytes {
		return e, fmt.Errorf("entry of %q is cut off", id)
	}
	if err := json.Unmarshal([]byte(value[digestBytes:]), &e); err != nil {
		return e, fmt.Errorf("entry of %q: %w", id, err)
	}
	if e.ID != id {
		return e, fmt.Errorf("entry of %q is that of %q", id, e.ID)
	}
	switch ring.State(e.State) {
	case ring.Joining, ring.Active, ring.Leaving:
	default:
		return e, fmt.Errorf("entry of %q: state %q is not known", id, e.State)
	}
	if _, err := decodeTokens(e.Tokens); err != nil {
		return e, fmt.Errorf("entry of %q: %w", id, err)
	}
	return e, nil
}

func entryOf(in ring.Instance) entry {
	return entry{ID: in.ID, Addr: in.Addr, Zone: in.Zone, Roles: in.Roles, State: string(in.State),
		Incarnation: in.Incarnation, Registered: in.Registered.UnixMilli(), Tokens: encodeTokens(in.Tokens)}
}

func (e *entry) instance() ring.Instance {
	tokens, _ := decodeTokens(e.Tokens) // checked by decodeEntry
	return ring.Instance{ID: e.ID, Addr: e.Addr, Zone: e.Zone, Roles: e.Roles, State: ring.State(e.State),
		Incarnation: e.Incarnation, Registered: time.UnixMilli(e.Registered), Tokens: tokens}
}

// encodeTokens packs ascending tokens into a quarter of their decimal text.
func encodeTokens(tokens []uint32) string {
	var b []byte
	last := uint32(0)
	for _, t := range tokens {
		b = binary.AppendUvarint(b, uint64(t-last))
		last = t
	}
	return base64.RawStdEncoding.EncodeToString(b)
}

var errTokens = errors.New("tokens are damaged")

const maxTokens = 4096

func decodeTokens(s string) ([]uint32, error) {
	b, err := base64.RawStdEncoding.DecodeString(s)
	if err != nil {
		return nil, errTokens
	}
	var out []uint32
	last := uint64(0)
	for len(b) > 0 {
		d, n := binary.Uvarint(b)
		if n <= 0 || d > 1<<32 || last+d >= 1<<32 || (d == 0 && len(out) > 0) || len(out) == maxTokens {
			return nil, errTokens
		}
		last += d
		out = append(out, uint32(last))
		b = b[n:]
	}
	return out, nil
}
