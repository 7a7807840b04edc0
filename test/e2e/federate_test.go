package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"google.golang.org/protobuf/proto"

	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// twins are a Prometheus that receives remote write and a tenant of Pallium, which get the
// same samples.
type twins struct {
	pallium *programs.Pallium
	prom    *programs.Prometheus
	key     string
}

func startTwins(t *testing.T) *twins {
	t.Helper()
	tw := &twins{pallium: programs.StartPallium(t, palliumConfig)}
	tw.key = tw.pallium.Tenant("one")
	tw.prom = programs.StartPrometheus(t, kit.FreeAddr(t), "{}", "--web.enable-remote-write-receiver", "--enable-feature=exemplar-storage")
	return tw
}

// sent is a series. The last of its values and histograms is as old as `age`.
type sent struct {
	labels     labels.Labels
	age        time.Duration
	values     []float64
	histograms []*histogram.Histogram
	floats     []*histogram.FloatHistogram
}

// write sends the series to both, with remote write 2.0, to Pallium at the path that Grafana
// derives from a data source.
func (tw *twins) write(t *testing.T, now time.Time, list []sent) {
	t.Helper()
	symbols := writev2.NewSymbolTable()
	req := &writev2.Request{}
	for _, s := range list {
		ts := writev2.TimeSeries{LabelsRefs: symbols.SymbolizeLabels(s.labels, nil)}
		at := func(i, n int) int64 { return now.Add(-s.age - time.Duration(n-1-i)*15*time.Second).UnixMilli() }
		for i, v := range s.values {
			ts.Samples = append(ts.Samples, writev2.Sample{Timestamp: at(i, len(s.values)), Value: v})
		}
		for i, h := range s.histograms {
			ts.Histograms = append(ts.Histograms, writev2.FromIntHistogram(0, at(i, len(s.histograms)), h))
		}
		for i, h := range s.floats {
			ts.Histograms = append(ts.Histograms, writev2.FromFloatHistogram(0, at(i, len(s.floats)), h))
		}
		req.Timeseries = append(req.Timeseries, ts)
	}
	req.Symbols = symbols.Symbols()
	data, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []struct{ url, key string }{
		{tw.prom.URL + "/api/v1/write", ""}, {tw.pallium.Edge + "/prometheus/api/v1/write", tw.key},
	} {
		r, err := http.NewRequest(http.MethodPost, to.url, bytes.NewReader(snappy.Encode(nil, data)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")
		r.Header.Set("Content-Encoding", "snappy")
		r.Header.Set("X-Prometheus-Remote-Write-Version", "2.0.0")
		if to.key != "" {
			r.Header.Set("Authorization", "Bearer "+to.key)
		}
		if a := programs.Send(t, r); a.Code != http.StatusNoContent {
			t.Fatalf("%s: %d %s", to.url, a.Code, a.Body)
		}
	}
}

// both returns the responses of Prometheus and of Pallium at a path of the query API.
func (tw *twins) both(t *testing.T, path string, header http.Header) (prom, pallium programs.Answer) {
	t.Helper()
	get := func(url, key string) programs.Answer {
		r, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(r.Header, header)
		if key != "" {
			r.Header.Set("Authorization", "Bearer "+key)
		}
		return programs.Send(t, r)
	}
	return get(tw.prom.URL+path, ""), get(tw.pallium.Edge+"/prometheus"+path, tw.key)
}

// federated returns series with all kinds of samples and labels.
func federated() []sent {
	gauge := tsdbutil.GenerateTestGaugeHistogram(3)
	custom := tsdbutil.GenerateTestCustomBucketsFloatHistogram(2)
	gaps := &histogram.FloatHistogram{Schema: histogram.CustomBucketsSchema, Count: 9, Sum: 1.5, CustomValues: []float64{-1, 0.5, 2, 10},
		PositiveSpans: []histogram.Span{{Offset: 1, Length: 1}, {Offset: 1, Length: 2}}, PositiveBuckets: []float64{2, 3, 4}}
	stale := math.Float64frombits(value.StaleNaN)
	list := []sent{
		{labels: labels.FromStrings("__name__", "one"), values: []float64{1, 2, 3}},
		{labels: labels.FromStrings("__name__", "with_instance", "instance", "host:1", "job", "j"), values: []float64{-0.1}},
		{labels: labels.FromStrings("Before", "x", "__name__", "zero"), values: []float64{0}, age: time.Minute},
		{labels: labels.FromStrings("__name__", "special", "v", "nan"), values: []float64{math.NaN()}},
		{labels: labels.FromStrings("__name__", "special", "v", "inf"), values: []float64{math.Inf(1)}},
		{labels: labels.FromStrings("__name__", "special", "v", "-inf"), values: []float64{math.Inf(-1)}},
		{labels: labels.FromStrings("__name__", "special", "v", "tiny"), values: []float64{5e-324}},
		{labels: labels.FromStrings("__name__", "special", "v", "large"), values: []float64{1.7976931348623157e308}},
		{labels: labels.FromStrings("__name__", "app.temperature", "site.name", "Köln \"a\\b\"\n"), values: []float64{21.5}},
		{labels: labels.FromStrings("__name__", "gone"), values: []float64{1, stale}},
		{labels: labels.FromStrings("__name__", "back"), values: []float64{1, stale, 2}},
		{labels: labels.FromStrings("__name__", "aging"), values: []float64{4}, age: 4 * time.Minute},
		{labels: labels.FromStrings("__name__", "too_old"), values: []float64{5}, age: 6 * time.Minute},
		{labels: labels.FromStrings("__name__", "native"), histograms: tsdbutil.GenerateTestHistograms(4)},
		{labels: labels.FromStrings("__name__", "native_float"), floats: tsdbutil.GenerateTestFloatHistograms(3)},
		{labels: labels.FromStrings("__name__", "native_gauge"), histograms: []*histogram.Histogram{gauge}},
		{labels: labels.FromStrings("__name__", "native_gone"), histograms: []*histogram.Histogram{tsdbutil.GenerateTestHistogram(1), {Sum: stale}}},
		{labels: labels.FromStrings("__name__", "custom"), floats: []*histogram.FloatHistogram{custom}},
		{labels: labels.FromStrings("__name__", "custom_gaps"), floats: []*histogram.FloatHistogram{gaps}},
		{labels: labels.FromStrings("__name__", "mixed", "k", "1"), histograms: []*histogram.Histogram{gauge}},
		{labels: labels.FromStrings("__name__", "mixed", "k", "2"), values: []float64{1}},
		{labels: labels.FromStrings("__name__", "mixed", "k", "3"), histograms: []*histogram.Histogram{tsdbutil.GenerateTestHistogram(2)}},
		{labels: labels.FromStrings("__name__", "mixed", "k", "4"), floats: []*histogram.FloatHistogram{custom}},
	}
	for i := range 200 {
		list = append(list, sent{labels: labels.FromStrings("__name__", fmt.Sprintf("many_%d", i%7), "i", fmt.Sprint(i)), values: []float64{float64(i) / 3}})
	}
	return list
}

// TestFederate compares the response of federate with Prometheus' response for the same samples, byte
// for byte. Responses in which Prometheus' order of the series of one name is undefined are sorted
// before that.
func TestFederate(t *testing.T) {
	tw := startTwins(t)
	tw.write(t, time.Now(), federated())
	const protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding="
	few := []string{"one", "with_instance", "zero", `{"app.temperature"}`, "gone", "back", "aging", "too_old", `{__name__=~"native.*"}`,
		`{__name__=~"custom.*"}`, "nothing"}
	for name, match := range map[string][]string{
		"few": few, "special": {"special"}, "mixed": {"mixed"}, "twice": {"one", `{__name__="one"}`, "zero", "one"},
		"all": {`{__name__=~".+"}`}, "all, also without a name": {`{nothing=""}`}, "bad": {"one", "one{"}, "a range": {"one[5m]"},
	} {
		for _, accept := range []string{"", "*/*", "text/plain;version=0.0.4", "text/plain;version=0.0.4;escaping=allow-utf-8", "text/plain;escaping=values",
			"application/openmetrics-text;version=1.0.0", protobuf + "delimited", protobuf + "delimited;escaping=dots", protobuf + "text", protobuf + "compact-text",
			"application/openmetrics-text;version=1.0.0;q=0.9," + protobuf + "delimited;q=0.5,text/plain;q=0.3"} {
			for _, encoding := range []string{"identity", "gzip;q=0.5, deflate", "deflate"} {
				if encoding != "identity" && (name != "few" || strings.Contains(accept, "encoding=text") || strings.Contains(accept, "compact-text")) {
					continue
				}
				header := http.Header{"Accept": {accept}, "Accept-Encoding": {encoding}}
				prom, own := tw.both(t, "/federate?"+url.Values{"match[]": match}.Encode(), header)
				if prom.Code != own.Code || prom.Code != http.StatusOK && own.Code/100 != 4 {
					t.Errorf("%s, %s: %d, Prometheus %d: %s", name, accept, own.Code, prom.Code, own.Body)
				}
				if prom.Code != http.StatusOK {
					continue
				}
				for _, h := range []string{"Content-Type", "Content-Encoding", "Vary"} {
					if own.Header.Get(h) != prom.Header.Get(h) {
						t.Errorf("%s, %s: %s is %q, but %q in Prometheus", name, accept, h, own.Header.Get(h), prom.Header.Get(h))
					}
				}
				if len(prom.Body) == 0 {
					t.Errorf("%s: nothing to compare", name)
				}
				got, want := own.Body, prom.Body
				if strings.Contains(accept, "encoding=text") || strings.Contains(accept, "compact-text") {
					// The library writes one or two blanks, by a hash of the program.
					got, want = strings.Join(strings.Fields(got), " "), strings.Join(strings.Fields(want), " ")
				}
				if strings.HasPrefix(name, "all") {
					if len(got) != len(want) {
						t.Errorf("%s, %s: %d bytes, Prometheus %d", name, accept, len(got), len(want))
					}
					got, want = sortedMetrics(t, accept, got), sortedMetrics(t, accept, want)
				}
				if got != want {
					t.Errorf("%s, %s, %s:\n%.2000q\nPrometheus:\n%.2000q", name, accept, encoding, got, want)
				}
			}
		}
	}
	tw.othersAreDenied(t)
	tw.scrape(t)
}

// othersAreDenied checks that another tenant has no samples of this one, and that a key
// without the scope to read has none at all.
func (tw *twins) othersAreDenied(t *testing.T) {
	t.Helper()
	for _, c := range []struct {
		key, path string
		code      int
		says      string // "": the response is empty
	}{
		{tw.pallium.Tenant("two"), "/prometheus/federate?match[]={__name__!=%22%22}", http.StatusOK, ""},
		{tw.pallium.Token("one", "metrics:write"), "/prometheus/federate?match[]=one", http.StatusForbidden, "metrics:read"},
		{tw.pallium.Token("one", "metrics:write"), "/prometheus/api/v1/features", http.StatusForbidden, "metrics:read"},
		{tw.pallium.Token("one", "metrics:read"), "/prometheus/api/v1/openapi.yaml", http.StatusOK, "/prometheus/federate:"},
		{"", "/prometheus/federate?match[]=one", http.StatusUnauthorized, "credential"},
	} {
		code, body := programs.Do(t, http.MethodGet, tw.pallium.Edge+c.path, c.key, "", nil)
		if code != c.code || !strings.Contains(body, c.says) || c.says == "" && body != "" {
			t.Errorf("%s: %d %s", c.path, code, body)
		}
	}
}

// sortedMetrics returns a response sorted: the metrics of protobuf, with type and name of their
// families, and the lines of text.
func sortedMetrics(t *testing.T, accept, body string) string {
	t.Helper()
	if !strings.Contains(accept, "delimited") {
		body = strings.NewReplacer(" metric:", "\nmetric:", " name:", "\nname:").Replace(body) // protobuf as text
		lines := strings.Split(body, "\n")
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	var all []string
	dec := expfmt.NewDecoder(strings.NewReader(body), expfmt.NewFormat(expfmt.TypeProtoDelim))
	for {
		f := &dto.MetricFamily{}
		if err := dec.Decode(f); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, m := range f.Metric {
			data, err := proto.MarshalOptions{Deterministic: true}.Marshal(&dto.MetricFamily{Name: f.Name, Type: f.Type, Help: f.Help, Metric: []*dto.Metric{m}})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, string(data))
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// scrape lets another Prometheus scrape federate, and compares its samples with the samples of
// the tenant.
func (tw *twins) scrape(t *testing.T) {
	t.Helper()
	now := time.Now()
	tw.write(t, now, []sent{
		{labels: labels.FromStrings("__name__", "scraped", "instance", "app:1", "job", "app"), values: []float64{42}},
		{labels: labels.FromStrings("__name__", "scraped", "job", "app"), values: []float64{43}},
		{labels: labels.FromStrings("__name__", "scraped_native", "instance", "app:1", "job", "app"), histograms: []*histogram.Histogram{tsdbutil.GenerateTestHistogram(5)}},
	})
	config := fmt.Sprintf(`
scrape_configs:
  - job_name: federate
    scrape_interval: 1s
    honor_labels: true
    scrape_native_histograms: true
    metrics_path: /prometheus/federate
    params: {"match[]": ['{__name__=~"scraped.*"}']}
    authorization: {credentials: %s}
    static_configs: [{targets: [%q]}]
`, tw.key, strings.TrimPrefix(tw.pallium.Edge, "http://"))
	above := programs.StartPrometheus(t, kit.FreeAddr(t), config)
	own := client{name: "tenant", base: tw.pallium.Edge + "/prometheus", auth: func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+tw.key) }}
	other := client{name: "scraping Prometheus", base: above.URL, auth: func(*http.Request) {}}
	for _, query := range []string{"scraped", "scraped_native"} {
		kit.Eventually(t, catchUp, func() error {
			return sameQuery(t, own, other, "query", url.Values{"query": {query}, "time": {seconds(now)}}, true)
		})
	}
}

// TestProbes compares small endpoints with which clients detect features of Prometheus.
func TestProbes(t *testing.T) {
	tw := startTwins(t)
	tw.write(t, time.Now(), federated())
	for _, path := range []string{"/api/v1/rules", "/api/v1/rules?type=alert&exclude_alerts=true", "/api/v1/alerts"} {
		prom, own := tw.both(t, path, nil)
		var a, b any
		if err := errors.Join(json.Unmarshal([]byte(prom.Body), &a), json.Unmarshal([]byte(own.Body), &b)); err != nil || !reflect.DeepEqual(a, b) || own.Code != 200 {
			t.Errorf("%s: %d %s, Prometheus %s", path, own.Code, own.Body, prom.Body)
		}
	}
	for _, name := range []string{"U__site_2e_name", "U__site_2E_name", "U__K_c3_b6_ln", "U__", "U___", "U__site__name", "U__i", "U__site_zz_name", "U__site_2e",
		"U__site_2e_name_", "U__d_20ac_", "U_site", "site.name", "i", "__name__", "U____name__"} {
		prom, own := tw.both(t, "/api/v1/label/"+name+"/values", nil)
		if prom.Code != own.Code || strings.TrimSpace(prom.Body) != strings.TrimSpace(own.Body) {
			t.Errorf("%s: %d %s, Prometheus %d %s", name, own.Code, own.Body, prom.Code, prom.Body)
		}
		if name == "U__site_2e_name" && !strings.Contains(own.Body, "Köln") {
			t.Errorf("%s: %s", name, own.Body)
		}
	}
	prom, own := tw.both(t, "/api/v1/features", nil)
	var theirs, ours struct{ Data map[string]map[string]bool }
	if err := errors.Join(json.Unmarshal([]byte(prom.Body), &theirs), json.Unmarshal([]byte(own.Body), &ours)); err != nil {
		t.Fatal(err)
	}
	for _, category := range []string{"promql", "promql_functions", "promql_operators"} {
		if len(theirs.Data[category]) == 0 || !maps.Equal(theirs.Data[category], ours.Data[category]) {
			t.Errorf("%s: %v, Prometheus %v", category, ours.Data[category], theirs.Data[category])
		}
	}
	if !ours.Data["api"]["ruler_config_api"] {
		t.Error("no feature api ruler_config_api")
	}
	delete(ours.Data["api"], "ruler_config_api") // Mimir's, which Prometheus does not have
	for category, all := range ours.Data {
		for name := range all {
			if _, known := theirs.Data[category][name]; !known {
				t.Errorf("Prometheus does not have the feature %s %s", category, name)
			}
		}
	}
}
