package ingester

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// TestReadsTakeMemory checks that the memory for reading the head is taken from the
// holding of the request, also for series that do not match. Without enough memory the
// read fails, and closing the holding returns everything.
func TestReadsTakeMemory(t *testing.T) {
	b := newBench(t)
	now := b.now.UnixMilli()
	var batch []series.Entry
	for i := range 2 * indexFrom {
		e := entry(metric("m", "i", fmt.Sprint(i), "job", "j"), f(now, 1))
		e.Exemplars = []exemplar.Exemplar{{Labels: labels.FromStrings("trace", fmt.Sprint(i)), Ts: now, HasTs: true}}
		batch = append(batch, e)
	}
	b.push("a", batch...)
	all := []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "job", "j")}
	none := append(all[:1:1], labels.MustNewMatcher(labels.MatchNotRegexp, "i", ".*[0-9]"))
	request := func(ms []*labels.Matcher) series.Request {
		return series.Request{Tenant: "a", MinTime: math.MinInt64, MaxTime: math.MaxInt64, Matchers: ms}
	}
	for _, tt := range []struct {
		name string
		need int64 // at least
		read func(context.Context) error
	}{
		{"select", 2 * indexFrom * 100, func(ctx context.Context) error {
			sel, _, err := b.ing.Select(ctx, request(all))
			if err == nil {
				sel.Release()
			}
			return err
		}},
		{"select of nothing", 2 * indexFrom * refSize, func(ctx context.Context) error { _, _, err := b.ing.Select(ctx, request(none)); return err }},
		{"names of nothing", 2 * indexFrom * refSize, func(ctx context.Context) error { _, _, err := b.ing.LabelNames(ctx, request(none)); return err }},
		{"values", 2 * indexFrom * 20, func(ctx context.Context) error { _, _, err := b.ing.LabelValues(ctx, "i", request(all)); return err }},
		{"exemplars of nothing", 2 * indexFrom * exemplarBytes, func(ctx context.Context) error {
			_, err := b.ing.Exemplars(ctx, "a", math.MinInt64, math.MaxInt64, [][]*labels.Matcher{none})
			return err
		}},
	} {
		account := memory.NewAccount(1<<30, nil)
		for limit, enough := range map[int64]bool{tt.need - 1: false, 1 << 28: true} {
			h := account.Begin(memory.Request{Tenant: "a", Limit: limit})
			err := tt.read(memory.NewContext(t.Context(), h))
			var exceeded *limits.Exceeded
			if enough != (err == nil) || err != nil && !errors.As(err, &exceeded) {
				t.Errorf("%s with %d bytes: %v", tt.name, limit, err)
			}
			if held := h.Used(); enough && held < tt.need {
				t.Errorf("%s holds %d bytes, want %d or more", tt.name, held, tt.need)
			}
			if h.Close(); account.Used() != 0 {
				t.Errorf("%s: %d bytes are left", tt.name, account.Used())
			}
		}
	}
}
