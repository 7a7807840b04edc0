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

// tally counts the responses of the replicas of each entry and decides whether the
// entry is accepted. The rules are in docs/cluster.md.
type tally struct {
	batch    *series.Batch
	parts    int
	majority uint8
	replicas int

	counts    []counts            // by entry
	rejected  map[int][]rejection // by entry, if there are any
	repeated  map[int]repeats     // by entry, if there are any
	open      int                 // entries that later responses may decide
	exemplars int64
	answered  int
	err       error
	large     *memory.TooLargeError // of a replica for which its part is too large
	tooLarge  int                   // parts that are too large for their replica
}

// counts are the numbers of an entry's or a sample's replicas by the kind of their
// response. A replica that failed for any other reason is not counted.
type counts struct {
	waiting  uint8 // neither responded nor failed yet
	existing uint8 // applied it, at least in part, to a series that the replica already had
	created  uint8 // applied it, at least in part, and created the series
	soft     uint8 // rejected it for lack of capacity, see soft
	hard     uint8 // rejected it because of its samples
	large    uint8 // cannot accept the request even when idle: it is too large
	partial  uint8 // of existing and created: rejected some of its samples
}

func (c counts) applied() uint8 { return c.existing + c.created }

// rejection is a replica's rejection of an entry or of some of its samples.
type rejection struct {
	instance        *ring.Instance
	soft            bool
	created         bool     // for a partial rejection: the replica created the series
	places          []uint32 // indexes of the rejected samples; nil means all
	reason, message string
}

// repeats are the numbers of an entry's duplicate samples in a replica, with the
// same and with different values.
type repeats struct{ same, different int }

// soft reports whether a reason depends on the capacity of the ingester and not on
// the samples: another replica that already has the series accepts it.
func soft(reason string) bool {
	return reason == limits.MaxActiveSeries.Name() || reason == "instance_memory"
}

func newTally(b *series.Batch, parts []part, replication int) *tally {
	t := &tally{batch: b, parts: len(parts), replicas: replication, majority: uint8(replication/2 + 1),
		counts: make([]counts, len(b.Entries)), rejected: map[int][]rejection{}, repeated: map[int]repeats{}}
	t.await(parts)
	return t
}

// each calls f with every entry of a part and with its position in the part.
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

// await adds the parts to those whose responses the tally waits for.
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

// isOpen reports whether a missing response may still decide an entry.
func (t *tally) isOpen(entry int) bool {
	return t.counts[entry].waiting > 0 && t.early(entry) == fateUndecided
}

// decided reports whether later responses cannot change the result.
func (t *tally) decided() bool {
	return t.open == 0 && (len(t.batch.Entries) > 0 || t.answered > t.parts/2)
}

// add counts a response. The response to a retried push replaces the earlier
// rejections of the same replica.
func (t *tally) add(a response) {
	repeated := a.part.established
	var large *memory.TooLargeError
	switch {
	case errors.As(a.err, &large):
		t.large = large
		t.tooLarge++
		// Only the text: one replica's TooLargeError must not be found in the request's error.
		t.err = errors.Join(t.err, errors.New(a.err.Error()))
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
		c.existing++
	}
}

// countRepeats counts the duplicate samples that a response reports. Replicas
// report the same numbers unless one was unavailable before, so the largest number
// is used.
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

// rejections returns the rejections of a response by position in the part. It
// merges the rejections of one entry and fills in messages that the response sends once per
// reason. A merged rejection with soft and hard reasons is hard: more capacity
// would not help.
func (t *tally) rejections(p *part, all []wire.Rejection) map[int64]rejection {
	rejected := make(map[int64]rejection, len(all))
	message := map[string]string{}
	for _, w := range all {
		if w.Message == "" {
			w.Message = message[w.Reason]
		}
		message[w.Reason] = w.Message
		r := rejection{soft: soft(w.Reason), places: w.Places, reason: w.Reason, message: w.Message}
		if old, ok := rejected[w.Entry]; ok { // the entry has several reasons
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

// within returns the valid places of an entry's rejected samples, sorted and without
// duplicates, or nil if all samples are rejected.
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

// reject counts a rejection. Replicas that lack capacity reject entries as a whole.
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

// withdraw removes a replica's rejection of an entry for lack of capacity.
func (t *tally) withdraw(entry int, in *ring.Instance) {
	before := len(t.rejected[entry])
	t.rejected[entry] = slices.DeleteFunc(t.rejected[entry], func(r rejection) bool { return r.instance == in })
	t.counts[entry].soft -= uint8(before - len(t.rejected[entry]))
}

// repeats returns the parts to be repeated, without their pushes: the undecided
// entries whose series one replica has, for the replicas that rejected them for
// lack of capacity.
func (t *tally) repeats() []part {
	if len(t.rejected) == 0 {
		return nil
	}
	var parts []part
	for entry := range t.counts {
		c := &t.counts[entry]
		if c.existing == 0 || c.soft == 0 || t.early(entry) != fateUndecided {
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
	if !t.decided() {
		return out, t.unavailable()
	}
	for i := range t.batch.Entries {
		if t.final(i) == fateUndecided {
			return series.Outcome{}, t.unavailable()
		}
		t.countSamples(i, &out)
		n := t.repeated[i]
		out.Repeat(i, n.same, n.different)
	}
	// Every replica of a series stores its exemplars. The number is extrapolated from
	// the responses so far.
	out.Exemplars = int(t.exemplars) * t.parts / (t.answered * t.replicas)
	return out, nil
}

// unavailable returns the error of a request that was not decided: an error that
// tells the sender to repeat it, or a TooLargeError if an entry is too large for so
// many replicas that a repetition cannot succeed.
func (t *tally) unavailable() error {
	if len(t.counts) == 0 && t.tooLarge >= t.parts-t.parts/2 { // a request with metadata only
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
			return fmt.Errorf("%w: one ingester accepted series %s, others rejected it: %s",
				ErrUnavailable, t.batch.Entries[i].Labels, all[0].message)
		}
	}
	return fmt.Errorf("%w: no response from ingesters", ErrUnavailable)
}
