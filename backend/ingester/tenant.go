package ingester

import (
	"context"
	"math"
	"sync"
	"sync/atomic"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/index"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
)

// indexFrom is the number of series from which a tenant has an inverted index. With
// fewer series, a read checks every series.
const indexFrom = 1000

// tenantHead is the head of one tenant: series, metadata and exemplars.
type tenantHead struct {
	id tenant.ID

	mu            sync.RWMutex
	series        map[uint64]*memSeries // by hash; series with the same hash are linked by next
	count         int
	byRef         map[storage.SeriesRef]*memSeries // only with an index
	postings      *index.MemPostings               // nil until indexFrom series exist; may have references of removed series
	dead          int                              // approximate number of references of removed series in postings
	added         []*memSeries                     // series added while reindexing is true, which the new postings may not have
	metadata      map[string]*keptMetadata         // by metric
	reserved      map[uint64]seriesReservation     // reserved series by hash; see reserved.go
	reservedCount int                              // number of reserved series

	reindexing bool // new postings are being built

	packedMetadata int             // bytes of metadata in a pack, as counted by pack.MetadataSize
	touched        map[string]bool // metrics of series added during a sweep of metadata; nil otherwise

	exemplars exemplarRing

	account     *account
	bytes       atomic.Int64 // part of account.bytes
	held        atomic.Int64 // part of account.held
	indexBytes  int64        // part of bytes: postings and byRef
	established int          // number of established series that were accepted over a limit

	minTime, maxTime atomic.Int64 // time range of all appended samples; never shrinks
}

func newTenantHead(id tenant.ID, a *account) *tenantHead {
	th := &tenantHead{id: id, series: map[uint64]*memSeries{}, metadata: map[string]*keptMetadata{}, account: a}
	th.grow(tenantBytes)
	th.minTime.Store(math.MaxInt64)
	th.maxTime.Store(math.MinInt64)
	return th
}

// find returns the series with exactly these labels. The caller holds th.mu.
func (th *tenantHead) find(hash uint64, ls labels.Labels) *memSeries {
	for s := th.series[hash]; s != nil; s = s.next {
		if labels.Equal(s.labels, ls) {
			return s
		}
	}
	return nil
}

// add inserts a series that does not exist yet. The caller holds th.mu for writing.
func (th *tenantHead) add(s *memSeries) {
	s.next = th.series[s.hash]
	th.series[s.hash] = s
	if th.count++; th.count == 1 {
		th.account.tenants.Add(1)
	}
	th.grow(th.updateSizeFull(s))
	if th.touched != nil {
		th.touched[s.labels.Get(model.MetricNameLabel)] = true
	}
	if th.postings != nil {
		th.index(s)
		return
	}
	if th.count >= indexFrom {
		th.postings = index.NewMemPostings()
		th.indexBytes = postingsBytes
		th.grow(postingsBytes)
		th.byRef = make(map[storage.SeriesRef]*memSeries, 2*th.count)
		for _, s := range th.series {
			for ; s != nil; s = s.next {
				th.index(s)
			}
		}
	}
}

func (th *tenantHead) index(s *memSeries) {
	th.byRef[storage.SeriesRef(s.ref)] = s
	size := postingsSize(th.postings, s.labels)
	th.postings.Add(storage.SeriesRef(s.ref), s.labels)
	th.indexBytes += size
	th.grow(size)
	if th.reindexing {
		th.added = append(th.added, s)
	}
}

// match returns the series that match all matchers, in no particular order.
func (th *tenantHead) match(ctx context.Context, matchers []*labels.Matcher) ([]*memSeries, error) {
	th.mu.RLock()
	postings := th.postings
	th.mu.RUnlock()
	if postings != nil {
		return th.matchIndexed(ctx, postings, matchers)
	}
	all := th.all()
	out := all[:0]
	for _, s := range all {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if matches(s.labels, matchers) {
			out = append(out, s)
		}
	}
	return out, ctx.Err()
}

func matches(ls labels.Labels, matchers []*labels.Matcher) bool {
	for _, m := range matchers {
		if !m.Matches(ls.Get(m.Name)) {
			return false
		}
	}
	return true
}

// matchIndexed intersects the postings of the matchers that require a label, and
// checks the other matchers on the labels of the resulting series.
func (th *tenantHead) matchIndexed(ctx context.Context, p *index.MemPostings, matchers []*labels.Matcher) ([]*memSeries, error) {
	its, rest := postingsOf(ctx, p, matchers)
	refs, err := index.ExpandPostings(index.Intersect(its...))
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := memory.FromContext(ctx).Take(int64(len(refs)) * 2 * refSize); err != nil {
		return nil, err
	}
	out := make([]*memSeries, 0, len(refs))
	th.mu.RLock()
	for _, ref := range refs {
		if s := th.byRef[ref]; s != nil {
			out = append(out, s)
		}
	}
	th.mu.RUnlock()
	if len(rest) == 0 {
		return out, nil
	}
	// Match without the lock: a push waiting for the lock would delay a seal, and the
	// seal all other pushes.
	kept := out[:0]
	for _, s := range out {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if matches(s.labels, rest) {
			kept = append(kept, s)
		}
	}
	return kept, nil
}

// postingsOf returns the postings of the matchers that require a label, or all
// postings if there are none, and the remaining matchers.
func postingsOf(ctx context.Context, p *index.MemPostings, matchers []*labels.Matcher) (its []index.Postings, rest []*labels.Matcher) {
	for _, m := range matchers {
		switch {
		case m.Matches(""):
			rest = append(rest, m)
		case m.Type == labels.MatchEqual:
			its = append(its, p.Postings(ctx, m.Name, m.Value))
		case m.Type == labels.MatchRegexp && len(m.SetMatches()) > 0:
			its = append(its, p.Postings(ctx, m.Name, m.SetMatches()...))
		default:
			// A regular expression may take seconds for one long value.
			its = append(its, p.PostingsForLabelMatching(ctx, m.Name, func(v string) bool { return ctx.Err() == nil && m.Matches(v) }))
		}
	}
	if len(its) == 0 {
		its = append(its, p.All())
	}
	return its, rest
}

// refSize is an upper bound for the bytes of a reference, or of a pointer to its
// series, in a slice with spare capacity.
const refSize = 16

// extend extends the time range to include mint and maxt.
func (th *tenantHead) extend(mint, maxt int64) {
	for {
		v := th.minTime.Load()
		if v <= mint || th.minTime.CompareAndSwap(v, mint) {
			break
		}
	}
	for {
		v := th.maxTime.Load()
		if v >= maxt || th.maxTime.CompareAndSwap(v, maxt) {
			return
		}
	}
}
