package ingester

import (
	"sync"

	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

// windowSet is the windows of which samples are in the head. A window that is
// being sealed stays in it until its pack is served.
type windowSet struct {
	mu            sync.Mutex
	open, sealing map[store.Window]bool
}

// add notes windows by their starts in Unix milliseconds.
func (s *windowSet) add(starts []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[store.Window]bool{}
	}
	for _, t := range starts {
		// Of other days, which only logs of older versions have, nothing can be
		// uploaded.
		if w := store.WindowOf(t); w.Day <= schema.MaxDay && !s.open[w] {
			s.open[w] = true
		}
	}
}

// begin moves the windows before bound, and those from far on, to those being
// sealed. The caller keeps samples from being appended.
func (s *windowSet) begin(bound, far int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealing = map[store.Window]bool{}
	for w := range s.open {
		if start := w.Day*series.DayMillis + int64(w.Number)*series.WindowMillis; start < bound || start >= far {
			s.sealing[w] = true
			delete(s.open, w)
		}
	}
}

// end forgets what was being sealed, or takes it back when it was not.
func (s *windowSet) end(sealed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !sealed && s.open == nil {
		s.open = map[store.Window]bool{}
	}
	for w := range s.sealing {
		if !sealed {
			s.open[w] = true
		}
	}
	s.sealing = nil
}

func (s *windowSet) all() map[store.Window]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[store.Window]bool, len(s.open)+len(s.sealing))
	for w := range s.open {
		out[w] = true
	}
	for w := range s.sealing {
		out[w] = true
	}
	return out
}
