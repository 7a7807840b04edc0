package series

import (
	"fmt"
	"slices"
)

// maxOffenders is how many refused series an answer names.
const maxOffenders = 5

// Refusal counts what was refused of a request for one reason.
type Refusal struct {
	Reason    string   // stable, for metrics: "series_limit", "too_old", ...
	Message   string   // for people: names the limit, its value and what to do
	Samples   int      // how many samples were refused for it
	Offenders []string // the first few series refused
}

// Outcome is what became of a write request: what was kept, and what was
// refused and why. Refusals are the sender's to mend; they are not errors.
type Outcome struct {
	Samples, Histograms, Exemplars int
	Refusals                       []Refusal
	// Deduplicated counts what was dropped because another replica of the sender is
	// heard: no refusal, and nothing to mend.
	Deduplicated Counts
	// Charged is what the request costs beside its samples, in samples.
	Charged int
	// Entries says which entries of the request the refused samples are of, as far
	// as an ingester refused them.
	Entries []EntryRefusal
	// Repeats says of which entries samples were there already, as far as an ingester
	// knows. Such samples count as kept.
	Repeats []EntryRepeats
	// Created are the positions, ascending, of the request's entries that an
	// ingester accepted as series it did not know.
	Created []int
}

// Counts are samples by type.
type Counts struct{ Samples, Histograms, Exemplars int }

// EntryRefusal is what was refused of one entry of a request for one reason.
type EntryRefusal struct {
	Entry   int // its position in the request
	Reason  string
	Message string
	Places  []uint32 // positions of the refused samples in the entry, ascending; nil: all
}

// EntryRepeats counts the samples of an entry at whose time the series had one.
type EntryRepeats struct {
	Entry           int // its position in the request
	Same, Different int // values
}

// RefuseEntry is Refuse for all samples of the request's entry at a position.
func (o *Outcome) RefuseEntry(entry int, reason, message string, samples int, offender func() string) {
	o.Refuse(reason, message, samples, offender)
	o.Entries = append(o.Entries, EntryRefusal{Entry: entry, Reason: reason, Message: message})
}

// RefuseSample is Refuse for one sample of the request's entry at a position.
func (o *Outcome) RefuseSample(entry, place int, reason, message string, offender func() string) {
	o.Refuse(reason, message, 1, offender)
	if n := len(o.Entries); n == 0 || o.Entries[n-1].Entry != entry || o.Entries[n-1].Reason != reason {
		o.Entries = append(o.Entries, EntryRefusal{Entry: entry, Reason: reason, Message: message})
	}
	e := &o.Entries[len(o.Entries)-1]
	e.Places = append(e.Places, uint32(place))
}

// Repeat counts samples of an entry that were there already.
func (o *Outcome) Repeat(entry, same, different int) {
	if same+different > 0 {
		o.Repeats = append(o.Repeats, EntryRepeats{Entry: entry, Same: same, Different: different})
	}
}

// Refuse counts samples refused for a reason. offender is asked for the text of
// the series only while the answer still has room for it.
func (o *Outcome) Refuse(reason, message string, samples int, offender func() string) {
	o.Refusals = Refuse(o.Refusals, reason, message, samples, offender)
}

// Refuse is Outcome.Refuse for a list of refusals, which it returns.
func Refuse(list []Refusal, reason, message string, samples int, offender func() string) []Refusal {
	i := refusalFor(list, reason)
	if i < 0 {
		i = len(list)
		list = append(list, Refusal{Reason: reason, Message: message})
	}
	r := &list[i]
	r.Samples += samples
	if len(r.Offenders) < maxOffenders && offender != nil {
		r.Offenders = append(r.Offenders, offender())
	}
	return list
}

// refusalFor is the position of the refusals for a reason; -1 when there are none.
func refusalFor(list []Refusal, reason string) int {
	return slices.IndexFunc(list, func(r Refusal) bool { return r.Reason == reason })
}

// Add joins the outcome of another part of the same request.
func (o *Outcome) Add(p Outcome) {
	o.Samples += p.Samples
	o.Histograms += p.Histograms
	o.Exemplars += p.Exemplars
	for _, q := range p.Refusals {
		i := refusalFor(o.Refusals, q.Reason)
		if i < 0 {
			o.Refusals = append(o.Refusals, q)
			continue
		}
		r := &o.Refusals[i]
		r.Samples += q.Samples
		room := min(maxOffenders-len(r.Offenders), len(q.Offenders))
		r.Offenders = append(r.Offenders, q.Offenders[:room]...)
	}
}

// String is the text of the refusals, one a line; empty when nothing was
// refused.
func (o *Outcome) String() string {
	var b []byte
	for i, r := range o.Refusals {
		if i > 0 {
			b = append(b, '\n')
		}
		b = fmt.Appendf(b, "%s (%s): %d samples refused", r.Message, r.Reason, r.Samples)
		for j, s := range r.Offenders {
			sep := ", "
			if j == 0 {
				sep = ", first: "
			}
			b = append(append(b, sep...), s...)
		}
	}
	return string(b)
}
