package limits

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prometheus/common/model"

	"github.com/palliumhq/pallium/policies/nearest"
)

// Unit says what a limit counts, and so how its value is written.
type Unit string

// The units.
const (
	PerSecond Unit = "per second" // a number, fractions allowed
	Count     Unit = "count"      // a whole number
	Bytes     Unit = "bytes"      // a whole number
	Time      Unit = "duration"   // a Prometheus duration such as 90s, 1h30m or 14d
	Switch    Unit = "switch"     // true or false
	LabelName Unit = "label name" // the name of a label, not empty
)

// Description is the declaration of one limit.
type Description struct {
	Name    string // the key in plans and overrides
	Unit    Unit
	Zero    string // what 0 means, or false, or an empty name
	Meaning string

	Default any    `json:"-"` // of the type of the limit's field
	Max     int64  `json:"-"` // the largest value of a number; 0: maxNumber
	Counts  string `json:"-"` // what a number that is not of bytes counts, in the plural
	Burst   string `json:"-"` // of a rate: the limit that is its burst
	Use     string `json:"-"` // what the error says about the use; %s is the amount
	Hint    string `json:"-"` // what the error says about how to stay below
}

// Describe lists every limit in the order of the Limits struct.
func Describe() []Description { return slices.Clone(table) }

// Names are the keys of all limits.
func Names() []string {
	var out []string
	for _, d := range Describe() {
		out = append(out, d.Name)
	}
	return out
}

// The largest values; they keep sums of limits within an int64, and numbers
// exact in JSON.
const (
	maxNumber   = 1 << 50
	maxDuration = 100 * 365 * 24 * time.Hour

	maxLabelName = 1024 // bytes

	// maxSteps is what Prometheus' handler of range queries lets through.
	maxSteps = 11_000
)

// Most is the largest value that a limit of a number may have.
func Most(name string) int64 {
	l, err := find(name)
	if err != nil {
		return maxNumber
	}
	return table[l].most()
}

func (d Description) most() int64 {
	if d.Max > 0 {
		return d.Max
	}
	return maxNumber
}

// Check reports the first value that is out of range.
func (l Limits) Check() error {
	for i, d := range table {
		if err := d.check(l.field(Limit(i)).Interface()); err != nil {
			return err
		}
	}
	return nil
}

// allowed is the range of a limit's values in words.
func (d Description) allowed() string {
	switch d.Unit {
	case PerSecond:
		return fmt.Sprintf("a number from 0 (%s) to %d", d.Zero, int64(maxNumber))
	case Time:
		return fmt.Sprintf("a duration such as 90s, 1h30m or 14d, from 0s (%s) to 100y", d.Zero)
	case Switch:
		return "true or false"
	case LabelName:
		return fmt.Sprintf("the name of a label other than __name__, of 1 to %d bytes", maxLabelName)
	default:
		return fmt.Sprintf("a whole number from 0 (%s) to %d", d.Zero, d.most())
	}
}

func (d Description) reject(value any) error {
	return &Error{Key: d.Name, Message: fmt.Sprintf("limit %s: %v is not allowed; it must be %s", d.Name, value, d.allowed())}
}

// check looks at a value of the type of the limit's field.
func (d Description) check(value any) error {
	ok := false
	switch v := value.(type) {
	case float64:
		ok = v >= 0 && v <= maxNumber && !math.IsNaN(v)
	case int:
		ok = v >= 0 && int64(v) <= d.most()
	case int64:
		ok = v >= 0 && v <= d.most()
	case Duration:
		ok = v >= 0 && time.Duration(v) <= maxDuration
	case bool:
		ok = true
	case string:
		ok = validLabelName(v)
	}
	if !ok {
		return d.reject(value)
	}
	return nil
}

func validLabelName(s string) bool {
	return s != "" && s != model.MetricNameLabel && len(s) <= maxLabelName && utf8.ValidString(s)
}

// Error is a mistake in a document of limits.
type Error struct {
	Key     string // the key as it was given
	Message string // names key and value, and what is allowed
}

func (e *Error) Error() string { return e.Message }

// find returns the limit of a name.
func find(key string) (Limit, error) {
	for i, d := range table {
		if d.Name == key {
			return Limit(i), nil
		}
	}
	msg := fmt.Sprintf("there is no limit %q", key)
	if near := nearest.Word(snakeCase(key), Names()); near != "" {
		msg += fmt.Sprintf("; did you mean %q?", near)
	}
	return 0, &Error{Key: key, Message: msg}
}

// describe returns the declaration of a limit's name.
func describe(key string) (Description, error) {
	l, err := find(key)
	if err != nil {
		return Description{}, err
	}
	return table[l], nil
}

// snakeCase is a key as limits are written; users of other JSON APIs try camelCase.
func snakeCase(key string) string {
	var b strings.Builder
	for _, c := range key {
		if 'A' <= c && c <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(c)
	}
	return b.String()
}
