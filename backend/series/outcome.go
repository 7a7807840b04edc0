package series

import (
	"fmt"
	"slices"
)

// maxOffenders is the maximum number of rejected series that a response names
// per reason.
const maxOffenders = 5

// Rejection counts the samples of a request that were rejected for one reason.
type Rejection struct {
	Reason    string   // value of the label reason of metrics: "max_active_series", "malformed_series", ...
	Message   string   // for the sender: names the limit, its value and what to do
	Samples   int      // number of rejected samples
	Offenders []string // the first rejected series, at most maxOffenders
}

// Outcome is the result of a write request: the numbers of accepted samples,
// and the rejected samples with reasons. Rejections are caused by the sender's
// data; they are not errors of Pallium.
type Outcome struct {
	Samples, Histograms, Exemplars int
	Rejections                     []Rejection
	// Deduplicated counts samples dropped because another HA replica of the
	// sender is elected. They are not rejections; the sender need not do
	// anything.
	Deduplicated Counts
	// Charged is the cost of the request in addition to its samples, in
	// samples.
	Charged int
	// Entries has the positions of the rejected samples that were rejected by
	// an ingester.
	Entries []EntryRejection
	// Repeats has the entries with duplicate samples, which an ingester
	// detected. Such samples count as accepted.
	Repeats []EntryRepeats
	// Created has the positions, ascending, of the request's entries that an
	// ingester accepted as new series.
	Created []int
}

// Counts are samples by type.
type Counts struct{ Samples, Histograms, Exemplars int }

// EntryRejection has the samples of one entry of a request that were rejected
// for one reason.
type EntryRejection struct {
	Entry   int // its position in the request
	Reason  string
	Message string
	Places  []uint32 // positions of the rejected samples in the entry, ascending; nil: all
}

// EntryRepeats counts the duplicate samples of an entry: the series already had
// a sample at the same timestamp.
type EntryRepeats struct {
	Entry           int // its position in the request
	Same, Different int // duplicates with the same value, and with a different one
}

// RejectEntry is Reject for all samples of the entry at position entry of the
// request.
func (o *Outcome) RejectEntry(entry int, reason, message string, samples int, offender func() string) {
	o.Reject(reason, message, samples, offender)
	o.Entries = append(o.Entries, EntryRejection{Entry: entry, Reason: reason, Message: message})
}

// RejectSample is Reject for the sample at position place of the entry at
// position entry of the request.
func (o *Outcome) RejectSample(entry, place int, reason, message string, offender func() string) {
	o.Reject(reason, message, 1, offender)
	if n := len(o.Entries); n == 0 || o.Entries[n-1].Entry != entry || o.Entries[n-1].Reason != reason {
		o.Entries = append(o.Entries, EntryRejection{Entry: entry, Reason: reason, Message: message})
	}
	e := &o.Entries[len(o.Entries)-1]
	e.Places = append(e.Places, uint32(place))
}

// Repeat counts duplicate samples of an entry; see EntryRepeats.
func (o *Outcome) Repeat(entry, same, different int) {
	if same+different > 0 {
		o.Repeats = append(o.Repeats, EntryRepeats{Entry: entry, Same: same, Different: different})
	}
}

// Reject counts samples rejected for a reason. It calls offender for the text
// of the series only while fewer than maxOffenders are recorded.
func (o *Outcome) Reject(reason, message string, samples int, offender func() string) {
	o.Rejections = Reject(o.Rejections, reason, message, samples, offender)
}

// Reject is Outcome.Reject for a list of rejections. It returns the updated
// list.
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

// rejectionFor returns the position of the rejection with a reason, or -1.
func rejectionFor(list []Rejection, reason string) int {
	return slices.IndexFunc(list, func(r Rejection) bool { return r.Reason == reason })
}

// Add adds the counts and rejections of another part of the same request. It
// does not add Deduplicated, Charged, Entries, Repeats or Created.
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

// String returns the text of the rejections, one per line; empty if nothing was
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
