package pack

import (
	"github.com/palliumhq/pallium/backend/column"
	"github.com/palliumhq/pallium/backend/series"
)

// Limits of a row of a page. A series that exceeds one of them in a day has
// several consecutive rows, because a row must fit one frame and the size of
// frames is limited.
const (
	maxRowFloats     = 1 << 22
	maxRowHistograms = 32 << 20 // bytes of chunks; the last chunk may exceed it
	maxRowChunks     = 1 << 16
)

// takeRow removes the samples of the next row from rest and returns them.
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

// fullRow reports whether the row of these chunks is full, so that the next row
// may continue the series.
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
