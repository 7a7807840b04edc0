package ingester

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/palliumhq/pallium/authn/tenant"
)

// TestHandOver checks that the receiver of a handover reserves each series once,
// however often the handover is repeated, also beyond its limit, and that it
// reserves none without memory.
func TestHandOver(t *testing.T) {
	hand := func(from, to *bench) {
		t.Helper()
		if err := from.ing.EachActive(context.Background(), func(a *ActiveSeries) error { return to.ing.ReserveSeries(context.Background(), a) }); err != nil {
			t.Fatal(err)
		}
		to.ing.counted(t)
	}
	from, to := atWindowStart(t), atWindowStart(t)
	from.push("a", from.some("m", 2500)...)
	from.restart() // some reserved, some in the head
	from.push("a", from.some("m", 1500)...)
	to.lim.MaxActiveSeries = 2500
	to.push("a", to.some("m", 500)...)
	hand(from, to)
	hand(from, to)
	to.handedOver(2000, 0, 0) // the receiver already had the other 500 series
	if held := to.ing.account.held.Load(); held < 2000*300 {
		t.Errorf("%d bytes are reserved, want %d or more", held, 2000*300)
	}
	to.atLimit("m", 2500)
	to.tick(31 * time.Minute)

	to = atWindowStart(t)
	to.set(from.now)
	hand(from, to)
	if to.tick(29 * time.Minute); to.ing.SeriesCount("a") != 2500 {
		t.Errorf("%d active series after 29 minutes, want 2500", to.ing.SeriesCount("a"))
	}
	if to.tick(3 * time.Minute); to.ing.SeriesCount("a") != 0 {
		t.Errorf("%d active series after 32 minutes, want 0", to.ing.SeriesCount("a"))
	}

	to = atWindowStart(t)
	to.lim.MaxActiveSeries = 1000
	to.push("a", to.some("other", 1000)...)
	hand(from, to) // beyond its limit
	if n := to.ing.SeriesCount("a"); n != 3500 {
		t.Errorf("%d active series, want 3500", n)
	}
	to.handedOver(0, 2500, 0)
	if out := to.push("a", to.some("m", 2500)...); out.Samples != 2500 || out.Created != nil {
		t.Errorf("%d samples accepted, want 2500; rejected: %v", out.Samples, reasons(out))
	}

	to = atWindowStart(t)
	to.push("a", to.some("other", 1000)...)
	to.fill(89)
	hand(from, to)
	if n := to.ing.SeriesCount("a"); n != 1000 {
		t.Errorf("%d active series of an ingester without memory, want 1000", n)
	}
	to.handedOver(0, 0, 2500)
}

// handedOver checks the counts of series that were handed over, by result.
func (b *bench) handedOver(kept, above, dropped float64) {
	b.t.Helper()
	for result, want := range map[string]float64{"kept": kept, "above_share": above, "dropped": dropped} {
		if n := testutil.ToFloat64(b.ing.metrics.handedOver.WithLabelValues(result)); n != want {
			b.t.Errorf("%g series are counted as %s, want %g", n, result, want)
		}
	}
}

// TestHandOverBounds checks that slices are limited, that invalid lists are
// rejected, and that an instance gets only the series that it takes over.
func TestHandOverBounds(t *testing.T) {
	b := atWindowStart(t)
	ctx := context.Background()
	for _, a := range []*ActiveSeries{
		{Tenant: "a", Hashes: []uint64{1}}, {Tenant: "a", Seconds: []uint32{1}},
		{Tenant: "a", Hashes: make([]uint64, HandOverSlice+1), Seconds: make([]uint32, HandOverSlice+1)},
	} {
		if err := b.ing.ReserveSeries(ctx, a); !errors.Is(err, ErrHandOver) {
			t.Errorf("%d hashes and %d times: %v", len(a.Hashes), len(a.Seconds), err)
		}
	}
	if err := b.ing.ReserveSeries(ctx, &ActiveSeries{Tenant: "a", Bytes: 1 << 62, Hashes: []uint64{1, 2}, Seconds: []uint32{0, 1<<32 - 1}}); err != nil {
		t.Error(err)
	}
	b.ing.counted(t)
	b.tick(32 * time.Minute) // nothing is reserved for longer, whatever the list says
	if n := b.ing.SeriesCount("a"); n != 0 {
		t.Errorf("%d active series, want 0", n)
	}
	if err := b.ing.ActiveSeries(ctx, "x", nil); !errors.Is(err, ErrHandOver) {
		t.Errorf("without a cluster: %v", err)
	}
	all := make([]uint64, HandOverSlice+10)
	for i := range all {
		all[i] = uint64(i)
	}
	for part := range slices.Chunk(all, HandOverSlice) {
		if err := b.ing.ReserveSeries(ctx, &ActiveSeries{Tenant: "a", Hashes: part, Seconds: make1800(len(part))}); err != nil {
			t.Fatal(err)
		}
	}
	b.ing.opts.TakenBy = func(_ context.Context, instance string) (Takes, error) {
		return func(_ tenant.ID, hash uint64) bool { return instance == "even" && hash%2 == 0 }, nil
	}
	var sizes []int
	err := b.ing.ActiveSeries(ctx, "even", func(a *ActiveSeries) error { sizes = append(sizes, len(a.Hashes)); return nil })
	if total := sizes[0] + sizes[len(sizes)-1]; err != nil || len(sizes) != 2 || total != len(all)/2 {
		t.Errorf("slice sizes %v, want two with a total of %d; error %v", sizes, len(all)/2, err)
	}
	if err := b.ing.ActiveSeries(ctx, "odd", func(*ActiveSeries) error { return errors.New("called") }); err != nil {
		t.Error(err)
	}
}

func make1800(n int) []uint32 { return slices.Repeat([]uint32{1800}, n) }
