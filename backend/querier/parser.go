package querier

import (
	"fmt"

	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/backend/lex"
	"github.com/palliumhq/pallium/backend/switches"
)

// Limits of an expression's size, counted in operators and opening brackets. The time of parsing
// and evaluation grows with the square of an expression's depth, the time of pretty-printing with
// the cube; a timeout stops neither.
const (
	MaxOperators       = 2000 // of a query
	MaxPrettyOperators = 250  // of an expression that may be pretty-printed
)

// boundedParser rejects expressions that would take too long to parse.
type boundedParser struct {
	parser.Parser
	most int
}

// NewParser returns Prometheus' parser with a limit: it rejects expressions
// with more than `most` operators and opening brackets.
func NewParser(o parser.Options, most int) parser.Parser {
	return boundedParser{parser.NewParser(o), most}
}

// NewParsers returns the parsers of all sets of switches, with the limit of NewParser.
func NewParsers(most int) switches.Parsers {
	of := switches.Each(func(s switches.Set) parser.Parser { return NewParser(s.Parser(), most) })
	return func(s switches.Set) parser.Parser { return of(s.Grammar()) }
}

// ParseExpr implements parser.Parser.
func (p boundedParser) ParseExpr(text string) (parser.Expr, error) {
	l, found := lex.New(text), 0
	for {
		var item parser.Item
		l.NextItem(&item)
		switch {
		case item.Typ == parser.EOF || item.Typ == parser.ERROR:
			return p.Parser.ParseExpr(text) // returns the error, if any
		case item.Typ.IsOperator(), item.Typ == parser.LEFT_PAREN, item.Typ == parser.LEFT_BRACKET:
			found++
		}
		if found > p.most {
			return nil, fmt.Errorf("the expression has more than %d operators and brackets; split it, "+
				"or use a regular expression instead of a chain of `or`", p.most)
		}
	}
}
