package querier

import (
	"context"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/series"
)

// What Prometheus' engine and API take for what they read, in bytes. The engine
// has no account of memory: what it will hold is worked out from outside, before
// it reads, from the number of points that each series can come to.
const (
	pointBytes = 16 // promql.FPoint
	topBytes   = 64 // promql.Sample, in the heap of a topk
	// seriesBytes is for a series on its way through the engine: the structs that
	// it is wrapped in, its place in the maps of a vector match.
	seriesBytes = 400
	// A raw sample of a remote read: as it is appended to a message, as it is
	// marshaled, and compressed.
	readSampleBytes = 96
	// readCopies is how often a native histogram of a remote read is there: the same.
	readCopies = 4
	// maxPointSlice is the engine's maxPointsSliceSize: it makes room for so many
	// points of a series at most before it has them.
	maxPointSlice = 5000
	// A point and a histogram bucket as JSON text, and how many copies of the text
	// there are while it grows and is handed over.
	pointText, bucketText = 40, 60
	textCopies            = 3
	// An annotation of a query, and how often it has the name of a metric.
	noteBytes, noteCopies = 300, 4
	// histogramLabel is how many bytes of text a byte of a histogram makes, at most.
	histogramLabel = 8
)

// evaluation is one query that is being evaluated. It belongs to the goroutine
// that evaluates, as everything that the engine calls does.
type evaluation struct {
	memory *memory.Holding
	// peak is the most samples that the engine has held so far; nil outside of it.
	peak   func() int64
	shape  shape
	next   int         // of the shape's selectors, the next one that is selected
	series int64       // selected so far
	points int64       // bytes that are held for points
	raw    bool        // a remote read: all samples are held
	note   func(error) // told what ended the reading; may be nil
}

type evaluationKey struct{}

// take holds n bytes more.
func (e *evaluation) take(n int64) error {
	err := e.memory.Take(n)
	if err != nil && e.note != nil {
		e.note(err)
	}
	return err
}

// ReadRaw returns a context for a remote read, which may build its answer in
// memory. note is told why a series could not be read.
func ReadRaw(ctx context.Context, note func(error)) context.Context {
	return context.WithValue(ctx, evaluationKey{}, &evaluation{memory: memory.FromContext(ctx), raw: true, note: note})
}

// newEvaluation begins the account of a query of the engine. The error is one of
// package memory's.
func newEvaluation(ctx context.Context, q *query) (*evaluation, error) {
	e := &evaluation{memory: memory.FromContext(ctx)}
	if s := q.Stats(); s != nil && s.Samples != nil {
		samples := s.Samples
		e.peak = func() int64 { return int64(samples.PeakSamples) }
	}
	if stmt, ok := q.Statement().(*parser.EvalStmt); ok {
		e.shape = q.shapeOf(stmt.Expr)
	}
	// A slice that grows is there twice.
	if err := e.memory.Take(sumOf(0, e.shape.ownPoints, 2*pointBytes)); err != nil || e.shape.bound == nil {
		return e, err
	}
	// Labels can be made without selecting anything.
	return e, e.memory.Take(e.shape.bound.bytes(0))
}

// selected charges for the labels and structs of a selection, and for the labels
// that the query makes of them. The error is one of package memory's.
func selected(ctx context.Context, list []series.WithChunks, labelsOnly bool) error {
	h := memory.FromContext(ctx)
	if h == nil {
		return nil
	}
	all, largest, n := int64(0), int64(0), int64(len(list))
	if labelsOnly { // the answer is their text
		for i := range list {
			all += labelText(list[i].Labels)
		}
		return h.Take(n*seriesBytes + textCopies*all)
	}
	name, notes := "", int64(0)
	for i := range list {
		n := int64(list[i].Labels.ByteSize())
		all += n
		largest = max(largest, n)
		// Functions that doubt a metric say so in an annotation for each name.
		if s := list[i].Labels.Get(model.MetricNameLabel); s != name {
			name = s
			notes += noteBytes + noteCopies*jsonBytes(s)
		}
	}
	need := n*seriesBytes + all + notes
	if e, ok := ctx.Value(evaluationKey{}).(*evaluation); ok && e.shape.bound != nil {
		need = sumOf(need, n, e.shape.bound.bytes(largest))
		if e.next >= len(e.shape.selectors) { // not in the expression
			need = sumOf(need, e.series, joined(list))
		}
		e.series += n
	}
	return h.Take(need)
}

// joined is how many bytes of labels info() can add to one series: those of a
// series of each metric.
func joined(list []series.WithChunks) int64 {
	most := map[string]int64{}
	for i := range list {
		name := list[i].Labels.Get(model.MetricNameLabel)
		most[name] = max(most[name], int64(list[i].Labels.ByteSize()))
	}
	sum := int64(0)
	for _, n := range most {
		sum += n
	}
	return sum
}

// sumOf is need + n*each, or a number that no account has.
func sumOf(need, n, each int64) int64 {
	const most = int64(1) << 60
	if each > 0 && n > most/each {
		return most
	}
	return min(need+n*each, most)
}

// texts charges for a list of strings and its text in an answer.
func texts(ctx context.Context, list []string) error {
	n := int64(0)
	for _, s := range list {
		n += jsonBytes(s) + 8
	}
	return memory.FromContext(ctx).Take(textCopies * n)
}

// selector is the shape of the next selector. What the engine selects beyond those
// of the expression (info) may become anything.
func (e *evaluation) selector() selectorShape {
	if e.raw {
		return selectorShape{copies: readCopies}
	}
	if e.next >= len(e.shape.selectors) {
		return selectorShape{copies: 2, steps: e.shape.steps}
	}
	e.next++
	return e.shape.selectors[e.next-1]
}

// answered charges for the result of a query and its text.
func answered(h *memory.Holding, v parser.Value) error {
	n := int64(0)
	switch v := v.(type) {
	case promql.Matrix:
		for i := range v {
			n += labelText(v[i].Metric) + int64(len(v[i].Floats))*pointText
			for j := range v[i].Histograms {
				n += textOfHistogram(v[i].Histograms[j].H)
			}
		}
	case promql.Vector:
		for i := range v {
			n += labelText(v[i].Metric) + pointText
			if v[i].H != nil {
				n += textOfHistogram(v[i].H)
			}
		}
	case promql.String:
		n = jsonBytes(v.V)
	}
	return h.Take(textCopies * n)
}

// labelText is what labels take as JSON.
func labelText(ls labels.Labels) int64 {
	n := int64(64)
	ls.Range(func(l labels.Label) { n += jsonBytes(l.Name) + jsonBytes(l.Value) + 6 })
	return n
}

// jsonBytes is how many bytes a string has as JSON, in which some bytes are
// written as six.
func jsonBytes(s string) int64 {
	n := int64(len(s))
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ', c == '<', c == '>', c == '&', c == 0xe2: // of which U+2028 begins
			n += 5
		case c == '"', c == '\\':
			n++
		case c >= 0x80: // in case it is not UTF-8
			n += 2
		}
	}
	return n
}

func textOfHistogram(h *histogram.FloatHistogram) int64 {
	return int64(len(h.PositiveBuckets)+len(h.NegativeBuckets)+2)*bucketText + 2*pointText
}

// chargeExemplars charges for exemplars and their text.
func chargeExemplars(ctx context.Context, list []exemplar.QueryResult) error {
	n := int64(0)
	for i := range list {
		n += labelText(list[i].SeriesLabels)
		for j := range list[i].Exemplars {
			n += labelText(list[i].Exemplars[j].Labels) + 2*pointText
		}
	}
	return memory.FromContext(ctx).Take((textCopies + 1) * n)
}
