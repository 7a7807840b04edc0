package store_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/palliumhq/pallium/backend/objects/memory"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/store/lifecycle"
)

// jitterRows is a row store that delays each read by a random time, like a store on a
// network: without it, the two reads of a query rarely happen at different times.
type jitterRows struct{ rows.Store }

func (j jitterRows) ReadRows(ctx context.Context, ranges []rows.Range, f rows.Filter, visit func(rows.Row) bool) error {
	time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
	return j.Store.ReadRows(ctx, ranges, f, visit)
}

// storm is a day that is published repeatedly, with the expected contents of its generations.
type storm struct {
	started, published atomic.Int64 // generations
	queries, wrongs    atomic.Int64
	now                atomic.Int64 // Unix milliseconds
	first              map[string]string
}

// samplesOf returns the number of samples of each series in a generation.
func samplesOf(generation int64) int64 { return generation%40 + 1 }

// TestPublicationStorm runs all questions while generations are published one after the other
// and old ones are swept. Each result must be a complete generation, at least as new as the
// one published when the read started. STORM_PUBLICATIONS is the minimum number of
// generations, default 30. The test continues until it has run a hundred times as many
// queries.
func TestPublicationStorm(t *testing.T) {
	publications := 30
	if n := os.Getenv("STORM_PUBLICATIONS"); n != "" {
		var err error
		if publications, err = strconv.Atoi(n); err != nil {
			t.Fatal(err)
		}
	}
	live, objects := memRows(t), memory.New()
	st := &storm{first: map[string]string{}}
	st.now.Store(testNow().UnixMilli())
	clock := func() time.Time { return time.UnixMilli(st.now.Load()) }
	writer := openStore(t, live, objects, clock)
	keeper := lifecycle.New(writer)
	next := func() {
		g := st.started.Add(1)
		publishSized(t, writer, 60, int(samplesOf(g)))
		st.published.Store(g)
		st.now.Add(time.Minute.Milliseconds()) // a generation is swept 360 generations later
		if g%50 == 0 {
			if _, err := keeper.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	next()
	for _, q := range questions() {
		result, err := q.ask(t, writer)
		if err != nil {
			t.Fatal(err)
		}
		st.first[q.name] = result
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		s := openStore(t, jitterRows{live}, objects, clock)
		readers.Go(func() {
			for {
				for _, q := range questions() {
					select {
					case <-done:
						return
					default:
						st.ask(t, s, q)
					}
				}
			}
		})
	}
	for st.published.Load() < int64(publications) || st.queries.Load() < int64(publications)*100 {
		next()
	}
	close(done)
	readers.Wait()
	t.Logf("%d publications, %d queries, %d wrong results", st.published.Load(), st.queries.Load(), st.wrongs.Load())
}

// ask runs one question and checks its result.
func (st *storm) ask(t *testing.T, s *store.Store, q question) {
	from := st.published.Load()
	got, err := q.ask(t, s)
	to := st.started.Load()
	st.queries.Add(1)
	if err == nil {
		err = st.wrong(st.first[q.name], got, from, to)
	}
	if err != nil && st.wrongs.Add(1) <= 10 {
		t.Errorf("%s, generations %d to %d: %v", q.name, from, to, err)
	}
}

// wrong compares a result with the first generation. The number of samples must be equal to
// the number of a generation in the range.
func (st *storm) wrong(first, got string, from, to int64) error {
	var wantSeries, series, samples, n int64
	if k, _ := fmt.Sscanf(first, "%d series, %d samples", &wantSeries, &n); k < 2 {
		if got != first {
			return fmt.Errorf("%.100s, want %.100s", got, first)
		}
		return nil
	}
	if _, err := fmt.Sscanf(got, "%d series, %d samples", &series, &samples); err != nil {
		return err
	}
	var want []string
	for g := from; g <= to; g++ {
		if series == wantSeries && samples == series*samplesOf(g) {
			return nil
		}
		want = append(want, fmt.Sprint(wantSeries*samplesOf(g)))
	}
	return fmt.Errorf("%d series of %d, %d samples; %s are possible", series, wantSeries, samples, strings.Join(want, ", "))
}
