package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/palliumhq/pallium/gateway/admin/operator"
)

// TestAside checks that an operator can list and drop series set aside, and that queries
// read them until then.
func TestAside(t *testing.T) {
	noLeaks(t)
	cfg := testConfig(t)
	var later atomic.Int64 // offset of the process's clock in nanoseconds
	o := testOptions(All, nil, nil)
	o.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	p := startWith(t, cfg, o)
	team, other := p.tenant("team-a"), p.tenant("team-b")
	p.stop()
	aside := filepath.Join(cfg.DataDir, "ingester", "aside")
	if err := os.CopyFS(aside, os.DirFS(filepath.Join("backend", "ingester", "testdata", "aside"))); err != nil {
		t.Fatal(err)
	}
	p = startWith(t, cfg, o)
	admin := func(method, path string) (int, string) { return p.do(method, p.admin+"/admin/v1"+path, p.token, nil) }
	flush := func() {
		t.Helper()
		if code, text := admin(http.MethodPost, "/flush?wait=true"); code != http.StatusOK {
			t.Fatalf("flush: %d %s", code, text)
		}
	}
	flush()
	list := func() []operator.Aside {
		t.Helper()
		code, text := admin(http.MethodGet, "/aside")
		var out struct{ Items []operator.Aside }
		if err := json.Unmarshal([]byte(text), &out); err != nil || code != http.StatusOK {
			t.Fatalf("list: %d %s", code, text)
		}
		return out.Items
	}
	items := list()
	if len(items) != 1 || items[0].Tenant != "team-a" || items[0].Ingester != "ingester-1" || items[0].Day != 20_000 || items[0].Window != 0 ||
		items[0].Series != 1 || items[0].Samples != 3 || !strings.Contains(items[0].Reason, "no value") || items[0].Dropped != nil {
		t.Fatalf("GET /aside = %+v", items)
	}
	if code, text := p.do(http.MethodGet, p.admin+"/metrics", "", nil); code != http.StatusOK || !strings.Contains(text, `pallium_ingester_aside_series{tenant="team-a"} 1`) {
		t.Errorf("GET /metrics: status %d, want 200 and pallium_ingester_aside_series of team-a to be 1", code)
	}
	count := func(key string) string {
		t.Helper()
		code, text := p.query(key, "count_over_time(bad[1d] @ 1728000010)")
		if code != http.StatusOK {
			t.Fatalf("query: %d %s", code, text)
		}
		return text
	}
	if got := count(team); !strings.Contains(got, `"3"`) {
		t.Errorf("query does not return the samples: %s", got)
	}
	if got := count(other); !strings.Contains(got, `"result":[]`) {
		t.Errorf("another tenant reads %s", got)
	}

	const drop = "/aside/drop?day=20000&window=0&ingester=ingester-1&tenant=team-a"
	for path, want := range map[string]struct {
		code int
		says string
	}{
		"/aside/drop":                                    {400, "day"},
		"/aside/drop?day=x&window=0":                     {400, `day \"x\"`},
		"/aside/drop?day=1&window=12&tenant=team-a":      {400, `window \"12\"`},
		"/aside/drop?day=1&window=0&tenant=":             {400, "tenant"},
		strings.Replace(drop, "window=0", "window=1", 1): {404, "GET /admin/v1/aside"},
		strings.Replace(drop, "team-a", "team-b", 1):     {404, "no series of that tenant and window are set aside"},
	} {
		if code, text := admin(http.MethodPost, path); code != want.code || !strings.Contains(text, want.says) {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	if code, text := p.do(http.MethodPost, p.admin+"/admin/v1"+drop, "wrong", nil); code != http.StatusUnauthorized {
		t.Errorf("with a wrong token: %d %s", code, text)
	}
	p.stop()
	var out bytes.Buffer
	if err := Verify(context.Background(), cfg, testOptions(All, nil, nil), VerifyOptions{Data: true}, &out, nil); err != nil || !strings.Contains(out.String(), "set aside by ingester ingester-1: tenant team-a, day 2024-10-04, window 0: 1 series, 3 samples") {
		t.Errorf("verify: %v\n%s", err, out.String())
	}
	p = startWith(t, cfg, o)
	if code, text := admin(http.MethodPost, drop); code != http.StatusOK || !strings.Contains(text, `"samples":3`) {
		t.Fatalf("drop: %d %s", code, text)
	}
	if code, text := admin(http.MethodGet, "/audit-events"); code != http.StatusOK || !strings.Contains(text, "aside/drop") {
		t.Errorf("audit events lack the drop: %d %s", code, text)
	}
	later.Store(int64(2 * time.Minute))
	flush()
	if items := list(); len(items) != 0 {
		t.Errorf("GET /aside after the drop = %+v, want none", items)
	}
	if files, _ := filepath.Glob(filepath.Join(aside, "*", "*")); len(files) != 0 {
		t.Errorf("files left after the drop: %v", files)
	}
	if got := count(team); !strings.Contains(got, `"result":[]`) {
		t.Errorf("query returns dropped samples: %s", got)
	}
}
