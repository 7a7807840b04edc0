package shard

import (
	"fmt"
	"strconv"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/parser/posrange"
)

// Parser returns a parser for the engine that evaluates a shard. The parser parses the whole query and
// returns the aggregation of the shard, the argument of that aggregation, or everything. It does not
// change the positions of nodes, since annotations print them.
func Parser(inner parser.Parser, s *Shard) parser.Parser {
	return changed{inner, func(expr parser.Expr) (parser.Expr, error) {
		if s.Aggregation == Everything {
			return expr, nil
		}
		var found parser.Expr
		parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
			if agg, ok := n.(*parser.AggregateExpr); ok && int(agg.PosRange.Start) == s.Aggregation {
				if found = agg; s.Argument {
					found = agg.Expr
				}
			}
			return nil
		})
		if found == nil {
			return nil, fmt.Errorf("no aggregation begins at byte %d of the query", s.Aggregation)
		}
		return found, nil
	}}
}

// changed is a parser that applies change to the parsed expression.
type changed struct {
	parser.Parser
	change func(parser.Expr) (parser.Expr, error)
}

// ParseExpr implements parser.Parser.
func (c changed) ParseExpr(text string) (parser.Expr, error) {
	expr, err := c.Parser.ParseExpr(text)
	if err != nil {
		return expr, err
	}
	return c.change(expr)
}

// rootParser returns a parser that replaces each leaf, or the argument of the leaf, by a selector of
// its stored answer.
func rootParser(inner parser.Parser, answers []Answer) parser.Parser {
	byStart := map[posrange.Pos]int{}
	for i := range answers {
		byStart[answers[i].leaf.agg.PosRange.Start] = i
	}
	return changed{inner, func(expr parser.Expr) (parser.Expr, error) {
		left := len(answers)
		expr = replace(expr, func(agg *parser.AggregateExpr) parser.Expr {
			i, ok := byStart[agg.PosRange.Start]
			if !ok {
				return nil
			}
			left--
			if !answers[i].argument {
				return stored(i, agg.PosRange)
			}
			agg.Expr = stored(i, agg.Expr.PositionRange())
			return agg
		})
		if left != 0 {
			return nil, fmt.Errorf("%d aggregations were not found in the query", left)
		}
		return expr, nil
	}}
}

// answerLabel is the label by which the root selects the answer of a leaf.
const answerLabel = "__answer__"

// stored returns the selector of the answer of leaf i.
func stored(i int, at posrange.PositionRange) parser.Expr {
	return &parser.VectorSelector{PosRange: at,
		LabelMatchers: []*labels.Matcher{{Type: labels.MatchEqual, Name: answerLabel, Value: strconv.Itoa(i)}}}
}

// replace replaces each aggregation for which fn does not return nil. It visits the same nodes as
// Analyze.
func replace(expr parser.Expr, fn func(*parser.AggregateExpr) parser.Expr) parser.Expr {
	switch n := expr.(type) {
	case *parser.ParenExpr:
		n.Expr = replace(n.Expr, fn)
	case *parser.UnaryExpr:
		n.Expr = replace(n.Expr, fn)
	case *parser.BinaryExpr:
		n.LHS, n.RHS = replace(n.LHS, fn), replace(n.RHS, fn)
	case *parser.Call:
		for i := range n.Args {
			n.Args[i] = replace(n.Args[i], fn)
		}
	case *parser.AggregateExpr:
		if other := fn(n); other != nil {
			return other
		}
		n.Expr = replace(n.Expr, fn)
	}
	return expr
}
