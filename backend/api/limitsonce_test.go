package api

import (
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/limits"
)

// TestLimitsOnce checks that a request resolves its tenant's limits only once:
// otherwise its parts could use different limits.
func TestLimitsOnce(t *testing.T) {
	var asked atomic.Int64
	b := newBackend(t)
	b.looked = func(tenant.ID) { asked.Add(1) }
	once := func(what string, do func()) {
		t.Helper()
		asked.Store(0)
		do()
		if n := asked.Load(); n != 1 {
			t.Errorf("%s: limits were resolved %d times, want 1", what, n)
		}
	}
	b.lim.Retention = limits.Duration(1000 * 3600e9)
	once("push", func() { b.write("a", "up", 3) })
	const v1 = "/prometheus/api/v1/"
	now := strconv.FormatInt(b.now.Unix(), 10)
	for path, params := range map[string]url.Values{
		"query":           {"query": {"up + up + count_over_time(up[1h])"}},
		"query_range":     {"query": {"up or up"}, "start": {now}, "end": {now}, "step": {"1"}},
		"query_exemplars": {"query": {"up or up"}, "start": {now}, "end": {now}},
		"series":          {"match[]": {"up", `up{i="1"}`}},
		"labels":          {"match[]": {"up", `up{i="1"}`}},
		"label/i/values":  {"match[]": {"up", `up{i="1"}`}},
	} {
		once(path, func() {
			if w := b.get("a", v1+path, params); w.Code != http.StatusOK {
				t.Errorf("%s: %d %s", path, w.Code, w.Body)
			}
		})
	}
	r := newReading(t, 1<<30)
	r.looked = b.looked
	for _, c := range allReadRoutes() {
		once(c.String(), func() { do(r.h, as("a", c.request(r, ""))) })
	}
}
