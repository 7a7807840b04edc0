package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// Damage is a range of a segment without readable records.
type Damage struct {
	Segment int
	Offset  int64
	Bytes   int64
	// Torn is true at the end of a segment that looks like the result of a crash
	// during a write.
	Torn bool
}

func (d Damage) String() string {
	what := "damaged record"
	if d.Torn {
		what = "torn end"
	}
	return fmt.Sprintf("segment %d: %s, %d bytes at offset %d", d.Segment, what, d.Bytes, d.Offset)
}

// Report is the result of a replay.
type Report struct {
	Segments, Records int
	Damage            []Damage
}

// Reader has the functions that Replay calls, all from one goroutine.
type Reader struct {
	// Segment is called before the records of each segment; nil: not called.
	Segment func(at Place) error
	// Record is called with every record in order. The record is valid during the
	// call.
	Record func(at Place, record []byte) error
	// Progress is called about every megabyte and at the end; nil: not called.
	Progress func(done, total int64)
}

// progressBytes is the number of bytes between two calls of Reader.Progress.
const progressBytes = 1 << 20

// Replay reads the log in order, beginning with a segment. Damage is skipped and
// reported; it is not an error. Errors are segments of an unknown format, files
// that cannot be read, the error of ctx, and errors of the reader's functions.
func Replay(ctx context.Context, dir string, from int, to Reader) (Report, error) {
	r := replay{ctx: ctx.Err, to: to}
	segments, err := Segments(dir)
	if err != nil {
		return r.report, err
	}
	segments = slices.DeleteFunc(segments, func(s int) bool { return s < from })
	sizes := make([]int64, len(segments))
	for i, s := range segments {
		info, err := os.Stat(SegmentPath(dir, s))
		if err != nil {
			return r.report, fmt.Errorf("replay write-ahead log: %w", err)
		}
		sizes[i] = info.Size()
		r.total += sizes[i]
	}
	for i, s := range segments {
		if r.buf, err = readSegment(SegmentPath(dir, s), sizes[i], r.buf); err != nil {
			return r.report, fmt.Errorf("replay write-ahead log: %w", err)
		}
		if err := r.segment(s, r.buf); err != nil {
			return r.report, err
		}
		r.read += sizes[i]
	}
	if to.Progress != nil {
		to.Progress(r.read, r.total)
	}
	return r.report, nil
}

// readSegment reads a whole segment, into buf if it is large enough.
func readSegment(path string, size int64, buf []byte) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if int64(cap(buf)) < size {
		buf = make([]byte, size)
	}
	buf = buf[:size]
	n, err := io.ReadFull(f, buf)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = nil // the file was truncated meanwhile: use the bytes that were read
	}
	return buf[:n], errors.Join(err, f.Close())
}

// replay is the state of one replay.
type replay struct {
	ctx    func() error // Err of the caller's context
	to     Reader
	report Report
	buf    []byte

	read, total, reported int64

	previous header // of the previous segment; segment is 0 before the first
	whole    int64  // bytes of the previous segment, up to its damaged or torn end
}

func (r *replay) progress(at int) {
	if done := r.read + int64(at); r.to.Progress != nil && done-r.reported >= progressBytes {
		r.reported = done
		r.to.Progress(done, r.total)
	}
}

// segment reads one segment.
func (r *replay) segment(number int, data []byte) error {
	r.report.Segments++
	h, at, err := r.header(number, data)
	if err != nil {
		return err
	}
	r.checkPrevious(h)
	r.previous, r.whole = h, int64(len(data))
	place := Place{Segment: number, Epoch: h.epoch}
	if r.to.Segment != nil {
		if err := r.to.Segment(place); err != nil {
			return fmt.Errorf("replay write-ahead log segment %d: %w", number, err)
		}
	}
	return r.frames(place, data, at)
}

// header reads the header of a segment, and returns the offset of the first frame.
// A segment whose header cannot be read counts as a separate epoch, and so does a
// segment of the old format.
func (r *replay) header(number int, data []byte) (header, int, error) {
	own := header{segment: number, epoch: number}
	switch {
	case len(data) < len(segmentMagic):
		if len(data) > 0 {
			r.damaged(Damage{Segment: number, Bytes: int64(len(data)), Torn: true})
		}
		return own, len(data), nil
	case string(data[:len(segmentMagic)]) == segmentMagic:
		if h, ok := decodeHeader(number, data); ok {
			return h, headerSize, nil
		}
		n := min(len(data), headerSize)
		r.damaged(Damage{Segment: number, Bytes: int64(n), Torn: n == len(data)})
		return own, n, nil
	case string(data[:len(oldSegmentMagic)]) == oldSegmentMagic:
		return own, len(oldSegmentMagic), nil
	case string(data[:5]) == segmentMagic[:5]:
		return own, 0, fmt.Errorf("write-ahead log segment %d has format %q, this version reads %q and %q: start the version that wrote it",
			number, data[:8], oldSegmentMagic, segmentMagic)
	}
	return own, 0, nil
}

// checkPrevious compares the previous segment with the length that this one's
// header has for it, to detect that records at its end, which were durable once,
// are damaged or missing.
func (r *replay) checkPrevious(h header) {
	if h.previous == 0 || r.previous.segment == 0 {
		return // unknown, or the previous segment was deleted
	}
	missing := Damage{Segment: h.segment - 1, Offset: r.whole, Bytes: h.previous - r.whole}
	if r.previous.segment != h.segment-1 {
		missing = Damage{Segment: h.segment - 1, Bytes: h.previous}
	}
	if missing.Bytes <= 0 {
		return
	}
	if n := len(r.report.Damage); n > 0 && r.report.Damage[n-1].Torn && r.report.Damage[n-1].Segment == missing.Segment {
		r.report.Damage = r.report.Damage[:n-1]
	}
	r.damaged(missing)
}

func (r *replay) damaged(d Damage) { r.report.Damage = append(r.report.Damage, d) }

// frames reads the frames of a segment from an offset to the end.
func (r *replay) frames(place Place, data []byte, at int) error {
	for at < len(data) {
		if err := r.ctx(); err != nil {
			return fmt.Errorf("replay write-ahead log: %w", err)
		}
		r.progress(at)
		record, size, ok := readFrame(data[at:])
		if ok {
			r.report.Records++
			if err := r.to.Record(place, record); err != nil {
				return fmt.Errorf("replay write-ahead log segment %d at offset %d: %w", place.Segment, at, err)
			}
			at += size
			continue
		}
		d := Damage{Segment: place.Segment, Offset: int64(at)}
		skip, found := nextFrame(data[at+1:])
		if !found {
			d.Bytes, d.Torn = int64(len(data)-at), torn(data[at:])
			r.damaged(d)
			r.whole = int64(at)
			return nil
		}
		d.Bytes = int64(skip + 1)
		r.damaged(d)
		at += skip + 1
	}
	return nil
}
