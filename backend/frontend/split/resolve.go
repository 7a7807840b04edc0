package split

import (
	"fmt"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
)

// Resolved is an expression that no longer refers to the range or step of the query.
type Resolved struct {
	// Expr can be evaluated only once, because the engine changes it.
	Expr parser.Expr
	// Step is the step of the query.
	Step time.Duration
	// DependsOnStep is set if the text of the expression referred to the start, end, range or step
	// of the query, so that the same text means something else in a query with other times.
	DependsOnStep bool
}

// Resolve replaces everything in an expression that depends on the start, end or step of the query
// by its value: @ start() and @ end(), durations with step() and range(), and the functions
// start(), end(), range() and step(). An engine that evaluates the result for other times gets the
// same values. It changes expr, which must come directly from a parser: an engine must not have
// used it.
//
// The values are computed by promql.PreprocessExpr, which every engine calls before it evaluates:
// this function calls it with the times of the whole query, and removes everything from which the
// engine's own call would compute other values. The positions of all nodes are kept, since
// annotations print them.
func Resolve(expr parser.Expr, start, end time.Time, step time.Duration) (Resolved, error) {
	res := Resolved{Step: step, DependsOnStep: dependsOnQuery(expr)}
	pre, err := promql.PreprocessExpr(expr, start, end, step)
	if err != nil {
		return Resolved{}, fmt.Errorf("resolve the durations of the query: %w", err)
	}
	res.Expr = strip(pre)
	return res, nil
}

// dependsOnQuery reports whether an expression refers to the start, end, range
// or step of the query.
func dependsOnQuery(expr parser.Expr) bool {
	found := false
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.VectorSelector:
			found = found || n.StartOrEnd != 0 || usesQuery(n.OriginalOffsetExpr)
		case *parser.MatrixSelector:
			found = found || usesQuery(n.RangeExpr)
		case *parser.SubqueryExpr:
			found = found || n.StartOrEnd != 0 || usesQuery(n.OriginalOffsetExpr) || usesQuery(n.RangeExpr) || usesQuery(n.StepExpr)
		case *parser.Call:
			switch n.Func.Name {
			case "start", "end", "range", "step":
				found = true
			}
		}
		return nil
	})
	return found
}

// usesQuery reports whether a duration refers to the step or range of the
// query.
func usesQuery(e parser.Expr) bool {
	d, ok := e.(*parser.DurationExpr)
	if !ok || d == nil {
		return false
	}
	return d.Op == parser.STEP || d.Op == parser.RANGE || usesQuery(d.LHS) || usesQuery(d.RHS)
}

// strip removes the nodes that PreprocessExpr adds and does not accept, and the
// duration expressions and @ start() and @ end() that it would compute again.
func strip(expr parser.Expr) parser.Expr {
	switch n := expr.(type) {
	case *parser.StepInvariantExpr:
		return strip(n.Expr)
	case *parser.AggregateExpr:
		n.Expr = strip(n.Expr)
		if n.Param != nil {
			n.Param = strip(n.Param)
		}
	case *parser.BinaryExpr:
		n.LHS, n.RHS = strip(n.LHS), strip(n.RHS)
	case *parser.Call:
		for i := range n.Args {
			n.Args[i] = strip(n.Args[i])
		}
	case *parser.ParenExpr:
		n.Expr = strip(n.Expr)
	case *parser.UnaryExpr:
		n.Expr = strip(n.Expr)
	case *parser.SubqueryExpr:
		n.Expr = strip(n.Expr)
		n.RangeExpr, n.OriginalOffsetExpr, n.StepExpr = nil, nil, nil
		if n.Timestamp != nil {
			n.StartOrEnd = 0
		}
	case *parser.MatrixSelector:
		n.VectorSelector = strip(n.VectorSelector)
		n.RangeExpr = nil
	case *parser.VectorSelector:
		n.OriginalOffsetExpr = nil
		// The engine ignores @ in the parameter of an aggregation: @ start() has no timestamp
		// there, and never gets one.
		if n.Timestamp != nil {
			n.StartOrEnd = 0
		}
	}
	return expr
}

// Parser returns a parser for the engine that evaluates a part of the query from start to end by
// step. Its expressions mean the same as in the whole query.
func Parser(inner parser.Parser, start, end time.Time, step time.Duration) parser.Parser {
	return wholeQuery{Parser: inner, start: start, end: end, step: step}
}

// wholeQuery parses expressions as those of a given query.
type wholeQuery struct {
	parser.Parser
	start, end time.Time
	step       time.Duration
}

// ParseExpr implements parser.Parser.
func (p wholeQuery) ParseExpr(text string) (parser.Expr, error) {
	expr, err := p.Parser.ParseExpr(text)
	if err != nil {
		return expr, err
	}
	res, err := Resolve(expr, p.start, p.end, p.step)
	if err != nil {
		return nil, err
	}
	return res.Expr, nil
}
