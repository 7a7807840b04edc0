package conn

import (
	"errors"
	"io"
)

const (
	leastPiece = 4 << 10
	mostPiece  = 1 << 20
)

// Buffer stores bytes as they arrive. It reserves memory piece by piece, each before it is
// filled, so that a sender that announces a large body and sends little holds little memory.
type Buffer struct {
	// Take reserves memory; if it is nil, nothing is reserved. An error of Take ends the Write or
	// ReadFrom that called it.
	Take func(n int64) error

	pieces [][]byte
	size   int64
}

// Len returns the number of stored bytes.
func (b *Buffer) Len() int64 { return b.size }

// grow returns the last piece, with space for at least one byte.
func (b *Buffer) grow() (*[]byte, error) {
	if n := len(b.pieces); n > 0 && len(b.pieces[n-1]) < cap(b.pieces[n-1]) {
		return &b.pieces[n-1], nil
	}
	next := int(min(max(b.size, leastPiece), mostPiece)) // doubles the total size while that is below mostPiece
	if b.Take != nil {
		if err := b.Take(int64(next)); err != nil {
			return nil, err
		}
	}
	b.pieces = append(b.pieces, make([]byte, 0, next))
	return &b.pieces[len(b.pieces)-1], nil
}

// Write appends p. Its error is that of Take.
func (b *Buffer) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		piece, err := b.grow()
		if err != nil {
			return written, err
		}
		n := min(cap(*piece)-len(*piece), len(p)-written)
		*piece = append(*piece, p[written:written+n]...)
		written += n
		b.size += int64(n)
	}
	return written, nil
}

// ReadFrom appends everything that r returns. Its error is that of Take or of r.
func (b *Buffer) ReadFrom(r io.Reader) (int64, error) {
	before := b.size
	for {
		piece, err := b.grow()
		if err != nil {
			return b.size - before, err
		}
		have := len(*piece)
		n, err := r.Read((*piece)[have:cap(*piece)])
		*piece = (*piece)[:have+n]
		b.size += int64(n)
		if errors.Is(err, io.EOF) {
			return b.size - before, nil
		}
		if err != nil {
			return b.size - before, err
		}
	}
}

// Reader returns a reader of the stored bytes. It may be used after the buffer was
// discarded, and concurrently with other readers.
func (b *Buffer) Reader() io.Reader { return &bufferReader{pieces: b.pieces} }

type bufferReader struct {
	pieces [][]byte
	at     int // in the first piece
}

// Read implements io.Reader.
func (r *bufferReader) Read(p []byte) (int, error) {
	for len(r.pieces) > 0 && r.at == len(r.pieces[0]) {
		r.pieces, r.at = r.pieces[1:], 0
	}
	if len(r.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.pieces[0][r.at:])
	r.at += n
	return n, nil
}

// WriteTo implements io.WriterTo.
func (r *bufferReader) WriteTo(w io.Writer) (int64, error) {
	total := int64(0)
	for ; len(r.pieces) > 0; r.pieces, r.at = r.pieces[1:], 0 {
		n, err := w.Write(r.pieces[0][r.at:])
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}
