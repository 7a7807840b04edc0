package model

import (
	"math"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// deletion is a deletion of series.
type deletion struct {
	selector string
	matchers []*labels.Matcher
	mint     int64
	maxt     int64
}

func (d *deletion) whole() bool { return d.mint == math.MinInt64 && d.maxt == math.MaxInt64 }

// each calls fn for every cell that the deletion matches.
func (d *deletion) each(list []*Series, fn func(*Series, int64, *cell)) {
	for _, s := range list {
		if !matches(d.matchers, s.labels) {
			continue
		}
		for t, c := range s.cells {
			if d.mint <= t && t <= d.maxt {
				fn(s, t, c)
			}
		}
	}
}

func matches(matchers []*labels.Matcher, ls labels.Labels) bool {
	for _, m := range matchers {
		if !m.Matches(ls.Get(m.Name)) {
			return false
		}
	}
	return true
}

// beginDeletion records that a deletion is being sent.
func (t *Tenant) beginDeletion(d *deletion) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d.each(t.series, func(_ *Series, _ int64, c *cell) { c.doubt() })
	for v := range t.views {
		v.doubts = true
		d.each(v.series, func(_ *Series, _ int64, c *cell) { c.doubt() })
	}
}

// finishDeletion records the outcome. A failed deletion must be repeated: it may take
// effect at any time from now on.
func (t *Tenant) finishDeletion(d *deletion, o Outcome, how string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.series {
		if matches(d.matchers, s.labels) {
			s.note(always, "delete %s [%s, %s]: %s, %s", d.selector, at(d.mint), at(d.maxt), o, how)
			if o == Acknowledged && d.whole() {
				clear(s.days)
			}
		}
	}
	if o != Acknowledged {
		t.deletion = d
		return
	}
	t.deletion = nil
	d.each(t.series, func(s *Series, at int64, _ *cell) { delete(s.cells, at) })
}

// failedDeletion returns the deletion that must be repeated, or nil.
func (t *Tenant) failedDeletion() *deletion {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.deletion
}

// setRetention records that the retention is being changed. Some or all of the samples that
// are older than the previous or the new retention may be gone permanently.
func (t *Tenant) setRetention(r, slack time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.retention[1]
	t.retention, t.changed = [2]time.Duration{before, r}, time.Now()
	for _, s := range t.series {
		s.note(always, "retention %v", r)
	}
	for _, keep := range t.retention {
		if keep == 0 {
			continue
		}
		limit := time.Now().Add(slack - keep).UnixMilli()
		for _, s := range t.series {
			for at, c := range s.cells {
				if at < limit {
					c.doubt()
					c.fading = true
				}
			}
		}
	}
}

// cuts returns the times at which the tenant's retention cuts a response that arrives
// now. The response has no sample before the time `nothing`, and every sample from the
// time `all` on. The caller must hold the tenant's lock.
func (v *View) cuts(slack, delay time.Duration) (nothing, all int64) {
	longest, shortest := v.t.retention[1], v.t.retention[1]
	if v.begun.Sub(v.t.changed) < delay {
		before := v.t.retention[0]
		if longest != 0 && (before == 0 || before > longest) {
			longest = before
		}
		if before != 0 && (shortest == 0 || before < shortest) {
			shortest = before
		}
	}
	nothing, all = math.MinInt64, math.MinInt64
	if longest != 0 {
		nothing = v.begun.Add(-longest - slack).UnixMilli()
	}
	if shortest != 0 {
		all = time.Now().Add(slack - shortest).UnixMilli()
	}
	return nothing, all
}

func at(t int64) string {
	switch t {
	case math.MinInt64:
		return "-"
	case math.MaxInt64:
		return "-"
	}
	return time.UnixMilli(t).UTC().Format("01-02T15:04:05.000")
}
