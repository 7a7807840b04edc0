package distributor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// atLimit is a distributor over three real ingesters, and a tenant with as many series
// as its limit allows.
type atLimit struct {
	t     *testing.T
	lim   limits.Limits
	ings  map[string]Ingester
	d     limited
	now   int64
	fresh int // new series so far
}

const maxSeries = 200

func newAtLimit(t *testing.T) *atLimit {
	c := &atLimit{t: t, lim: limits.Default(), ings: map[string]Ingester{}, now: time.Now().UnixMilli() - 60_000}
	c.lim.MaxActiveSeries = maxSeries
	for _, id := range []string{"0", "1", "2"} {
		c.join(id, 1<<30)
	}
	c.d = unlimited(Options{Ring: newZones(1), Replication: 3, Replica: lookup(c.ings)})
	t.Cleanup(func() { _ = c.d.Close() })
	if out, err := c.push(0); err != nil || out.Samples != maxSeries {
		t.Fatalf("Push = %+v, %v", out, err)
	}
	return c
}

// join replaces an ingester by a new, empty one.
func (c *atLimit) join(id string, memory int64) *ingester.Ingester {
	c.t.Helper()
	if c.d.Distributor != nil {
		_ = c.d.Close() // wait for pushes to the old one
	}
	ing, err := ingester.Open(context.Background(), ingester.Options{ID: id, Dir: c.t.TempDir(), Replication: 3, MemoryBytes: memory,
		Limits: func(tenant.ID) limits.Limits { return c.lim }})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = ing.Close() })
	c.ings[id] = ing
	return ing
}

// leave makes an ingester unavailable.
func (c *atLimit) leave(id string) {
	_ = c.d.Close()
	c.ings[id] = &replica{err: errors.New("away")}
}

// push sends fresh new series, followed by all established ones.
func (c *atLimit) push(fresh int) (series.Outcome, error) {
	c.now += 1000
	b := &series.Batch{Tenant: "t"}
	for range fresh {
		c.fresh++
		b.Entries = append(b.Entries, entryOf(rawLabels("__name__", "fresh", "i", fmt.Sprint(c.fresh)), at(c.now)))
	}
	for i := range maxSeries {
		b.Entries = append(b.Entries, entryOf(rawLabels("__name__", "established", "i", fmt.Sprint(i)), at(c.now)))
	}
	c.d.limits = c.lim
	return c.d.Push(context.Background(), b)
}

// pushRounds pushes several times, and checks that established series are accepted and
// new ones rejected for the reason.
func (c *atLimit) pushRounds(reason string) {
	c.t.Helper()
	const fresh = 10
	for round := range 20 {
		out, err := c.push(fresh)
		if err != nil || out.Samples != maxSeries || len(out.Rejections) != 1 ||
			out.Rejections[0].Samples != fresh || out.Rejections[0].Reason != reason {
			c.t.Fatalf("round %d: %+v, %v", round, out, err)
		}
	}
}

// repeats returns the number of retried pushes that an ingester accepted.
func (c *atLimit) repeats(id string) float64 {
	_ = c.d.Close()
	return testutil.ToFloat64(c.d.established.WithLabelValues(id, "accepted"))
}

// TestAtLimit checks that exactly the established series of a tenant at its limit are
// accepted, whichever ingester is unavailable or has just joined.
func TestAtLimit(t *testing.T) {
	for _, away := range []string{"", "0", "1", "2"} {
		for _, joined := range []string{"", "0", "1", "2"} {
			if away != "" && away == joined {
				continue
			}
			t.Run(fmt.Sprintf("unavailable %q, joined %q", away, joined), func(t *testing.T) {
				c := newAtLimit(t)
				if away != "" {
					c.leave(away)
				}
				if joined != "" {
					c.join(joined, 1<<30)
				}
				c.pushRounds("max_active_series")
				// New series used up the limit of the ingester that joined, so it rejected
				// established ones, which matters if the others are no majority without it.
				if repeats := c.repeats(joined); (repeats > 0) != (away != "" && joined != "") {
					t.Errorf("the ingester that joined accepted %v retried pushes, want some: %t", repeats, away != "" && joined != "")
				}
			})
		}
	}
}

// TestOverMemoryBudget checks that exactly the established series are accepted although
// one ingester has just joined and has no memory for new series.
func TestOverMemoryBudget(t *testing.T) {
	c := newAtLimit(t)
	c.leave("0")
	small := c.join("1", 8<<20)
	limit := c.lim.MaxActiveSeries
	c.lim.MaxActiveSeries = 0
	full := false
	for i := 0; !full; i++ { // until its memory is used up
		if i == 1_000_000 {
			t.Fatal("the ingester accepted 1,000,000 series, although it has 8 MiB for them")
		}
		out, err := small.Push(context.Background(), &series.Batch{Tenant: "t", Entries: []series.Entry{
			entryOf(rawLabels("__name__", "filler", "i", fmt.Sprint(i)), at(c.now))}})
		if err != nil {
			t.Fatal(err)
		}
		full = len(out.Rejections) > 0 && out.Rejections[0].Reason == "instance_memory"
	}
	c.lim.MaxActiveSeries = limit
	c.pushRounds("max_active_series") // from the other ingester
	if repeats := c.repeats("1"); repeats != 1 {
		t.Errorf("%v retried pushes, want 1: after the first one the ingester has the series", repeats)
	}
}

// TestTwoUnavailable checks that no series is rejected permanently while only one ingester
// is available.
func TestTwoUnavailable(t *testing.T) {
	for _, joined := range []string{"0", "1", "2"} {
		c := newAtLimit(t)
		c.join(joined, 1<<30)
		for id := range c.ings {
			if id != joined {
				c.leave(id)
			}
		}
		for range 5 { // new series use up the limit before established ones
			if out, err := c.push(maxSeries); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "away") {
				t.Errorf("Push = %+v, %v", out, err)
			}
		}
	}
}
