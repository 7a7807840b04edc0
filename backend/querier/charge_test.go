package querier

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/policies/limits"
)

// TestQueriesTakeMemory checks for each part of a query's memory that it is charged: the query
// fails if the tenant's memory limit is too low, and succeeds with a sufficient one.
func TestQueriesTakeMemory(t *testing.T) {
	const samples, steps = 24 * 240, 24*240 + 1 // of a series, at every quarter minute
	for _, tt := range []struct {
		name, text string
		span, step time.Duration // 0: an instant query
		less, more int64
	}{
		{"series", `count(up)`, 0, 0, 3 * seriesBytes, 16 << 10},
		{"the window of a function", `sum(sum_over_time(up[1d]))`, 0, 0, 2 * samples * pointBytes, 1 << 20},
		{"a matrix", `up[1d]`, 0, 0, 3 * samples * (pointBytes + textCopies*pointText), 8 << 20},
		{"points", `count(count_over_time(up[1m]))`, day, 15 * time.Second, 3 * steps * pointBytes, 4 << 20},
		{"points of an operator", `count(up + 1)`, day, 15 * time.Second, steps * (6*pointBytes + textCopies*pointText), 4 << 20},
		{"text", `count(up)`, day, 15 * time.Second, steps * (pointText*textCopies + pointBytes), 4 << 20},
		{"created labels", `count(label_replace(up, "x", "` + strings.Repeat("$1", 2000) + `", "__name__", "(.*)"))`, 0, 0, 3 * 2000 * 2, 1 << 20},
		{"labels without series", `count(label_replace(vector(1), "x", "` + strings.Repeat("y", 10_000) + `", "", ""))`, 0, 0, 10_000, 1 << 20},
		{"a subquery that selects nothing", `max_over_time(vector(1)[1d:15s])`, 0, 0, samples * 2 * pointBytes, 4 << 20},
	} {
		b := newBed(t)
		account := memory.NewAccount(1<<40, nil)
		for limit, enough := range map[int64]bool{tt.less: false, tt.more: true} {
			h := account.Begin(memory.Request{Tenant: "a", Limit: limit})
			ctx := memory.NewContext(b.as("a"), h)
			q, err := b.engine.NewInstantQuery(ctx, b.q, nil, tt.text, b.now)
			if tt.span > 0 {
				q, err = b.engine.NewRangeQuery(ctx, b.q, nil, tt.text, b.now.Add(-tt.span), b.now, tt.step)
			}
			if err != nil {
				t.Fatal(err)
			}
			res := q.Exec(ctx)
			var exceeded *limits.Exceeded
			if enough != (res.Err == nil) || !enough && !errors.As(res.Err, &exceeded) {
				t.Errorf("%s with %d bytes: %v; %d are held", tt.name, limit, res.Err, h.Used())
			}
			q.Close()
			if h.Close(); account.Used() != 0 || b.source.holding() != 0 {
				t.Errorf("%s: %d bytes and %d selections are not released", tt.name, account.Used(), b.source.holding())
			}
		}
	}
}

// TestReadsTakeMemory checks that reads without the engine are charged, too.
func TestReadsTakeMemory(t *testing.T) {
	b := newBed(t)
	up := labels.MustNewMatcher(labels.MatchEqual, "__name__", "up")
	with := func(fn func(context.Context, storage.Querier) error) func(context.Context) error {
		return func(ctx context.Context) error {
			q, err := b.q.Querier(start, math.MaxInt64)
			if err != nil {
				return err
			}
			defer q.Close()
			return fn(ctx, q)
		}
	}
	for _, tt := range []struct {
		name string
		need int64 // at least
		read func(context.Context) error
	}{
		{"a list of series", 3 * (seriesBytes + textCopies*64), with(func(ctx context.Context, q storage.Querier) error {
			return q.Select(ctx, true, &storage.SelectHints{Start: start, End: math.MaxInt64, Func: "series"}, up).Err()
		})},
		{"label names", textCopies * 2 * 8, with(func(ctx context.Context, q storage.Querier) error {
			_, _, err := q.LabelNames(ctx, nil, up)
			return err
		})},
		{"label values", textCopies * 3 * 8, with(func(ctx context.Context, q storage.Querier) error {
			_, _, err := q.LabelValues(ctx, "i", nil, up)
			return err
		})},
		{"samples of a remote read", 3 * 24 * 240 * readSampleBytes, with(func(ctx context.Context, q storage.Querier) error {
			var failed error
			set := q.Select(ReadRaw(ctx, func(err error) { failed = err }), true, nil, up)
			var it chunkenc.Iterator
			for set.Next() {
				it = set.At().Iterator(it)
				for it.Next() != chunkenc.ValNone {
				}
				if err := it.Err(); !errors.Is(err, failed) {
					t.Errorf("error %v, want %v, which the function of ReadRaw received", err, failed)
				}
			}
			return errors.Join(set.Err(), failed)
		})},
		{"exemplars", (textCopies + 1) * 64, func(ctx context.Context) error {
			q, err := b.q.ExemplarQuerier(ctx)
			if err == nil {
				_, err = q.Select(start, math.MaxInt64, []*labels.Matcher{up})
			}
			return err
		}},
	} {
		for limit, enough := range map[int64]bool{tt.need - 1: false, 1 << 30: true} {
			h := memory.NewAccount(1<<40, nil).Begin(memory.Request{Tenant: "a", Limit: limit})
			err := tt.read(memory.NewContext(b.as("a"), h))
			var exceeded *limits.Exceeded
			if enough != (err == nil) || !enough && !errors.As(err, &exceeded) {
				t.Errorf("%s with %d bytes: %v", tt.name, limit, err)
			}
			if n := h.Used(); enough && (n < tt.need || n > 10*tt.need) {
				t.Errorf("%s: held %d bytes, want %d to %d", tt.name, n, tt.need, 10*tt.need)
			}
			h.Close()
		}
	}
}

// TestJSONBytes checks that no string is larger as JSON than its estimate.
func TestJSONBytes(t *testing.T) {
	for _, text := range []string{"", "up", "\xff\xfe", "a\xffb", "ü", "\u2028", "<&>\"\\\x00", strings.Repeat("\xe2", 50), "\xed\xa0\x80", "語 text"} {
		out, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		if n := jsonBytes(text); n < int64(len(out)-2) { // without the quotes
			t.Errorf("%q has %d bytes as JSON, but the estimate is %d", text, len(out)-2, n)
		}
	}
}
