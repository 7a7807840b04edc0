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

// crowd is a distributor over three real ingesters, and a tenant that has as many
// series as it may.
type crowd struct {
	t     *testing.T
	lim   limits.Limits
	ings  map[string]Ingester
	d     limited
	now   int64
	fresh int // new series so far
}

const crowdSeries = 200

func newCrowd(t *testing.T) *crowd {
	c := &crowd{t: t, lim: limits.Default(), ings: map[string]Ingester{}, now: time.Now().UnixMilli() - 60_000}
	c.lim.MaxActiveSeries = crowdSeries
	for _, id := range []string{"0", "1", "2"} {
		c.join(id, 1<<30)
	}
	c.d = unlimited(Options{Ring: newZones(1), Replication: 3, Replica: lookup(c.ings)})
	t.Cleanup(func() { _ = c.d.Close() })
	if out, err := c.push(0); err != nil || out.Samples != crowdSeries {
		t.Fatalf("%+v, %v", out, err)
	}
	return c
}

// join puts a new, empty ingester in the place of another.
func (c *crowd) join(id string, memory int64) *ingester.Ingester {
	c.t.Helper()
	if c.d.Distributor != nil {
		_ = c.d.Close() // nothing is on its way to the old one
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

// leave takes an ingester away.
func (c *crowd) leave(id string) {
	_ = c.d.Close()
	c.ings[id] = &replica{err: errors.New("away")}
}

// push sends so many new series, and after them all that the tenant has.
func (c *crowd) push(fresh int) (series.Outcome, error) {
	c.now += 1000
	b := &series.Batch{Tenant: "t"}
	for range fresh {
		c.fresh++
		b.Entries = append(b.Entries, entryOf(rawLabels("__name__", "fresh", "i", fmt.Sprint(c.fresh)), at(c.now)))
	}
	for i := range crowdSeries {
		b.Entries = append(b.Entries, entryOf(rawLabels("__name__", "known", "i", fmt.Sprint(i)), at(c.now)))
	}
	c.d.limits = c.lim
	return c.d.Push(context.Background(), b)
}

// goOn pushes a while: known series are accepted each time, new ones rejected for
// the reason.
func (c *crowd) goOn(reason string) {
	c.t.Helper()
	const fresh = 10
	for round := range 20 {
		out, err := c.push(fresh)
		if err != nil || out.Samples != crowdSeries || len(out.Rejections) != 1 ||
			out.Rejections[0].Samples != fresh || out.Rejections[0].Reason != reason {
			c.t.Fatalf("round %d: %+v, %v", round, out, err)
		}
	}
}

// repeats counts accepted repeats to an ingester.
func (c *crowd) repeats(id string) float64 {
	_ = c.d.Close()
	return testutil.ToFloat64(c.d.established.WithLabelValues(id, "accepted"))
}

// TestAtItsLimit: a tenant at its limit keeps its series, and only they, whatever
// ingester is away and whatever ingester has just joined.
func TestAtItsLimit(t *testing.T) {
	for _, away := range []string{"", "0", "1", "2"} {
		for _, joined := range []string{"", "0", "1", "2"} {
			if away != "" && away == joined {
				continue
			}
			t.Run(fmt.Sprintf("away %q, joined %q", away, joined), func(t *testing.T) {
				c := newCrowd(t)
				if away != "" {
					c.leave(away)
				}
				if joined != "" {
					c.join(joined, 1<<30)
				}
				c.goOn("max_active_series")
				// New series took places in the ingester that joined, so it had none for some
				// of the known ones when the other could not make a majority without it.
				if repeats := c.repeats(joined); (repeats > 0) != (away != "" && joined != "") {
					t.Errorf("%v repeats", repeats)
				}
			})
		}
	}
}

// TestOverItsBudget: so does a tenant whose new ingester has no memory for new
// series.
func TestOverItsBudget(t *testing.T) {
	c := newCrowd(t)
	c.leave("0")
	small := c.join("1", 8<<20)
	limit := c.lim.MaxActiveSeries
	c.lim.MaxActiveSeries = 0
	full := false
	for i := 0; !full; i++ { // until it has no memory for more
		if i == 1_000_000 {
			t.Fatal("it takes any number of series")
		}
		out, err := small.Push(context.Background(), &series.Batch{Tenant: "t", Entries: []series.Entry{
			entryOf(rawLabels("__name__", "filler", "i", fmt.Sprint(i)), at(c.now))}})
		if err != nil {
			t.Fatal(err)
		}
		full = len(out.Rejections) > 0 && out.Rejections[0].Reason == "instance_memory"
	}
	c.lim.MaxActiveSeries = limit
	c.goOn("max_active_series") // of the other one
	if repeats := c.repeats("1"); repeats != 1 {
		t.Errorf("%v repeats, want one: then it has them", repeats)
	}
}

// TestTwoAway: what only one ingester can be asked of is never rejected for good.
func TestTwoAway(t *testing.T) {
	for _, joined := range []string{"0", "1", "2"} {
		c := newCrowd(t)
		c.join(joined, 1<<30)
		for id := range c.ings {
			if id != joined {
				c.leave(id)
			}
		}
		for range 5 { // new series leave no place for known ones
			if out, err := c.push(crowdSeries); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "away") {
				t.Errorf("%+v, %v", out, err)
			}
		}
	}
}
