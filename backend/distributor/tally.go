package distributor

import (
	"errors"
	"fmt"
	"slices"

	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wire"
	"github.com/palliumhq/pallium/policies/limits"
)

// tally counts what the replicas of each entry said, and decides by it. The
// rules are in docs/cluster.md.
type tally struct {
	batch    *series.Batch
	parts    int
	majority uint8
	replicas int

	counts    []counts            // by entry
	rejected  map[int][]rejection // by entry, for those that have any
	repeated  map[int]repeats     // by entry, for those that have any
	open      int                 // entries that later answers may decide
	exemplars int64
	answered  int
	err       error
	large     *memory.TooLargeError // of a replica that can never take its part
	never     int                   // parts that replicas can never take
}

// counts are the answers of an entry's replicas by their kind, or those about one
// of its samples. A replica that failed is in none.
type counts struct {
	waiting uint8 // neither answered nor failed yet
	known   uint8 // applied it to a series that it had, at least in part
	created uint8 // applied it to a series that it did not have, at least in part
	soft    uint8 // rejected it for want of room, see soft
	hard    uint8 // rejected it for what its samples are
	large   uint8 // can never take the request, which is too large for it
	partial uint8 // of known and created: rejected some of its samples for what they are
}

func (c counts) applied() uint8 { return c.known + c.created }

// rejection is what one replica rejected of an entry.
type rejection struct {
	instance        *ring.Instance
	soft            bool
	created         bool     // a rejection in part: the series was new to the replica
	places          []uint32 // of the rejected samples; nil: all
	reason, message string
}

// repeats are what a replica had of an entry already.
type repeats struct{ same, different int }

// soft reports whether a reason depends on the room that an ingester has, and
// not on the samples: another replica that knows the series accepts it.
func soft(reason string) bool {
	return reason == limits.MaxActiveSeries.Name() || reason == "instance_memory"
}

func newTally(b *series.Batch, parts []part, replication int) *tally {
	t := &tally{batch: b, parts: len(parts), replicas: replication, majority: uint8(replication/2 + 1),
		counts: make([]counts, len(b.Entries)), rejected: map[int][]rejection{}, repeated: map[int]repeats{}}
	t.await(parts)
	return t
}

// each calls f with every entry of a part and its position in it.
func (t *tally) each(p *part, f func(position, entry int)) {
	if p.entries == nil {
		for i := range t.batch.Entries {
			f(i, i)
		}
		return
	}
	for i, entry := range p.entries {
		f(i, int(entry))
	}
}

// await makes the tally wait for the answers to these parts.
func (t *tally) await(parts []part) {
	for i := range parts {
		t.each(&parts[i], func(_, entry int) { t.counts[entry].waiting++ })
	}
	t.open = 0
	for i := range t.counts {
		if t.isOpen(i) {
			t.open++
		}
	}
}

// isOpen reports whether an answer that did not come yet may decide an entry.
func (t *tally) isOpen(entry int) bool {
	return t.counts[entry].waiting > 0 && t.early(entry) == fateUndecided
}

// settled reports whether later answers change nothing.
func (t *tally) settled() bool {
	return t.open == 0 && (len(t.batch.Entries) > 0 || t.answered > t.parts/2)
}

// add counts an answer. That to a repeated push takes the place of what its
// replica rejected before.
func (t *tally) add(a answer) {
	repeated := a.part.established
	var large *memory.TooLargeError
	switch {
	case errors.As(a.err, &large):
		t.large = large
		t.never++
		t.err = errors.Join(t.err, errors.New(a.err.Error())) // what one says does not decide
	case a.err != nil:
		t.err = errors.Join(t.err, a.err)
	default:
		t.exemplars += a.out.Exemplars
		if !repeated {
			t.answered++
		}
	}
	rejected := t.rejections(a.part, a.out.Rejections)
	created := a.out.Created
	t.each(a.part, func(position, entry int) {
		for len(created) > 0 && int64(created[0]) < int64(position) {
			created = created[1:]
		}
		before := t.isOpen(entry)
		c := &t.counts[entry]
		c.waiting--
		if large != nil {
			c.large++
		}
		if a.err == nil {
			if repeated {
				t.withdraw(entry, a.part.instance)
			}
			isNew := len(created) > 0 && int64(created[0]) == int64(position)
			if r, isRejected := rejected[int64(position)]; isRejected {
				r.instance, r.created = a.part.instance, isNew
				t.reject(entry, r)
			} else {
				c.apply(isNew)
			}
		}
		if before && !t.isOpen(entry) {
			t.open--
		}
	})
	if a.err == nil {
		t.countRepeats(a.part, a.out.Repeats)
	}
}

func (c *counts) apply(isNew bool) {
	if isNew {
		c.created++
	} else {
		c.known++
	}
}

// countRepeats takes what an answer says of samples that were there already. All
// replicas say the same of a sample, unless one was away: the largest counts.
func (t *tally) countRepeats(p *part, all []wire.Repeats) {
	for _, r := range all {
		entry := int(r.Entry)
		if p.entries != nil {
			if r.Entry < 0 || r.Entry >= int64(len(p.entries)) {
				continue
			}
			entry = int(p.entries[r.Entry])
		}
		if entry < 0 || entry >= len(t.batch.Entries) {
			continue
		}
		n := t.repeated[entry]
		most := int64(len(t.batch.Entries[entry].Samples))
		t.repeated[entry] = repeats{same: max(n.same, int(min(r.Same, most))), different: max(n.different, int(min(r.Different, most)))}
	}
}

// rejections are an answer's by position, those of one entry as one and with all
// their messages. One that is soft and hard is hard: no room cures it.
func (t *tally) rejections(p *part, all []wire.Rejection) map[int64]rejection {
	rejected := make(map[int64]rejection, len(all))
	message := map[string]string{}
	for _, w := range all {
		if w.Message == "" {
			w.Message = message[w.Reason]
		}
		message[w.Reason] = w.Message
		r := rejection{soft: soft(w.Reason), places: w.Places, reason: w.Reason, message: w.Message}
		if old, ok := rejected[w.Entry]; ok { // for two reasons
			if r.soft {
				r.soft, r.reason, r.message = old.soft, old.reason, old.message
			}
			if r.places = append(slices.Clone(old.places), r.places...); len(old.places) == 0 || len(w.Places) == 0 {
				r.places = nil
			}
		}
		rejected[w.Entry] = r
	}
	t.each(p, func(position, entry int) {
		if r, ok := rejected[int64(position)]; ok && len(r.places) > 0 {
			r.places = t.within(entry, r.places)
			rejected[int64(position)] = r
		}
	})
	return rejected
}

// within sorts the places of an entry's rejected samples; nil when all are.
func (t *tally) within(entry int, places []uint32) []uint32 {
	most := uint32(len(t.batch.Entries[entry].Samples))
	places = slices.Clone(places)
	slices.Sort(places)
	places = slices.DeleteFunc(slices.Compact(places), func(p uint32) bool { return p >= most })
	if len(places) == int(most) {
		return nil
	}
	return places
}

// reject counts a rejection. What replicas reject for want of room they reject as a
// whole.
func (t *tally) reject(entry int, r rejection) {
	c := &t.counts[entry]
	switch {
	case r.soft:
		r.places = nil
		c.soft++
	case r.places == nil:
		c.hard++
	default:
		c.apply(r.created)
		if len(r.places) == 0 {
			return
		}
		c.partial++
	}
	t.rejected[entry] = append(t.rejected[entry], r)
}

// withdraw takes back what a replica rejected of an entry for want of room.
func (t *tally) withdraw(entry int, in *ring.Instance) {
	before := len(t.rejected[entry])
	t.rejected[entry] = slices.DeleteFunc(t.rejected[entry], func(r rejection) bool { return r.instance == in })
	t.counts[entry].soft -= uint8(before - len(t.rejected[entry]))
}

// repeats returns the parts, without their pushes, that have the undecided
// entries which one replica knows, for those that rejected them for want of
// room.
func (t *tally) repeats() []part {
	if len(t.rejected) == 0 {
		return nil
	}
	var parts []part
	for entry := range t.counts {
		c := &t.counts[entry]
		if c.known == 0 || c.soft == 0 || t.early(entry) != fateUndecided {
			continue
		}
		for _, r := range t.rejected[entry] {
			if !r.soft {
				continue
			}
			i := slices.IndexFunc(parts, func(p part) bool { return p.instance == r.instance })
			if i < 0 {
				i = len(parts)
				parts = append(parts, part{instance: r.instance})
			}
			parts[i].entries = append(parts[i].entries, int32(entry))
		}
	}
	return parts
}

func (t *tally) outcome() (series.Outcome, error) {
	var out series.Outcome
	if !t.settled() {
		return out, t.unavailable()
	}
	for i := range t.batch.Entries {
		if t.final(i) == fateUndecided {
			return series.Outcome{}, t.unavailable()
		}
		t.settle(i, &out)
		n := t.repeated[i]
		out.Repeat(i, n.same, n.different)
	}
	// Every replica that takes a series keeps its exemplars; answers that did not
	// come yet are not waited for.
	out.Exemplars = int(t.exemplars) * t.parts / (t.answered * t.replicas)
	return out, nil
}

// unavailable is the error of a request that could not be decided: to be repeated,
// but for one with an entry that too many replicas can never take.
func (t *tally) unavailable() error {
	if len(t.counts) == 0 && t.never >= t.parts-t.parts/2 { // it has metadata alone
		return fmt.Errorf("push to ingesters: %w", t.large)
	}
	for i := range t.counts {
		if int(t.counts[i].large) > t.replicas-int(t.majority) && t.final(i) == fateUndecided {
			return fmt.Errorf("push to ingesters: %w", t.large)
		}
	}
	if t.err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, t.err)
	}
	for i := range t.counts {
		if all := t.rejected[i]; len(all) > 0 && t.final(i) == fateUndecided {
			return fmt.Errorf("%w: one ingester has series %s and others reject it: %s", ErrUnavailable, t.batch.Entries[i].Labels, all[0].message)
		}
	}
	return fmt.Errorf("%w: ingesters have not answered", ErrUnavailable)
}
