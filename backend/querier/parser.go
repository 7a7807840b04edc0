package querier

import (
	"fmt"

	"github.com/prometheus/prometheus/promql/parser"
)

// Bounds of an expression's size, counted in operators and opening brackets.
// Parsing and running take time that grows with the square of an expression's
// depth, and printing it prettily with the cube; neither stops at a timeout.
const (
	MaxOperators       = 2000 // of a query
	MaxPrettyOperators = 250  // where it may be printed
)

// boundedParser rejects what takes too long before it is parsed.
type boundedParser struct {
	parser.Parser
	most int
}

// NewParser returns Prometheus' parser, but for expressions of more than most
// operators and brackets.
func NewParser(o parser.Options, most int) parser.Parser {
	return boundedParser{parser.NewParser(o), most}
}

// ParseExpr implements parser.Parser.
func (p boundedParser) ParseExpr(text string) (parser.Expr, error) {
	l, found := parser.Lex(text), 0
	for {
		var item parser.Item
		l.NextItem(&item)
		switch {
		case item.Typ == parser.EOF || item.Typ == parser.ERROR:
			return p.Parser.ParseExpr(text) // which says what is wrong
		case item.Typ.IsOperator(), item.Typ == parser.LEFT_PAREN, item.Typ == parser.LEFT_BRACKET:
			found++
		}
		if found > p.most {
			return nil, fmt.Errorf("the expression has more than %d operators and brackets; split it, "+
				"or use a regular expression in the place of a chain", p.most)
		}
	}
}
