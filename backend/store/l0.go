package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/timing"
)

// OpenPack opens a pack of the object store for ranged reads. Every read fetches at
// least readAhead bytes, up to the end of the object. The caller releases the
// reader. Unless id is zero, the pack must have that ID.
func (s *Store) OpenPack(ctx context.Context, id ulid.ULID, object string, size int64) (*pack.Reader, error) {
	return s.openSource(&objectSource{ctx: ctx, s: s, object: object, size: size}, id)
}

// maxSection is the largest size, in bytes, of a section that is fetched whole.
const maxSection = 32 << 20

// openSection opens a pack and, unless the section is large, fetches the whole
// section, so that later reads of it fetch nothing more.
func (s *Store) openSection(ctx context.Context, l *L0) (*pack.Reader, error) {
	src := &objectSource{ctx: ctx, s: s, object: l.Object, size: l.ObjectSize}
	r, err := s.openSource(src, l.ID)
	if err != nil || l.Length > maxSection {
		return r, err
	}
	if _, err := src.Range(l.Offset, int(l.Length)); err != nil {
		return nil, errors.Join(err, r.Release())
	}
	return r, nil
}

func (s *Store) openSource(src *objectSource, id ulid.ULID) (*pack.Reader, error) {
	object := src.object
	r, err := pack.Open(src)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", object, err)
	}
	if got := r.Info().ID; id != (ulid.ULID{}) && got != id {
		err := fmt.Errorf("object %s: %w: the object contains pack %s, the index says %s", object, pack.ErrCorrupt, got, id)
		return nil, errors.Join(err, r.Release())
	}
	return r, nil
}

// readAhead is the minimum number of bytes that one ranged read of a source fetches,
// unless the source is exact or the object ends earlier.
const readAhead = 1 << 20

// objectSource reads a pack by ranges of its object. It keeps the last few ranges, so
// that sequential reads at a few offsets at once fetch every byte only once. Returned
// slices stay valid: buffers are never reused.
type objectSource struct {
	ctx    context.Context
	s      *Store
	object string
	size   int64
	exact  bool // fetch only the requested bytes

	mu      sync.Mutex
	ranges  []heldRange // least recently used first
	closed  bool
	fetched int64
}

// heldRanges is the number of ranges that a source keeps: the pages and the frames of
// a pack are read alternately.
const heldRanges = 3

type heldRange struct {
	off int64
	buf []byte
}

// Range implements pack.Source.
func (o *objectSource) Range(off int64, n int) ([]byte, error) {
	if off < 0 || n < 0 || off > o.size || int64(n) > o.size-off {
		return nil, fmt.Errorf("%w: range of bytes %d to %d in an object of %d bytes", pack.ErrCorrupt, off, off+int64(n), o.size)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil, pack.ErrClosed
	}
	if n == 0 {
		return nil, nil
	}
	for i, h := range o.ranges {
		if at := off - h.off; at >= 0 && at+int64(n) <= int64(len(h.buf)) {
			o.ranges = append(slices.Delete(o.ranges, i, i+1), h)
			return h.buf[at : at+int64(n) : at+int64(n)], nil
		}
	}
	want := min(max(int64(n), readAhead), o.size-off)
	if o.exact {
		want = int64(n)
	}
	if err := memory.FromContext(o.ctx).Take(want); err != nil {
		return nil, err
	}
	b, err := o.s.opts.Objects.Get(o.ctx, o.object, off, int(want))
	if err != nil {
		return nil, ObjectError(o.object, err)
	}
	o.s.metrics.bytesRead.Add(float64(len(b)))
	o.fetched += int64(len(b))
	if len(o.ranges) >= heldRanges {
		o.ranges = slices.Delete(o.ranges, 0, 1)
	}
	o.ranges = append(o.ranges, heldRange{off, b})
	return b[:n:n], nil
}

// Size implements pack.Source.
func (o *objectSource) Size() int64 { return o.size }

// Close implements pack.Source.
func (o *objectSource) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed, o.ranges = true, nil
	return nil
}

// OpenTail opens a compacted pack and fetches its index in one read. The function `read`
// returns the number of bytes fetched so far.
func (s *Store) OpenTail(ctx context.Context, e *schema.PackEntry) (r *pack.Reader, read func() int64, err error) {
	src := &objectSource{ctx: ctx, s: s, object: e.Object, size: e.Size, exact: true}
	read = func() int64 { src.mu.Lock(); defer src.mu.Unlock(); return src.fetched }
	if r, err = s.openSource(src, e.ID); err != nil {
		return nil, read, err
	}
	for i := range r.Info().Sections {
		if p := r.IndexPlace(i); p.Length > 0 {
			if _, err := src.Range(p.Offset, p.Length); err != nil {
				_ = r.Release()
				return nil, read, err
			}
		}
	}
	return r, read, nil
}

// selectL0 reads the series in the L0 packs of the catalogs, except in packs that
// an ingester covers.
func (q *query) selectL0(ctx context.Context) error {
	return q.eachL0(ctx, func(r *pack.Reader, c *Catalog, l *L0) error {
		list, err := r.Select(ctx, q.req.Tenant, max(q.req.MinTime, c.Day*series.DayMillis), min(q.req.MaxTime, (c.Day+1)*series.DayMillis-1),
			q.req.Matchers...)
		if err != nil {
			return err
		}
		for i := range list {
			if !q.req.Range.Contains(list[i].Labels) {
				continue
			}
			if err := q.join.Admit(list[i].Labels, len(list[i].Chunks)); err != nil {
				return err
			}
			chunks := make([]series.Chunk, 0, len(list[i].Chunks))
			for _, ref := range list[i].Chunks {
				ch := series.Chunk{MinTime: ref.MinTime, MaxTime: ref.MaxTime, Samples: ref.Samples}
				if !q.req.LabelsOnly {
					if ch, err = r.Chunk(ref); err != nil {
						return err
					}
				}
				chunks = append(chunks, ch)
			}
			if gone := q.deletions.After(l.Tombstone, list[i].Labels); len(gone) > 0 {
				if chunks, err = cutDeleted(chunks, gone, q.req.LabelsOnly); err != nil {
					return err
				}
			}
			if len(chunks) > 0 {
				q.join.Join(list[i].Labels, chunks)
			}
		}
		return nil
	})
}

// l0Batch is the number of L0 packs that are opened concurrently.
const l0Batch = 16

// openL0 is an L0 pack that a query reads because no ingester covers it.
type openL0 struct {
	catalog *Catalog
	l       *L0
	reader  *pack.Reader
}

// eachL0 calls fn for each L0 pack of the range that no ingester covers, one after
// the other. Data returned by the reader stays valid after fn returns.
func (q *query) eachL0(ctx context.Context, fn func(*pack.Reader, *Catalog, *L0) error) error {
	var list []openL0
	for i := range q.catalogs {
		c := &q.catalogs[i]
		for k := range c.L0 {
			if l := &c.L0[k]; l.MinTime <= q.req.MaxTime && l.MaxTime >= q.req.MinTime && !q.covered(l.ID) {
				list = append(list, openL0{catalog: c, l: l})
			}
		}
	}
	for len(list) > 0 {
		n := min(len(list), l0Batch)
		if err := q.readL0(ctx, list[:n], fn); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

// readL0 opens a batch of packs concurrently and calls fn for them in order.
func (q *query) readL0(ctx context.Context, batch []openL0, fn func(*pack.Reader, *Catalog, *L0) error) error {
	defer timing.Of(ctx).Measure(timing.Chunks)()
	var g errgroup.Group // without the group's context: the readers outlive it
	for i := range batch {
		g.Go(func() (err error) {
			batch[i].reader, err = q.s.openSection(ctx, batch[i].l)
			return err
		})
	}
	err := g.Wait()
	for _, o := range batch {
		if o.reader == nil {
			continue
		}
		if err == nil {
			if err = fn(o.reader, o.catalog, o.l); err != nil {
				err = fmt.Errorf("object %s: %w", o.l.Object, err)
			}
		}
		err = errors.Join(err, o.reader.Release())
	}
	return err
}
