package redis

import (
	"crypto/ed25519"
	"crypto/sha1" //nolint:gosec // only for a script to compare values
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/backend/ring"
)

// Signer signs values that this process writes to Redis and verifies values of other
// processes; see package authn/cluster. host is the host of the signed address, or empty.
type Signer interface {
	Sign(purpose string, parts ...string) (string, error)
	Verify(signature, host, purpose string, parts ...string) (aged bool, err error)
}

// The purposes of signatures; they prevent using a signature for another kind of value.
const (
	ofEntry   = "ring entry"
	ofRemoval = "ring removal"
)

// entry is a member's record in Redis; docs/cluster-trust.md describes the format.
type entry struct {
	ID          string   `json:"id"`
	Addr        string   `json:"addr,omitempty"`
	Zone        string   `json:"zone,omitempty"`
	Roles       []string `json:"roles,omitempty"`
	State       string   `json:"state"`
	Incarnation string   `json:"incarnation,omitempty"`
	Registered  int64    `json:"registered"` // Unix ms
	Tokens      string   `json:"tokens,omitempty"`
	Version     int64    `json:"version"`
	Key         string   `json:"key"` // Ed25519, base64; signs heartbeats

	text  string // the JSON
	value string // the value in Redis: signature, line feed, JSON
	hash  string // of the JSON
	key   ed25519.PublicKey
	aged  bool // the signature was made with a secret that is no longer the first

	expired bool // the certificate that signed the entry was valid then and has expired
}

// seal sets the entry's text, hash, signature and value.
func (e *entry) seal(s Signer) error {
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("sign the ring entry of %q: %w", e.ID, err)
	}
	e.text = string(data)
	e.hash = hashOf(e.text)
	return e.sign(s)
}

func (e *entry) sign(s Signer) error {
	sig, err := s.Sign(ofEntry, e.text)
	if err != nil {
		return fmt.Errorf("sign the ring entry of %q: %w", e.ID, err)
	}
	e.value, e.aged = sig+"\n"+e.text, false
	return nil
}

func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// digest returns the hash by which the beat script checks that Redis still has a value.
func digest(value string) string {
	sum := sha1.Sum([]byte(value)) //nolint:gosec // see the import
	return hex.EncodeToString(sum[:])
}

var (
	errDecode  = errors.New("invalid value")
	errForeign = errors.New("ring entry has the ID of another instance")
)

// decodeEntry decodes and verifies an instance's value. For an entry whose
// certificate has expired, it sets the field expired and returns no error.
func decodeEntry(s Signer, id, value string) (entry, error) {
	e := entry{value: value}
	sig, text, ok := strings.Cut(value, "\n")
	if !ok {
		return e, errDecode
	}
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return e, fmt.Errorf("%w: %w", errDecode, err)
	}
	if e.ID != id {
		return e, errForeign
	}
	host, _, err := net.SplitHostPort(e.Addr)
	if err != nil {
		host = e.Addr
	}
	e.aged, err = s.Verify(sig, host, ofEntry, text)
	if e.expired = errors.Is(err, cluster.ErrExpired); err != nil && !e.expired {
		return e, err
	}
	e.text, e.hash = text, hashOf(text)
	switch ring.State(e.State) {
	case ring.Joining, ring.Active, ring.Leaving:
	default:
		return e, fmt.Errorf("%w: unknown state %q", errDecode, e.State)
	}
	if _, err := decodeTokens(e.Tokens); err != nil {
		return e, fmt.Errorf("%w: %w", errDecode, err)
	}
	if e.key, err = base64.RawStdEncoding.DecodeString(e.Key); err != nil || len(e.key) != ed25519.PublicKeySize {
		return e, fmt.Errorf("%w: invalid Ed25519 key", errDecode)
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

// removal records that an instance left or was forgotten. It invalidates the
// instance's entries up to a version.
type removal struct {
	ID      string `json:"id"`
	Version int64  `json:"version"`
	At      int64  `json:"at"` // Unix ms by the clock of Redis

	value string
}

func (r *removal) seal(s Signer) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("sign the ring removal of %q: %w", r.ID, err)
	}
	sig, err := s.Sign(ofRemoval, string(text))
	if err != nil {
		return fmt.Errorf("sign the ring removal of %q: %w", r.ID, err)
	}
	r.value = sig + "\n" + string(text)
	return nil
}

func decodeRemoval(s Signer, id, value string) (removal, error) {
	r := removal{value: value}
	sig, text, ok := strings.Cut(value, "\n")
	if !ok {
		return r, errDecode
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return r, fmt.Errorf("%w: %w", errDecode, err)
	}
	if r.ID != id {
		return r, errForeign
	}
	_, err := s.Verify(sig, "", ofRemoval, text)
	return r, err
}

// encodeTokens returns sorted tokens as base64 of delta varints, which takes a quarter
// of the space of their decimal text.
func encodeTokens(tokens []uint32) string {
	var b []byte
	last := uint32(0)
	for _, t := range tokens {
		b = binary.AppendUvarint(b, uint64(t-last))
		last = t
	}
	return base64.RawStdEncoding.EncodeToString(b)
}

var errTokens = errors.New("invalid tokens")

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
