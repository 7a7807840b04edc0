package ingester

import (
	"cmp"
	"slices"
	"sync"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
)

// exemplarRing keeps the newest exemplars of a tenant in memory, as Prometheus
// does: they are pointers to traces, not data to be kept for years.
type exemplarRing struct {
	mu   sync.Mutex
	ring []storedExemplar
	next int // where the next one goes once the ring is full
}

// resent is how many of the newest exemplars a new one is compared with: a
// request that is sent again repeats the last ones.
const resent = 64

type storedExemplar struct {
	series labels.Labels
	exemplar.Exemplar
}

// add keeps e unless it is among the newest already. limit bounds the ring. It
// reports whether e is there now.
func (r *exemplarRing) add(ls labels.Labels, e exemplar.Exemplar, limit int) bool {
	if limit <= 0 {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ring) > limit { // the limit was lowered: keep the newest
		all := append(slices.Clone(r.ring[r.next:]), r.ring[:r.next]...)
		r.ring, r.next = slices.Clone(all[len(all)-limit:]), 0
	}
	for back := 1; back <= min(len(r.ring), resent); back++ {
		p := &r.ring[(r.next+len(r.ring)-back)%len(r.ring)]
		if p.Ts == e.Ts && p.Value == e.Value && labels.Equal(p.series, ls) && labels.Equal(p.Labels, e.Labels) {
			return true
		}
	}
	stored := storedExemplar{series: ls, Exemplar: e}
	stored.Labels = e.Labels.Copy()
	if len(r.ring) < limit {
		r.ring = append(r.ring, stored)
		return true
	}
	r.ring[r.next] = stored
	r.next = (r.next + 1) % len(r.ring)
	return true
}

// query returns the exemplars in [mint, maxt] of the series that one of the
// matcher sets matches, by series and ascending in time.
func (r *exemplarRing) query(mint, maxt int64, sets [][]*labels.Matcher) []exemplar.QueryResult {
	r.mu.Lock()
	defer r.mu.Unlock()
	bySeries := map[string]int{}
	var out []exemplar.QueryResult
	var key []byte
	for i := range r.ring {
		e := &r.ring[i]
		if e.Ts < mint || e.Ts > maxt || !matchesAny(e.series, sets) {
			continue
		}
		key = e.series.Bytes(key)
		at, ok := bySeries[string(key)]
		if !ok {
			at = len(out)
			bySeries[string(key)] = at
			out = append(out, exemplar.QueryResult{SeriesLabels: e.series})
		}
		out[at].Exemplars = append(out[at].Exemplars, e.Exemplar)
	}
	for i := range out {
		slices.SortStableFunc(out[i].Exemplars, func(a, b exemplar.Exemplar) int { return cmp.Compare(a.Ts, b.Ts) })
		out[i].Exemplars = slices.CompactFunc(out[i].Exemplars, func(a, b exemplar.Exemplar) bool { return a.Equals(b) })
	}
	slices.SortFunc(out, func(a, b exemplar.QueryResult) int { return labels.Compare(a.SeriesLabels, b.SeriesLabels) })
	return out
}

func matchesAny(ls labels.Labels, sets [][]*labels.Matcher) bool {
	for _, set := range sets {
		if matches(ls, set) {
			return true
		}
	}
	return false
}
