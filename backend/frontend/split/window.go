package split

import (
	"math"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
)

// Window is the range of times (After, To] in milliseconds.
type Window struct {
	After, To int64
}

// reads are the times of the samples that an expression reads.
type reads struct {
	// moves is relative to the time of evaluation; nil if no read is relative to it.
	moves *Window
	// fixed is absolute, nil if there is no @.
	fixed *Window
}

// windows returns the times of the samples on which the value of an expression
// at time 0 depends.
//
// An instant selector reads (t-lookback, t], a range selector (t-range, t]. The modifier
// `anchored` adds the look-back before this range, `smoothed` before and after it. A subquery
// evaluates its expression at the multiples of its step in (t-range, t]; the
// engine evaluates more of them, between the windows of two steps, but no value
// depends on those.
func windows(expr parser.Expr, lookback int64) reads {
	switch n := expr.(type) {
	case *parser.VectorSelector:
		w := Window{After: -lookback}
		if n.Smoothed {
			w.To = lookback
		}
		return placed(w, n.OriginalOffset, n.Timestamp)
	case *parser.MatrixSelector:
		return ofRange(n, lookback)
	case *parser.SubqueryExpr:
		inner := windows(n.Expr, lookback)
		if inner.moves == nil {
			return inner
		}
		w := Window{After: subSat(inner.moves.After, n.Range.Milliseconds()), To: inner.moves.To}
		outer := placed(w, n.OriginalOffset, n.Timestamp)
		return outer.union(reads{fixed: inner.fixed})
	case *parser.Call:
		if n.Func.Name == "info" {
			// info reads series that its arguments do not name, at the times of its first argument.
			// The times are not computed here.
			return reads{moves: &Window{After: math.MinInt64, To: math.MaxInt64}}
		}
	}
	var all reads
	for child := range parser.ChildrenIter(expr) {
		if e, ok := child.(parser.Expr); ok {
			all = all.union(windows(e, lookback))
		}
	}
	return all
}

// ofRange returns the times that a range selector reads.
func ofRange(n *parser.MatrixSelector, lookback int64) reads {
	w := Window{After: -n.Range.Milliseconds()}
	sel, ok := n.VectorSelector.(*parser.VectorSelector)
	if !ok { // not from a parser
		return reads{moves: &Window{After: math.MinInt64, To: math.MaxInt64}}
	}
	if sel.Anchored || sel.Smoothed {
		w.After = subSat(w.After, lookback)
	}
	if sel.Smoothed {
		w.To = lookback
	}
	return placed(w, sel.OriginalOffset, sel.Timestamp)
}

// placed returns the times that a selector or subquery reads: w moved by the offset, and fixed by @.
func placed(w Window, offset time.Duration, at *int64) reads {
	w = w.moved(-offset.Milliseconds())
	if at == nil {
		return reads{moves: &w}
	}
	w = w.moved(*at)
	return reads{fixed: &w}
}

func (w Window) moved(by int64) Window {
	return Window{After: addSat(w.After, by), To: addSat(w.To, by)}
}

func (r reads) union(other reads) reads {
	return reads{moves: union(r.moves, other.moves), fixed: union(r.fixed, other.fixed)}
}

// union returns the smallest window that contains both; nil is an empty window.
func union(a, b *Window) *Window {
	if a == nil {
		return b
	}
	if b == nil {
		return a
	}
	return &Window{After: min(a.After, b.After), To: max(a.To, b.To)}
}

// addSat returns a+b, or the nearest int64.
func addSat(a, b int64) int64 {
	sum := a + b
	switch {
	case a > 0 && b > 0 && sum < 0:
		return math.MaxInt64
	case a < 0 && b < 0 && sum >= 0:
		return math.MinInt64
	}
	return sum
}

// subSat returns a-b, or the nearest int64.
func subSat(a, b int64) int64 {
	if b == math.MinInt64 {
		return addSat(addSat(a, math.MaxInt64), 1)
	}
	return addSat(a, -b)
}
