package querier

import (
	"maps"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// labelOf identifies a label of a selected series, or all its labels if label
// is empty. A series of an expression may be derived from several selected
// series; source is the number of one of them.
type labelOf struct {
	source int
	label  string
}

// histogramText is the source of histograms that count_values writes as text.
const histogramText = -1

// labelSum is an upper bound of a label value's size: bytes that are in the
// query, plus labels of selected series, each with the number of its
// occurrences.
type labelSum struct {
	bytes int64
	of    map[labelOf]int64
}

// maxTerms is the number of labels in one sum above which they are combined:
// the labels of each source are replaced by all labels of its series, with the
// largest number of occurrences of one of them.
const maxTerms = 16

func saturated(a, b int64) int64 { return min(a+b, maxLabelBytes) }

// times multiplies two non-negative numbers, up to maxLabelBytes.
func times(a, b int64) int64 {
	if a > 0 && b > maxLabelBytes/a {
		return maxLabelBytes
	}
	return a * b
}

// add adds another sum n times.
func (s *labelSum) add(other labelSum, n int64) {
	s.bytes = saturated(s.bytes, times(other.bytes, n))
	if n == 0 {
		return
	}
	if s.of == nil {
		s.of = map[labelOf]int64{}
	}
	for of, m := range other.of {
		s.of[of] = saturated(s.of[of], times(m, n))
	}
	s.shorten()
}

// larger returns an upper bound of both sums.
func (s labelSum) larger(other labelSum) labelSum {
	out := labelSum{bytes: max(s.bytes, other.bytes), of: maps.Clone(s.of)}
	if out.of == nil {
		out.of = map[labelOf]int64{}
	}
	for of, n := range other.of {
		out.of[of] = max(out.of[of], n)
	}
	out.shorten()
	return out
}

func (s *labelSum) shorten() {
	if len(s.of) <= maxTerms {
		return
	}
	most := map[labelOf]int64{}
	for of, n := range s.of {
		if whole := (labelOf{source: of.source}); of.label != "" {
			most[whole] = max(most[whole], n)
		}
	}
	for of, n := range s.of {
		if of.label == "" {
			most[of] = saturated(most[of], n)
		}
	}
	s.of = most
}

// moved returns the sum with its sources renumbered from n.
func (s labelSum) moved(n int) labelSum {
	out := labelSum{bytes: s.bytes, of: make(map[labelOf]int64, len(s.of))}
	for of, m := range s.of {
		if of.source != histogramText {
			of.source += n
		}
		out.of[of] = m
	}
	return out
}

// labelSet holds upper bounds of the labels of an expression's series.
type labelSet struct {
	made    map[string]labelSum
	rest    bool          // all other labels come from source 0
	infos   map[int]int64 // number of series by source, for sources that info() joins: any label may come from them
	sources int
}

func (l *labelSet) set(name string, sum labelSum) {
	if l.made == nil {
		l.made = map[string]labelSum{}
	}
	l.made[name] = sum
}

func (l *labelSet) value(name string) labelSum {
	if sum, ok := l.made[name]; ok {
		return sum
	}
	sum := labelSum{of: map[labelOf]int64{}}
	if name == "" {
		return sum // no series has it
	}
	if l.rest {
		sum.of[labelOf{label: name}] = 1
	}
	for source := range l.infos {
		sum.of[labelOf{source: source}] = 1
	}
	return sum
}

// keep returns the set reduced to the labels in names.
func (l *labelSet) keep(names []string) *labelSet {
	out := &labelSet{sources: l.sources}
	for _, name := range names {
		if sum := l.value(name); sum.bytes > 0 || len(sum.of) > 0 {
			out.set(name, sum)
		}
	}
	return out
}

// merge returns bounds for series that are in either set.
func (l *labelSet) merge(other *labelSet) *labelSet {
	out := &labelSet{rest: l.rest || other.rest, sources: max(l.sources, other.sources)}
	for name, sum := range l.made {
		out.set(name, sum.larger(other.value(name)))
	}
	for name, sum := range other.made {
		if _, done := l.made[name]; !done {
			out.set(name, sum.larger(l.value(name)))
		}
	}
	if len(l.infos)+len(other.infos) > 0 {
		out.infos = map[int]int64{}
	}
	for _, infos := range []map[int]int64{l.infos, other.infos} {
		for source, n := range infos {
			out.infos[source] = max(out.infos[source], n)
		}
	}
	return out
}

// infoMetrics returns the maximum number of metrics that the selector of info() matches. If that is
// known only after the selection, it returns 1; see joined.
func infoMetrics(s *parser.VectorSelector) int64 {
	fewest, named := int64(maxLabelBytes), false
	for _, m := range s.LabelMatchers {
		if m.Name != model.MetricNameLabel {
			continue
		}
		named = true
		switch set := m.SetMatches(); {
		case m.Type == labels.MatchEqual:
			fewest = 1
		case m.Type == labels.MatchRegexp && len(set) > 0:
			fewest = min(fewest, int64(len(set)))
		}
	}
	if !named || fewest == maxLabelBytes {
		return 1 // target_info
	}
	return fewest
}
