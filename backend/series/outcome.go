package series

import "fmt"

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
}

// Counts are samples by type.
type Counts struct{ Samples, Histograms, Exemplars int }

// EntryRefusal is what was refused of one entry of a request for one reason.
type EntryRefusal struct {
	Entry      int // its position in the request
	Reason     string
	Message    string
	Samples    int // histograms among them
	Histograms int
}

// RefuseEntry is Refuse for samples of the request's entry at a position, of
// which histograms are native histograms.
func (o *Outcome) RefuseEntry(entry int, reason, message string, samples, histograms int, offender func() string) {
	o.Refuse(reason, message, samples, offender)
	if n := len(o.Entries); n > 0 && o.Entries[n-1].Entry == entry && o.Entries[n-1].Reason == reason {
		o.Entries[n-1].Samples += samples
		o.Entries[n-1].Histograms += histograms
		return
	}
	o.Entries = append(o.Entries, EntryRefusal{Entry: entry, Reason: reason, Message: message, Samples: samples, Histograms: histograms})
}

// Refuse counts samples refused for a reason. offender is asked for the text of
// the series only while the answer still has room for it.
func (o *Outcome) Refuse(reason, message string, samples int, offender func() string) {
	r := o.refusal(reason)
	if r == nil {
		o.Refusals = append(o.Refusals, Refusal{Reason: reason, Message: message})
		r = &o.Refusals[len(o.Refusals)-1]
	}
	r.Samples += samples
	if len(r.Offenders) < maxOffenders && offender != nil {
		r.Offenders = append(r.Offenders, offender())
	}
}

func (o *Outcome) refusal(reason string) *Refusal {
	for i := range o.Refusals {
		if o.Refusals[i].Reason == reason {
			return &o.Refusals[i]
		}
	}
	return nil
}

// Add joins the outcome of another part of the same request.
func (o *Outcome) Add(p Outcome) {
	o.Samples += p.Samples
	o.Histograms += p.Histograms
	o.Exemplars += p.Exemplars
	for _, q := range p.Refusals {
		r := o.refusal(q.Reason)
		if r == nil {
			o.Refusals = append(o.Refusals, q)
			continue
		}
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
