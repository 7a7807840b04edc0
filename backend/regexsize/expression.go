package regexsize

import (
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/strutil"
)

// Expression returns the sum of Pattern over the regular expressions of a
// PromQL expression or selector: the strings after =~ and !~, and every string
// if label_replace or count_values occurs. It stops with a *TooLargeError above
// most. It reads tokens, since Prometheus' parser compiles what it parses; of a
// text that is no PromQL it counts what comes before the mistake, which is all
// that the parser gets to see.
func Expression(promql string, most int) (int, error) {
	all := callsWithPatterns(promql)
	sum, wanted := 0, false
	l := parser.Lex(promql)
	for {
		var item parser.Item
		l.NextItem(&item)
		switch item.Typ {
		case parser.EOF, parser.ERROR:
			return sum, nil
		case parser.COMMENT:
			continue // a comment may come between the operator and its string
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

// quoted counts a string as it is written in PromQL.
func quoted(text string, most, sum int) (int, error) {
	pattern, err := strutil.Unquote(text)
	if err != nil {
		return 0, nil //nolint:nilerr // the parser says so
	}
	n, err := Pattern(pattern, most-sum)
	if err != nil {
		return 0, tooLarge(pattern, most)
	}
	return n, nil
}

// callsWithPatterns reports whether a function or aggregation occurs that takes
// strings to be matched. A metric or label of that name makes no difference but
// that more is counted.
func callsWithPatterns(promql string) bool {
	l := parser.Lex(promql)
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
