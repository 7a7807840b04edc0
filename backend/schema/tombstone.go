package schema

import (
	"encoding/binary"
	"fmt"

	"github.com/prometheus/prometheus/model/labels"
)

// Limits of the deletions of series of a tenant. All deletions of a tenant are in one row, which
// every query reads.
const (
	MaxTombstone       = 64 << 10 // encoded size of one deletion in bytes
	MaxTombstones      = 1000     // number of deletions that are not forgotten yet, including pending ones
	MaxTombstonesBytes = 4 << 20  // encoded size of all deletions
	// Instructions of the compiled regular expressions of one deletion, and of all deletions:
	// ingesters have them in memory until the deletions are forgotten.
	MaxTombstoneInstructions  = 20_000
	MaxTombstonesInstructions = 100_000
)

// State of a deletion.
type State uint8

// States of a deletion.
const (
	Pending State = iota // reserved and not applied yet
	Active
)

// Tombstone is a deletion of series.
type Tombstone struct {
	Number           uint64
	State            State
	MinTime, MaxTime int64 // of the deleted samples, Unix milliseconds, inclusive
	// Sets are sets of matchers. A series is deleted if it matches all matchers of a set.
	Sets    [][]Matcher
	Created int64 // Unix milliseconds
}

// Matcher is a label matcher as it is stored.
type Matcher struct {
	Type        labels.MatchType
	Name, Value string
}

// NewTombstone returns a pending deletion.
func NewTombstone(number uint64, mint, maxt int64, sets [][]*labels.Matcher, now int64) Tombstone {
	t := Tombstone{Number: number, MinTime: mint, MaxTime: maxt, Created: now}
	for _, set := range sets {
		var s []Matcher
		for _, m := range set {
			s = append(s, Matcher{m.Type, m.Name, m.Value})
		}
		t.Sets = append(t.Sets, s)
	}
	return t
}

// Compile returns a function that reports whether a series is deleted.
func (t *Tombstone) Compile() (func(labels.Labels) bool, error) {
	sets := make([][]*labels.Matcher, 0, len(t.Sets))
	for _, s := range t.Sets {
		var set []*labels.Matcher
		for _, m := range s {
			lm, err := labels.NewMatcher(m.Type, m.Name, m.Value)
			if err != nil {
				return nil, fmt.Errorf("matcher of label %s: %w", m.Name, err)
			}
			set = append(set, lm)
		}
		if len(set) > 0 { // an empty set would delete every series
			sets = append(sets, set)
		}
	}
	return func(ls labels.Labels) bool {
	next:
		for _, set := range sets {
			for _, m := range set {
				if !m.Matches(ls.Get(m.Name)) {
					continue next
				}
			}
			return true
		}
		return false
	}, nil
}

// Encode returns the value of the deletion's cell.
func (t *Tombstone) Encode() []byte {
	b := binary.AppendUvarint(nil, t.Number)
	b = append(b, byte(t.State))
	b = appendVarint(b, t.MinTime)
	b = appendVarint(b, t.MaxTime)
	b = appendVarint(b, t.Created)
	b = binary.AppendUvarint(b, uint64(len(t.Sets)))
	for _, s := range t.Sets {
		b = binary.AppendUvarint(b, uint64(len(s)))
		for _, m := range s {
			b = appendText(appendText(append(b, byte(m.Type)), m.Name), m.Value)
		}
	}
	return seal(valueTombstone, 1, b)
}

// DecodeTombstone decodes the value of a deletion's cell.
func DecodeTombstone(value []byte) (Tombstone, error) {
	var t Tombstone
	b, err := open(valueTombstone, 1, "deletion", value)
	if err != nil {
		return t, err
	}
	r := &reader{b: b}
	t.Number = r.uvarint("number")
	t.State = State(r.byte("state"))
	t.MinTime, t.MaxTime, t.Created = r.varint("start"), r.varint("end"), r.varint("time")
	n := r.count("matcher sets")
	for i := 0; i < n && r.err == nil; i++ {
		var s []Matcher
		for k := r.count("matchers"); k > 0 && r.err == nil; k-- {
			s = append(s, Matcher{Type: labels.MatchType(r.byte("type of a matcher")), Name: r.text("label"), Value: r.text("value")})
		}
		t.Sets = append(t.Sets, s)
	}
	if err := r.end("deletion"); err != nil {
		return t, err
	}
	if t.State > Active {
		return t, fmt.Errorf("unknown deletion state %d: %w", t.State, ErrNewer)
	}
	for _, s := range t.Sets {
		for _, m := range s {
			if m.Type > labels.MatchNotRegexp {
				return t, fmt.Errorf("unknown matcher type %d: %w", m.Type, ErrNewer)
			}
		}
	}
	return t, nil
}
