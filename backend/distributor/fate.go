package distributor

import (
	"slices"

	"github.com/palliumhq/pallium/backend/series"
)

// fate is the decision about an entry or a sample.
type fate int

const (
	fateUndecided fate = iota
	fateAccepted
	fateRejected
)

// early returns the fate of an entry if no response of another replica can change
// it. An entry with both accepted and rejected samples is accepted.
func (t *tally) early(entry int) fate { return t.fate(entry, counts.early) }

// final returns the fate of an entry after all its replicas responded or failed.
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

// early returns the fate of the counted entry or sample if no response of another
// replica can change it.
func (c counts) early(majority uint8) fate {
	switch {
	case c.applied() >= majority:
		return fateAccepted
	case c.hard >= majority:
		return fateRejected
	}
	return fateUndecided
}

// final returns the fate of the counted entry or sample after all replicas
// responded or failed.
func (c counts) final(majority uint8) fate {
	if f := c.early(majority); f != fateUndecided {
		return f
	}
	// With fewer responses than a majority, the replicas that failed may have the
	// series, and an existing series must not be rejected permanently.
	if c.waiting == 0 && c.existing == 0 && c.created+c.soft+c.hard >= majority {
		return fateRejected
	}
	return fateUndecided
}

// samples returns the counts of each sample of an entry that replicas rejected in
// part.
func (t *tally) samples(entry int) []counts {
	out := make([]counts, len(t.batch.Entries[entry].Samples))
	for i := range out {
		out[i] = t.counts[entry]
	}
	for _, r := range t.rejected[entry] {
		for _, at := range r.places {
			c := &out[at]
			if r.created {
				c.created--
			} else {
				c.existing--
			}
			c.hard++
		}
	}
	return out
}

// countSamples adds the samples of a decided entry to the outcome.
func (t *tally) countSamples(entry int, out *series.Outcome) {
	e := &t.batch.Entries[entry]
	rejected := func(int) bool { return false }
	switch {
	case t.counts[entry].partial > 0:
		each := t.samples(entry)
		rejected = func(i int) bool { return each[i].final(t.majority) == fateRejected }
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
			offender = nil // name the series once
		case e.Samples[j].IsHistogram():
			out.Histograms++
		default:
			out.Samples++
		}
	}
}

// reasonFor returns why a sample was rejected. If replicas gave different reasons,
// the alphabetically first one is used.
func (t *tally) reasonFor(entry int, place uint32) rejection {
	var found *rejection
	all := t.rejected[entry]
	for i := range all {
		r := &all[i]
		if r.places != nil {
			if _, ok := slices.BinarySearch(r.places, place); !ok { // places are sorted
				continue
			}
		}
		if found == nil || r.reason < found.reason {
			found = r
		}
	}
	return *found
}
