package series

import (
	"slices"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
)

// Request selects the series and chunks that a read returns.
type Request struct {
	Tenant     tenant.ID
	MinTime    int64 // Unix milliseconds, inclusive
	MaxTime    int64
	Matchers   []*labels.Matcher
	MaxSeries  int        // more series are an error; 0 = no limit
	LabelsOnly bool       // return no chunks
	Range      LabelRange // only series in this range are selected
	// Partial lets a read leave out days of the long-term store that cannot be read.
	Partial bool
}

// Selection is the result of a Request. Its chunks are valid until Release.
type Selection struct {
	Series  []WithChunks // sorted by labels, each series once
	Missing []MissingDay // only of a partial Request
	hold    []func()
}

// MissingDay is a UTC day whose samples in the long-term store could not be read.
type MissingDay struct {
	Day int64
	Err error
}

// Sort sorts series by their labels, so that results that depend on the order
// of series (ties, sums of floats, limits) do not depend on which sources
// responded.
func Sort(list []WithChunks) {
	slices.SortFunc(list, func(a, b WithChunks) int { return labels.Compare(a.Labels, b.Labels) })
}

// Hold adds a function that Release calls.
func (s *Selection) Hold(release func()) { s.hold = append(s.hold, release) }

// Release releases the memory and files to which the chunks refer.
func (s *Selection) Release() {
	for _, f := range s.hold {
		f()
	}
	s.hold = nil
}

// Memory in bytes of a series of a selection without its labels, and of each of
// its chunks without data: structs and entries of the maps that join them.
const (
	selectedOverhead = 200
	chunkOverhead    = 88
)

// SelectedBytes returns the approximate memory in bytes of a series in a
// selection, without the data of its chunks.
func SelectedBytes(ls labels.Labels, chunks int) int64 {
	return selectedOverhead + int64(ls.ByteSize()) + int64(chunks)*chunkOverhead
}
