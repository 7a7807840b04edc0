package limits

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/prometheus/common/model"

	"github.com/palliumhq/pallium/policies/blocked"
	"github.com/palliumhq/pallium/policies/nearest"
)

// Unit is the unit of a limit. It determines the format of values.
type Unit string

// The units.
const (
	PerSecond Unit = "per second" // a number, fractions allowed
	CPUs      Unit = "CPUs"       // a number, fractions allowed
	Count     Unit = "count"      // a whole number
	Bytes     Unit = "bytes"      // a whole number
	Time      Unit = "duration"   // a Prometheus duration such as 90s, 1h30m or 14d
	Switch    Unit = "switch"     // true or false
	LabelName Unit = "label name" // a label name, not empty
	Queries   Unit = "queries"    // a list of queries, one in each line, in the format of package blocked

	Namespaces Unit = "namespaces" // a list of namespaces of rules, one in each line
)

// Description is the declaration of one limit.
type Description struct {
	Name    string // the key in plans and overrides
	Unit    Unit
	Zero    string // the meaning of 0, false or an empty text
	Meaning string

	Default any    `json:"-"` // has the type of the limit's field
	Max     int64  `json:"-"` // the maximum of a numeric limit; 0: maxNumber
	Counts  string `json:"-"` // what a number other than bytes counts, in the plural
	Burst   string `json:"-"` // for a rate: the name of the limit of its burst
	Use     string `json:"-"` // text of the error about the use; %s is the amount
	Hint    string `json:"-"` // text of the error about what to do
}

// Describe returns all limits in the order of the Limits struct.
func Describe() []Description { return slices.Clone(table) }

// Names returns the keys of all limits.
func Names() []string {
	var out []string
	for _, d := range Describe() {
		out = append(out, d.Name)
	}
	return out
}

// Maximum values. They keep sums of limits within an int64, and numbers exact in JSON.
const (
	maxNumber   = 1 << 50
	maxDuration = 100 * 365 * 24 * time.Hour

	maxLabelName = 1024 // bytes

	maxNamespaces = 100 // entries of a list of namespaces
	maxNamespace  = 256 // bytes of an entry, as in package rules

	// maxSteps is the maximum of Prometheus' handler of range queries.
	maxSteps = 11_000
)

// Most returns the maximum value of a numeric limit.
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

// Check returns an error for the first value that is not allowed.
func (l Limits) Check() error {
	for i, d := range table {
		if err := d.check(l.field(Limit(i)).Interface()); err != nil {
			return err
		}
	}
	return nil
}

// allowed describes the valid values of a limit.
func (d Description) allowed() string {
	switch d.Unit {
	case PerSecond, CPUs:
		return fmt.Sprintf("a number from 0 (%s) to %d", d.Zero, int64(maxNumber))
	case Time:
		return fmt.Sprintf("a duration such as 90s, 1h30m or 14d, from 0s (%s) to 100y", d.Zero)
	case Switch:
		return "true or false"
	case LabelName:
		return fmt.Sprintf("a label name other than __name__, with 1 to %d bytes", maxLabelName)
	case Queries:
		return fmt.Sprintf("a text with at most %d queries, one in each line, or regular expressions after ~, and %d bytes",
			blocked.MaxPatterns, blocked.MaxBytes)
	case Namespaces:
		return fmt.Sprintf("a text with at most %d namespaces of rules, one in each line, each with at most %d bytes and without control "+
			"characters", maxNamespaces, maxNamespace)
	default:
		return fmt.Sprintf("a whole number from 0 (%s) to %d", d.Zero, d.most())
	}
}

func (d Description) reject(value any) error {
	return &Error{Key: d.Name, Message: fmt.Sprintf("limit %s: %v is not allowed: it must be %s", d.Name, value, d.allowed())}
}

// check validates a value of the type of the limit's field.
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
		switch d.Unit {
		case Queries:
			return d.checkQueries(v)
		case Namespaces:
			ok = validNamespaces(v)
		default:
			ok = validLabelName(v)
		}
	}
	if !ok {
		return d.reject(value)
	}
	return nil
}

func (d Description) checkQueries(list string) error {
	if _, err := blocked.Parse(list); err != nil {
		return &Error{Key: d.Name, Message: fmt.Sprintf("limit %s: %v; it must be %s", d.Name, err, d.allowed())}
	}
	return nil
}

// Lines returns the entries of a limit that is a list of namespaces: its lines without white space
// at their ends, and without empty lines.
func Lines(text string) []string {
	var out []string
	for line := range strings.SplitSeq(text, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

func validNamespaces(text string) bool {
	list := Lines(text)
	return len(list) <= maxNamespaces && !slices.ContainsFunc(list, func(s string) bool {
		return len(s) > maxNamespace || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl)
	})
}

func validLabelName(s string) bool {
	return s != "" && s != model.MetricNameLabel && len(s) <= maxLabelName && utf8.ValidString(s)
}

// Error is a mistake in a document with limits.
type Error struct {
	Key     string // the key as it was written
	Message string // contains the key, and says what is wrong
}

func (e *Error) Error() string { return e.Message }

// find returns the limit with the given name.
func find(key string) (Limit, error) {
	for i, d := range table {
		if d.Name == key {
			return Limit(i), nil
		}
	}
	msg := fmt.Sprintf("unknown limit %q", key)
	if near := nearest.Word(snakeCase(key), Names()); near != "" {
		msg += fmt.Sprintf("; did you mean %q?", near)
	}
	return 0, &Error{Key: key, Message: msg}
}

// describe returns the declaration of the limit with the given name.
func describe(key string) (Description, error) {
	l, err := find(key)
	if err != nil {
		return Description{}, err
	}
	return table[l], nil
}

// snakeCase converts a key to the spelling of limits; users of other JSON APIs try
// camelCase.
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
