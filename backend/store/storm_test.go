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

// jitterRows lets reads begin a little later, each by another time, as those of a
// store on a network do: otherwise the two reads of a query are rarely apart.
type jitterRows struct{ rows.Store }

func (j jitterRows) ReadRows(ctx context.Context, ranges []rows.Range, f rows.Filter, visit func(rows.Row) bool) error {
	time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
	return j.Store.ReadRows(ctx, ranges, f, visit)
}

// storm is a day that is published again and again, and what its generations hold.
type storm struct {
	started, published atomic.Int64 // generations
	queries, short     atomic.Int64
	now                atomic.Int64 // Unix milliseconds
	first              map[string]string
}

// samplesOf is how many samples each series has in a generation.
func samplesOf(generation int64) int64 { return generation%40 + 1 }

// TestPublicationStorm asks everything while one generation after the other is
// published and old ones are swept: each answer is all of one generation, not
// older than the one that was published when the question was asked.
// STORM_PUBLICATIONS is how many generations there are, 30 unless it is set; there
// are at least a hundred queries for each.
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
		answer, err := q.ask(t, writer)
		if err != nil {
			t.Fatal(err)
		}
		st.first[q.name] = answer
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
	t.Logf("%d publications, %d queries, %d short", st.published.Load(), st.queries.Load(), st.short.Load())
}

// ask asks one question and checks its answer.
func (st *storm) ask(t *testing.T, s *store.Store, q question) {
	from := st.published.Load()
	got, err := q.ask(t, s)
	to := st.started.Load()
	st.queries.Add(1)
	if err == nil {
		err = st.wrong(st.first[q.name], got, from, to)
	}
	if err != nil && st.short.Add(1) <= 10 {
		t.Errorf("%s, generations %d to %d: %v", q.name, from, to, err)
	}
}

// wrong compares an answer with that of the first generation; samples must be those
// of a generation of the range.
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
