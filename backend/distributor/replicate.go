package distributor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wire"
	"github.com/palliumhq/pallium/policies/limits"
)

// part is what one ingester gets of a batch.
type part struct {
	instance *ring.Instance
	entries  []int32 // positions in the batch; nil is all of them
	push     *wire.Push
}

// answer is what became of a part.
type answer struct {
	part *part
	out  wire.PushResponse
	err  error
}

// replicate writes every series to its replica set and returns as soon as the
// answers decide about each: a majority took it, or a majority refused it. When
// they cannot decide, the whole request fails.
func (d *Distributor) replicate(ctx context.Context, b *series.Batch, lim *limits.Limits) (series.Outcome, error) {
	r, err := d.opts.Ring.Ring(ctx)
	if err != nil {
		return series.Outcome{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if d.opts.ShardSize != nil {
		r = d.shards.get(r, b.Tenant, d.opts.ShardSize(lim))
	}
	parts, err := d.split(r, b)
	if err != nil {
		return series.Outcome{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err := d.encode(b, parts); err != nil {
		return series.Outcome{}, err
	}
	total := int64(0)
	for i := range parts {
		total += int64(len(parts[i].push.Write))
	}
	if !d.inflight.take(total) {
		return series.Outcome{}, fmt.Errorf("%w: more than %d bytes wait for ingesters", ErrUnavailable, d.opts.MaxInflightBytes)
	}
	answers := make(chan answer, len(parts)) // room for all: nobody may wait for a late one
	for i := range parts {
		d.pushes.Go(func() {
			p := &parts[i]
			size := int64(len(p.push.Write))
			out, err := d.push(ctx, p)
			d.inflight.give(size)
			answers <- answer{p, out, err}
		})
	}
	t := newTally(b, parts, d.opts.Replication)
	for range parts {
		select {
		case a := <-answers:
			t.add(a)
		case <-ctx.Done():
			return series.Outcome{}, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		}
		if t.decided() {
			break
		}
	}
	return t.outcome()
}

// push sends a part to its ingester. It goes on when the request has its answer:
// the third replica is worth having.
func (d *Distributor) push(ctx context.Context, p *part) (wire.PushResponse, error) {
	rep, err := d.opts.Replica(p.instance)
	if err != nil {
		d.failures.WithLabelValues(p.instance.ID).Inc()
		return wire.PushResponse{}, fmt.Errorf("ingester %s: %w", p.instance.ID, err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.opts.PushTimeout)
	defer cancel()
	out, err := rep.Push(ctx, p.push)
	if err != nil {
		d.failures.WithLabelValues(p.instance.ID).Inc()
		return out, fmt.Errorf("ingester %s: %w", p.instance.ID, err)
	}
	return out, nil
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

// encode makes the parts' requests. Every series is encoded once.
func (d *Distributor) encode(b *series.Batch, parts []part) error {
	buf, _ := d.buffers.Get().([]byte)
	e, err := wire.EncodeEntries(b, buf)
	if err != nil {
		return err
	}
	var whole *wire.Push // for those that get everything
	for i := range parts {
		p := &parts[i]
		if p.entries == nil && whole != nil {
			p.push = whole
			continue
		}
		// Late pushes outlive the batch and its buffers.
		p.push = &wire.Push{PushRequest: wire.PushRequest{Tenant: strings.Clone(string(b.Tenant)), Write: e.Body(p.entries, len(b.Metadata) > 0)}}
		if p.entries == nil {
			whole = p.push
		}
	}
	const maxPooled = 4 << 20
	if buf = e.Buffer(); cap(buf) <= maxPooled {
		d.buffers.Put(buf) //nolint:staticcheck // the header is small beside what it saves
	}
	return nil
}

// tally counts what the replicas of each entry said.
type tally struct {
	batch    *series.Batch
	parts    int
	majority uint8
	replicas int

	applied, refused []uint8
	open             int                  // entries without a decision
	least            map[int]wire.Refusal // by entry: the smallest refusal so far
	exemplars        int64
	answered, failed int
	err              error
}

func newTally(b *series.Batch, parts []part, replication int) *tally {
	n := len(b.Entries)
	return &tally{batch: b, parts: len(parts), replicas: replication, majority: uint8(replication/2 + 1),
		applied: make([]uint8, n), refused: make([]uint8, n), open: n, least: map[int]wire.Refusal{}}
}

func (t *tally) add(a answer) {
	if a.err != nil {
		t.failed++
		t.err = errors.Join(t.err, a.err)
		return
	}
	t.answered++
	t.exemplars += a.out.Exemplars
	refused := map[int64]wire.Refusal{} // by position in the part
	message := map[string]string{}
	for _, r := range a.out.Refusals {
		if r.Message == "" {
			r.Message = message[r.Reason]
		}
		message[r.Reason] = r.Message
		if old, ok := refused[r.Entry]; ok { // for two reasons
			r.Samples += old.Samples
			r.Histograms += old.Histograms
		}
		refused[r.Entry] = r
	}
	n := len(a.part.entries)
	if a.part.entries == nil {
		n = len(t.batch.Entries)
	}
	for i := range n {
		entry := i
		if a.part.entries != nil {
			entry = int(a.part.entries[i])
		}
		before := t.done(entry)
		if r, ok := refused[int64(i)]; ok && r.Samples > 0 {
			t.refused[entry]++
			if least, ok := t.least[entry]; !ok || r.Samples < least.Samples {
				t.least[entry] = r
			}
		} else {
			t.applied[entry]++
		}
		if !before && t.done(entry) {
			t.open--
		}
	}
}

func (t *tally) done(entry int) bool {
	return t.applied[entry] >= t.majority || t.refused[entry] >= t.majority
}

// decided reports whether later answers change nothing.
func (t *tally) decided() bool {
	return t.open == 0 && (len(t.batch.Entries) > 0 || t.answered > t.parts/2)
}

func (t *tally) outcome() (series.Outcome, error) {
	if !t.decided() {
		if t.err == nil {
			t.err = errors.New("the replicas of a series disagree whether to take it")
		}
		return series.Outcome{}, fmt.Errorf("%w: %w", ErrUnavailable, t.err)
	}
	var out series.Outcome
	for i := range t.batch.Entries {
		e := &t.batch.Entries[i]
		histograms := 0
		for j := range e.Samples {
			if e.Samples[j].IsHistogram() {
				histograms++
			}
		}
		floats := len(e.Samples) - histograms
		if t.applied[i] < t.majority {
			r := t.least[i]
			histograms -= int(r.Histograms)
			floats -= int(r.Samples - r.Histograms)
			out.Refuse(r.Reason, r.Message, int(r.Samples), e.Labels.String)
		}
		out.Samples += max(floats, 0)
		out.Histograms += max(histograms, 0)
	}
	// Every replica that takes a series keeps its exemplars; answers that did not
	// come yet are not waited for.
	out.Exemplars = int(t.exemplars) * t.parts / (t.answered * t.replicas)
	return out, nil
}
