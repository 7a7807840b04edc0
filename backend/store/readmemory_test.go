package store_test

import (
	"errors"
	"math"
	"os"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	objectmemory "github.com/palliumhq/pallium/backend/objects/memory"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// TestReadsTakeMemory checks that pages, blocks of samples and ranges of L0 packs that a read
// fetches are charged to the memory of its request, in addition to the selected series, and that
// the read fails if they exceed its limit.
func TestReadsTakeMemory(t *testing.T) {
	s := openStore(t, memRows(t), objectmemory.New(), testNow)
	publish(t, s, 1000)
	u := sealed(t)
	if err := s.Upload(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	file, err := os.Stat(u.Path)
	if err != nil {
		t.Fatal(err)
	}
	read := func(id tenant.ID, labelsOnly bool, limit int64, ms ...string) (held int64, err error) {
		h := memory.NewAccount(1<<40, nil).Begin(memory.Request{Tenant: id, Limit: limit})
		defer h.Close()
		sel, err := s.Select(memory.NewContext(t.Context(), h),
			series.Request{Tenant: id, MaxTime: math.MaxInt64 / 2, Matchers: matchers(ms...), LabelsOnly: labelsOnly}, nil)
		if err != nil {
			return 0, err
		}
		defer sel.Release()
		held = h.Used()
		for i := range sel.Series { // subtract the charge for the series
			held -= series.SelectedBytes(sel.Series[i].Labels, 0)
		}
		if len(sel.Series) == 0 {
			t.Errorf("%v: no series", ms)
		}
		return held, nil
	}
	pages := int64(0)
	for _, tt := range []struct {
		name       string
		tenant     tenant.ID
		labelsOnly bool
		matchers   []string
		least      func() int64
	}{
		// For one series, all pages of the metric must be decoded: at least 20 bytes for each of
		// the 2,500 series.
		{"pages", "a", true, []string{"__name__=big", "pod=pod-00042"}, func() int64 { return 2500*20 + file.Size() }},
		{"blocks", "a", false, []string{"__name__=big", "pod=pod-00042"}, func() int64 { return pages + 50 }},
		{"an L0 pack", "b", false, []string{"__name__=m"}, func() int64 { return file.Size() }},
	} {
		held, err := read(tt.tenant, tt.labelsOnly, 0, tt.matchers...)
		if err != nil || held < tt.least() {
			t.Errorf("%s: %d bytes are charged, want %d or more: %v", tt.name, held, tt.least(), err)
		}
		if tt.name == "pages" {
			pages = held
		}
		var exceeded *limits.Exceeded
		if _, err := read(tt.tenant, tt.labelsOnly, held, tt.matchers...); !errors.As(err, &exceeded) {
			t.Errorf("%s with a limit that leaves no memory for the series: %v, want Exceeded", tt.name, err)
		}
	}
}
