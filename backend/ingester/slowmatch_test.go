package ingester

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/series"
)

// slowValues is the number of values of 10 KB. slowMatcher takes tens of
// milliseconds for each, so minutes for all.
const slowValues = 2000

func slowValue(i int) string { return strings.Repeat("a", 10_000) + fmt.Sprint(i) }

func slowMatcher(t labels.MatchType) *labels.Matcher {
	return labels.MustNewMatcher(t, "slow", "(a*b?){100}[x-z]")
}

// slowBench returns a bench with series and exemplars that take minutes to match.
func slowBench(t *testing.T) *bench {
	b := newBench(t)
	now := b.now.UnixMilli()
	for from := 0; from < slowValues; from += 100 {
		var batch []series.Entry
		for i := from; i < from+100; i++ {
			e := entry(labels.FromStrings("__name__", "m", "slow", slowValue(i)), f(now, 1))
			e.Exemplars = []exemplar.Exemplar{{Labels: labels.FromStrings("trace", fmt.Sprint(i)), Ts: now, HasTs: true}}
			batch = append(batch, e)
		}
		b.push("a", batch...)
	}
	return b
}

// slowReads returns all kinds of reads that match series.
func slowReads(b *bench) map[string]func(context.Context) error {
	reads := map[string]func(context.Context) error{}
	for name, m := range map[string]*labels.Matcher{"matches": slowMatcher(labels.MatchRegexp), "does not match": slowMatcher(labels.MatchNotRegexp)} {
		req := series.Request{Tenant: "a", MinTime: math.MinInt64, MaxTime: math.MaxInt64, Matchers: []*labels.Matcher{m}}
		reads["select, "+name] = func(ctx context.Context) error { _, _, err := b.ing.Select(ctx, req); return err }
		reads["names, "+name] = func(ctx context.Context) error { _, _, err := b.ing.LabelNames(ctx, req); return err }
		reads["values, "+name] = func(ctx context.Context) error { _, _, err := b.ing.LabelValues(ctx, "slow", req); return err }
		reads["exemplars, "+name] = func(ctx context.Context) error {
			_, err := b.ing.Exemplars(ctx, "a", math.MinInt64, math.MaxInt64, [][]*labels.Matcher{{m}})
			return err
		}
	}
	return reads
}

// TestSlowMatchEnds checks that a read whose regular expressions take minutes ends
// when its context does, in the head and in packs.
func TestSlowMatchEnds(t *testing.T) {
	b := slowBench(t)
	for _, where := range []string{"head", "packs"} {
		for name, read := range slowReads(b) {
			t.Run(where+", "+name, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
				defer cancel()
				done := make(chan error, 1)
				go func() { done <- read(ctx) }()
				select {
				case err := <-done:
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("error %v, want DeadlineExceeded", err)
					}
				case <-time.After(time.Minute):
					t.Error("the read continues after its context is done")
				}
			})
		}
		b.set(b.now.Add(time.Hour)) // series are removed from the head
		if err := b.ing.Flush(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSlowMatchDoesNotBlockPushes checks that new series and exemplars can be pushed and
// windows sealed during a read whose regular expressions take minutes: a push that
// waited for the read would delay the seal, and the seal the pushes of all tenants.
func TestSlowMatchDoesNotBlockPushes(t *testing.T) {
	b := slowBench(t)
	n := 0
	for name, read := range slowReads(b) {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- read(ctx) }()
			for range 20 {
				n++
				e := entry(labels.FromStrings("__name__", "m", "n", fmt.Sprint(n)), f(b.now.UnixMilli(), 1))
				e.Exemplars = []exemplar.Exemplar{{Labels: labels.FromStrings("trace", fmt.Sprint(n)), Ts: b.now.UnixMilli(), HasTs: true}}
				b.push("a", e)
				b.push("b", e)
				time.Sleep(time.Millisecond) // so that the pushes overlap the read
			}
			if err := b.ing.log.SyncAll(); err != nil {
				t.Fatal(err)
			}
			b.ing.gate.Lock()   // as a seal does
			b.ing.gate.Unlock() //nolint:staticcheck // nothing to do while holding it
			select {
			case err := <-done:
				cancel()
				t.Fatalf("the read ended before the pushes: %v", err)
			default:
			}
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want Canceled", err)
			}
		})
	}
}
