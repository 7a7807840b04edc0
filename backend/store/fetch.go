package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/timing"
	"github.com/palliumhq/pallium/policies/limits"
)

// Limits of a batch of ranged reads.
const (
	maxGap      = 1 << 20 // bytes between two blocks that are read and discarded
	maxCoalesce = 8 << 20 // bytes of one ranged read, unless one block is larger
	maxGets     = 64      // concurrent reads of one query
)

// ErrMissing is wrapped by the error of a read of an object that the index names
// and that does not exist or is too short.
var ErrMissing = errors.New("object listed in the index is missing or too short")

// blockKey identifies a block. It never changes its meaning: objects are immutable.
type blockKey struct {
	object string
	offset int64
}

// want is a block that a query needs.
type want struct {
	object string
	place  pack.Place
}

// fetcher reads the blocks of one query into memory, each one once.
type fetcher struct {
	s      *Store
	mu     sync.Mutex
	blocks map[blockKey][]byte
	bytes  int64 // bytes fetched or read from the cache

	charged int64 // how many of those are charged to the request's memory
}

func (s *Store) newFetcher() *fetcher { return &fetcher{s: s, blocks: map[blockKey][]byte{}} }

// fetch reads the blocks that the query does not have and that are not cached, in one
// batch of coalesced concurrent reads, and verifies their checksums.
func (f *fetcher) fetch(ctx context.Context, wants []want) error {
	defer timing.Of(ctx).Measure(timing.Chunks)()
	missing := f.missing(wants)
	total := f.bytes
	for _, w := range missing {
		total += int64(w.place.Length)
	}
	if most := f.s.opts.MaxQueryBytes; total > most {
		return limits.ExceededSetting("store.max_query_bytes", fmt.Sprintf("%d bytes", most),
			fmt.Sprintf("the query reads at least %d bytes of the long-term store", total), "select fewer series or a shorter range")
	}
	if err := memory.FromContext(ctx).Take(total - f.charged); err != nil {
		return err
	}
	f.bytes, f.charged = total, total
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxGets)
	for _, run := range coalesce(missing) {
		g.Go(func() error { return f.get(ctx, run) })
	}
	return g.Wait()
}

// missing reads blocks from the cache and returns those that are not cached, sorted
// and without duplicates.
func (f *fetcher) missing(wants []want) []want {
	slices.SortFunc(wants, func(a, b want) int {
		return cmp.Or(cmp.Compare(a.object, b.object), cmp.Compare(a.place.Offset, b.place.Offset))
	})
	wants = slices.Compact(wants)
	var out []want
	for _, w := range wants {
		k := blockKey{w.object, w.place.Offset}
		if _, have := f.blocks[k]; have {
			continue
		}
		if b, ok := f.s.frames.get(k); ok {
			f.blocks[k] = b
			f.bytes += int64(len(b))
			f.s.metrics.cacheHits.Inc()
			continue
		}
		out = append(out, w)
	}
	return out
}

// coalesce groups sorted blocks into runs; each run is fetched by one ranged read.
func coalesce(wants []want) [][]want {
	var out [][]want
	for first := 0; first < len(wants); {
		next := first + 1
		for next < len(wants) && wants[next].object == wants[first].object &&
			wants[next].place.Offset-wants[next-1].place.End() <= maxGap &&
			wants[next].place.End()-wants[first].place.Offset <= maxCoalesce {
			next++
		}
		out = append(out, wants[first:next])
		first = next
	}
	return out
}

func (f *fetcher) get(ctx context.Context, run []want) error {
	object, from := run[0].object, run[0].place.Offset
	b, err := f.s.opts.Objects.Get(ctx, object, from, int(run[len(run)-1].place.End()-from))
	if err != nil {
		return ObjectError(object, err)
	}
	f.s.metrics.bytesRead.Add(float64(len(b)))
	for _, w := range run {
		at := w.place.Offset - from
		block := b[at : at+int64(w.place.Length) : at+int64(w.place.Length)]
		if err := pack.CheckBlock(block); err != nil {
			return fmt.Errorf("object %s at %d: %w", object, w.place.Offset, err)
		}
		if len(run) > 1 { // a subslice would keep the whole run in memory
			block = slices.Clone(block)
		}
		k := blockKey{object, w.place.Offset}
		f.s.frames.put(k, block)
		f.mu.Lock()
		f.blocks[k] = block
		f.mu.Unlock()
	}
	return nil
}

// ObjectError returns the error of a failed read of an object that the index names.
// It wraps ErrMissing if the object does not exist or is too short for the range.
func ObjectError(object string, err error) error {
	switch {
	case errors.Is(err, objects.ErrNotFound), errors.Is(err, objects.ErrInvalid):
		return fmt.Errorf("object %s: %w: %w", object, ErrMissing, err)
	}
	return fmt.Errorf("object %s: %w", object, err)
}
