package chaos

import (
	"fmt"
	"math"

	"github.com/prometheus/prometheus/model/labels"
)

// The attacks with labels, metadata, exemplars and sizes.

func (a *attacker) one(ls labels.Labels) hostileSeries {
	return hostileSeries{labels: ls, points: []point{{t: a.now, v: 1}}}
}

func (a *attacker) manyLabels() []hostileRequest {
	n, reason := boundLabels, "too_many_labels"
	if !a.unlimited {
		n, reason = 64, "max_labels_per_series"
	}
	with := func(n int) labels.Labels {
		var more []string
		for i := range n - 3 {
			more = append(more, numbered("l", i), "v")
		}
		return hostileLabels("labels", a.id, more...)
	}
	return []hostileRequest{{version: a.version(), good: []hostileSeries{a.one(with(n))}, beyond: []hostileSeries{a.one(with(n + 1))}, reason: reason}}
}

func (a *attacker) largeLabels() []hostileRequest {
	ls := func(more ...string) labels.Labels { return hostileLabels("large", a.id, more...) }
	if !a.unlimited {
		return []hostileRequest{
			{version: a.version(), good: []hostileSeries{a.one(ls("a", repeat("v", 4096)))}, beyond: []hostileSeries{a.one(ls("a", repeat("v", 4097)))}, reason: "max_label_value_length"},
			{version: a.version(), good: []hostileSeries{a.one(ls(repeat("n", 1024), "v"))}, beyond: []hostileSeries{a.one(ls(repeat("n", 1025), "v"))}, reason: "max_label_name_length"},
		}
	}
	name := repeat("n", boundLabelBytes-200) // the label's name has nearly all of the bytes
	return []hostileRequest{
		{version: a.version(), good: []hostileSeries{a.one(padded(ls(), boundLabelBytes)), a.one(padded(ls(name, "v"), boundLabelBytes))},
			beyond: []hostileSeries{a.one(padded(ls("b", "1"), boundLabelBytes+1))}, reason: "labels_too_large"},
	}
}

// names sends metric names up to the maximal length, many of them prefixes of others.
func (a *attacker) names() []hostileRequest {
	var good []hostileSeries
	for _, n := range []int{1, 2, 3, 1023, 1024, 1025, 2048, boundMetricName - 1, boundMetricName} {
		good = append(good, a.one(hostileLabels("names", a.id, "__name__", repeat("m", n))))
	}
	for _, name := range []string{"hostile", "hostile_", "hostile_a", "hostile_a:b", "hostile_a b", "hostile_a\x00", "hostile_a\x00b", "hostile_a\xc2\x80"} {
		good = append(good, a.one(hostileLabels("names", a.id, "__name__", name)))
	}
	if !a.unlimited {
		return []hostileRequest{{version: a.version(), good: good}}
	}
	beyond := []hostileSeries{a.one(hostileLabels("names", a.id, "__name__", repeat("m", boundMetricName+1)))}
	return []hostileRequest{{version: a.version(), good: good, beyond: beyond, reason: "metric_name_too_long"}}
}

// bytes sends labels with all kinds of valid UTF-8, and one label value and one label
// name with invalid UTF-8.
func (a *attacker) bytes() []hostileRequest {
	texts := []string{"\x00", "\x00\x00", "a\x00", "\x01\x02\x1f\x7f", "\n\r\t", "\"\\{}[]`", "\U0001f4a3", "\U0010ffff", "\u0000\uffff", "\ufeff", "é", "e\u0301", "%00", "../../..", "__reserved__", " ", "=", ","}
	var good []hostileSeries
	for i, v := range texts {
		good = append(good, a.one(hostileLabels("bytes", a.id, "value", v)), a.one(hostileLabels("bytes", a.id, v, "name")),
			a.one(hostileLabels("bytes", a.id, "n", fmt.Sprint(i), "__name__", "hostile_"+v)), a.one(hostileLabels("bytes", a.id, v, v, "v"+v, v)))
	}
	r := hostileRequest{version: 2, good: good, reason: "label_value_invalid"}
	r.beyond = []hostileSeries{a.one(hostileLabels("bytes", a.id, "value", "\xff\xfe")), a.one(hostileLabels("bytes", a.id, "\xc3", "v"))}
	return []hostileRequest{r}
}

// metrics sends thousands of metric names, and 500 label names among them.
func (a *attacker) metrics() []hostileRequest {
	n := 3000
	if a.long {
		n = 20_000
	}
	r := hostileRequest{version: a.version()}
	for i := range n {
		r.good = append(r.good, a.one(hostileLabels("metrics", a.id, "__name__", numbered("hostile_metric_"+a.id+"_", i), numbered("own_", i%500), repeat("x", 20))))
	}
	return []hostileRequest{r}
}

// metadataOnly sends metadata with the longest help that together exceeds the size of a
// tenant's metadata in a pack, with unknown metric types, and in both versions.
func (a *attacker) metadataOnly() []hostileRequest {
	var all []hostileRequest
	for part := range 2 {
		r := hostileRequest{version: 1}
		for i := range 1100 { // 17 MiB
			help := repeat(string(rune('a'+i%26)), boundHelp+i%2)
			r.metadata = append(r.metadata, metadataSent{metric: fmt.Sprintf("hostile_metadata_%d_%d", part, i), help: help, unit: "bytes", kind: int32(i % 8)})
		}
		all = append(all, r)
	}
	r2 := hostileRequest{version: 2}
	for i := range 8 {
		r2.good = append(r2.good, a.one(hostileLabels("metadata", a.id, "i", fmt.Sprint(i))))
		r2.metadata = append(r2.metadata, metadataSent{help: "help " + a.id, unit: repeat("u", boundHelp+1), kind: int32(i)})
	}
	for _, kind := range []int32{8, 99, -1, math.MaxInt32} { // stored as unknown
		metadata := []metadataSent{{metric: "hostile_unknown", kind: kind}}
		for version := 1; version <= 2; version++ {
			good := []hostileSeries{a.one(hostileLabels("metadata", a.id, "kind", fmt.Sprint(kind), "version", fmt.Sprint(version)))}
			all = append(all, hostileRequest{version: version, good: good, metadata: metadata})
		}
	}
	return append(all, r2)
}

// exemplars sends thousands of exemplars, some with labels that are too long, with valid,
// zero, negative and too large timestamps, and some of a series without a sample.
func (a *attacker) exemplars() []hostileRequest {
	s := a.series("exemplars", point{t: a.now, v: 1})
	for i := range 5000 {
		x := exemplarSent{labels: labels.FromStrings("trace_id", repeat("é", 119+i%3)), v: float64(i), t: a.now - int64(i)*1000} // 127, 128 and 129 characters
		switch i % 50 {
		case 0:
			x.t = 0
		case 1:
			x.t = -1
		case 2:
			x.t = boundTime + 1
		case 3:
			x.labels = labels.FromStrings("\x00", "\U0001f4a3")
		}
		s.exemplars = append(s.exemplars, x)
	}
	alone := hostileSeries{labels: hostileLabels("exemplars", a.id, "alone", "1"), exemplars: s.exemplars[:100]}
	return []hostileRequest{{version: a.version(), good: []hostileSeries{s, alone}}}
}

// symbols sends large labels that are in many series, but only once in the symbol table. The first
// request is accepted; without limits, a second one is rejected because it expands to more than the
// maximum request size.
func (a *attacker) symbols() []hostileRequest {
	n, size := 10, 900<<10
	if !a.unlimited {
		n, size = 2000, 4000
	}
	series := func(n int) []hostileSeries {
		var all []hostileSeries
		for i := range n {
			all = append(all, a.one(hostileLabels("symbols", a.id, "i", fmt.Sprint(i), "text", repeat("t", size))))
		}
		return all
	}
	too := hostileRequest{version: 2, beyond: series((96<<20)/size + 1), code: 413}
	if !a.unlimited {
		too = hostileRequest{version: 2}
	}
	return []hostileRequest{{version: 2, good: series(n)}, too}
}

// dense sends more floats in a minute than a chunk may have, in order, and then the
// same ones again.
func (a *attacker) dense() []hostileRequest {
	s := a.series("dense")
	for i := range 70_000 {
		s.points = append(s.points, point{t: a.now - 70_000 + int64(i), v: float64(i % 10)})
	}
	r := hostileRequest{version: a.version(), good: []hostileSeries{s}}
	return []hostileRequest{r, r}
}

// requests sends empty requests, series without samples, the same series many times,
// and more series than a request may have.
func (a *attacker) requests() []hostileRequest {
	empty := a.series("requests")
	var many []hostileSeries
	for i := range 500 {
		many = append(many, hostileSeries{labels: hostileLabels("requests", a.id, "i", fmt.Sprint(i%5)), points: []point{{t: a.now - int64(i), v: float64(i)}}})
	}
	var too []hostileSeries
	for range 100_001 {
		too = append(too, empty)
	}
	all := []hostileRequest{{version: 1}, {version: 2}, {version: 1, good: []hostileSeries{empty}}, {version: 1, good: many}, {version: 1, beyond: too, code: 413}}
	if a.long {
		most := hostileRequest{version: 1}
		for i := range 100_000 {
			most.good = append(most.good, a.one(hostileLabels("requests", a.id, "n", numbered("n", i))))
		}
		all = append(all, most)
	}
	return all
}
