package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// pushSeries writes a sample of each metric with the current time.
func pushSeries(t *testing.T, p *programs.Pallium, token string, value float64, metrics ...string) {
	t.Helper()
	req := &prompb.WriteRequest{}
	for _, m := range metrics {
		req.Timeseries = append(req.Timeseries, prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: m}}, Samples: []prompb.Sample{{Timestamp: time.Now().UnixMilli(), Value: value}}})
	}
	b, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	code, body := programs.Do(t, http.MethodPost, p.Edge+"/api/v1/push", token, "application/x-protobuf", strings.NewReader(string(snappy.Encode(nil, b))))
	if code/100 != 2 {
		t.Fatalf("push: %d %s", code, body)
	}
}

// metricsOf returns which of the metrics m_1, m_2 and m_3 have samples that a query finds.
func metricsOf(t *testing.T, p *programs.Pallium, token string) string {
	t.Helper()
	form := url.Values{"query": {`last_over_time({__name__=~"m_.*"}[1h])`}}
	code, body := programs.Do(t, http.MethodPost, p.Edge+"/prometheus/api/v1/query", token, "application/x-www-form-urlencoded", strings.NewReader(form.Encode()))
	if code != http.StatusOK {
		t.Fatalf("query: %d %s", code, body)
	}
	var a struct {
		Data struct {
			Result []struct{ Metric map[string]string }
		}
	}
	if err := json.Unmarshal([]byte(body), &a); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, r := range a.Data.Result {
		found[r.Metric["__name__"]] = true
	}
	var out []string
	for _, m := range []string{"m_1", "m_2", "m_3"} {
		if found[m] {
			out = append(out, m)
		}
	}
	return strings.Join(out, " ")
}

// TestDeletion deletes series of one tenant through the edge, and then a tenant
// through the admin API: other tenants lose nothing, and the deleted data does not
// come back.
func TestDeletion(t *testing.T) {
	p := programs.StartPallium(t, "")
	p.Tenant("team-a")
	p.Tenant("team-b")
	a, b := p.Token("team-a", "metrics:read,metrics:write,metrics:delete"), p.Token("team-b", "metrics:read,metrics:write")
	for _, token := range []string{a, b} {
		pushSeries(t, p, token, 1, "m_1", "m_2")
	}
	p.Flush()
	p.Compact()
	pushSeries(t, p, a, 2, "m_1", "m_3")
	del := func(token, match string) int {
		t.Helper()
		code, _ := programs.Do(t, http.MethodPost, p.Edge+"/prometheus/api/v1/admin/tsdb/delete_series?"+url.Values{"match[]": {match}}.Encode(), token, "", nil)
		return code
	}
	if code := del(b, "m_1"); code != http.StatusForbidden {
		t.Errorf("without the scope: %d", code)
	}
	if code := del(a, "m_1{"); code != http.StatusBadRequest {
		t.Errorf("an invalid selector: %d", code)
	}
	if code := del(a, "m_1"); code != http.StatusNoContent {
		t.Fatalf("delete: %d", code)
	}
	check := func(what, wantA, wantB string) {
		t.Helper()
		if got := metricsOf(t, p, a); got != wantA {
			t.Errorf("%s: team-a has %q, want %q", what, got, wantA)
		}
		if got := metricsOf(t, p, b); got != wantB {
			t.Errorf("%s: team-b has %q, want %q", what, got, wantB)
		}
	}
	check("deleted", "m_2 m_3", "m_1 m_2")
	p.Kill()
	p.Restart()
	check("deleted and killed", "m_2 m_3", "m_1 m_2")
	p.Flush()
	p.Compact()
	p.Stop()
	if p.DropUploaded() == 0 {
		t.Error("no pack was uploaded")
	}
	p.Restart()
	check("from the long-term store", "m_2 m_3", "m_1 m_2")
	pushSeries(t, p, a, 3, "m_1")
	check("pushed again", "m_1 m_2 m_3", "m_1 m_2")

	if _, err := p.CLI("tenant", "delete", "team-a", "-yes"); err != nil {
		t.Fatal(err)
	}
	p.Kill() // the sweep runs at the start
	p.Restart()
	kit.Eventually(t, time.Minute, func() error {
		code, body := programs.Do(t, http.MethodGet, p.Admin+"/admin/v1/erasures/team-a", p.AdminToken(), "", nil)
		if code != http.StatusOK || strings.Contains(body, `"erasedObjects":0`) {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	if left, _ := filepath.Glob(filepath.Join(p.DataDir, "l1", "team-a", "*")); len(left) > 0 {
		t.Errorf("%q were not deleted", left)
	}
	if got := metricsOf(t, p, b); got != "m_1 m_2" {
		t.Errorf("team-b has %q, want m_1 m_2", got)
	}
}

// TestVerify checks that `pallium verify` finds damage in a compacted pack and names the pack, that
// a query that needs the pack fails, and that a deleted index is rebuilt.
func TestVerify(t *testing.T) {
	p := programs.StartPallium(t, "self_monitoring: {disabled: true}\n")
	p.Tenant("team-a")
	token := p.Token("team-a", "metrics:read,metrics:write")
	pushSeries(t, p, token, 1, "m_1", "m_2", "m_3")
	p.Flush()
	p.Compact()
	p.Stop()
	if p.DropUploaded() == 0 {
		t.Error("no pack was uploaded")
	}
	if out, err := p.Offline("verify", "-data"); err != nil || !strings.Contains(out, " 0 findings") {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := p.Offline("verify", "-rebuild-index"); err != nil || !strings.Contains(out, "index rebuilt: 1 days") {
		t.Fatalf("%v\n%s", err, out)
	}
	packs, err := filepath.Glob(filepath.Join(p.DataDir, "l1", "team-a", "*", "*.pk"))
	if err != nil || len(packs) != 1 {
		t.Fatalf("packs %q, %v; want one", packs, err)
	}
	whole, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	broken := append([]byte(nil), whole...)
	broken[50] ^= 1 // in the first frame
	if err := os.WriteFile(packs[0], broken, 0o600); err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(packs[0])
	if out, err := p.Offline("verify"); err == nil || !strings.Contains(out, name) {
		t.Errorf("a damaged pack: %v\n%s", err, out)
	}
	p.Restart()
	code, body := programs.Do(t, http.MethodGet, p.Edge+"/prometheus/api/v1/query?query=m_1", token, "", nil)
	if code != http.StatusServiceUnavailable {
		t.Errorf("a query that reads a damaged pack: %d %s", code, body)
	}
	kit.Eventually(t, 10*time.Second, func() error { // the log arrives through a pipe
		if !strings.Contains(p.Log(), name) {
			return fmt.Errorf("the log does not name the damaged pack %s", name)
		}
		return nil
	})
	p.Stop()
	if err := os.WriteFile(packs[0], whole, 0o600); err != nil {
		t.Fatal(err)
	}
	// Delete all rows except the control data.
	if err := os.RemoveAll(filepath.Join(p.DataDir, "rows")); err != nil {
		t.Fatal(err)
	}
	if out, err := p.Offline("migrate", "up"); err != nil || !strings.Contains(out, "version: 2 of 2") {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := p.Offline("verify", "-rebuild-index"); err != nil || !strings.Contains(out, "1 manifests recovered") || !strings.Contains(out, " 0 findings") {
		t.Fatalf("%v\n%s", err, out)
	}
}
