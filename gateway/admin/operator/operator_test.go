package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/gateway/admin"
)

// fake is a Backend and a Ring that records commands.
type fake struct {
	err    error
	asides []Aside
	did    []string
	status string
}

func (f *fake) note(format string, args ...any) { f.did = append(f.did, fmt.Sprintf(format, args...)) }

func (f *fake) Flush(_ context.Context, instance string) (Task, error) {
	if instance == "unknown" {
		return nil, admin.NotFound("instance", "no such instance")
	}
	return func(context.Context) (map[string]any, error) { f.note("flush %s", instance); return nil, f.err }, nil
}

func (f *fake) Compact(_ context.Context, instance string, all bool) (Task, error) {
	return func(context.Context) (map[string]any, error) {
		f.note("compact %s %v", instance, all)
		return map[string]any{"days": 3}, f.err
	}, nil
}

func (f *fake) AcceptLoss(_ context.Context, day int64) (int, error) {
	f.note("accept %d", day)
	if day == 8 {
		return 0, f.err
	}
	return 2, f.err
}

func (f *fake) Erasure(_ context.Context, id tenant.ID) (*Erasure, error) {
	if id != "gone" {
		return nil, f.err
	}
	return &Erasure{Tenant: id, Objects: 5}, f.err
}

func (f *fake) Asides(context.Context) ([]Aside, error) { return f.asides, f.err }

func (f *fake) DropAside(_ context.Context, key AsideKey) (Aside, bool, error) {
	f.note("drop %s", key.cursor())
	if key.Window == 11 {
		return Aside{}, false, ErrNoAside
	}
	return Aside{AsideKey: key}, key.Ingester == "lost", f.err
}

func (f *fake) EndQuery(_ context.Context, id string) (json.RawMessage, error) {
	f.note("end %s", id)
	if id == "gone" {
		return nil, f.err
	}
	return json.RawMessage(`{"id":"` + id + `"}`), f.err
}

func (f *fake) Status(context.Context) (json.RawMessage, error) {
	return json.RawMessage(f.status), f.err
}

func (f *fake) Members(context.Context) ([]Member, error) { return []Member{{ID: "a"}}, f.err }
func (f *fake) Losses(context.Context) ([]Loss, error) {
	return []Loss{{Ingester: "i", Day: 8, Window: 2}, {Ingester: "i", Tenant: "t", Day: 7, Window: 3}}, f.err
}

func (f *fake) LostIngesters(context.Context) ([]Loss, error) { return nil, f.err }

func (f *fake) Forget(_ context.Context, id string, force bool) (int, error) {
	f.note("forget %s %v", id, force)
	return 4, f.err
}

func (f *fake) Leave(_ context.Context, id string, wait bool) error {
	f.note("leave %s %v", id, wait)
	return f.err
}

func commandsOver(f *fake, cluster bool, log *bytes.Buffer) *Commands {
	o := Options{Backend: f, Logger: slog.New(slog.NewTextHandler(log, nil)), Background: func(do func(context.Context)) { do(context.Background()) }}
	if cluster {
		o.Ring = f
	}
	return New(o)
}

// TestCommands checks that each command parses its parameters, executes, and responds in
// the format of the admin API, and that an invalid or unknown parameter prevents the
// execution.
func TestCommands(t *testing.T) {
	down := fmt.Errorf("%w: backend down", ErrUnavailable)
	for _, tt := range []struct {
		method, path string
		err          error
		code         int
		says, did    string
	}{
		{"POST", "/flush", nil, 202, `"started"`, "flush "},
		{"POST", "/flush?wait=true&instance=i", nil, 200, `"done"`, "flush i"},
		{"POST", "/flush?wait=true", errors.New("broken disk"), 500, "no data is lost", "flush "},
		{"POST", "/flush?wait=true", down, 503, "no data is lost", "flush "},
		{"POST", "/flush", down, 202, `"started"`, "flush "},
		{"POST", "/flush?instance=unknown", nil, 404, "no such instance", ""},
		{"POST", "/flush?wait=yes", nil, 400, "wait must be true or false", ""},
		{"POST", "/flush?wiat=true", nil, 400, "wiat", ""},
		{"POST", "/compact?wait=true&expire=all", nil, 200, `"days":3`, "compact  true"},
		{"POST", "/compact?expire=some", nil, 400, "expire must be", ""},
		{"POST", "/compact/accept-loss?day=7", nil, 200, `"intents":2`, "accept 7"},
		{"POST", "/compact/accept-loss?day=x", nil, 400, "is not the number of a UTC day", ""},
		{"POST", "/compact/accept-loss?day=-5", nil, 400, "is not the number of a UTC day", ""},
		{"POST", "/compact/accept-loss?day=2147483647", nil, 400, "is not the number of a UTC day", ""},
		{"POST", "/compact/accept-loss?day=7&dry=true", nil, 400, "dry", ""},
		{"POST", "/compact/accept-loss?day=7", down, 503, "repeat the command", "accept 7"},
		{"POST", "/compact/accept-loss?day=8", nil, 404, `"field":"day","reason":"no samples of day 8 are lost"`, "accept 8"},
		{"POST", "/compact/accept-loss?day=8", nil, 404, `GET /admin/v1/losses lists the windows with lost samples`, "accept 8"},
		{"POST", "/compact/accept-loss?day=8", down, 503, "repeat the command", "accept 8"},
		{"GET", "/losses", nil, 200, `{"items":[{"ingester":"i","zone":"","tenant":"t","day":7,"window":3},{"ingester":"i","zone":"","day":8,"window":2}]}`, ""},
		{"GET", "/losses?pageSize=1", nil, 200, `"nextPageCursor":"000000007/03/i/t"`, ""},
		{"GET", "/losses?pageSize=1&pageCursor=000000007/03/i/t", nil, 200, `{"items":[{"ingester":"i","zone":"","day":8,"window":2}]}`, ""},
		{"GET", "/losses", down, 503, "could not read the windows with lost samples", ""},
		{"GET", "/losses?day=1", nil, 400, "unknown query parameter", ""},
		{"POST", "/queries/end?id=abc", nil, 200, `{"query":{"id":"abc"},"status":"done"}`, "end abc"},
		{"POST", "/queries/end?id=gone", nil, 404, `no query \"gone\" is in progress`, "end gone"},
		{"POST", "/queries/end", nil, 400, "the ID of the query is missing", ""},
		{"POST", "/queries/end?id=gone", down, 503, "not all processes could be reached", "end gone"},
		{"GET", "/erasures/gone", nil, 200, `"erasedObjects":5`, ""},
		{"GET", "/erasures/here", nil, 404, "not a deleted tenant", ""},
		{"GET", "/erasures/a%7Cb", nil, 400, "tenant", ""},
		{"GET", "/aside", nil, 200, `"items":[]`, ""},
		{"POST", "/ring/leave", nil, 400, `"reason":"instance is missing: name the instance to remove from the cluster"`, ""},
		{"POST", "/ring/leave", nil, 400, `; GET /admin/v1/ring lists all instances"`, ""},
		{"POST", "/aside/drop?day=1&window=11&tenant=a&ingester=i", nil, 404, `"field":"aside","reason":"no series of that tenant and window are set aside by that ingester"`, "drop 000000001/11/i/a"},
		{"GET", "/aside?pageSize=0", nil, 400, "it must be a number from 1 to", ""},
		{"POST", "/aside/drop?day=1&window=2&ingester=i&tenant=t", nil, 200, "within about a minute", "drop 000000001/02/i/t"},
		{"POST", "/aside/drop?day=1&window=2&ingester=lost&tenant=t", nil, 200, "lost ingester was deleted", "drop 000000001/02/lost/t"},
		{"POST", "/aside/drop?day=1&window=11&ingester=i&tenant=t", nil, 404, "lists the series that are set aside", "drop 000000001/11/i/t"},
		{"POST", "/aside/drop?day=1&window=12&ingester=i&tenant=t", nil, 400, "from 0 to 11", ""},
		{"POST", "/aside/drop?day=-1&window=1&ingester=i&tenant=t", nil, 400, "UTC day", ""},
		{"POST", "/aside/drop?day=106651&window=1&ingester=i&tenant=t", nil, 400, "UTC day", ""},
		{"POST", "/aside/drop?day=2024-10-04&window=1&ingester=i&tenant=t", nil, 400, "GET /admin/v1/aside lists", ""},
		{"POST", "/compact/accept-loss?day=2024-10-04", nil, 400, "is not the number of a UTC day since 1970", ""},
		{"GET", "/status", nil, 200, `"processes"`, ""},
		{"GET", "/ring", nil, 200, `"losses":[]`, ""},
		{"GET", "/ring", down, 503, "could not read the ring; search the backend's log for request of-the-client", ""},
		{"POST", "/ring/forget?instance=i&force=true", nil, 200, `"pendingWindows":4`, "forget i true"},
		{"POST", "/ring/forget", nil, 400, "name the instance to forget", ""},
		{"POST", "/ring/forget?instance=i", admin.Conflict("instance", "it is alive"), 409, "it is alive", "forget i false"},
		{"POST", "/ring/leave?instance=i", nil, 202, `"started"`, "leave i false"},
		{"POST", "/ring/leave?instance=i&wait=true", nil, 200, "its disk can be deleted", "leave i true"},
		{"POST", "/ring/leave?instance=%20", nil, 400, "name the instance to remove from the cluster", ""},
	} {
		f := &fake{err: tt.err, status: `{"processes":[]}`}
		var log bytes.Buffer
		w := httptest.NewRecorder()
		h := admin.Passed(Root, commandsOver(f, true, &log).Routes, slog.New(slog.DiscardHandler))
		r := httptest.NewRequestWithContext(t.Context(), tt.method, Root+tt.path, nil)
		r.Header.Set(admin.HeaderRequestID, "of-the-client")
		h.ServeHTTP(w, r)
		if did := strings.Join(f.did, ";"); w.Code != tt.code || !strings.Contains(w.Body.String(), tt.says) || did != tt.did {
			t.Errorf("%s %s (%v): %d %s, did %q", tt.method, tt.path, tt.err, w.Code, w.Body, did)
		}
		var body struct{ Code, Message string }
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || tt.code >= 400 && (body.Code == "" || body.Message == "") {
			t.Errorf("%s: response is not in the API's error format: %s", tt.path, w.Body)
		}
		if again := w.Header().Get("Retry-After") != ""; again != (tt.code == 503) {
			t.Errorf("%s: status %d, has Retry-After: %v", tt.path, tt.code, again)
		}
		if tt.err == nil || admin.IsProblem(tt.err) {
			continue
		}
		if !strings.Contains(log.String(), tt.err.Error()) || !strings.Contains(log.String(), "request=of-the-client") {
			t.Errorf("%s: the log does not contain %v and the request's ID: %s", tt.path, tt.err, log.String())
		}
		if strings.Contains(w.Body.String(), tt.err.Error()) {
			t.Errorf("%s: the client gets the cause: %s", tt.path, w.Body)
		}
	}
}

// TestWithoutCluster checks that a single process has no routes of the ring.
func TestWithoutCluster(t *testing.T) {
	h := admin.Passed(Root, commandsOver(&fake{}, false, &bytes.Buffer{}).Routes, slog.New(slog.DiscardHandler))
	for path, want := range map[string]int{"/ring": 404, "/aside": 200, "/losses": 200} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, Root+path, nil))
		if w.Code != want {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

// TestAsidePages checks that the pages of every size contain all records once, in order.
func TestAsidePages(t *testing.T) {
	f := &fake{}
	for day := range int64(3) {
		for _, ingester := range []string{"b", "a"} {
			for window := range 12 {
				f.asides = append(f.asides, Aside{AsideKey: AsideKey{Ingester: ingester, Tenant: "t", Day: 9_999 + day, Window: 11 - window}})
			}
		}
	}
	h := admin.Passed(Root, commandsOver(f, false, &bytes.Buffer{}).Routes, slog.New(slog.DiscardHandler))
	for _, size := range []int{1, 7, 71, 72, 73, 500} {
		cursor, last, n := "", "", 0
		for pages := 0; ; pages++ {
			if pages > len(f.asides) {
				t.Fatalf("page size %d: the list does not end", size)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("%s/aside?pageSize=%d&pageCursor=%s", Root, size, cursor), nil))
			var body struct {
				Items          []Aside
				NextPageCursor string
			}
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != 200 || len(body.Items) > size {
				t.Fatalf("a page of the list: %d %s", w.Code, w.Body)
			}
			for i := range body.Items {
				if at := body.Items[i].cursor(); at <= last {
					t.Fatalf("%s after %s", at, last)
				} else {
					last = at
				}
				n++
			}
			if cursor = body.NextPageCursor; cursor == "" {
				break
			}
		}
		if n != len(f.asides) {
			t.Errorf("page size %d: %d records, want %d", size, n, len(f.asides))
		}
	}
}

// TestPage checks that the page shows the status, HTML-escaped.
func TestPage(t *testing.T) {
	f := &fake{status: `{"processes":[
		{"instance":"ingester-1","ingester":{"id":"ingester-1","headBytes":1048576,"segment":7,"tenants":[{"tenant":"<acme>","series":3,"minTime":0,"maxTime":60000}],
			"packs":[{"name":"pack-1","minTime":0,"maxTime":1,"tenants":1,"series":2,"samples":4,"bytes":5}]}},
		{"instance":"compactor-1","compactor":{"day":20000,"lastRun":"2026-11-25T01:02:03Z","lastError":"is broken","clock":"clock is off","expired":2,
			"waiting":[{"day":19999,"reason":"ingester-2 has not uploaded"}],
			"failing":[{"tenant":"acme","day":19998,"error":"bad pack","since":"2026-11-25T00:00:00Z","next":"2026-11-25T03:00:00Z","attempts":6}]}},
		{"instance":"querier-1","queries":[{"id":"00ff","tenant":"acme","query":"<up>","start":"1","end":"2","step":"15s","since":"2026-11-25T04:05:06Z"}]},
		{"instance":"ingester-2","error":"it does not answer"}],
		"members":[{"id":"ingester-1","state":"ACTIVE","zone":"z1","roles":["ingester"],"tokens":128,"share":0.25,"sinceHeartbeat":"0.1s"}],"ringError":"ring is late"}`}
	page, err := NewPage(PageOptions{Version: "1.2.3", Role: "all", Commands: commandsOver(f, true, &bytes.Buffer{}), Now: func() time.Time { return time.Unix(0, 0) }, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	show := func() string {
		w := httptest.NewRecorder()
		page.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
		return w.Body.String()
	}
	text := show()
	for _, want := range []string{"Pallium 1.2.3", "Role all", "1970-01-01 00:00:00 UTC", "1.0 MiB in memory", "segment 7", "&lt;acme&gt;", "pack-1", "compacting 2024-10-04 (day 20000)", "<td>2024-10-03 (day 19999)</td>", "<td>2024-10-02 (day 19998)</td>",
		"2026-11-25 01:02:03", "is broken", "clock is off", "2 days beyond retention", "ingester-2 has not uploaded", "bad pack", "it does not answer", "ACTIVE", "25.0%", "ring is late",
		"<td>acme</td><td>2026-11-25 04:05:06</td><td>waiting</td><td>querier-1</td><td>1 to 2 by 15s</td><td><code>&lt;up&gt;</code>", `action="/queries/end?id=00ff"`} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not contain %q:\n%s", want, text)
		}
	}
	if f.err = errors.New("store is down"); !strings.Contains(show(), "store is down") {
		t.Error("the page does not show why the status is missing")
	}
}
