package model

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

const dayMillis = 24 * 60 * 60 * 1000

// cell is what one time of one series may have.
type cell struct {
	floor  *Value   // the largest that was acknowledged; nil if none was
	losers []*Value // acknowledged, and smaller
	maybe  []*Value // perhaps there: under way, or failed without proof
	// fading is set once a retention cut the time. What was there then may be read
	// from an ingester's copy when the retention is over, and go with the copy.
	fading bool
}

// possible returns the values that an answer may have, and whether it may have
// none.
func (c *cell) possible() (values []*Value, absent bool) {
	if c == nil {
		return nil, true
	}
	if c.floor != nil {
		values = append(values, c.floor)
	}
	for _, v := range c.maybe {
		if c.floor == nil || compare(v, c.floor) > 0 {
			values = append(values, v)
		}
	}
	return values, c.floor == nil
}

// acknowledge takes a value that is there for certain.
func (c *cell) acknowledge(v *Value) {
	c.forget(v)
	if c.floor == nil || compare(v, c.floor) > 0 {
		c.floor, v = v, c.floor
	}
	if v != nil {
		c.losers = append(slices.Clip(c.losers), v)
	}
}

func (c *cell) forget(v *Value) {
	c.maybe = slices.DeleteFunc(slices.Clone(c.maybe), func(o *Value) bool { return o == v })
}

func (c *cell) perhaps(v *Value) { c.maybe = append(slices.Clip(c.maybe), v) }

// doubt makes everything perhaps gone.
func (c *cell) doubt() {
	c.maybe = append(slices.Clip(c.maybe), c.losers...)
	if c.floor != nil {
		c.maybe = append(c.maybe, c.floor)
	}
	c.floor, c.losers = nil, nil
}

// Series is what the model knows of one series.
type Series struct {
	labels labels.Labels
	mix    int // which kinds of values it gets
	cells  map[int64]*cell
	// days have the days of which the series may be listed: lists of labels go by
	// whole days.
	days map[int64]bool
	log  []operated // the last operations
}

// operated is something that was done to a series.
type operated struct {
	at   int64 // time of the sample; always for what is not one sample's
	text string
}

const (
	always         = math.MinInt64
	keptOperations = 400
	shownOthers    = 5
)

func (s *Series) note(at int64, format string, args ...any) {
	s.log = append(s.log[max(0, len(s.log)-keptOperations+1):],
		operated{at, time.Now().UTC().Format("15:04:05.000 ") + fmt.Sprintf(format, args...)})
}

// about are the last operations on a time of the series, and a few on others.
func (s *Series) about(at int64) []string {
	var out []string
	for i, o := range s.log {
		if o.at == at || o.at == always || i >= len(s.log)-shownOthers {
			out = append(out, o.text)
		}
	}
	return out
}

func (s *Series) cell(t int64) *cell {
	c := s.cells[t]
	if c == nil {
		c = &cell{}
		s.cells[t] = c
	}
	s.days[floorDay(t)] = true
	return c
}

func floorDay(t int64) int64 { return t / dayMillis }

// clone is a copy to compare an answer with.
func (s *Series) clone() *Series {
	c := &Series{labels: s.labels, cells: make(map[int64]*cell, len(s.cells)), days: maps.Clone(s.days), log: slices.Clone(s.log)}
	for t, v := range s.cells {
		copied := *v
		c.cells[t] = &copied
	}
	return c
}

// Tenant is what the model knows of one tenant.
type Tenant struct {
	name, token string

	mu        sync.Mutex
	series    []*Series
	views     map[*View]bool
	retention [2]time.Duration // the one before and the present one; 0 keeps all
	changed   time.Time        // when the retention changed
	deletion  *deletion        // failed, to be repeated before anything is pushed
	samples   int              // acknowledged
}

// View is what a query that runs now may answer: the state when it was sent, and
// everything that was under way until its answer came.
type View struct {
	t      *Tenant
	series []*Series
	begun  time.Time
	doubts bool // writes or deletions were under way
}

// look begins a view. The caller ends it.
func (t *Tenant) look() *View {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := &View{t: t, begun: time.Now()}
	for _, s := range t.series {
		v.series = append(v.series, s.clone())
	}
	t.views[v] = true
	return v
}

func (v *View) end() {
	v.t.mu.Lock()
	defer v.t.mu.Unlock()
	delete(v.t.views, v)
}

// Sample is one write.
type Sample struct {
	series int // index
	at     int64
	value  *Value
}

// begin notes writes that are sent now.
func (t *Tenant) begin(samples []Sample) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range samples {
		t.series[s.series].cell(s.at).perhaps(s.value)
		for v := range t.views {
			v.doubts = true
			v.series[s.series].cell(s.at).perhaps(s.value)
		}
	}
}

// Outcome is what became of a request.
type Outcome int

// The outcomes.
const (
	Unknown Outcome = iota
	Acknowledged
	Rejected
)

func (o Outcome) String() string { return [...]string{"unknown", "acknowledged", "rejected"}[o] }

// finish notes what became of writes.
func (t *Tenant) finish(samples []Sample, o Outcome, how string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range samples {
		of := t.series[s.series]
		of.note(s.at, "push %s %s: %s, %s", at(s.at), s.value.text(), o, how)
		switch o {
		case Acknowledged:
			t.samples++
			of.cell(s.at).acknowledge(s.value)
		case Rejected:
			of.cell(s.at).forget(s.value)
		}
	}
}

// proven takes an answer of one process as proof: what was there then stays, what
// was not never comes.
func (t *Tenant) proven(series int, at int64, seen *Value) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.series[series]
	c := s.cells[at]
	if c == nil || len(c.maybe) == 0 {
		return
	}
	switch {
	case seen == nil:
		delete(s.cells, at)
	case c.fading:
		c.maybe = slices.DeleteFunc(slices.Clone(c.maybe), func(v *Value) bool { return compare(v, seen) > 0 })
	default:
		c.floor, c.maybe = seen, nil
	}
}
