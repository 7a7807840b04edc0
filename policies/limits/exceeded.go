package limits

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Exceeded is the error of a request that exceeds one of its tenant's limits. Its
// text is for the tenant: it names the limit, its value, the use, and what to do.
// It is made with the Exceeded of a Limit, so that only a declared limit has one.
type Exceeded struct {
	name  string
	Limit string // the value, with its unit
	Use   string // what the request wanted or used
	Hint  string // how to stay below; may be empty
}

// More is a use that is only known to be above the limit.
const More = -1

// Exceeded is the error of a request that exceeds the limit, which is one of lim.
// used is in the limit's unit (milliseconds for a duration), or More.
func (l Limit) Exceeded(lim *Limits, used int64) *Exceeded {
	d := &table[l]
	value := d.value(lim.field(l))
	if d.Burst != "" {
		if burst, err := find(d.Burst); err == nil && lim.field(burst).Int() > 0 {
			value += fmt.Sprintf(" (burst %d)", lim.field(burst).Int())
		}
	}
	return d.exceeded(value, used)
}

// ExceededAt is Exceeded where only the value of a limit is known, in its unit: a
// part of the request carries it, or something other than the tenant's limits makes
// it lower.
func (l Limit) ExceededAt(value, used int64) *Exceeded {
	d := &table[l]
	return d.exceeded(d.amount(value), used)
}

// ExceededSetting is the error of a request that exceeds a setting of the
// configuration, which holds for every tenant.
func ExceededSetting(name, value, use, hint string) *Exceeded {
	return &Exceeded{name: name, Limit: value, Use: use, Hint: hint}
}

// Name is the name of the limit that is exceeded, as in metrics.
func (e *Exceeded) Name() string { return e.name }

// Of reports whether the limit is the one that is exceeded.
func (e *Exceeded) Of(l Limit) bool { return e.name == l.Name() }

// With adds what the text of the limit's declaration cannot have to the use.
func (e *Exceeded) With(detail string) *Exceeded {
	e.Use += detail
	return e
}

// Reason is what a rejected part of a request is told: the reason as in metrics, and
// the text.
func (e *Exceeded) Reason() (name, text string) { return e.name, e.Error() }

func (e *Exceeded) Error() string {
	hint := e.Hint
	if hint != "" {
		hint = "; " + hint
	}
	return "limit " + e.name + " of " + e.Limit + " exceeded: " + e.Use + hint
}

// message is what processes tell each other of an Exceeded. Its fields are a format:
// processes of different versions run side by side.
type message struct{ Name, Limit, Use, Hint string }

// MarshalJSON implements json.Marshaler.
func (e *Exceeded) MarshalJSON() ([]byte, error) {
	return json.Marshal(message{Name: e.name, Limit: e.Limit, Use: e.Use, Hint: e.Hint})
}

// UnmarshalJSON implements json.Unmarshaler. The limit may be one that this version
// does not know.
func (e *Exceeded) UnmarshalJSON(data []byte) error {
	var m message
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	*e = Exceeded{name: m.Name, Limit: m.Limit, Use: m.Use, Hint: m.Hint}
	return nil
}

// exceeded makes the error. It is made for each sample that is rejected, so it is quick.
func (d *Description) exceeded(value string, used int64) *Exceeded {
	use := d.Use
	if before, after, ok := strings.Cut(use, "%s"); ok {
		amount := "more"
		if used != More {
			amount = d.amount(used)
		}
		use = before + amount + after
	}
	return &Exceeded{name: d.Name, Limit: value, Use: use, Hint: d.Hint}
}

// value is the value of the limit's field as errors have it.
func (d *Description) value(field reflect.Value) string {
	switch d.Unit {
	case PerSecond:
		return fmt.Sprintf("%g %s/s", field.Float(), d.Counts)
	case Time:
		return Duration(field.Int()).String()
	case Switch, LabelName:
		return fmt.Sprint(field)
	}
	return d.amount(field.Int())
}

// amount is so much of what the limit counts. A duration is in milliseconds.
func (d *Description) amount(n int64) string {
	switch d.Unit {
	case Bytes:
		return strconv.FormatInt(n, 10) + " bytes"
	case Time:
		const longest = 290 * 365 * 24 * int64(time.Hour/time.Second) // a time.Duration ends at 292 years
		return Duration(time.Duration(min(n/1000, longest)) * time.Second).String()
	}
	return strconv.FormatInt(n, 10) + " " + d.Counts
}
