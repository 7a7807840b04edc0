package series

import (
	"fmt"
	"slices"
)

// maxOffenders is how many rejected series an answer names.
const maxOffenders = 5

// Rejection counts what was rejected of a request for one reason.
type Rejection struct {
	Reason    string   // stable, for metrics: "series_limit", "too_old", ...
	Message   string   // for people: names the limit, its value and what to do
	Samples   int      // how many samples were rejected for it
	Offenders []string // the first few series rejected
}

// Outcome is what became of a write request: what was kept, and what was
// rejected and why. Rejections are the sender's to mend; they are not errors.
type Outcome struct {
	Samples, Histograms, Exemplars int
	Rejections                     []Rejection
	// Deduplicated counts what was dropped because another replica of the sender is
	// heard: no rejection, and nothing to mend.
	Deduplicated Counts
	// Charged is what the request costs beside its samples, in samples.
	Charged int
	// Entries says which entries of the request the rejected samples are of, as far
	// as an ingester rejected them.
	Entries []EntryRejection
	// Repeats says of which entries samples were there already, as far as an ingester
	// knows. Such samples count as kept.
	Repeats []EntryRepeats
	// Created are the positions, ascending, of the request's entries that an
	// ingester accepted as series it did not know.
	Created []int
}

// Counts are samples by type.
type Counts struct{ Samples, Histograms, Exemplars int }

// EntryRejection is what was rejected of one entry of a request for one reason.
type EntryRejection struct {
	Entry   int // its position in the request
	Reason  string
	Message string
	Places  []uint32 // positions of the rejected samples in the entry, ascending; nil: all
}

// EntryRepeats counts the samples of an entry at whose time the series had one.
type EntryRepeats struct {
	Entry           int // its position in the request
	Same, Different int // values
}

// RejectEntry is Reject for all samples of the request's entry at a position.
func (o *Outcome) RejectEntry(entry int, reason, message string, samples int, offender func() string) {
	o.Reject(reason, message, samples, offender)
	o.Entries = append(o.Entries, EntryRejection{Entry: entry, Reason: reason, Message: message})
}

// RejectSample is Reject for one sample of the request's entry at a position.
func (o *Outcome) RejectSample(entry, place int, reason, message string, offender func() string) {
	o.Reject(reason, message, 1, offender)
	if n := len(o.Entries); n == 0 || o.Entries[n-1].Entry != entry || o.Entries[n-1].Reason != reason {
		o.Entries = append(o.Entries, EntryRejection{Entry: entry, Reason: reason, Message: message})
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

// Reject counts samples rejected for a reason. offender is asked for the text of
// the series only while the answer still has room for it.
func (o *Outcome) Reject(reason, message string, samples int, offender func() string) {
	o.Rejections = Reject(o.Rejections, reason, message, samples, offender)
}

// Reject is Outcome.Reject for a list of rejections, which it returns.
func Reject(list []Rejection, reason, message string, samples int, offender func() string) []Rejection {
	i := rejectionFor(list, reason)
	if i < 0 {
		i = len(list)
		list = append(list, Rejection{Reason: reason, Message: message})
	}
	r := &list[i]
	r.Samples += samples
	if len(r.Offenders) < maxOffenders && offender != nil {
		r.Offenders = append(r.Offenders, offender())
	}
	return list
}

// rejectionFor is the position of the rejections for a reason; -1 when there are none.
func rejectionFor(list []Rejection, reason string) int {
	return slices.IndexFunc(list, func(r Rejection) bool { return r.Reason == reason })
}

// Add joins the outcome of another part of the same request.
func (o *Outcome) Add(p Outcome) {
	o.Samples += p.Samples
	o.Histograms += p.Histograms
	o.Exemplars += p.Exemplars
	for _, q := range p.Rejections {
		i := rejectionFor(o.Rejections, q.Reason)
		if i < 0 {
			o.Rejections = append(o.Rejections, q)
			continue
		}
		r := &o.Rejections[i]
		r.Samples += q.Samples
		room := min(maxOffenders-len(r.Offenders), len(q.Offenders))
		r.Offenders = append(r.Offenders, q.Offenders[:room]...)
	}
}

// String is the text of the rejections, one a line; empty when nothing was
// rejected.
func (o *Outcome) String() string {
	var b []byte
	for i, r := range o.Rejections {
		if i > 0 {
			b = append(b, '\n')
		}
		b = fmt.Appendf(b, "%s (%s): %d samples rejected", r.Message, r.Reason, r.Samples)
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
