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

// cell contains the possible values of one series at one time.
type cell struct {
	floor  *Value   // the largest value that is certainly stored; nil if none is certain
	losers []*Value // smaller values that were acknowledged
	maybe  []*Value // possibly stored: in flight, or of unknown outcome
	// fading is set when the sample's time is older than the retention, and stays set: if the
	// retention is increased again, the values may reappear from an ingester's copy and vanish
	// with that copy.
	fading bool
}

// possible returns the values that a response may have, and whether it may have none.
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

// acknowledge adds a value that is certainly stored.
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

func (c *cell) addPossible(v *Value) { c.maybe = append(slices.Clip(c.maybe), v) }

// doubt marks every value as possibly deleted.
func (c *cell) doubt() {
	c.maybe = append(slices.Clip(c.maybe), c.losers...)
	if c.floor != nil {
		c.maybe = append(c.maybe, c.floor)
	}
	c.floor, c.losers = nil, nil
}

// Series is the model's state of one series.
type Series struct {
	labels labels.Labels
	mix    int // kinds of values that the series gets
	cells  map[int64]*cell
	// days contains the days for which the series may be listed: lists of labels and
	// series have the granularity of whole days.
	days map[int64]bool
	log  []operated // the last operations
}

// operated is an operation on a series.
type operated struct {
	at   int64 // time of the sample, or the constant `always` if the operation is not on a single sample
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

// about returns the last operations on a time of the series, and a few on other times.
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

// clone returns a copy to compare a response with.
func (s *Series) clone() *Series {
	c := &Series{labels: s.labels, cells: make(map[int64]*cell, len(s.cells)), days: maps.Clone(s.days), log: slices.Clone(s.log)}
	for t, v := range s.cells {
		copied := *v
		c.cells[t] = &copied
	}
	return c
}

// Tenant is the model's state of one tenant.
type Tenant struct {
	name, token string

	mu        sync.Mutex
	series    []*Series
	views     map[*View]bool
	retention [2]time.Duration // the previous and the current one; 0 means no limit
	changed   time.Time        // when the retention changed
	deletion  *deletion        // a failed one, which must be repeated before anything is pushed
	samples   int              // number of acknowledged samples
}

// View has the state that the response of a running query may contain: the state when the query
// was sent, and every write that was in flight at any time before the response arrived.
type View struct {
	t      *Tenant
	series []*Series
	begun  time.Time
	doubts bool // a write or a deletion began while the query was running
}

// look begins a view. The caller must end it.
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
	series int // index of the series
	at     int64
	value  *Value
}

// begin records writes that are being sent.
func (t *Tenant) begin(samples []Sample) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range samples {
		t.series[s.series].cell(s.at).addPossible(s.value)
		for v := range t.views {
			v.doubts = true
			v.series[s.series].cell(s.at).addPossible(s.value)
		}
	}
}

// Outcome is the outcome of a request.
type Outcome int

// Outcomes of a request.
const (
	Unknown Outcome = iota
	Acknowledged
	Rejected
)

func (o Outcome) String() string { return [...]string{"unknown", "acknowledged", "rejected"}[o] }

// finish records the outcome of writes.
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

// proven uses the response of a single process as proof. Without a value in the response, no value
// of the cell will appear later. Otherwise the value in the response is certain, and the others are
// ruled out; in a fading cell only the larger ones are, because the value may still vanish.
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
