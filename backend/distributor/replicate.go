package distributor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wire"
)

// part is what one ingester gets of a batch.
type part struct {
	instance *ring.Instance
	entries  []int32 // positions in the batch; nil is all of them
	push     *wire.Push
	load     *load // of the push
	// established marks what is repeated to an ingester, see wire.PushRequest.
	established bool
}

// load is what a push takes until the last part that it is of was answered.
type load struct {
	bytes int64
	parts atomic.Int32
}

// pushFactor is how many bytes a push takes for each of its body: the body, its
// message, and that compressed.
const pushFactor = 3

// answer is what became of a part.
type answer struct {
	part *part
	out  wire.PushResponse
	err  error
}

// replicate writes every series to its replica set and returns as soon as the
// answers decide about each: a majority applied it, or it is rejected for good.
// When they cannot decide, the whole request fails. The rules are in
// docs/cluster.md.
func (d *Distributor) replicate(ctx context.Context, b *series.Batch) (series.Outcome, error) {
	r, err := d.opts.Ring.Ring(ctx)
	if err != nil {
		return series.Outcome{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if d.opts.ShardSize != nil {
		r = d.shards.get(r, b.Tenant, d.opts.ShardSize(b.Limits))
	}
	parts, err := d.split(r, b)
	if err != nil {
		return series.Outcome{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	h := d.hold(b)
	if err := d.encode(ctx, b, parts, h); err != nil {
		h.Close()
		return series.Outcome{}, err
	}
	t := newTally(b, parts, d.opts.Replication)
	if err := d.exchange(ctx, parts, t, h); err != nil {
		return series.Outcome{}, err
	}
	if err := d.repeat(ctx, b, t); err != nil {
		return series.Outcome{}, err
	}
	return t.outcome()
}

// hold begins the account of what waits for ingesters. It may outlive the request
// and is none of its own account.
func (d *Distributor) hold(b *series.Batch) *memory.Holding {
	// The tenant's name may lie in the request's buffers.
	id := tenant.ID(strings.Clone(string(b.Tenant)))
	return d.opts.Memory.Begin(memory.Request{Tenant: id, Limit: b.Limits.MaxMemoryBytes, Write: true, Internal: id == tenant.Self})
}

// take takes the memory for pushes to ingesters. A request that could not have it
// if it were the only one is too large: repeating it would not help.
func (d *Distributor) take(ctx context.Context, h *memory.Holding, bytes int64) error {
	err := h.Take(bytes)
	if err == nil {
		return nil
	}
	need := memory.FromContext(ctx).Used() + h.Used() + bytes
	if most := h.Most(); errors.Is(err, memory.ErrFull) && most > 0 && need > most {
		err = &memory.TooLargeError{Need: need, Most: most}
	}
	return fmt.Errorf("push to ingesters: %w", err)
}

// exchange pushes parts and counts their answers until those that still come
// change nothing. It closes the holding when the last part was answered.
func (d *Distributor) exchange(ctx context.Context, parts []part, t *tally, h *memory.Holding) error {
	total := int64(0)
	for i := range parts {
		total += int64(len(parts[i].push.Write))
	}
	d.inflight.Add(total)
	left := atomic.Int32{} // parts that were not answered
	left.Store(int32(len(parts)))
	answers := make(chan answer, len(parts)) // room for all: nobody may wait for a late one
	for i := range parts {
		d.pushes.Go(func() {
			p := &parts[i]
			out, err := d.push(ctx, p)
			d.inflight.Add(-int64(len(p.push.Write)))
			p.push = nil // other parts may be long under way
			if p.load.parts.Add(-1) == 0 {
				h.Give(p.load.bytes)
			}
			if left.Add(-1) == 0 {
				h.Close()
			}
			answers <- answer{p, out, err}
		})
	}
	for range parts {
		select {
		case a := <-answers:
			t.add(a)
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		}
		if t.settled() {
			break
		}
	}
	return nil
}

// repeat pushes entries that one replica knows to the replicas that rejected
// them for want of room. It runs once in a request, before the request has its
// answer: an answer that comes later repeats nothing.
func (d *Distributor) repeat(ctx context.Context, b *series.Batch, t *tally) error {
	parts := t.repeats()
	if len(parts) == 0 {
		return nil
	}
	h := d.hold(b)
	for i := range parts {
		p := &parts[i]
		few := series.Batch{Tenant: b.Tenant, Entries: make([]series.Entry, len(p.entries))}
		for j, entry := range p.entries {
			few.Entries[j] = b.Entries[entry]
		}
		e, err := wire.EncodeEntries(&few, nil)
		if err == nil {
			p.load = loadOf(e.Size(nil, false))
			err = d.take(ctx, h, p.load.bytes)
		}
		if err != nil {
			h.Close()
			return err
		}
		// A push may outlive the request and has nothing of its buffers.
		p.push = &wire.Push{PushRequest: wire.PushRequest{Tenant: strings.Clone(string(b.Tenant)), Write: e.Body(nil, false), Established: true}}
		p.established = true
	}
	t.await(parts)
	return d.exchange(ctx, parts, t, h)
}

// loadOf is what a push of a body of so many bytes takes, for one part.
func loadOf(body int) *load {
	l := &load{bytes: pushFactor * int64(body)}
	l.parts.Store(1)
	return l
}

// push sends a part to its ingester. It goes on when the request has its answer:
// the third replica is worth having.
func (d *Distributor) push(ctx context.Context, p *part) (wire.PushResponse, error) {
	rep, err := d.opts.Replica(p.instance)
	if err != nil {
		d.failures.WithLabelValues(p.instance.ID).Inc()
		return wire.PushResponse{}, fmt.Errorf("ingester %s: %w", p.instance.ID, err)
	}
	deadline, limited := ctx.Deadline()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.opts.PushTimeout)
	defer cancel()
	if limited && p.established {
		// A repeat has what is left of the request's time: a sender that was told
		// nothing repeats the request, and that repeats this.
		var stop context.CancelFunc
		ctx, stop = context.WithDeadline(ctx, deadline)
		defer stop()
	}
	out, err := rep.Push(ctx, p.push)
	if p.established {
		d.established.WithLabelValues(p.instance.ID, result(&out, err)).Inc()
	}
	if err != nil {
		d.failures.WithLabelValues(p.instance.ID).Inc()
		return out, fmt.Errorf("ingester %s: %w", p.instance.ID, err)
	}
	return out, nil
}

// result names what became of a repeated push, for its metric.
func result(out *wire.PushResponse, err error) string {
	switch {
	case err != nil:
		return "failed"
	case len(out.Rejections) > 0:
		return "rejected"
	}
	return "accepted"
}

// split finds the parts of a batch. Metadata goes to every ingester that takes
// series of the tenant: each keeps it beside its part of them.
func (d *Distributor) split(r *ring.Ring, b *series.Batch) ([]part, error) {
	instances := r.Instances()
	places := make([]int32, len(instances)) // of an instance's part, from 1
	var parts []part
	at := func(i int32) *part {
		if places[i] == 0 {
			parts = append(parts, part{instance: &instances[i], entries: make([]int32, 0, len(b.Entries))})
			places[i] = int32(len(parts))
		}
		return &parts[places[i]-1]
	}
	var few [8]int32
	found := few[:0]
	for i := range b.Entries {
		var err error
		if found, err = r.Positions(series.Token(b.Tenant, b.Entries[i].Hash), d.opts.Replication, found); err != nil {
			return nil, err
		}
		for _, k := range found {
			p := at(k)
			p.entries = append(p.entries, int32(i))
		}
	}
	if len(b.Metadata) > 0 {
		for i := range instances {
			if instances[i].State == ring.Active && r.Has(int32(i)) {
				at(int32(i))
			}
		}
		if len(parts) == 0 {
			return nil, ring.ErrTooFew
		}
	}
	for i := range parts {
		if len(parts[i].entries) == len(b.Entries) {
			parts[i].entries = nil
		}
	}
	return parts, nil
}

// encode makes the parts' requests. Every series is encoded once, and the memory
// for what is put together of them is taken before.
func (d *Distributor) encode(ctx context.Context, b *series.Batch, parts []part, h *memory.Holding) error {
	buf, _ := d.buffers.Get().([]byte)
	e, err := wire.EncodeEntries(b, buf)
	if err != nil {
		return err
	}
	const maxPooled = 4 << 20
	defer func() {
		if buf := e.Buffer(); cap(buf) <= maxPooled {
			d.buffers.Put(buf) //nolint:staticcheck // the header is small beside what it saves
		}
	}()
	if err := d.take(ctx, h, loads(parts, e, len(b.Metadata) > 0)); err != nil {
		return err
	}
	pushes := map[*load]*wire.Push{} // that which is for all who get everything is one
	for i := range parts {
		p := &parts[i]
		if p.push = pushes[p.load]; p.push == nil {
			// Late pushes outlive the batch and its buffers.
			p.push = &wire.Push{
				PushRequest: wire.PushRequest{Tenant: strings.Clone(string(b.Tenant)), Write: e.Body(p.entries, len(b.Metadata) > 0)},
			}
			pushes[p.load] = p.push
		}
	}
	return nil
}

// loads gives each part the load of its push, and returns the sum of all.
func loads(parts []part, e *wire.Entries, metadata bool) int64 {
	var whole *load // of those that get everything
	sum := int64(0)
	for i := range parts {
		p := &parts[i]
		if p.entries == nil && whole != nil {
			whole.parts.Add(1)
			p.load = whole
			continue
		}
		p.load = loadOf(e.Size(p.entries, metadata))
		sum += p.load.bytes
		if p.entries == nil {
			whole = p.load
		}
	}
	return sum
}
