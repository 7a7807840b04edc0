package limits

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Exceeded is the error of a request that exceeds a limit, usually of its tenant. Its text is for the
// tenant: it contains the limit, its value, the current use, and what to do. It is created by the
// methods of a Limit, which must be declared, or by ExceededSetting.
type Exceeded struct {
	name  string
	Limit string // the value, with its unit
	Use   string // what the request used or needs
	Hint  string // what to do; may be empty
}

// More is the use of a request if it is only known to be above the limit.
const More = -1

// Exceeded returns the error of a request that exceeds the limit; lim are the tenant's
// limits. used has the limit's unit (milliseconds for a duration), or is More.
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

// ExceededAt is like Exceeded, for callers that know only the value of the limit, in its
// unit: because a part of the request carries it, or because something other than the
// tenant's limits lowers it.
func (l Limit) ExceededAt(value, used int64) *Exceeded {
	d := &table[l]
	return d.exceeded(d.amount(value), used)
}

// ExceededSetting returns the error of a request that exceeds a limit that is not a limit of its
// tenant: a setting of the configuration, or a parameter of the request.
func ExceededSetting(name, value, use, hint string) *Exceeded {
	return &Exceeded{name: name, Limit: value, Use: use, Hint: hint}
}

// Name returns the name of the exceeded limit, as in metrics.
func (e *Exceeded) Name() string { return e.name }

// Of reports whether l is the exceeded limit.
func (e *Exceeded) Of(l Limit) bool { return e.name == l.Name() }

// With appends a detail to the text about the use.
func (e *Exceeded) With(detail string) *Exceeded {
	e.Use += detail
	return e
}

// Reason returns the reason, as in metrics, and the text for a part of a request that was
// rejected.
func (e *Exceeded) Reason() (name, text string) { return e.name, e.Error() }

func (e *Exceeded) Error() string {
	hint := e.Hint
	if hint != "" {
		hint = "; " + hint
	}
	return "limit " + e.name + " of " + e.Limit + " exceeded: " + e.Use + hint
}

// message is the encoding of an Exceeded between processes. Its fields are a stable
// format, because processes of different versions run at the same time.
type message struct{ Name, Limit, Use, Hint string }

// MarshalJSON implements json.Marshaler.
func (e *Exceeded) MarshalJSON() ([]byte, error) {
	return json.Marshal(message{Name: e.name, Limit: e.Limit, Use: e.Use, Hint: e.Hint})
}

// UnmarshalJSON implements json.Unmarshaler. The limit may be unknown to this version.
func (e *Exceeded) UnmarshalJSON(data []byte) error {
	var m message
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	*e = Exceeded{name: m.Name, Limit: m.Limit, Use: m.Use, Hint: m.Hint}
	return nil
}

// exceeded creates the error. It is called for every rejected sample, so it must be fast.
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

// value formats the value of the limit's field for errors.
func (d *Description) value(field reflect.Value) string {
	switch d.Unit {
	case PerSecond:
		return fmt.Sprintf("%g %s/s", field.Float(), d.Counts)
	case CPUs:
		return fmt.Sprintf("%g CPUs", field.Float())
	case Time:
		return Duration(field.Int()).String()
	case Switch, LabelName, Namespaces:
		return fmt.Sprint(field)
	}
	return d.amount(field.Int())
}

// amount formats a number with the unit that the limit counts. n is in milliseconds if the limit is a
// duration.
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
