package ingester

import (
	"fmt"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// instanceMemory is the reason for rejecting new series for lack of memory.
const instanceMemory = "instance_memory"

// resolve finds or creates the series of every entry. New series that exceed the
// tenant's limit or the memory budget are rejected and stay nil, unless
// takesEstablished accepts them. Existing and reserved series are always accepted.
func (ing *Ingester) resolve(th *tenantHead, b *series.Batch, lim *limits.Limits, out *series.Outcome) []*memSeries {
	found := make([]*memSeries, len(b.Entries))
	missing := 0
	th.mu.RLock()
	for i := range b.Entries {
		if found[i] = th.find(b.Entries[i].Hash, b.Entries[i].Labels); found[i] == nil {
			missing++
		}
	}
	th.mu.RUnlock()
	if missing == 0 {
		return found
	}
	th.mu.Lock()
	defer th.mu.Unlock()
	c := creation{ing: ing, th: th, lim: lim, limit: ing.localSeriesLimit(b.Tenant, lim), established: b.Established,
		now: ing.opts.Now(), before: ing.nextRef.Load()}
	for i := range b.Entries {
		if found[i] == nil {
			found[i] = c.series(i, &b.Entries[i], out)
		}
	}
	return found
}

// creation creates a request's new series. Its methods are called with th.mu held
// for writing.
type creation struct {
	ing         *Ingester
	th          *tenantHead
	lim         *limits.Limits
	limit       int // local series limit; 0 = unlimited
	established bool
	now         time.Time
	before      uint64              // higher references are of this or concurrent requests
	known       map[*memSeries]bool // created by this request from a reservation
}

// series finds or creates the series of an entry, or returns nil if it is rejected.
func (c *creation) series(i int, e *series.Entry, out *series.Outcome) *memSeries {
	if s := c.th.find(e.Hash, e.Labels); s != nil {
		if s.ref > c.before && !c.known[s] { // new, and twice in the request
			out.Created = append(out.Created, i)
		}
		return s
	}
	if c.th.useReservation(e.Hash, c.now) {
		s := c.make(e, false)
		if c.known == nil {
			c.known = map[*memSeries]bool{}
		}
		c.known[s] = true
		return s
	}
	beyond := false
	if reason, message := c.rejection(); reason != "" {
		beyond = c.established && c.ing.takesEstablished(c.th, structBytes+mapBytes+openBytes+freshBytes+allocated(e.Labels.ByteSize()), c.limit)
		if !beyond {
			if reason == instanceMemory {
				c.ing.metrics.pressureRejected.Inc()
			}
			out.RejectEntry(i, reason, message, len(e.Samples), e.Labels.String)
			return nil
		}
	}
	out.Created = append(out.Created, i)
	return c.make(e, beyond)
}

func (c *creation) make(e *series.Entry, established bool) *memSeries {
	return c.ing.newSeries(c.th, newSeries{labels: e.Labels.Copy(), hash: e.Hash, ref: c.ing.nextRef.Add(1), established: established})
}

// rejection returns why a new series must be rejected, or "" if it can be accepted.
func (c *creation) rejection() (reason, message string) {
	active := c.th.count + c.th.reservedCount
	switch {
	case c.limit > 0 && active >= c.limit:
		return limits.MaxActiveSeries.Exceeded(c.lim, int64(active)).With(c.ing.where()).Reason()
	case c.ing.rejectsNew(c.th):
		return instanceMemory, fmt.Sprintf("memory for recent samples%s is nearly full: new series are rejected, existing series are accepted. "+
			"Drop labels with too many values, or wait: new series are accepted again when other series have ended "+
			"or when the operator adds ingesters or gives them more memory", c.ing.on())
	}
	return "", ""
}

// on returns " on" and the ingester's name, or "" without replication.
func (ing *Ingester) on() string {
	if ing.opts.Replication == 1 {
		return ""
	}
	return " on " + ing.opts.ID
}

// where returns the words for an error message that name the ingester whose series
// were counted, or "" without replication: then all series of the tenant were
// counted.
func (ing *Ingester) where() string {
	if ing.opts.Replication == 1 {
		return ""
	}
	return ing.on() + ", which stores a part of the tenant's series"
}

// localSeriesLimit returns this ingester's part of a tenant's series limit; 0 =
// unlimited.
func (ing *Ingester) localSeriesLimit(id tenant.ID, lim *limits.Limits) int {
	if lim.MaxActiveSeries <= 0 {
		return 0
	}
	shard := ing.opts.Replication
	if ing.opts.ShardSize != nil {
		shard = ing.opts.ShardSize(id, lim)
	}
	return max(1, lim.MaxActiveSeries*ing.opts.Replication/max(shard, ing.opts.Replication))
}

// newSeries are the properties of a series to be added.
type newSeries struct {
	labels      labels.Labels
	hash, ref   uint64
	established bool
}

// newSeries adds a series. The caller holds th.mu for writing.
func (ing *Ingester) newSeries(th *tenantHead, n newSeries) *memSeries {
	s := newMemSeries(n.labels, n.hash, n.ref)
	if n.established {
		s.established = true
		th.established++
		ing.metrics.established.Inc()
	}
	th.add(s)
	th.expectChunk(s)
	ing.metrics.seriesCreated.Inc()
	return s
}
