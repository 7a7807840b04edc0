package e2e

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"slices"
	"testing"
	"time"

	configutil "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

const readerConfig = `
remote_read:
  - url: %s/api/v1/read
    read_recent: true
    authorization: {credentials: %s}
`

// remoteRead compares the series that Prometheus' own client reads from Pallium, in both response
// types, with the series that it reads from the Prometheus that wrote them. It also queries a
// Prometheus that has no data of its own and reads from Pallium.
func (s *system) remoteRead(t *testing.T, w window) {
	matchers := [][]*labels.Matcher{
		{labels.MustNewMatcher(labels.MatchEqual, "job", "app")},
		{labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, "node_.*|prometheus_.*")},
		{labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, "nothing")},
	}
	for _, kind := range []prompb.ReadRequest_ResponseType{prompb.ReadRequest_SAMPLES, prompb.ReadRequest_STREAMED_XOR_CHUNKS} {
		for i, m := range matchers {
			all := hints(w)
			if i != 0 {
				all = all[:1]
			}
			for _, h := range all {
				want := s.local.readRemotely(t, kind, w, m, h)
				if len(want) == 0 && m[0].Value != "nothing" {
					t.Errorf("Prometheus returned no series for %v with the hints %+v", m, h)
				}
				for _, tenant := range s.tenants {
					if d := firstDifference(tenant.readRemotely(t, kind, w, m, h), want); d != "" {
						t.Errorf("%s: remote read, %s, %v, hints %+v: %s", tenant.name, kind, m, h, d)
					}
				}
			}
		}
	}
	for _, tenant := range s.tenants {
		addr := kit.FreeAddr(t)
		reader := programs.StartPrometheus(t, addr, fmt.Sprintf(readerConfig, tenant.base, tenant.key))
		through := client{name: "a reader of " + tenant.name, base: reader.URL, auth: s.local.auth}
		if err := sameQuery(t, through, s.local, "query", w.instant(`{job="app"}`+w.all()), true); err != nil {
			t.Error(err)
		}
		for _, q := range computed() {
			if err := sameQuery(t, through, s.local, "query", w.instant(q), false); err != nil {
				t.Error(err)
			}
		}
		if err := sameList(t, through, s.local, "series", url.Values{"match[]": {`{job="app"}`}, "start": {seconds(w.start)}, "end": {seconds(w.end)}}); err != nil {
			t.Error(err)
		}
	}
}

// hints returns hints that clients send: none; for a function; for an aggregation;
// for a part of the query's time range; and for a list of series.
func hints(w window) []*storage.SelectHints {
	start, end := w.start.UnixMilli(), w.end.UnixMilli()
	part := (end - start) / 4
	return []*storage.SelectHints{
		nil,
		{Start: start, End: end, Step: 15_000, Func: "rate", Range: 300_000},
		{Start: start, End: end, Func: "sum", Grouping: []string{"job"}, By: true},
		{Start: start + part, End: end - part, Step: 1000},
		{Start: start, End: end, Func: "series"},
	}
}

// readRemotely reads all series that match, as text.
func (c client) readRemotely(t *testing.T, kind prompb.ReadRequest_ResponseType, w window, matchers []*labels.Matcher, hints *storage.SelectHints) []string {
	t.Helper()
	target, err := url.Parse(c.base + "/api/v1/read")
	if err != nil {
		t.Fatal(err)
	}
	conf := remote.ClientConfig{URL: &configutil.URL{URL: target}, Timeout: model.Duration(time.Minute), ChunkedReadLimit: 50 << 20,
		AcceptedResponseTypes: []prompb.ReadRequest_ResponseType{kind}}
	if c.key != "" {
		conf.HTTPClientConfig.Authorization = &configutil.Authorization{Type: "Bearer", Credentials: configutil.Secret(c.key)}
	}
	reader, err := remote.NewReadClient("e2e", &conf)
	if err != nil {
		t.Fatal(err)
	}
	query, err := remote.ToQuery(w.start.UnixMilli(), w.end.UnixMilli(), matchers, hints)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	set, err := reader.Read(ctx, query, true)
	if err != nil {
		t.Fatalf("%s: remote read: %v", c.name, err)
	}
	out := texts(t, set)
	slices.Sort(out)
	return out
}

func texts(t *testing.T, set storage.SeriesSet) []string {
	t.Helper()
	var out []string
	for set.Next() {
		series := set.At()
		text := series.Labels().String()
		it := series.Iterator(nil)
		for vt := it.Next(); vt != chunkenc.ValNone; vt = it.Next() {
			text += fmt.Sprintf(" %d:%s", it.AtT(), valueText(it, vt))
		}
		if err := it.Err(); err != nil {
			t.Fatal(err)
		}
		out = append(out, text)
	}
	if err := set.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// valueText returns a text that differs for all values except staleness markers:
// Prometheus derives staleness markers of histograms from the floats that it remote-writes.
func valueText(it chunkenc.Iterator, vt chunkenc.ValueType) string {
	if vt == chunkenc.ValFloat {
		_, v := it.At()
		if value.IsStaleNaN(v) {
			return "stale"
		}
		return fmt.Sprintf("%x", math.Float64bits(v))
	}
	_, h := it.AtFloatHistogram(nil)
	if value.IsStaleNaN(h.Sum) {
		return "stale"
	}
	// Empty buckets depend on the other samples of the chunk. The iterator owns the
	// spans, so the copy is compacted.
	return h.Copy().Compact(0).String()
}

func firstDifference(got, want []string) string {
	for i := range min(len(got), len(want)) {
		if got[i] == want[i] {
			continue
		}
		at := 0
		for at < min(len(got[i]), len(want[i])) && got[i][at] == want[i][at] {
			at++
		}
		at = max(0, at-200)
		return fmt.Sprintf("%.150s: ...%.500s\nwant ...%.500s", want[i], got[i][min(at, len(got[i])):], want[i][at:])
	}
	if len(got) != len(want) {
		return fmt.Sprintf("%d series, want %d", len(got), len(want))
	}
	return ""
}
