package querier

import (
	"maps"
	"math"
	"strings"

	"github.com/prometheus/prometheus/promql/parser"
)

// Sizes in bytes of text that queries write into labels.
const (
	floatText     = 400               // a float in decimal notation, with up to 324 zeros
	quantileText  = 32                // a quantile
	labelOverhead = 8                 // the lengths of a name and a value, as labels.Labels stores them
	maxLabelBytes = math.MaxInt64 / 4 // maximum of all bounds; larger sums saturate
)

// labelBound is an upper bound of the size of labels that a query creates. Prometheus' functions
// for labels are methods of its evaluator and limit nothing: six nested label_join of ten labels
// each multiply the size of a label by a million. The bound is computed from the expression. It is
// a function of the size of the selected series' labels.
//
// The size of each label is tracked by name, as a sum of labels of selected series and of bytes
// from the query. Since no label of a series is larger than all labels of that series together, the
// bound depends on the maximum number of occurrences of a label.
type labelBound struct {
	peaks []labelPeak // one for each function or operator that creates labels
	makes bool

	// histogram is the size in bytes of the text of the largest histogram that
	// count_values may read; 0 unless the caller sets it.
	histogram int64
}

// labelPeak is a bound of the size of labels in a node of the expression.
type labelPeak struct {
	series     int64 // multiples of the labels of a selected series
	histograms int64 // multiples of the text of a histogram
	bytes      int64
}

// newLabelBound returns the bound of an expression, or nil if the expression
// creates no labels: its series then have labels of the selected series, or
// fewer.
func newLabelBound(e parser.Expr) *labelBound {
	b := &labelBound{}
	b.eval(e)
	if !b.makes {
		return nil
	}
	return b
}

// bytes returns an upper bound of the size in bytes of one series' labels at any point of the
// evaluation; largest is the largest size of a selected series' labels. info() with a pattern of
// metric names may add more; how much is known only after the selection.
func (b *labelBound) bytes(largest int64) int64 {
	most := largest
	for _, p := range b.peaks {
		n := saturated(p.bytes, times(p.series, largest))
		most = max(most, saturated(n, times(p.histograms, b.histogram)))
	}
	return min(most, maxLabelBytes)
}

// peak records the size of created labels.
func (b *labelBound) peak(l *labelSet) *labelSet {
	b.makes = true
	b.peaks = append(b.peaks, l.size())
	return l
}

// eval returns the bounds of an expression's labels. The caller may modify the
// result.
func (b *labelBound) eval(e parser.Expr) *labelSet {
	switch e := e.(type) {
	case *parser.VectorSelector, *parser.MatrixSelector:
		return &labelSet{rest: true, sources: 1}
	case *parser.SubqueryExpr:
		return b.eval(e.Expr)
	case *parser.ParenExpr:
		return b.eval(e.Expr)
	case *parser.UnaryExpr:
		return b.eval(e.Expr)
	case *parser.StepInvariantExpr:
		return b.eval(e.Expr)
	case *parser.AggregateExpr:
		return b.aggregate(e)
	case *parser.BinaryExpr:
		return b.binary(e)
	case *parser.Call:
		return b.call(e)
	}
	return &labelSet{sources: 1} // numbers and strings
}

func (b *labelBound) aggregate(e *parser.AggregateExpr) *labelSet {
	if e.Param != nil {
		b.eval(e.Param)
	}
	l, grouping := b.eval(e.Expr), e.Grouping
	if e.Op == parser.COUNT_VALUES {
		name := text(e.Param)
		l.set(name, labelSum{bytes: floatText, of: map[labelOf]int64{{source: histogramText}: 1}})
		b.peak(l)
		grouping = append(grouping[:len(grouping):len(grouping)], name)
	}
	switch e.Op {
	case parser.TOPK, parser.BOTTOMK, parser.LIMITK, parser.LIMIT_RATIO:
		return l // returns series unchanged
	}
	if e.Without {
		return l
	}
	return l.keep(grouping)
}

func (b *labelBound) binary(e *parser.BinaryExpr) *labelSet {
	many, one := b.eval(e.LHS), b.eval(e.RHS)
	m := e.VectorMatching
	if m == nil || e.Op.IsSetOperator() || m.FillValues.LHS != nil || m.FillValues.RHS != nil {
		many, one = many.merge(one), one.merge(many) // a series may come from either side
	}
	if m == nil || m.Card == parser.CardManyToMany {
		return many
	}
	if m.Card == parser.CardOneToMany {
		many, one = one, many
	}
	if len(m.Include) == 0 {
		return many
	}
	// The included labels come from another series, which may be as large as the first.
	for _, name := range m.Include {
		many.set(name, one.value(name).moved(many.sources))
	}
	many.sources += one.sources
	return b.peak(many)
}

func (b *labelBound) call(e *parser.Call) *labelSet {
	switch e.Func.Name {
	case "label_join":
		l, sum := b.eval(e.Args[0]), labelSum{}
		for i, src := range e.Args[3:] {
			if i > 0 {
				sum.bytes = saturated(sum.bytes, int64(len(text(e.Args[2]))))
			}
			sum.add(l.value(text(src)), 1)
		}
		l.set(text(e.Args[1]), sum)
		return b.peak(l)
	case "label_replace":
		l := b.eval(e.Args[0])
		dst := text(e.Args[1])
		refs, written := template(text(e.Args[2]))
		sum := labelSum{bytes: written}
		sum.add(l.value(text(e.Args[3])), refs)
		if !alwaysMatches(text(e.Args[3]), text(e.Args[4])) {
			sum = sum.larger(l.value(dst)) // without a match, dst is unchanged
		}
		l.set(dst, sum)
		return b.peak(l)
	case "info":
		return b.info(e)
	case "histogram_quantiles":
		l := b.all(e)
		l.set(text(e.Args[1]), labelSum{bytes: quantileText})
		return b.peak(l)
	case "absent", "absent_over_time":
		b.all(e)
		return absentLabels(e.Args[0])
	}
	return b.all(e)
}

// all merges the labels of all arguments.
func (b *labelBound) all(e *parser.Call) *labelSet {
	l := &labelSet{sources: 1}
	for _, arg := range e.Args {
		sub := b.eval(arg)
		if t := arg.Type(); t == parser.ValueTypeVector || t == parser.ValueTypeMatrix {
			l = l.merge(sub)
		}
	}
	return l
}

// info adds the labels of a series of each info metric.
func (b *labelBound) info(e *parser.Call) *labelSet {
	l, metrics := b.eval(e.Args[0]), int64(1)
	if len(e.Args) > 1 {
		if s, ok := e.Args[1].(*parser.VectorSelector); ok {
			metrics = infoMetrics(s)
		}
	}
	if l.infos == nil {
		l.infos = map[int]int64{}
	}
	l.infos[l.sources] = metrics
	l.sources++
	return b.peak(l)
}

// text returns the value of a string argument.
func text(e parser.Expr) string {
	for {
		switch t := e.(type) {
		case *parser.ParenExpr:
			e = t.Expr
		case *parser.StepInvariantExpr:
			e = t.Expr
		case *parser.StringLiteral:
			return t.Val
		default:
			return ""
		}
	}
}

// alwaysMatches reports whether pattern is one of the known patterns that match
// every value, so that label_replace sets the label of every series.
func alwaysMatches(src, pattern string) bool {
	return pattern == ".*" || pattern == "(.*)" || pattern == "" && src == ""
}

// template parses a replacement as regexp.Expand does. It returns the number of
// references to groups, each of which expands to at most the whole source, and
// the number of other bytes.
func template(s string) (refs, bytes int64) {
	for {
		before, after, found := strings.Cut(s, "$")
		bytes += int64(len(before))
		if !found {
			return refs, bytes
		}
		name := len(after) - len(strings.TrimLeft(after, "0123456789_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"))
		switch {
		case strings.HasPrefix(after, "$"):
			bytes, s = bytes+1, after[1:]
		case strings.HasPrefix(after, "{") && strings.Contains(after, "}"):
			end := strings.Index(after, "}") + 1
			refs, bytes, s = refs+1, bytes+int64(end+1), after[end:] // an invalid name is literal text
		case name > 0:
			refs, s = refs+1, after[name:]
		default: // literal text, or a name that starts with a non-ASCII letter
			refs, bytes, s = refs+1, bytes+1, after
		}
	}
}

// absentLabels returns the labels that absent() derives from the matchers.
func absentLabels(e parser.Expr) *labelSet {
	l := &labelSet{sources: 1}
	for {
		switch t := e.(type) {
		case *parser.ParenExpr:
			e = t.Expr
		case *parser.StepInvariantExpr:
			e = t.Expr
		case *parser.MatrixSelector:
			e = t.VectorSelector
		case *parser.VectorSelector:
			for _, m := range t.LabelMatchers {
				l.set(m.Name, labelSum{bytes: int64(len(m.Value))}.larger(l.made[m.Name]))
			}
			return l
		default:
			return l
		}
	}
}

// addRest adds one occurrence for each label in sums that the series of source 0 keeps unchanged.
func (l *labelSet) addRest(sums map[labelOf]int64) {
	for of := range maps.Clone(sums) {
		if _, replaced := l.made[of.label]; of.source == 0 && of.label != "" && !replaced {
			sums[of] = saturated(sums[of], 1)
		}
	}
}

// size returns a bound of the size of all labels of a series, summed by source: no label of a
// selected series is larger than all labels of that series together.
func (l *labelSet) size() labelPeak {
	var p labelPeak
	sums := map[labelOf]int64{}
	for name, sum := range l.made {
		p.bytes = saturated(p.bytes, saturated(sum.bytes, int64(len(name)+labelOverhead)))
		for of, n := range sum.of {
			sums[of] = saturated(sums[of], n)
		}
	}
	if l.rest {
		l.addRest(sums)
	}
	for source, n := range l.infos {
		sums[labelOf{source: source}] = saturated(sums[labelOf{source: source}], n)
	}
	largest := map[int]int64{}
	if l.rest {
		largest[0] = 1
	}
	for of, n := range sums {
		if of.label != "" {
			largest[of.source] = max(largest[of.source], n)
		}
	}
	for source, n := range largest {
		whole := labelOf{source: source}
		sums[whole] = saturated(sums[whole], n)
	}
	for of, n := range sums {
		switch {
		case of.label != "":
		case of.source == histogramText:
			p.histograms = saturated(p.histograms, n)
		default:
			p.series = saturated(p.series, n)
		}
	}
	return p
}
