package store_test

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/objects/memory"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/timing"
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

// TestLabelRange checks that the selections of the label ranges together contain each series
// exactly once. It reads compacted packs, then L0 packs.
func TestLabelRange(t *testing.T) {
	for _, compacted := range []bool{true, false} {
		s := openStore(t, memRows(t), memory.New(), testNow)
		if compacted {
			publish(t, s, 10)
		} else {
			var list []labels.Labels
			for i := range 5 {
				list = append(list, labels.FromStrings("__name__", "m1", "pod", strconv.Itoa(i)))
			}
			if err := s.Upload(t.Context(), sealedSeries(t, list...)); err != nil {
				t.Fatal(err)
			}
		}
		req := series.Request{
			Tenant: "a", MinTime: testDay * series.DayMillis, MaxTime: (testDay+1)*series.DayMillis - 1,
			Matchers: matchers("__name__=m1"),
		}
		whole, err := s.Select(t.Context(), req, nil)
		if err != nil {
			t.Fatal(err)
		}
		var all []labels.Labels
		for _, one := range whole.Series {
			all = append(all, one.Labels)
		}
		var got []labels.Labels
		for _, r := range series.LabelRanges(all, 3) {
			req.Range = r
			sel, err := s.Select(t.Context(), req, nil)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(sel.Series); n == 0 || n == len(all) {
				t.Errorf("compacted %v: a range has %d of the %d series, want some but not all", compacted, n, len(all))
			}
			for _, one := range sel.Series {
				got = append(got, one.Labels)
			}
			sel.Release()
		}
		if !slices.EqualFunc(got, all, labels.Equal) {
			t.Errorf("compacted %v: the ranges together have %v, want %v", compacted, got, all)
		}
		whole.Release()
	}
}

// TestTiming checks that reads of rows and objects are counted, and that the times of the index and
// of chunks are measured.
func TestTiming(t *testing.T) {
	s := openStore(t, memRows(t), memory.New(), testNow)
	publish(t, s, 10)
	for _, labelsOnly := range []bool{true, false} {
		now := time.Unix(0, 0)
		r := timing.New(func() time.Time { now = now.Add(time.Second); return now })
		req := series.Request{Tenant: "a", MinTime: testDay * series.DayMillis, MaxTime: (testDay+1)*series.DayMillis - 1,
			Matchers: matchers("__name__=m1"), LabelsOnly: labelsOnly}
		sel, err := s.Select(timing.NewContext(t.Context(), r), req, nil)
		if err != nil {
			t.Fatal(err)
		}
		sel.Release()
		got := r.Report()
		if got.Of(timing.Index) != time.Second || got.Reads < 2 || (got.Of(timing.Chunks) == time.Second) == labelsOnly || (got.Bytes > 0) == labelsOnly {
			t.Errorf("labels only %t: %+v", labelsOnly, got)
		}
	}
}
