package distributor

import (
	"slices"

	"github.com/palliumhq/pallium/backend/series"
)

// fate is what becomes of an entry.
type fate int

const (
	fateUndecided fate = iota
	fateAccepted
	fateRejected
)

// early is the fate of an entry whatever its other replicas will say. An entry of
// which some samples are accepted and others rejected is accepted.
func (t *tally) early(entry int) fate { return t.fate(entry, counts.early) }

// final is the fate of an entry of which all has been said.
func (t *tally) final(entry int) fate { return t.fate(entry, counts.final) }

func (t *tally) fate(entry int, of func(counts, uint8) fate) fate {
	c := t.counts[entry]
	if c.partial == 0 {
		return of(c, t.majority)
	}
	all := fateRejected
	for _, c := range t.samples(entry) {
		switch of(c, t.majority) {
		case fateUndecided:
			return fateUndecided
		case fateAccepted:
			all = fateAccepted
		case fateRejected:
		}
	}
	return all
}

// early is the fate of what the counts are of, whatever other replicas will say.
func (c counts) early(majority uint8) fate {
	switch {
	case c.applied() >= majority:
		return fateAccepted
	case c.hard >= majority:
		return fateRejected
	}
	return fateUndecided
}

// final is its fate when all has been said.
func (c counts) final(majority uint8) fate {
	if f := c.early(majority); f != fateUndecided {
		return f
	}
	// With fewer answers than a majority nothing says what the others know: a series
	// that they have must not be rejected for good.
	if c.waiting == 0 && c.known == 0 && c.created+c.soft+c.hard >= majority {
		return fateRejected
	}
	return fateUndecided
}

// samples returns the counts of each sample of an entry of which replicas rejected
// a part.
func (t *tally) samples(entry int) []counts {
	out := make([]counts, len(t.batch.Entries[entry].Samples))
	for i := range out {
		out[i] = t.counts[entry]
	}
	for _, r := range t.rejected[entry] {
		for _, place := range r.places {
			c := &out[place]
			if r.created {
				c.created--
			} else {
				c.known--
			}
			c.hard++
		}
	}
	return out
}

// settle counts the samples of an entry that is decided.
func (t *tally) settle(entry int, out *series.Outcome) {
	e := &t.batch.Entries[entry]
	rejected := func(int) bool { return false }
	switch {
	case t.counts[entry].partial > 0:
		each := t.samples(entry)
		rejected = func(place int) bool { return each[place].final(t.majority) == fateRejected }
	case t.final(entry) == fateRejected:
		r := t.reasonFor(entry, 0)
		out.Reject(r.reason, r.message, len(e.Samples), e.Labels.String)
		return
	}
	offender := e.Labels.String
	for j := range e.Samples {
		switch {
		case rejected(j):
			r := t.reasonFor(entry, uint32(j))
			out.Reject(r.reason, r.message, 1, offender)
			offender = nil // named once
		case e.Samples[j].IsHistogram():
			out.Histograms++
		default:
			out.Samples++
		}
	}
}

// reasonFor is why a sample was rejected: of several reasons the first by name.
func (t *tally) reasonFor(entry int, place uint32) rejection {
	var found *rejection
	all := t.rejected[entry]
	for i := range all {
		r := &all[i]
		if r.places != nil {
			if _, there := slices.BinarySearch(r.places, place); !there { // they are sorted
				continue
			}
		}
		if found == nil || r.reason < found.reason {
			found = r
		}
	}
	return *found
}
