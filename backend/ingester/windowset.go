package ingester

import (
	"sync"

	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

// windowSet is the set of windows with samples in the head. A window that is being
// sealed stays in it until its pack is served.
type windowSet struct {
	mu            sync.Mutex
	open, sealing map[store.Window]bool
}

// add adds windows by their starts in Unix milliseconds.
func (s *windowSet) add(starts []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[store.Window]bool{}
	}
	for _, t := range starts {
		// Days after schema.MaxDay occur only in logs of older versions; they cannot be
		// uploaded.
		if w := store.WindowOf(t); w.Day <= schema.MaxDay && !s.open[w] {
			s.open[w] = true
		}
	}
}

// begin moves the windows before `bound`, and those at or after `far`, to the windows
// being sealed. Both are Unix milliseconds; `far` is the start of the far future (see
// farFrom). The caller prevents concurrent appends.
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

// end removes the windows being sealed, or moves them back if the seal failed.
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
