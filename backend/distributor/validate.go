package distributor

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// maxExemplarRunes is the limit of OpenMetrics for the labels of an exemplar.
const maxExemplarRunes = 128

// validator validates a batch against a tenant's limits.
type validator struct {
	lim *limits.Limits
	now int64 // Unix milliseconds
	out *series.Outcome

	windows requestWindows
}

// batch removes invalid samples and series from b and counts them as rejected.
func (v *validator) batch(b *series.Batch) {
	kept := b.Entries[:0]
	for i := range b.Entries {
		e := &b.Entries[i]
		if v.labels(e) && v.samples(e) {
			kept = append(kept, *e)
		}
	}
	// The tail must not share buffers with the entries that were moved to the front
	// when the batch is reused.
	clear(b.Entries[len(kept):])
	b.Entries = kept
	v.metadata(b)
}

// labels validates the labels of a series.
func (v *validator) labels(e *series.Entry) bool {
	name, n, reason, message, last := "", 0, "", "", ""
	e.Labels.Range(func(l labels.Label) {
		n++
		if reason != "" {
			return
		}
		if l.Name == model.MetricNameLabel {
			name = l.Value
		}
		reason, message = v.label(l)
		if reason == "" && n > 1 && l.Name == last {
			reason, message = "duplicate_label_names", fmt.Sprintf("label name %q appears twice in one series", l.Name)
		}
		last = l.Name
	})
	switch {
	case reason != "":
	case name == "":
		reason, message = "missing_metric_name", "a series has no metric name (label __name__)"
	case v.lim.MaxLabelsPerSeries > 0 && n > v.lim.MaxLabelsPerSeries:
		reason, message = limits.MaxLabelsPerSeries.Exceeded(v.lim, int64(n)).Reason()
	case n > pack.MaxSeriesLabels:
		reason, message = "too_many_labels", fmt.Sprintf("a series has %d labels; at most %d can be stored, whatever the tenant's limits; "+
			"drop labels by relabeling", n, pack.MaxSeriesLabels)
	case len(name) > schema.MaxMetricName:
		reason, message = "metric_name_too_long", fmt.Sprintf("a metric name has %d bytes; at most %d can be stored, "+
			"whatever the tenant's limits; shorten it by relabeling", len(name), schema.MaxMetricName)
	// ByteSize is fast and never less than labelBytes.
	case e.Labels.ByteSize() > pack.MaxSeriesLabelBytes && labelBytes(e.Labels) > pack.MaxSeriesLabelBytes:
		reason, message = "labels_too_large", fmt.Sprintf("the names and values of a series' labels have %d bytes; at most %d can be stored, "+
			"whatever the tenant's limits; shorten or drop labels by relabeling", labelBytes(e.Labels), pack.MaxSeriesLabelBytes)
	default:
		return true
	}
	v.out.Reject(reason, message, len(e.Samples), func() string { return shorten(e.Labels.String()) })
	return false
}

// labelBytes returns the total length of the names and values of labels.
func labelBytes(ls labels.Labels) int {
	size := 0
	ls.Range(func(l labels.Label) { size += len(l.Name) + len(l.Value) })
	return size
}

func (v *validator) label(l labels.Label) (reason, message string) {
	switch {
	case l.Name == "":
		return "label_invalid", "a label has an empty name"
	case v.lim.MaxLabelNameLength > 0 && len(l.Name) > v.lim.MaxLabelNameLength:
		return limits.MaxLabelNameLength.Exceeded(v.lim, int64(len(l.Name))).Reason()
	case v.lim.MaxLabelValueLength > 0 && len(l.Value) > v.lim.MaxLabelValueLength:
		return limits.MaxLabelValueLength.Exceeded(v.lim, int64(len(l.Value))).With(fmt.Sprintf(" (label %q)", shorten(l.Name))).Reason()
	case !utf8.ValidString(l.Name):
		return "label_invalid", fmt.Sprintf("label name %q is not valid UTF-8", shorten(l.Name))
	case !utf8.ValidString(l.Value):
		return "label_value_invalid", fmt.Sprintf("the value of label %q is not valid UTF-8", shorten(l.Name))
	}
	return "", ""
}

// shorten truncates text for the response and the log. It returns a copy, because
// the result outlives the request's buffer.
func shorten(s string) string {
	const most = 200
	if len(s) <= most {
		return strings.Clone(s)
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// samples drops a series' invalid samples and exemplars. It reports whether any are
// left.
func (v *validator) samples(e *series.Entry) bool {
	all := e.Samples
	kept := e.Samples[:0]
	for i := range all {
		if reason, message := v.sample(&all[i]); reason != "" {
			v.out.Reject(reason, message, 1, func() string { return shorten(e.Labels.String()) })
			continue
		}
		kept = append(kept, all[i])
	}
	e.Samples = kept
	v.exemplars(e)
	return len(e.Samples)+len(e.Exemplars) > 0
}

func (v *validator) sample(s *series.Sample) (reason, message string) {
	if reason, message = v.time(s.T); reason != "" {
		return reason, message
	}
	if s.IsHistogram() {
		if reason, message = v.histogram(s); reason != "" {
			return reason, message
		}
	}
	if !v.windows.admit(s.T) {
		return "max_request_windows", fmt.Sprintf("the samples of one request are in more than %d two-hour windows; "+
			"send a few days of history per request", maxRequestWindows)
	}
	return "", ""
}

// time returns why a sample at time t (Unix milliseconds) is rejected, or "".
func (v *validator) time(t int64) (reason, message string) {
	past, future := time.Duration(v.lim.PastGrace), time.Duration(v.lim.FutureGrace)
	switch {
	case t < 0:
		return "before_1970", fmt.Sprintf("a sample has the timestamp %d, before 1970", t)
	case t > series.MaxTime:
		return "after_2261", fmt.Sprintf("a sample has the timestamp %d; the latest supported timestamp is %d, the end of the year 2261; "+
			"timestamps are milliseconds: divide by 1,000 or 1,000,000 if yours are microseconds or nanoseconds", t, series.MaxTime)
	case past > 0 && t < v.now-past.Milliseconds():
		return limits.PastGrace.Exceeded(v.lim, limits.More).With(timeText(t)).Reason()
	case future > 0 && t > v.now+future.Milliseconds():
		return limits.FutureGrace.Exceeded(v.lim, limits.More).With(timeText(t)).Reason()
	case v.lim.Retention > 0 && t < v.now-time.Duration(v.lim.Retention).Milliseconds():
		return limits.Retention.Exceeded(v.lim, limits.More).With(timeText(t)).Reason()
	}
	return "", ""
}

// timeText returns the end of an error message with a sample's time, given in Unix
// milliseconds.
func timeText(ms int64) string {
	return ": its time is " + time.UnixMilli(ms).UTC().Format(time.RFC3339)
}

func (v *validator) histogram(s *series.Sample) (reason, message string) {
	err := v.reduce(s)
	switch {
	case err != nil:
	case s.H != nil:
		err = s.H.Validate()
	default:
		err = s.FH.Validate()
	}
	inSpans, spans, bounds := s.Parts()
	buckets := max(inSpans, bounds) // empty buckets count: they are stored, too
	if most := max(inSpans, spans, bounds); most > series.MaxHistogramParts {
		return "histogram_too_large", fmt.Sprintf("a native histogram has %d buckets, spans or custom bounds; "+
			"at most %d of each can be stored, whatever the tenant's limits; use a lower resolution", most, series.MaxHistogramParts)
	}
	if err != nil {
		return "invalid_histogram", fmt.Sprintf("a native histogram is not valid: %v", err)
	}
	if v.lim.MaxHistogramBuckets > 0 && buckets > v.lim.MaxHistogramBuckets {
		return limits.MaxHistogramBuckets.Exceeded(v.lim, int64(buckets)).Reason()
	}
	return "", ""
}

// reduce lowers the resolution of an exponential histogram that is finer than the
// finest schema that is stored or that has too many buckets, as Prometheus does for
// received and scraped ones. It may not suffice: the caller rejects a histogram
// that is still too large.
func (v *validator) reduce(s *series.Sample) error {
	schema := func() int32 {
		if s.H != nil {
			return s.H.Schema
		}
		return s.FH.Schema
	}
	to := func(schema int32) error {
		if s.H != nil {
			return s.H.ReduceResolution(schema)
		}
		return s.FH.ReduceResolution(schema)
	}
	if histogram.IsExponentialSchemaReserved(schema()) && schema() > histogram.ExponentialSchemaMax {
		if err := to(histogram.ExponentialSchemaMax); err != nil {
			return err
		}
	}
	most := series.MaxHistogramParts
	if v.lim.MaxHistogramBuckets > 0 {
		most = min(most, v.lim.MaxHistogramBuckets)
	}
	for histogram.IsExponentialSchema(schema()) && schema() > histogram.ExponentialSchemaMin {
		if buckets, _, _ := s.Parts(); buckets <= most {
			break
		}
		if err := to(schema() - 1); err != nil {
			return err
		}
	}
	return nil
}

// exemplars drops invalid exemplars. Like Prometheus, it does not reject the
// request for them.
func (v *validator) exemplars(e *series.Entry) {
	kept := e.Exemplars[:0]
	for _, x := range e.Exemplars {
		x.Labels = x.Labels.WithoutEmpty()
		if v.inTime(x.Ts) && exemplarFits(x) {
			kept = append(kept, x)
		}
	}
	e.Exemplars = kept
}

// inTime reports whether the time t is valid for a sample.
func (v *validator) inTime(t int64) bool {
	reason, _ := v.time(t)
	return reason == ""
}

// exemplarFits reports whether the labels of an exemplar are valid: within
// maxExemplarRunes, without duplicates, in valid UTF-8.
func exemplarFits(x exemplar.Exemplar) bool {
	runes, ok := 0, true
	x.Labels.Range(func(l labels.Label) {
		runes += utf8.RuneCountInString(l.Name) + utf8.RuneCountInString(l.Value)
		ok = ok && l.Name != "" && utf8.ValidString(l.Name) && utf8.ValidString(l.Value)
	})
	if !ok || runes > maxExemplarRunes {
		return false
	}
	var names []string // labels of exemplars may be unsorted; there are few
	x.Labels.Range(func(l labels.Label) {
		ok = ok && !slices.Contains(names, l.Name)
		names = append(names, l.Name)
	})
	return ok
}

// metadata drops entries with an invalid or too long metric name, and truncates long
// help and unit texts.
func (v *validator) metadata(b *series.Batch) {
	kept := b.Metadata[:0]
	for _, m := range b.Metadata {
		if m.Metric == "" || !utf8.ValidString(m.Metric) {
			continue
		}
		if v.lim.MaxLabelValueLength > 0 && len(m.Metric) > v.lim.MaxLabelValueLength {
			continue
		}
		if len(m.Metric) > schema.MaxMetricName {
			continue
		}
		most := pack.MaxMetadataText
		if v.lim.MaxLabelValueLength > 0 {
			most = min(most, v.lim.MaxLabelValueLength)
		}
		m.Help, m.Unit = cut(m.Help, most), cut(m.Unit, most)
		kept = append(kept, m)
	}
	b.Metadata = kept
}

func cut(s string, most int) string {
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "")
}
