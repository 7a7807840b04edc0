package evaluation

import (
	"errors"

	"github.com/prometheus/prometheus/util/annotations"
)

// Note is an annotation of an answer (a warning or an info) as text. An annotation of Prometheus'
// engine prints its position in the query once the query is set.
type Note struct {
	Raw    string // without the position; annotations are deduplicated by it
	Placed string // with the position
	Info   bool
}

// NotesOf returns annotations as notes. joinable is false if an annotation has state outside its text
// that Prometheus merges with the state of other annotations of its kind.
func NotesOf(all annotations.Annotations, query string) (list []Note, joinable bool) {
	joinable = true
	for raw, err := range all {
		n := Note{Raw: raw, Placed: raw, Info: errors.Is(err, annotations.PromQLInfo)}
		if errors.Is(err, annotations.HistogramQuantileForcedMonotonicityInfo) || errors.Is(err, errUnjoinable) {
			joinable = false
		}
		var placed interface {
			error
			SetQuery(query string)
		}
		if errors.As(err, &placed) {
			placed.SetQuery(query)
			n.Placed = err.Error()
			placed.SetQuery("")
		}
		list = append(list, n)
	}
	return list, joinable
}

// errUnjoinable marks annotations that were received as text and for which NotesOf returned
// joinable = false.
var errUnjoinable = errors.New("annotation that must not be joined with those of other steps")

// Unjoinable reports whether annotations that Answer.Result returned must not be joined
// with those of other steps.
func Unjoinable(all annotations.Annotations) bool {
	for _, err := range all {
		if errors.Is(err, errUnjoinable) {
			return true
		}
	}
	return false
}

// storedNote is a Note that is used as an annotation of Prometheus.
type storedNote struct {
	Note
	placing    bool // a query was set
	unjoinable bool
}

// Error implements error.
func (n *storedNote) Error() string {
	if n.placing {
		return n.Placed
	}
	return n.Raw
}

// Unwrap returns the error by which Prometheus distinguishes warnings and infos.
func (n *storedNote) Unwrap() error {
	kind := annotations.PromQLWarning
	if n.Info {
		kind = annotations.PromQLInfo
	}
	if n.unjoinable {
		return marked{kind}
	}
	return kind
}

// marked is the kind of an annotation that must not be joined.
type marked struct{ error }

// Unwrap implements the interface of errors.Is.
func (m marked) Unwrap() error { return m.error }

// Is implements the interface of errors.Is.
func (m marked) Is(target error) bool { return target == errUnjoinable } //nolint:errorlint // this is its implementation

// SetQuery makes Error return the text with the position, unless query is empty. The query is that of the
// note.
func (n *storedNote) SetQuery(query string) { n.placing = query != "" }

// Merge implements the interface of annotations that are joined.
func (n *storedNote) Merge(error) error { return n }

// Annotate adds notes to annotations.
func Annotate(to *annotations.Annotations, list []Note) {
	for _, n := range list {
		to.Add(&storedNote{Note: n})
	}
}
