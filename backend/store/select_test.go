package store_test

import (
	"testing"

	"github.com/palliumhq/pallium/backend/objects/memory"
	"github.com/palliumhq/pallium/backend/series"
)

// TestLabelsOnly checks that a selection of labels only has the series with samples in the
// range, without chunks.
func TestLabelsOnly(t *testing.T) {
	s := openStore(t, memRows(t), memory.New(), testNow)
	publish(t, s, 10)
	for _, ms := range [][]string{{"__name__=m1"}, {"pod=pod-00001"}} {
		req := series.Request{Tenant: "a", MinTime: testDay * series.DayMillis, MaxTime: (testDay+1)*series.DayMillis - 1, Matchers: matchers(ms...), LabelsOnly: true}
		sel, err := s.Select(t.Context(), req, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(sel.Series) == 0 {
			t.Errorf("%v: no series", ms)
		}
		for _, ser := range sel.Series {
			if len(ser.Chunks) != 0 {
				t.Errorf("%v: series %s has %d chunks", ms, ser.Labels, len(ser.Chunks))
			}
		}
		sel.Release()
	}
}
