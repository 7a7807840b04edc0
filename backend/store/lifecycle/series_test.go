package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/store/lifecycle"
	"github.com/palliumhq/pallium/backend/store/storetest"
)

// TestDeletionLimits checks that a deletion beyond a limit returns InvalidDeletion and
// reserves nothing.
func TestDeletionLimits(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	ctx := context.Background()
	sets := func(n int) [][]*labels.Matcher {
		return [][]*labels.Matcher{{labels.MustNewMatcher(labels.MatchEqual, "__name__", strings.Repeat("m", n))}}
	}
	ts := schema.NewTombstone(math.MaxUint64, 0, math.MaxInt64, sets(60_000), x.Now.UnixMilli())
	overhead := len(ts.Encode()) - 60_000
	reserve := func(t tenant.ID, n int) error {
		d, err := x.Lifecycle.ReserveDeletion(ctx, t, 0, math.MaxInt64, sets(n))
		if err != nil {
			return err
		}
		return x.Lifecycle.ActivateDeletion(ctx, t, d)
	}
	var invalid lifecycle.InvalidDeletion
	if err := reserve("a", schema.MaxTombstone-overhead); err != nil {
		t.Errorf("matchers of the largest size: %v", err)
	}
	if err := reserve("a", schema.MaxTombstone-overhead+1); !errors.As(err, &invalid) || !strings.Contains(err.Error(), fmt.Sprint(schema.MaxTombstone)) {
		t.Errorf("matchers one byte too large: %v", err)
	}
	if err := reserve("b", 1); err != nil {
		t.Fatal(err)
	}
	for range schema.MaxTombstones - 1 {
		if err := reserve("b", 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := reserve("b", 1); !errors.As(err, &invalid) || !strings.Contains(err.Error(), fmt.Sprint(schema.MaxTombstones)) {
		t.Errorf("one deletion more than the limit: %v", err)
	}
	for range schema.MaxTombstonesBytes/schema.MaxTombstone - 1 {
		if err := reserve("a", schema.MaxTombstone-overhead); err != nil {
			t.Fatal(err)
		}
	}
	if err := reserve("a", 1000); !errors.As(err, &invalid) || !strings.Contains(err.Error(), fmt.Sprint(schema.MaxTombstonesBytes)) {
		t.Errorf("deletions with too many bytes in total: %v", err)
	}
	regex := func(t tenant.ID, n int) error { // of about 1,000 n instructions
		m := labels.MustNewMatcher(labels.MatchRegexp, "a", fmt.Sprintf("(?:%s){%d}", strings.Repeat("x", 100), 10*n))
		d, err := x.Lifecycle.ReserveDeletion(ctx, t, 0, math.MaxInt64, [][]*labels.Matcher{{m}})
		if err != nil {
			return err
		}
		return x.Lifecycle.ActivateDeletion(ctx, t, d)
	}
	for range 5 {
		if err := regex("c", 19); err != nil {
			t.Fatal(err)
		}
	}
	if err := regex("d", 21); !errors.As(err, &invalid) || !strings.Contains(err.Error(), fmt.Sprint(schema.MaxTombstoneInstructions)) {
		t.Errorf("too many instructions in one deletion: %v", err)
	}
	if err := regex("c", 19); !errors.As(err, &invalid) || !strings.Contains(err.Error(), fmt.Sprint(schema.MaxTombstonesInstructions)) {
		t.Errorf("too many instructions in all deletions: %v", err)
	}
	numbers := map[tenant.ID]int{}
	err := x.Store.ActiveDeletions(ctx, []tenant.ID{"a", "b"}, func(id tenant.ID, _ schema.Tombstone) error { numbers[id]++; return nil })
	if err != nil || numbers["b"] != schema.MaxTombstones || numbers["a"] != schema.MaxTombstonesBytes/schema.MaxTombstone {
		t.Errorf("active deletions %v, error %v", numbers, err)
	}
}

// TestForgetWithAside checks that the records of deletions are kept while series are set aside,
// and that rewrites for later deletions are requested again nevertheless.
func TestForgetWithAside(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	ctx := context.Background()
	x.Push(map[tenant.ID]storetest.Data{"a": storetest.Window(storetest.Rand(), storetest.Day, 1, 2, 2)}, "i1")
	x.Merge(storetest.Day)
	x.Must(nil, x.Store.SetAside(ctx, []store.AsideOf{asideOf("i1", "a", storetest.Day, 3)}))
	matchers := [][]*labels.Matcher{{labels.MustNewMatcher(labels.MatchEqual, "__name__", "m")}}
	const first = storetest.Day * series.DayMillis
	for _, mint := range []int64{first + 2*series.DayMillis, first} { // the first concerns a day without packs
		d, err := x.Lifecycle.ReserveDeletion(ctx, "a", mint, mint+series.DayMillis-1, matchers)
		x.Must(nil, err)
		x.Must(nil, x.Lifecycle.ActivateDeletion(ctx, "a", d))
	}
	x.Must(nil, x.Index.Work.Rewritten(ctx, "a", storetest.Day))
	x.Must(nil, x.Lifecycle.ForgetDeletions(ctx, "a", math.MaxInt64))
	rewrites, deletions := 0, 0
	x.Must(nil, x.Index.Work.Each(ctx, func(d *index.DayWork) error { rewrites += len(d.Rewrites); return nil }))
	x.Must(nil, x.Store.ActiveDeletions(ctx, []tenant.ID{"a"}, func(tenant.ID, schema.Tombstone) error { deletions++; return nil }))
	if rewrites != 1 || deletions != 2 {
		t.Errorf("%d rewrites and %d deletions, want 1 and 2", rewrites, deletions)
	}
}
