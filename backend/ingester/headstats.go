package ingester

import (
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// HeadStats returns the number and time range of a tenant's unsealed chunks. Late samples
// that are not in a chunk yet are left out.
func (ing *Ingester) HeadStats(id tenant.ID) series.HeadStats {
	h := series.NoHead()
	th := ing.head(id, false)
	if th == nil {
		return h
	}
	th.each(func(s *memSeries) { s.addTo(&h) })
	return h
}

// addTo adds the chunks of the series to h.
func (s *memSeries) addTo(h *series.HeadStats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.eachClosed(func(c *series.Chunk) {
		h.Chunks++
		h.Extend(series.HeadStats{MinTime: c.MinTime, MaxTime: c.MaxTime})
	})
	if start, _, ok := s.in.Open(); ok {
		h.Chunks++
		h.Extend(series.HeadStats{MinTime: start, MaxTime: s.lastT})
	}
}
