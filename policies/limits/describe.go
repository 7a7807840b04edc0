package limits

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prometheus/common/model"
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

// Description is one limit as documentation and the CLI show it.
type Description struct {
	Name    string // the key in plans and overrides
	Unit    Unit
	Zero    string // what 0 means, or false, or an empty name
	Meaning string
}

// Describe lists every limit in the order of the Limits struct.
func Describe() []Description {
	const unlimited, second = "unlimited", "one second's worth"
	return []Description{
		{"requests_per_second", PerSecond, unlimited, "requests of the tenant at the edge"},
		{"request_burst", Count, second, "requests that may come at once"},
		{"samples_per_second", PerSecond, unlimited, "samples written"},
		{"sample_burst", Count, second, "samples that may be written at once"},
		{"bytes_per_second", PerSecond, unlimited, "bytes of request bodies as sent"},
		{"byte_burst", Bytes, second, "bytes of request bodies that may come at once"},
		{"max_body_bytes", Bytes, unlimited, "size of one request body as sent"},
		{"max_decoded_bytes", Bytes, unlimited, "size of one request body after decompression"},
		{"max_concurrent_requests", Count, unlimited, "requests under way at once"},
		{"max_active_series", Count, unlimited, "series that got samples lately"},
		{"max_labels_per_series", Count, unlimited, "labels of one series"},
		{"max_label_name_length", Bytes, unlimited, "length of a label name"},
		{"max_label_value_length", Bytes, unlimited, "length of a label value"},
		{"max_exemplars", Count, "none are kept", "exemplars kept in memory"},
		{"max_metadata_metrics", Count, unlimited, "metrics that have a type, help or unit kept"},
		{"max_histogram_buckets", Count, unlimited, "buckets of one native histogram sample; one with more is reduced in resolution as far as that goes"},
		{"accept_ha_samples", Switch, "all samples are kept", "whether one of several replicas of a sender is elected, and only its samples are kept"},
		{"ha_cluster_label", LabelName, "not allowed", "label that names what the replicas are replicas of"},
		{"ha_replica_label", LabelName, "not allowed", "label that names the replica; it is taken off the samples that are kept"},
		{"ha_max_clusters", Count, "10000", "values of the cluster label seen within an hour"},
		{"past_grace", Time, "any age", "how old a sample may be"},
		{"future_grace", Time, "any time", "how far ahead of now a sample may be"},
		{"retention", Time, "for ever", "how long samples are kept"},
		{"max_query_range", Time, unlimited, "time that one query may span, with what its selectors look back"},
		{"max_query_steps", Count, "11000", "steps of a range query; it has a point more for each series. No more than 11000 are possible, as in Prometheus"},
		{"max_query_series", Count, unlimited, "series that one query may select"},
		{"max_query_samples", Count, unlimited, "samples that one query may hold in memory"},
		{"query_timeout", Time, unlimited, "how long one query may run"},
		{"max_concurrent_queries", Count, unlimited, "queries under way at once"},
		{"max_query_length", Bytes, unlimited, "length of a query's expression, or of all its selectors together"},
		{"max_queued_queries", Count, "none wait", "queries that wait for others of the tenant to end"},
		{"max_regex_instructions", Count, unlimited, "size of the regular expressions of one query, compiled"},
		{"max_memory_bytes", Bytes, "what a process allows", "memory that requests under way hold in one process"},
	}
}

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
	if name == "max_query_steps" {
		return maxSteps
	}
	return maxNumber
}

// Check reports the first value that is out of range.
func (l Limits) Check() error {
	for _, d := range Describe() {
		if err := d.check(l.field(d.Name).Interface()); err != nil {
			return err
		}
	}
	return nil
}

// field is the struct field with that yaml name; it is settable if l is.
func (l *Limits) field(name string) reflect.Value {
	v := reflect.ValueOf(l).Elem()
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("yaml") == name {
			return v.Field(i)
		}
	}
	return reflect.Value{}
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
		return fmt.Sprintf("a whole number from 0 (%s) to %d", d.Zero, Most(d.Name))
	}
}

func (d Description) refuse(value any) error {
	return &Error{Key: d.Name, Message: fmt.Sprintf("limit %s: %v is not allowed; it must be %s", d.Name, value, d.allowed())}
}

// check looks at a value of the type of the limit's field.
func (d Description) check(value any) error {
	ok := false
	switch v := value.(type) {
	case float64:
		ok = v >= 0 && v <= maxNumber && !math.IsNaN(v)
	case int:
		ok = v >= 0 && int64(v) <= Most(d.Name)
	case int64:
		ok = v >= 0 && v <= Most(d.Name)
	case Duration:
		ok = v >= 0 && time.Duration(v) <= maxDuration
	case bool:
		ok = true
	case string:
		ok = v != "" && v != model.MetricNameLabel && len(v) <= maxLabelName && utf8.ValidString(v)
	}
	if !ok {
		return d.refuse(value)
	}
	return nil
}

// Error is a mistake in a document of limits.
type Error struct {
	Key     string // the key as it was given
	Message string // names key and value, and what is allowed
}

func (e *Error) Error() string { return e.Message }

func describe(key string) (Description, error) {
	for _, d := range Describe() {
		if d.Name == key {
			return d, nil
		}
	}
	msg := fmt.Sprintf("there is no limit %q", key)
	if near := Nearest(key, Names()); near != "" {
		msg += fmt.Sprintf("; did you mean %q?", near)
	}
	return Description{}, &Error{Key: key, Message: msg}
}

// Nearest is the known word most like the given one, as a hint for a mistyped
// one, or "" if there are no known words.
func Nearest(word string, known []string) string {
	// camelCase is what users of other JSON APIs try first.
	var snake strings.Builder
	for _, c := range word {
		if 'A' <= c && c <= 'Z' {
			snake.WriteByte('_')
		}
		snake.WriteRune(c)
	}
	word = strings.ToLower(snake.String())
	const longest = 64
	word = word[:min(len(word), longest)]
	best, least := "", math.MaxInt
	for _, k := range known {
		if d := distance(word, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is Levenshtein's, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
