package querier

import (
	"context"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/series"
)

// Memory of Prometheus' engine and API in bytes. The engine does not account for its memory. This
// package therefore estimates it before data is read, from the maximum number of points of each
// series.
const (
	pointBytes = 16 // promql.FPoint
	topBytes   = 64 // promql.Sample, in the heap of a topk
	// seriesBytes is the memory of a series in the engine: the structs that
	// wrap it, and its entries in the maps of a vector match.
	seriesBytes = 400
	// readSampleBytes is the memory of a sample of a remote read: in a message,
	// marshaled, and compressed.
	readSampleBytes = 96
	// readCopies is the number of copies of a native histogram in a remote read: as for
	// readSampleBytes, and the histogram itself.
	readCopies = 4
	// maxPointSlice is the engine's maxPointsSliceSize, the maximum number of
	// points of a series for which it allocates memory in advance.
	maxPointSlice = 5000
	// pointText and bucketText are the sizes of a point and of a histogram
	// bucket as JSON; textCopies is the number of copies of the text while its
	// buffer grows and it is written.
	pointText, bucketText = 40, 60
	textCopies            = 3
	// noteBytes is the size of a query annotation without metric names, noteCopies the maximum
	// number of times that it contains a metric's name.
	noteBytes, noteCopies = 300, 4
	// histogramLabel is the maximum number of bytes of text per byte of a
	// histogram.
	histogramLabel = 8
)

// evaluation accounts for the memory of one running query. Only the goroutine that evaluates the
// query uses it, except for readers, which has its own lock.
type evaluation struct {
	memory *memory.Holding
	// peak returns the maximum number of samples that the engine has held so far; nil in a remote
	// read.
	peak     func() int64
	shape    shape
	selected int64 // number of series of the largest selection so far
	// inseparable is set if a selection of a shard has a series that may be equal to one of another
	// shard when functions have dropped labels.
	inseparable bool
	next        int         // position in shape.selectors of the next selection
	series      int64       // number of series selected so far
	points      int64       // bytes held for points
	raw         bool        // remote read: all samples are held in memory
	note        func(error) // called with the error of take that ends the read; may be nil
	readers     readers
}

type evaluationKey struct{}

// take reserves n more bytes of memory.
func (e *evaluation) take(n int64) error {
	err := e.memory.Take(n)
	if err != nil && e.note != nil {
		e.note(err)
	}
	return err
}

// ReadRaw returns a context for a remote read, which may collect its response in memory. note is
// called with the error of the memory account that ends the read.
func ReadRaw(ctx context.Context, note func(error)) context.Context {
	return context.WithValue(ctx, evaluationKey{}, &evaluation{memory: memory.FromContext(ctx), raw: true, note: note})
}

// newEvaluation starts the accounting of a query of the engine. It returns
// errors of package memory.
func newEvaluation(ctx context.Context, q *query) (*evaluation, error) {
	e := &evaluation{memory: memory.FromContext(ctx)}
	if s := q.Stats(); s != nil && s.Samples != nil {
		samples := s.Samples
		e.peak = func() int64 { return int64(samples.PeakSamples) }
	}
	if stmt, ok := q.Statement().(*parser.EvalStmt); ok {
		e.shape = q.shapeOf(stmt.Expr)
	}
	// A growing slice is held twice.
	if err := e.memory.Take(sumOf(0, e.shape.ownPoints, 2*pointBytes)); err != nil || e.shape.bound == nil {
		return e, err
	}
	// Labels can be created without a selection.
	return e, e.memory.Take(e.shape.bound.bytes(0))
}

// chargeSelection charges for the labels and structs of a selection, and for the
// labels that the query creates from them. It returns errors of package memory.
func chargeSelection(ctx context.Context, list []series.WithChunks, labelsOnly bool) error {
	h := memory.FromContext(ctx)
	if h == nil {
		return nil
	}
	all, largest, n := int64(0), int64(0), int64(len(list))
	if labelsOnly { // the response is the labels as text
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
		// Some functions add an annotation for each metric name.
		if s := list[i].Labels.Get(model.MetricNameLabel); s != name {
			name = s
			notes += noteBytes + noteCopies*jsonBytes(s)
		}
	}
	need := n*seriesBytes + all + notes
	if e, ok := ctx.Value(evaluationKey{}).(*evaluation); ok && e.shape.bound != nil {
		need = sumOf(need, n, e.shape.bound.bytes(largest))
		if e.next >= len(e.shape.selectors) { // a selection of info(), which is not in the expression
			need = sumOf(need, e.series, joined(list))
		}
		e.series += n
	}
	return h.Take(need)
}

// joined returns the maximum size in bytes of labels that info() can add to one
// series: those of one series of each metric.
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

// sumOf returns need + n*each, at most 1<<60, which is more than any memory limit.
func sumOf(need, n, each int64) int64 {
	const most = int64(1) << 60
	if each > 0 && n > most/each {
		return most
	}
	return min(need+n*each, most)
}

// chargeStrings charges for a list of strings and its JSON in a response.
func chargeStrings(ctx context.Context, list []string) error {
	n := int64(0)
	for _, s := range list {
		n += jsonBytes(s) + 8
	}
	return memory.FromContext(ctx).Take(textCopies * n)
}

// selector returns the shape of the next selector. For selections that are not
// in the expression (by info) it returns a conservative shape.
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

// chargeResult charges for the JSON of a query's result.
func chargeResult(h *memory.Holding, v parser.Value) error {
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

// labelText returns the maximum size in bytes of labels as JSON.
func labelText(ls labels.Labels) int64 {
	n := int64(64)
	ls.Range(func(l labels.Label) { n += jsonBytes(l.Name) + jsonBytes(l.Value) + 6 })
	return n
}

// jsonBytes returns the maximum size in bytes of a string as JSON, where some
// bytes are escaped with six.
func jsonBytes(s string) int64 {
	n, valid := int64(len(s)), utf8.ValidString(s)
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ', c == '<', c == '>', c == '&', c == 0xe2: // first byte of U+2028, which is escaped
			n += 5
		case c == '"', c == '\\':
			n++
		case c >= 0x80 && !valid: // each invalid byte becomes \ufffd
			n += 5
		}
	}
	return n
}

func textOfHistogram(h *histogram.FloatHistogram) int64 {
	return int64(len(h.PositiveBuckets)+len(h.NegativeBuckets)+2)*bucketText + 2*pointText
}

// chargeExemplars charges for exemplars and their JSON.
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
