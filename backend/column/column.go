// Package column encodes the samples of many series of one UTC day as a table,
// which is the payload of a table frame of a compacted pack. It handles neither
// labels nor files. Package pack compresses the payloads with zstd and stores
// each distinct timestamp column once. The streams therefore keep bytes of one
// kind together and bit-pack only numbers that zstd cannot compress.
// docs/format/column.md specifies the format.
package column

import (
	"errors"
	"fmt"

	"github.com/palliumhq/pallium/backend/series"
)

// Series has the samples of one series on one UTC day.
type Series struct {
	T          []int64 // timestamps of the float samples, Unix milliseconds, strictly ascending, all in the day
	V          []float64
	Histograms []series.Chunk // native histogram chunks, ascending in time, stored verbatim
}

// ErrCorrupt is wrapped by errors about damaged or otherwise invalid bytes.
var ErrCorrupt = errors.New("damaged column")

// ErrNewer is wrapped by errors about bytes that a newer version of Pallium
// wrote.
var ErrNewer = errors.New("written by a newer version of Pallium")

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

func newer(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrNewer, fmt.Sprintf(format, args...))
}

const (
	version = 1

	// padding is the number of zero bytes at the end of a payload. With it,
	// decoders may load eight bytes at any position within a stream.
	padding = 8

	// maxInlineTimes is the maximum size in bytes of encoded timestamps that
	// are stored in the frame; longer ones are a timestamp column outside of
	// it.
	maxInlineTimes = 64

	// maxChain is the maximum number of preceding series that must be decoded
	// to decode a series with codecPrevious.
	maxChain = 15

	// maxChained is the maximum number of samples of a series with
	// codecPrevious and of its predecessor: a Table caches the integers of one
	// series.
	maxChained = 1 << 15

	// maxUnproved is the maximum number of samples of a series for which memory
	// is allocated before they are known to decode. A series with one sample
	// per second has fewer in a day.
	maxUnproved = 1 << 17

	maxSeries      = 1 << 16   // series in a frame
	maxPayload     = 1 << 30   // bytes
	maxChunkSample = 1<<16 - 1 // samples in a histogram chunk
)

// codec is the encoding of a series' float values.
type codec uint8

const (
	codecConstant codec = 1 // one value for all samples
	codecDelta    codec = 2 // integers, minus the previous one
	codecDoD      codec = 3 // integers, minus the extrapolation by the last step (delta of deltas)
	codecPrevious codec = 4 // codecDelta of the differences to the previous series
	codecOffset   codec = 5 // integers, minus the first
)

// rawBits is the exponent of integers that are the IEEE 754 bits of the values.
// With any other exponent, integers are the values times 10 to the power of the
// exponent.
const (
	rawBits     = 127
	maxExponent = 14
)
