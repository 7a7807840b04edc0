package pack

import (
	"github.com/palliumhq/pallium/backend/column"
	"github.com/palliumhq/pallium/backend/series"
)

// A series with more than one of these in a day has several rows, one after the
// other: a frame holds all of a row, and a frame has a bound.
const (
	maxRowFloats     = 1 << 22
	maxRowHistograms = 32 << 20 // bytes of chunks; the last one may pass it
	maxRowChunks     = 1 << 16
)

// takeRow takes what goes into the next row out of a series.
func takeRow(rest *column.Series) column.Series {
	floats, chunks, size := min(len(rest.T), maxRowFloats), 0, 0
	for chunks < min(len(rest.Histograms), maxRowChunks) && size < maxRowHistograms {
		size += len(rest.Histograms[chunks].Data)
		chunks++
	}
	row := column.Series{T: rest.T[:floats], V: rest.V[:floats], Histograms: rest.Histograms[:chunks]}
	rest.T, rest.V, rest.Histograms = rest.T[floats:], rest.V[floats:], rest.Histograms[chunks:]
	return row
}

// fullRow reports whether the chunks of a row leave no room for more, so that the
// series may go on in the next row.
func fullRow(chunks []series.Chunk) bool {
	floats, histograms, size := 0, 0, 0
	for i := range chunks {
		if c := &chunks[i]; c.Column != nil {
			floats += c.Samples
		} else {
			histograms, size = histograms+1, size+len(c.Data)
		}
	}
	return floats >= maxRowFloats || histograms >= maxRowChunks || size >= maxRowHistograms
}
