package cluster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/kit"
)

// activeLimit is the tenant's limit of active series in TestActiveSeries; the tenant
// has that many.
const activeLimit = 30

// TestActiveSeries checks that a tenant at its limit of active series keeps its series and gets no
// new ones after rolling restarts, after the loss of a disk, and after an ingester joined and
// another one left. Nothing is pushed during these events.
func TestActiveSeries(t *testing.T) {
	ctx := context.Background()
	c := startCluster(ctx, t, nil)
	logAllIfFailed(t, c)
	l := &atLimit{story: story{t: t, ctx: ctx, c: c}}
	token, err := c.NewToken(ctx, "limited", "metrics:read", "metrics:write")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := c.Pallium(ctx, "limits", "set", "limited", fmt.Sprintf("max_active_series=%d", activeLimit)); err != nil {
		t.Fatal(err, out)
	}
	a := &activeSeries{atLimit: l, token: token}
	if code, _, body := l.send(token, 0, "", 0, activeLimit); code/100 != 2 {
		t.Fatalf("push up to the limit: %d %s", code, body)
	}
	a.limitHolds()
	a.check("before any restart")
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		for _, name := range []string{"ingester-1", "ingester-2", "ingester-3"} {
			a.restart(name, sig)
		}
		a.check(fmt.Sprintf("after a rolling restart by %v", sig))
	}
	a.loseDisk()
	a.joinAndLeave()
}

type activeSeries struct {
	*atLimit
	token string
	fresh int
}

// limitHolds waits until both edges reject a new series.
func (a *activeSeries) limitHolds() {
	for edge := range 2 {
		limited := 0
		kit.UntilSlow(a.t, 2*time.Minute, "the limit applies", func() bool {
			a.fresh++
			code, _, _ := a.send(a.token, edge, fmt.Sprintf("fresh_%d", a.fresh), 1, 0)
			if limited++; code != http.StatusBadRequest {
				limited = 0
			}
			return limited >= 15
		})
	}
}

// check pushes new series, which must be rejected, and then the existing ones, which
// must be accepted.
func (a *activeSeries) check(when string) {
	a.t.Helper()
	a.fresh++
	if code, written, body := a.decided(fmt.Sprintf("fresh_%d", a.fresh), activeLimit, 0); code != http.StatusBadRequest || written != 0 {
		a.t.Errorf("%s: new series: %d, %d written, %s", when, code, written, body)
	}
	if code, written, body := a.decided("", 0, activeLimit); code/100 != 2 || written != activeLimit {
		a.t.Errorf("%s: existing series: %d, %d written, %s", when, code, written, body)
	}
	if a.t.Failed() {
		a.t.FailNow()
	}
}

// decided pushes series until the response is not 503. A gateway's connections to
// ingesters that were just restarted may be down for a moment: the gateway then
// returns 503 and senders retry.
func (a *activeSeries) decided(name string, fresh, known int) (code, written int, body string) {
	a.t.Helper()
	kit.UntilSlow(a.t, 2*time.Minute, "the response to a push is not 503", func() bool {
		code, written, body = a.send(a.token, a.fresh, name, fresh, known)
		return code != http.StatusServiceUnavailable
	})
	return code, written, body
}

func (a *activeSeries) restart(name string, sig syscall.Signal) {
	a.t.Helper()
	if err := a.c.Stop(a.ctx, name, sig); err != nil {
		a.t.Fatal(err)
	}
	if err := a.c.Start(a.ctx, name); err != nil {
		a.t.Fatal(err)
	}
}

// counted returns how many active series of the tenant an ingester counts.
func (a *activeSeries) counted(name string) int {
	a.t.Helper()
	n := 0
	// A backend may need a moment to connect to an ingester that has just started.
	kit.UntilSlow(a.t, 2*time.Minute, name+" reports its status", func() bool {
		text, err := a.c.AdminGet(a.ctx, "gateway-1", "/status")
		if err != nil {
			a.t.Fatal(err)
		}
		var ok bool
		if n, ok = countedIn(a.t, text, name); !ok {
			a.t.Logf("%s has not reported its status yet", name)
		}
		return ok
	})
	return n
}

// countedIn returns how many series of the tenant an ingester counts according to a
// status page, and whether the page has the ingester's count.
func countedIn(t *testing.T, text, name string) (n int, ok bool) {
	t.Helper()
	var status struct {
		Processes []struct {
			Instance string
			Ingester *struct {
				Tenants []struct {
					Tenant string
					Series int
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &status); err != nil {
		t.Fatal(err)
	}
	for _, p := range status.Processes {
		if p.Instance != name || p.Ingester == nil {
			continue
		}
		ok = true
		for _, of := range p.Ingester.Tenants {
			if of.Tenant == "limited" {
				n = of.Series
			}
		}
	}
	return n, ok
}

// loseDisk checks that an ingester that restarts with an empty disk gets the active series from its
// replicas.
func (a *activeSeries) loseDisk() {
	if err := a.c.Stop(a.ctx, "ingester-2", syscall.SIGKILL); err != nil {
		a.t.Fatal(err)
	}
	if err := a.c.Lose("ingester-2"); err != nil {
		a.t.Fatal(err)
	}
	if err := a.c.Start(a.ctx, "ingester-2"); err != nil {
		a.t.Fatal(err)
	}
	if n, from := a.counted("ingester-2"), a.counted("ingester-1"); n != from || n < activeLimit {
		a.t.Errorf("the ingester that lost its disk counts %d series, another one %d", n, from)
	}
	a.check("after the loss of a disk")
}

// joinAndLeave checks that an ingester that joins has all active series after another one of its
// zone has left: the other one transfers the series that the new one did not get when it joined.
func (a *activeSeries) joinAndLeave() {
	if err := a.c.AddIngester(a.ctx, "ingester-4", "zone-a"); err != nil {
		a.t.Fatal(err)
	}
	all, joined := a.counted("ingester-1"), a.counted("ingester-4")
	code, body, err := a.c.Admin(a.ctx, "ingester-1", "/ring/leave?wait=true", nil)
	if err != nil || code != http.StatusOK {
		a.t.Fatalf("leave: %d %s %v", code, body, err)
	}
	if err := a.c.Stop(a.ctx, "ingester-1", syscall.SIGTERM); err != nil {
		a.t.Fatal(err)
	}
	// A tenant's shard has one ingester of the zone: the new one gets all series either
	// when it joins or, as here, when the other one leaves.
	if left := a.counted("ingester-4"); left != all {
		a.t.Errorf("of %d series the new ingester had %d when it joined, and %d after the other one had left", all, joined, left)
	}
	a.check("after one joined and one left")
}
