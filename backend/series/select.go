package series

import (
	"slices"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
)

// Request says what a read of series is to return.
type Request struct {
	Tenant     tenant.ID
	MinTime    int64 // Unix milliseconds, inclusive
	MaxTime    int64
	Matchers   []*labels.Matcher
	MaxSeries  int  // more are an error; 0 is no limit
	LabelsOnly bool // leave the chunks out
}

// Selection is the answer to a Request. Its chunks are valid until Release.
type Selection struct {
	Series []WithChunks // sorted by labels, each series once
	hold   []func()
}

// Sort sorts series by their labels: what an answer depends on beside the samples
// (ties, sums of floats, limits) is then the same whoever is asked.
func Sort(list []WithChunks) {
	slices.SortFunc(list, func(a, b WithChunks) int { return labels.Compare(a.Labels, b.Labels) })
}

// Hold adds something to be let go of when the selection is released.
func (s *Selection) Hold(release func()) { s.hold = append(s.hold, release) }

// Release lets go of what the chunks point into.
func (s *Selection) Release() {
	for _, f := range s.hold {
		f()
	}
	s.hold = nil
}

// What a series of a selection takes beside its labels, and each of its chunks,
// in bytes: the structs and the places in the maps that join them.
const (
	selectedOverhead = 200
	chunkOverhead    = 88
)

// SelectedBytes is about what a series takes in a selection, without the data of
// its chunks.
func SelectedBytes(ls labels.Labels, chunks int) int64 {
	return selectedOverhead + int64(ls.ByteSize()) + int64(chunks)*chunkOverhead
}
