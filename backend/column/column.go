// Package column encodes the samples of many series of one UTC day as a table:
// what a table frame of a compacted pack holds. It knows neither labels nor
// files. Package pack puts zstd around its payloads, writes each distinct
// timestamp column once and hands it back for decoding, so the streams in here
// keep bytes of one kind together and bit-pack only what is noise.
// docs/format/column.md describes the bytes.
package column

import (
	"errors"
	"fmt"

	"github.com/palliumhq/pallium/backend/series"
)

// Series is what a frame holds of one series of one UTC day.
type Series struct {
	T          []int64 // times of the float samples, Unix ms, strictly ascending, all in the day
	V          []float64
	Histograms []series.Chunk // native histogram chunks, ascending, kept verbatim
}

// ErrCorrupt is wrapped by errors about bytes that no encoder wrote.
var ErrCorrupt = errors.New("damaged column")

// ErrNewer is wrapped by errors about bytes that a newer version wrote.
var ErrNewer = errors.New("a newer version wrote it")

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

func newer(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrNewer, fmt.Sprintf(format, args...))
}

const (
	version = 1

	// padding is how many zero bytes end a payload, so that decoders may load
	// eight bytes wherever a stream has one left.
	padding = 8

	// maxInlineTimes is how many bytes of times stand in the frame; more are a
	// column of their own.
	maxInlineTimes = 64

	// maxChain is how many series before it a series may need to be decoded.
	maxChain = 15

	// maxChained is how many samples a series may have that another is coded
	// against: a Table remembers the integers of one.
	maxChained = 1 << 15

	// maxUnproved is how many samples of a series room is made for before it is
	// known that they can be decoded. One a second all day is fewer.
	maxUnproved = 1 << 17

	maxSeries      = 1 << 16   // in a frame
	maxPayload     = 1 << 30   // bytes
	maxChunkSample = 1<<16 - 1 // samples of a histogram chunk
)

// codec says how the float values of a series are written.
type codec uint8

const (
	codecConstant codec = 1 // one value
	codecDelta    codec = 2 // integers, less the one before
	codecDoD      codec = 3 // integers, less what the last step leads to expect
	codecPrevious codec = 4 // as codecDelta, of the difference to the series before
	codecOffset   codec = 5 // integers, less the first
)

// rawBits is the exponent of integers that are the bits of the values. Others
// are values times 10 to the power of the exponent.
const (
	rawBits     = 127
	maxExponent = 14
)
