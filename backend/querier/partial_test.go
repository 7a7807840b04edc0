package querier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
)

// daily is a long-term store with the series "daily", which has one sample an hour on the given
// days, and a series for each day. Reads of a damaged day fail.
type daily struct {
	LongTerm
	first, last int64
	damaged     map[int64]error

	mu    sync.Mutex
	reads int
	held  int
}

func (d *daily) Select(ctx context.Context, req series.Request, _ store.Covered) (*series.Selection, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reads++
	from, to, _ := store.DayRange(req.MinTime, req.MaxTime)
	var list []series.Sample
	sel := &series.Selection{}
	for day := max(from, d.first); day <= min(to, d.last); day++ {
		if err := d.damaged[day]; err != nil {
			return nil, fmt.Errorf("object l1/%d: %w", day, err)
		}
		for at := day * series.DayMillis; at < (day+1)*series.DayMillis; at += 3600_000 {
			if at >= req.MinTime && at <= req.MaxTime {
				list = append(list, series.Sample{T: at, V: float64(day)})
			}
		}
		chunks, err := series.Encode([]series.Sample{{T: day * series.DayMillis, V: 1}})
		if err != nil {
			return nil, err
		}
		sel.Series = append(sel.Series, series.WithChunks{Labels: labels.FromStrings("__name__", "of_day", "day", fmt.Sprint(day)), Chunks: chunks})
	}
	if len(list) > 0 {
		chunks, err := series.Encode(list)
		if err != nil {
			return nil, err
		}
		sel.Series = append(sel.Series, series.WithChunks{Labels: labels.FromStrings("__name__", "daily"), Chunks: chunks})
	}
	series.Sort(sel.Series)
	d.held++
	sel.Hold(func() { d.mu.Lock(); d.held--; d.mu.Unlock() })
	return sel, nil
}

var errDamaged = errors.New("checksum differs")

func damaged(from, to int64) map[int64]error {
	out := map[int64]error{}
	for day := from; day <= to; day++ {
		out[day] = errDamaged
	}
	return out
}

// TestPartial checks which days a read leaves out, and that it returns all series of the other days.
func TestPartial(t *testing.T) {
	const first, last = 20_000, 20_099
	for name, tt := range map[string]struct {
		damaged map[int64]error
		whole   bool // the request is not partial
		recent  error
		from    int64
		to      int64
		most    int // reads of the store; 0: not checked
		err     error
		missing []int64
	}{
		"nothing damaged":   {nil, false, nil, first, last, 1, nil, nil},
		"not partial":       {damaged(first+3, first+3), true, nil, first, last, 1, errDamaged, nil},
		"one day of many":   {damaged(first+37, first+37), false, nil, first, last, 20, nil, []int64{first + 37}},
		"the only day":      {damaged(first, first), false, nil, first, first, 1, nil, []int64{first}},
		"ends":              {map[int64]error{first: errDamaged, last: errDamaged}, false, nil, first, last, 40, nil, []int64{first, last}},
		"sixteen":           {damaged(first+4, first+19), false, nil, first, last, 80, nil, slicesOf(first+4, first+19)},
		"too many":          {damaged(first+4, first+20), false, nil, first, last, 0, errDamaged, nil},
		"all":               {damaged(first, last), false, nil, first, last, 0, errDamaged, nil},
		"other times":       {damaged(first+4, first+4), false, nil, first + 10, last, 1, nil, nil},
		"from 1970":         {damaged(first+4, first+4), false, nil, 0, last, 40, nil, []int64{first + 4}},
		"exceeded limit":    {map[int64]error{first + 4: limits.MaxQuerySeries.ExceededAt(1, 2)}, false, nil, first, last, 1, errAnyLimit, nil},
		"too little memory": {map[int64]error{first + 4: memory.ErrFull}, false, nil, first, last, 1, memory.ErrFull, nil},
		"ingesters fail":    {damaged(first+4, first+4), false, errDamaged, first, last, 0, errDamaged, nil},
		"samples were lost": {map[int64]error{first + 4: series.ErrLost}, false, nil, first, last, 1, series.ErrLost, nil},
	} {
		t.Run(name, func(t *testing.T) {
			long := &daily{first: first, last: last, damaged: tt.damaged}
			b := Both(recentPart{&part{err: tt.recent, names: []string{"recent"}}}, long)
			req := series.Request{Tenant: "a", MinTime: tt.from*series.DayMillis + 5, MaxTime: (tt.to+1)*series.DayMillis - 1, Partial: !tt.whole}
			sel, err := b.Select(t.Context(), req)
			if tt.most > 0 && long.reads > tt.most {
				t.Errorf("%d reads of the store, want at most %d", long.reads, tt.most)
			}
			var exceeded *limits.Exceeded
			if tt.err != nil {
				if !errors.Is(err, tt.err) && (!errors.Is(tt.err, errAnyLimit) || !errors.As(err, &exceeded)) {
					t.Errorf("error %v, want %v", err, tt.err)
				}
				if long.held != 0 {
					t.Errorf("%d selections were not released", long.held)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var missing []int64
			for _, m := range sel.Missing {
				missing = append(missing, m.Day)
				if !errors.Is(m.Err, errDamaged) {
					t.Errorf("day %d: %v", m.Day, m.Err)
				}
			}
			slices.Sort(missing)
			if !slices.Equal(missing, tt.missing) {
				t.Errorf("days %v are missing, want %v", missing, tt.missing)
			}
			want := map[string]int{`{__name__="recent"}`: 0} // samples
			for day := max(tt.from, first); day <= tt.to; day++ {
				if tt.damaged[day] == nil {
					want[labels.FromStrings("__name__", "of_day", "day", fmt.Sprint(day)).String()] = 1
					want[`{__name__="daily"}`] += 24
				}
			}
			if tt.damaged[tt.from] == nil && tt.from >= first {
				want[`{__name__="daily"}`]-- // the request begins after the first sample
			}
			got := map[string]int{}
			for _, s := range sel.Series {
				for _, c := range s.Chunks {
					got[s.Labels.String()] += c.Samples
				}
				if _, ok := got[s.Labels.String()]; !ok {
					got[s.Labels.String()] = 0
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) && len(missing) < int(tt.to-tt.from+1) {
				t.Errorf("series and samples:\n%v, want\n%v", got, want)
			}
			sel.Release()
			if long.held != 0 {
				t.Errorf("%d selections were not released", long.held)
			}
		})
	}
}

var errAnyLimit = errors.New("a limit was exceeded")

func slicesOf(from, to int64) (out []int64) {
	for d := from; d <= to; d++ {
		out = append(out, d)
	}
	return out
}

// TestPartialCanceled checks that a request whose context has ended is not repeated day by day.
func TestPartialCanceled(t *testing.T) {
	long := &daily{first: 1, last: 100, damaged: damaged(4, 4)}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Both(recentPart{&part{}}, long).Select(ctx, series.Request{Tenant: "a", MaxTime: math.MaxInt64, Partial: true})
	if err == nil || long.reads != 1 {
		t.Errorf("%d reads, %v", long.reads, err)
	}
}

// TestPartialWarnings checks the warnings of partial queries, that other queries fail, and that the
// reason is logged but not returned.
func TestPartialWarnings(t *testing.T) {
	long := &daily{first: 20_000, last: 20_009, damaged: map[int64]error{20_003: errDamaged, 20_007: errDamaged}}
	var log bytes.Buffer
	now := func() time.Time { return time.UnixMilli(20_010 * series.DayMillis) }
	q := NewQueryable(Both(recentPart{&part{}}, long), now, slog.New(slog.NewTextHandler(&log, nil)))
	e := NewEngine(switches.Only(parser.NewParser(parser.Options{})), slog.New(slog.DiscardHandler), nil)
	lim := limits.Default()
	ctx := WithLimits(tenant.NewContext(t.Context(), tenant.Access{Tenant: "a", Policy: tenant.Unrestricted()}), &lim)
	run := func(ctx context.Context) (string, error) {
		rq, err := e.NewRangeQuery(ctx, q, nil, "count(daily) + 0 * sum(daily)", time.UnixMilli(20_000*series.DayMillis), now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		defer rq.Close()
		res := rq.Exec(ctx)
		if res.Err != nil {
			return "", res.Err
		}
		m, err := res.Matrix()
		if err != nil {
			t.Fatal(err)
		}
		warnings, infos := res.Warnings.AsStrings("", 0, 0)
		slices.Sort(warnings)
		return fmt.Sprintf("%d points; %s%s", len(m[0].Floats), strings.Join(warnings, "; "), infos), nil
	}
	if _, err := run(ctx); err == nil || strings.Contains(err.Error(), "object") {
		t.Errorf("not partial: %v", err)
	}
	got, err := run(WithPartial(ctx))
	want := "192 points; partial response: samples of 2024-10-07 (UTC) in the long-term store could not be read and are missing; " +
		"partial response: samples of 2024-10-11 (UTC) in the long-term store could not be read and are missing[]"
	if err != nil || got != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
	if !strings.Contains(log.String(), "day=2024-10-07") || !strings.Contains(log.String(), "object l1/20003: checksum differs") {
		t.Errorf("log: %s", log.String())
	}
	delete(long.damaged, 20_003)
	delete(long.damaged, 20_007)
	if got, err := run(WithPartial(ctx)); err != nil || strings.Contains(got, "partial") {
		t.Errorf("nothing damaged: %s, %v", got, err)
	}
}
