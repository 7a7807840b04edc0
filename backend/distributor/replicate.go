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

// part is the part of a batch that is pushed to one ingester.
type part struct {
	instance *ring.Instance
	entries  []int32 // positions in the batch; nil means all
	push     *wire.Push
	load     *load // memory of the push
	// established marks a push that is retried at an ingester, see wire.PushRequest.
	established bool
}

// load is the memory of a push, held until the pushes of all parts that share it
// have ended.
type load struct {
	bytes int64
	parts atomic.Int32
}

// pushFactor is the number of bytes in memory per byte of a push's body: the body,
// the encoded message and the compressed message.
const pushFactor = 3

// response is an ingester's response to a part, or the error of the push.
type response struct {
	part *part
	out  wire.PushResponse
	err  error
}

// replicate pushes every series to its replica set and returns as soon as the
// responses decide about each one: a majority applied it, or it is rejected. If
// they do not decide about all, the whole request fails. The rules are in
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

// hold begins the holding for pushes to ingesters. It may outlive the request and
// is separate from the request's own holding.
func (d *Distributor) hold(b *series.Batch) *memory.Holding {
	// The string may share memory with the request's buffers.
	id := tenant.ID(strings.Clone(string(b.Tenant)))
	return d.opts.Memory.Begin(memory.Request{Tenant: id, Limit: b.Limits.MaxMemoryBytes, Write: true, Internal: id == tenant.Self})
}

// reserve reserves the memory for pushes to ingesters. It returns a TooLargeError
// for a request that would not fit even if it were the only one: repeating it would
// not help.
func (d *Distributor) reserve(ctx context.Context, h *memory.Holding, bytes int64) error {
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

// exchange pushes parts and counts the responses until the remaining ones cannot
// change the result. The holding is closed when the last push has ended.
func (d *Distributor) exchange(ctx context.Context, parts []part, t *tally, h *memory.Holding) error {
	total := int64(0)
	for i := range parts {
		total += int64(len(parts[i].push.Write))
	}
	d.inflight.Add(total)
	left := atomic.Int32{} // parts without a response
	left.Store(int32(len(parts)))
	responses := make(chan response, len(parts)) // buffered for all: later responses have no receiver
	for i := range parts {
		d.pushes.Go(func() {
			p := &parts[i]
			out, err := d.push(ctx, p)
			d.inflight.Add(-int64(len(p.push.Write)))
			p.push = nil // let it be freed while other parts are still in flight
			if p.load.parts.Add(-1) == 0 {
				h.Give(p.load.bytes)
			}
			if left.Add(-1) == 0 {
				h.Close()
			}
			responses <- response{p, out, err}
		})
	}
	for range parts {
		select {
		case a := <-responses:
			t.add(a)
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		}
		if t.decided() {
			break
		}
	}
	return nil
}

// repeat pushes entries again to the replicas that rejected them for lack of capacity,
// if another replica has their series. It runs once per request, after exchange: a
// response that arrives later causes no further push.
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
			err = d.reserve(ctx, h, p.load.bytes)
		}
		if err != nil {
			h.Close()
			return err
		}
		// A push may outlive the request, so it must not refer to the request's buffers.
		p.push = &wire.Push{PushRequest: wire.PushRequest{Tenant: strings.Clone(string(b.Tenant)), Write: e.Body(nil, false), Established: true}}
		p.established = true
	}
	t.await(parts)
	return d.exchange(ctx, parts, t, h)
}

// loadOf returns the load of one part whose body has the given number of bytes.
func loadOf(body int) *load {
	l := &load{bytes: pushFactor * int64(body)}
	l.parts.Store(1)
	return l
}

// push sends a part to its ingester. It continues after the response to the request
// was sent, so that the remaining replicas are written too.
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
		// A retried push ends with the request's deadline: a sender that got no
		// response sends the request again, which retries the push too.
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

// result returns the metric label for the result of a retried push.
func result(out *wire.PushResponse, err error) string {
	switch {
	case err != nil:
		return "failed"
	case len(out.Rejections) > 0:
		return "rejected"
	}
	return "accepted"
}

// split returns the parts of a batch. Metadata goes to every ACTIVE ingester of the
// tenant's shard, since each stores it with its part of the series.
func (d *Distributor) split(r *ring.Ring, b *series.Batch) ([]part, error) {
	instances := r.Instances()
	index := make([]int32, len(instances)) // of each instance's part, plus 1; 0 means none
	var parts []part
	at := func(i int32) *part {
		if index[i] == 0 {
			parts = append(parts, part{instance: &instances[i], entries: make([]int32, 0, len(b.Entries))})
			index[i] = int32(len(parts))
		}
		return &parts[index[i]-1]
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

// encode builds the pushes of the parts. Every series is encoded once. The memory
// of the pushes is reserved before they are built.
func (d *Distributor) encode(ctx context.Context, b *series.Batch, parts []part, h *memory.Holding) error {
	buf, _ := d.buffers.Get().([]byte)
	e, err := wire.EncodeEntries(b, buf)
	if err != nil {
		return err
	}
	const maxPooled = 4 << 20
	defer func() {
		if buf := e.Buffer(); cap(buf) <= maxPooled {
			d.buffers.Put(buf) //nolint:staticcheck // allocating the slice header costs little compared to the buffer
		}
	}()
	if err := d.reserve(ctx, h, setLoads(parts, e, len(b.Metadata) > 0)); err != nil {
		return err
	}
	pushes := map[*load]*wire.Push{} // parts with the whole batch share one push
	for i := range parts {
		p := &parts[i]
		if p.push = pushes[p.load]; p.push == nil {
			// A push may outlive the batch, so it must not refer to the batch's buffers.
			p.push = &wire.Push{
				PushRequest: wire.PushRequest{Tenant: strings.Clone(string(b.Tenant)), Write: e.Body(p.entries, len(b.Metadata) > 0)},
			}
			pushes[p.load] = p.push
		}
	}
	return nil
}

// setLoads sets the load of each part and returns the sum in bytes.
func setLoads(parts []part, e *wire.Entries, metadata bool) int64 {
	var whole *load // shared by the parts with the whole batch
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
