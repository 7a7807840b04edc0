package frontend

import (
	"errors"

	"github.com/prometheus/prometheus/util/annotations"
)

// note is an annotation of an answer (a warning or an info) as text, to be stored.
// Annotations of Prometheus' engine print their position in the query once it is set.
type note struct {
	raw    string // by which annotations are deduplicated
	placed string // with the position
	info   bool
}

// notesOf returns annotations as notes. ok is false if one of them has a state that is not
// in its text, and that is joined with others of its kind.
func notesOf(all annotations.Annotations, query string) (list []note, ok bool) {
	for raw, err := range all {
		if errors.Is(err, annotations.HistogramQuantileForcedMonotonicityInfo) {
			return nil, false
		}
		n := note{raw: raw, placed: raw, info: errors.Is(err, annotations.PromQLInfo)}
		var placed interface {
			error
			SetQuery(query string)
		}
		if errors.As(err, &placed) {
			placed.SetQuery(query)
			n.placed = err.Error()
			placed.SetQuery("")
		}
		list = append(list, n)
	}
	return list, true
}

// storedNote is a note as an annotation again.
type storedNote struct {
	note
	placing bool // a query was set
}

// Error implements error.
func (n *storedNote) Error() string {
	if n.placing {
		return n.placed
	}
	return n.raw
}

// Unwrap tells warnings and infos apart.
func (n *storedNote) Unwrap() error {
	if n.info {
		return annotations.PromQLInfo
	}
	return annotations.PromQLWarning
}

// SetQuery makes Error return the position. The query is the one of the note.
func (n *storedNote) SetQuery(query string) { n.placing = query != "" }

// Merge implements the interface of annotations that are joined.
func (n *storedNote) Merge(error) error { return n }

// annotate adds notes to annotations.
func annotate(to *annotations.Annotations, list []note) {
	for _, n := range list {
		to.Add(&storedNote{note: n})
	}
}
