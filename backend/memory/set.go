package memory

import "slices"

// entryBytes is about what a string in a set costs beside its bytes.
const entryBytes = 64

// Set is a set of strings that a holding is charged for. Once the holding has no
// room it takes in nothing more: look at Err when it is done.
type Set struct {
	holding *Holding
	known   map[string]struct{}
	err     error
}

// NewSet returns an empty set.
func NewSet(h *Holding) *Set { return &Set{holding: h, known: map[string]struct{}{}} }

// Add puts a string into the set.
func (s *Set) Add(v string) {
	if _, ok := s.known[v]; ok || s.err != nil {
		return
	}
	if s.err = s.holding.Take(int64(len(v)) + entryBytes); s.err == nil {
		s.known[v] = struct{}{}
	}
}

// Err is why something was not taken in.
func (s *Set) Err() error { return s.err }

// Sorted returns the strings in ascending order, or Err.
func (s *Set) Sorted() ([]string, error) {
	if s.err != nil {
		return nil, s.err
	}
	out := make([]string, 0, len(s.known))
	for v := range s.known {
		out = append(out, v)
	}
	slices.Sort(out)
	return out, nil
}
