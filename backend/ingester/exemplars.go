package ingester

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/encoding"

	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/wal"
)

// exemplarRing stores the newest exemplars of a tenant in memory, as Prometheus
// does: exemplars are pointers to traces, not data for long-term storage.
type exemplarRing struct {
	mu   sync.Mutex
	ring []storedExemplar
	next int // index of the next exemplar once the ring is full

	labelBytes int64                     // bytes of the exemplars' own labels
	newest     map[uint64]seriesExemplar // by hash of the series' labels
}

// seriesExemplar is the state of one series in the ring.
type seriesExemplar struct {
	last  int32 // index of the newest exemplar
	count int32
}

// seriesExemplarBytes is the size of an entry of exemplarRing.newest.
const seriesExemplarBytes = mapBytes

// resent is the number of newest exemplars that a new one is compared with, because
// a request that is sent again repeats the last ones.
const resent = 64

type storedExemplar struct {
	series labels.Labels
	exemplar.Exemplar
}

// add adds e, unless it is a duplicate of one of the newest exemplars or out of
// order. limit bounds the ring. add reports whether e is in the ring now, and by
// how many bytes the ring grew.
func (r *exemplarRing) add(ls labels.Labels, e exemplar.Exemplar, limit int) (there bool, grown int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.size()
	there = r.keep(ls, e, limit)
	return there, r.size() - before
}

// size returns the bytes that the ring uses. The labels of series belong to the
// series.
func (r *exemplarRing) size() int64 {
	return exemplarBytes*int64(cap(r.ring)) + r.labelBytes + seriesExemplarBytes*int64(len(r.newest))
}

// lower shrinks the ring to the newest exemplars that a lower limit allows.
func (r *exemplarRing) lower(limit int) {
	all := r.ordered()
	r.ring, r.next, r.labelBytes, r.newest = slices.Clone(all[len(all)-limit:]), 0, 0, nil
	for i := range r.ring {
		r.labelBytes += allocated(r.ring[i].Labels.ByteSize())
		r.noteAdded(i)
	}
}

// noteAdded adds the exemplar at an index to the state of its series.
func (r *exemplarRing) noteAdded(at int) {
	if r.newest == nil {
		r.newest = map[uint64]seriesExemplar{}
	}
	hash := r.ring[at].series.Hash()
	r.newest[hash] = seriesExemplar{last: int32(at), count: r.newest[hash].count + 1}
}

// noteDropped removes the exemplar at an index, the oldest one, from the state of its
// series.
func (r *exemplarRing) noteDropped(at int) {
	hash := r.ring[at].series.Hash()
	known := r.newest[hash]
	if known.count--; known.count <= 0 {
		delete(r.newest, hash)
		return
	}
	r.newest[hash] = known
}

// outOfOrder reports whether the series has a newer exemplar. As in Prometheus,
// exemplars with equal timestamps are ordered by value and then by label hash.
func (r *exemplarRing) outOfOrder(ls labels.Labels, e exemplar.Exemplar) bool {
	known, ok := r.newest[ls.Hash()]
	if !ok {
		return false
	}
	n := &r.ring[known.last]
	if !labels.Equal(n.series, ls) {
		return false
	}
	return compareExemplars(e, n.Exemplar) < 0
}

func compareExemplars(a, b exemplar.Exemplar) int {
	if c := cmp.Or(cmp.Compare(a.Ts, b.Ts), cmp.Compare(a.Value, b.Value)); c != 0 {
		return c
	}
	return cmp.Compare(a.Labels.Hash(), b.Labels.Hash())
}

// inOrder returns all exemplars in the order of arrival.
func (r *exemplarRing) inOrder() []storedExemplar {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ordered()
}

// ordered is inOrder for callers that hold r.mu.
func (r *exemplarRing) ordered() []storedExemplar {
	return append(slices.Clone(r.ring[r.next:]), r.ring[:r.next]...)
}

// newestExemplars sorts exemplars by time, removes duplicates, and returns the
// newest ones up to limit.
func newestExemplars(list []storedExemplar, limit int) []storedExemplar {
	slices.SortStableFunc(list, func(a, b storedExemplar) int {
		return cmp.Or(compareExemplars(a.Exemplar, b.Exemplar), labels.Compare(a.series, b.series))
	})
	list = slices.CompactFunc(list, func(a, b storedExemplar) bool {
		return a.Equals(b.Exemplar) && labels.Equal(a.series, b.series)
	})
	return list[max(0, len(list)-limit):]
}

// exemplarRecord writes exemplars to the log with the labels of their series, which
// may have no samples in the log.
type exemplarRecord struct {
	th   *tenantHead
	list []storedExemplar
}

// AppendTo implements wal.Record.
func (r *exemplarRecord) AppendTo(dst []byte, _ wal.Place) []byte {
	var buf encoding.Encbuf
	for i := range r.list {
		putLabelSet(&buf, r.list[i].series)
		putExemplar(&buf, r.list[i].Exemplar)
	}
	return putCompressed(beginRecord(dst, r.th.id), sectionKeptExemplars, buf.B)
}

// Appended implements wal.Record.
func (r *exemplarRecord) Appended(wal.Place) {}

// has reports whether e is among the newest exemplars.
func (r *exemplarRing) has(ls labels.Labels, e exemplar.Exemplar) bool {
	for back := 1; back <= min(len(r.ring), resent); back++ {
		p := &r.ring[(r.next+len(r.ring)-back)%len(r.ring)]
		if p.Ts == e.Ts && p.Value == e.Value && labels.Equal(p.series, ls) && labels.Equal(p.Labels, e.Labels) {
			return true
		}
	}
	return false
}

// acceptable returns the exemplars of a series that the method add would not drop. The
// others are not logged, because a replay would restore them.
func (r *exemplarRing) acceptable(ls labels.Labels, list []exemplar.Exemplar) []exemplar.Exemplar {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(list, func(e exemplar.Exemplar) bool { return !r.has(ls, e) && r.outOfOrder(ls, e) })
}

// keep is the method add for callers that hold r.mu.
func (r *exemplarRing) keep(ls labels.Labels, e exemplar.Exemplar, limit int) bool {
	if len(r.ring) > max(0, limit) {
		r.lower(max(0, limit))
	}
	if limit <= 0 {
		return false
	}
	if r.has(ls, e) {
		return true
	}
	if r.outOfOrder(ls, e) {
		return false
	}
	stored := storedExemplar{series: ls, Exemplar: e}
	stored.Labels = e.Labels.Copy()
	r.labelBytes += allocated(stored.Labels.ByteSize())
	if len(r.ring) < limit {
		r.ring = append(r.ring, stored)
		r.noteAdded(len(r.ring) - 1)
		return true
	}
	r.noteDropped(r.next)
	r.labelBytes -= allocated(r.ring[r.next].Labels.ByteSize())
	r.ring[r.next] = stored
	r.noteAdded(r.next)
	r.next = (r.next + 1) % len(r.ring)
	return true
}

// query returns the exemplars in [mint, maxt] of the series that match one of the
// matcher sets, sorted by series and then by time. It returns ctx's error, or an
// error of the request's memory account.
func (r *exemplarRing) query(ctx context.Context, mint, maxt int64, sets [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	// Copy the ring: matching may take long, and must not block pushes and seals.
	r.mu.Lock()
	err := memory.FromContext(ctx).Take(2 * exemplarBytes * int64(len(r.ring)))
	var ring []storedExemplar
	if err == nil {
		ring = slices.Clone(r.ring)
	}
	r.mu.Unlock()
	if err != nil {
		return nil, err
	}
	bySeries := map[string]int{}
	var out []exemplar.QueryResult
	var key []byte
	for i := range ring {
		e := &ring[i]
		if e.Ts < mint || e.Ts > maxt {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !matchesAny(e.series, sets) {
			continue
		}
		key = e.series.Bytes(key)
		at, ok := bySeries[string(key)]
		if !ok {
			at = len(out)
			bySeries[string(key)] = at
			out = append(out, exemplar.QueryResult{SeriesLabels: e.series})
		}
		out[at].Exemplars = append(out[at].Exemplars, e.Exemplar)
	}
	for i := range out {
		slices.SortStableFunc(out[i].Exemplars, func(a, b exemplar.Exemplar) int { return cmp.Compare(a.Ts, b.Ts) })
		out[i].Exemplars = slices.CompactFunc(out[i].Exemplars, func(a, b exemplar.Exemplar) bool { return a.Equals(b) })
	}
	slices.SortFunc(out, func(a, b exemplar.QueryResult) int { return labels.Compare(a.SeriesLabels, b.SeriesLabels) })
	return out, nil
}

func matchesAny(ls labels.Labels, sets [][]*labels.Matcher) bool {
	for _, set := range sets {
		if matches(ls, set) {
			return true
		}
	}
	return false
}
