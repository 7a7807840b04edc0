package regexsize

import (
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/strutil"

	"github.com/palliumhq/pallium/backend/lex"
)

// Expression returns the sum of Pattern over the regular expressions of a PromQL
// expression or selector: the strings after =~ and !~, and every string if
// label_replace or count_values occurs. It returns a *TooLargeError if the sum
// exceeds most. It reads tokens, because Prometheus' parser compiles the
// expressions that it parses. It stops at a token that the lexer rejects, because
// the parser does not read further.
func Expression(promql string, most int) (int, error) {
	all := callsWithPatterns(promql)
	sum, wanted := 0, false
	l := lex.New(promql)
	for {
		var item parser.Item
		l.NextItem(&item)
		switch item.Typ {
		case parser.EOF, parser.ERROR:
			return sum, nil
		case parser.COMMENT:
			continue // a comment may be between the operator and its string
		case parser.EQL_REGEX, parser.NEQ_REGEX:
			wanted = true
			continue
		case parser.STRING:
			if !wanted && !all {
				continue
			}
			n, err := quoted(item.Val, most, sum)
			if err != nil {
				return 0, err
			}
			sum += n
		}
		wanted = false
	}
}

// quoted returns the cost of a quoted PromQL string.
func quoted(text string, most, sum int) (int, error) {
	pattern, err := strutil.Unquote(text)
	if err != nil {
		return 0, nil //nolint:nilerr // the parser reports it
	}
	n, err := Pattern(pattern, most-sum)
	if err != nil {
		return 0, tooLarge(pattern, most)
	}
	return n, nil
}

// callsWithPatterns reports whether a function or aggregation with patterns in its
// string arguments occurs. If a metric or label has such a name, more strings than
// needed are counted.
func callsWithPatterns(promql string) bool {
	l := lex.New(promql)
	for {
		var item parser.Item
		l.NextItem(&item)
		switch {
		case item.Typ == parser.EOF || item.Typ == parser.ERROR:
			return false
		case item.Typ == parser.COUNT_VALUES, item.Typ == parser.IDENTIFIER && item.Val == "label_replace":
			return true
		}
	}
}
