package series

import (
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
	Series []WithChunks // in no order, each series once
	hold   []func()
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
