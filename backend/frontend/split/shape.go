package split

import (
	"math"
	"time"
)

// Options are the settings of the engine on which the shape of an expression
// depends.
type Options struct {
	// Lookback is how far an instant selector looks back for a sample.
	Lookback time.Duration
	// SubqueryStep is the step of a subquery without one.
	SubqueryStep time.Duration
	// DelayedNames is set if the engine delays the removal of names: then nothing is
	// splittable.
	DelayedNames bool
}

// Shape describes the properties of an expression that determine how its range can be divided.
type Shape struct {
	// Splittable is set if the value at each step depends only on the samples
	// of a window around that step, so that dividing the range changes nothing.
	Splittable bool
	// Reason says why an expression is not splittable.
	Reason string
	// OnlyOrder is set if the only reason why an expression is not splittable is the order of the
	// groups of an aggregation, which depends on the range. The answers of parts can then differ
	// only in the last bits of sums of floats, and in which of several equal values topk, bottomk
	// and limitk return.
	OnlyOrder bool
	// Open is set if Prometheus itself does not always give the same answer, since an aggregation
	// gets its input in the order of a Go map: as with OnlyOrder, last bits and the choice between
	// equal values can differ. A selector of several names whose series become equal without the
	// name has the same effect, but does not set Open.
	Open bool

	// Moves is set if samples are read relative to the step: the value at t depends on samples in
	// (t-Before, t+After], in milliseconds. Before and After can be negative: x offset 1h has an After
	// of minus one hour. A value that would overflow, or is unknown, is the smallest or largest int64.
	Moves         bool
	Before, After int64
	// Fixed are the times of the samples that are read at absolute times,
	// because of the modifier @; nil if there are none.
	Fixed *Window

	// DependsOnStep is set if the values depend on the range or step of the query, so that two
	// queries with the same text can have different values at the same time. If it is not set, the
	// values of a splittable expression at every k-th step are those of the query with k times the
	// step.
	DependsOnStep bool
}

// Analyze returns the shape of an expression that no engine has evaluated yet.
func Analyze(r Resolved, o Options) Shape {
	a := analysis{subqueryStep: o.SubqueryStep.Milliseconds()}
	a.visit(r.Expr, place{step: r.Step.Milliseconds()})
	s := Shape{DependsOnStep: r.DependsOnStep, Reason: a.coupled, Open: a.open}
	switch {
	case o.DelayedNames:
		// Series that are equal without their names are joined at the end, over all steps.
		s.Reason = "names are removed at the end of the query"
	case a.coupled == "" && a.ordered == "":
		s.Splittable = true
	case a.coupled == "":
		s.Reason, s.OnlyOrder = a.ordered, true
	}
	w := windows(r.Expr, o.Lookback.Milliseconds())
	s.Fixed = w.fixed
	if w.moves != nil {
		s.Moves, s.Before, s.After = true, subSat(0, w.moves.After), w.moves.To
	}
	return s
}

// Reads returns the smallest window, in milliseconds, that contains the times of all samples on
// which the steps from start to end depend. It returns false if they depend on no samples.
func (s Shape) Reads(start, end int64) (Window, bool) {
	w := s.Fixed
	if s.Moves {
		w = union(w, &Window{After: subSat(start, s.Before), To: addSat(end, s.After)})
	}
	if w == nil {
		return Window{After: math.MinInt64, To: math.MinInt64}, false
	}
	return *w, true
}
