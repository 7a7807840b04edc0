package chaos

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// goodTenant works normally; none of its requests may fail.
type goodTenant struct {
	run     *hostileRun
	tenant  *tenantUnderTest
	series  []labels.Labels
	pushed  []int64 // times of the acknowledged requests
	queries int
}

const goodSeries = 300

func newGoodTenant(r *hostileRun) *goodTenant {
	g := &goodTenant{run: r, tenant: newTenants(r.p, "good")[0]}
	for i := range goodSeries {
		metric := []string{"chaos_float", "chaos_float", "chaos_float", "chaos_histogram", "chaos_float_histogram"}[i%5]
		g.series = append(g.series, labels.FromStrings("__name__", metric, "id", fmt.Sprint(i), "instance", "localhost:9090", "job", "good"))
	}
	return g
}

func (g *goodTenant) work() {
	for i := 0; !g.run.finish.Load() && !g.run.t.Failed(); i++ {
		g.push()
		if i%8 == 0 {
			g.pushRest()
		}
		if i%2 == 0 {
			g.query()
		}
		if i%20 == 19 {
			g.verify("meanwhile")
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// push sends a sample of each series until it is acknowledged.
func (g *goodTenant) push() {
	at := nowMillis()
	var entries []entry
	for _, ls := range g.series {
		entries = append(entries, entry{labels: ls, times: []int64{at}})
	}
	version := 1 + len(g.pushed)%2
	body, err := encode(version, entries)
	if err != nil {
		g.run.t.Error(err)
		return
	}
	g.tenant.ledger.note(entries, sent)
	if !g.want("push", func() answer { return push(g.run.client, g.run.p.Edge, g.tenant.token, version, body, len(entries)) }) {
		return
	}
	g.tenant.ledger.note(entries, acked)
	g.pushed = append(g.pushed, at)
}

// pushRest sends exemplars and metadata.
func (g *goodTenant) pushRest() {
	req := hostileRequest{version: 1, metadata: []metadataSent{{metric: "chaos_float", help: "A good metric.", unit: "bytes", kind: 2}}}
	x := exemplarSent{labels: labels.FromStrings("trace_id", "1234"), v: 1, t: nowMillis()}
	req.good = []hostileSeries{{labels: g.series[0], exemplars: []exemplarSent{x}}}
	body, err := req.encode()
	if err != nil {
		g.run.t.Error(err)
		return
	}
	g.want("push of metadata", func() answer { return push(g.run.client, g.run.p.Edge, g.tenant.token, 1, body, 0) })
}

// want calls `do`, and repeats the call if the process ended meanwhile. It fails the test if the
// last response is not 2xx.
func (g *goodTenant) want(what string, do func() answer) bool {
	a, _ := g.run.steadily(do)
	if a.code/100 != 2 {
		g.run.t.Errorf("the good tenant's %s: %d %s", what, a.code, short(a.text))
		return false
	}
	return true
}

// query queries the newest samples in several ways.
func (g *goodTenant) query() {
	if len(g.pushed) == 0 {
		return
	}
	last := g.pushed[len(g.pushed)-1]
	n := 0
	for _, at := range g.pushed {
		if at > last-300_000 {
			n++
		}
	}
	at := fmt.Sprintf("%d.%03d", last/1000, last%1000)
	expr := `sum(count_over_time({__name__=~"chaos_.+"}[5m]))`
	count := fmt.Sprintf(`"%d"]`, n*goodSeries)
	g.ask("query", url.Values{"query": {expr}, "time": {at}}, count)
	g.ask("query_range", url.Values{"query": {expr}, "start": {at}, "end": {at}, "step": {"15"}}, count)
	g.ask("labels", url.Values{"match[]": {"chaos_float"}, "start": {at}}, `["__name__","id","instance","job"]`)
	g.ask("query_exemplars", url.Values{"query": {"chaos_float"}, "start": {at}, "end": {at}}, "")
	text := g.ask("series", url.Values{"match[]": {`{job="good"}`}, "start": {at}}, "")
	var all struct{ Data []json.RawMessage }
	if err := json.Unmarshal([]byte(text), &all); err != nil || len(all.Data) != goodSeries {
		g.run.t.Errorf("the good tenant has %d series, want %d: %v", len(all.Data), goodSeries, err)
	}
	g.queries++
}

func (g *goodTenant) ask(endpoint string, params url.Values, want string) string {
	var text string
	ok := g.want(endpoint, func() answer {
		a := g.run.call(http.MethodPost, g.run.p.Edge+"/prometheus/api/v1/"+endpoint, g.tenant.token, form, params.Encode())
		text = a.text
		return a
	})
	if ok && !strings.Contains(text, want) {
		g.run.t.Errorf("the good tenant's %s %v: %s, want %s", endpoint, params, short(text), want)
	}
	return text
}

// verify reads everything and compares.
func (g *goodTenant) verify(when string) {
	var got []readSeries
	if g.want("read "+when, func() answer {
		var err error
		if got, err = readAll(g.run.p, g.tenant.token); err != nil {
			return answer{text: err.Error()}
		}
		return answer{code: http.StatusOK}
	}) {
		g.tenant.ledger.verify(g.run.t, when, got, nil)
	}
}

// report logs numbers about the tenant, and checks that its metadata is still there.
func (g *goodTenant) report() {
	a := g.run.call(http.MethodGet, g.run.p.Edge+"/prometheus/api/v1/metadata?metric=chaos_float", g.tenant.token, "", "")
	if !strings.Contains(a.text, "A good metric.") {
		g.run.t.Errorf("the good tenant's metadata: %d %s", a.code, short(a.text))
	}
	g.run.t.Logf("the good tenant: %d requests acknowledged, %d rounds of queries", len(g.pushed), g.queries)
	if len(g.pushed) < 20 {
		g.run.t.Errorf("the good tenant sent %d requests, too few for a meaningful test", len(g.pushed))
	}
}
