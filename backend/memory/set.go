package memory

import "slices"

// entryBytes is the approximate memory of a string in a set in addition to its
// bytes.
const entryBytes = 64

// Set is a set of strings whose memory is charged to a holding. After a failed Take
// no more strings are added: check Err at the end.
type Set struct {
	holding *Holding
	known   map[string]struct{}
	err     error
}

// NewSet returns an empty set.
func NewSet(h *Holding) *Set { return &Set{holding: h, known: map[string]struct{}{}} }

// Add adds a string to the set.
func (s *Set) Add(v string) {
	if _, ok := s.known[v]; ok || s.err != nil {
		return
	}
	if s.err = s.holding.Take(int64(len(v)) + entryBytes); s.err == nil {
		s.known[v] = struct{}{}
	}
}

// Err returns the error of the first string that could not be added.
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
