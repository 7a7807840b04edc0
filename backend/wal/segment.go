package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A segment is the magic followed by frames:
//
//	4 bytes  frame magic
//	4 bytes  length n of the content, big-endian
//	4 bytes  CRC-32C of the length, the tweak and the content, big-endian
//	1 byte   tweak
//	n bytes  content: the record, with a zero byte put in after each mark
//
// The mark is the frame magic without its last byte, which is not zero. So the
// magic stands in no content, and the tweak is chosen such that it does not
// stand in a header either: it marks nothing but frames. A tenant that puts the
// bytes of a frame into a label cannot have them read as one where replay looks
// for the next frame behind damage.
const (
	segmentMagic    = "PLWAL001"
	frameMark       = "\xd6PW"
	frameMagic      = frameMark + "\x01"
	stuffedMark     = frameMark + "\x00"
	frameHeaderSize = 13
	tweakAt         = 12
	segmentSuffix   = ".wal"
)

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// sealFrame makes a frame of a record that stands behind room for the header.
func sealFrame(frame []byte) []byte {
	if record := frame[frameHeaderSize:]; bytes.Contains(record, []byte(frameMark)) {
		content := bytes.ReplaceAll(record, []byte(frameMark), []byte(stuffedMark))
		frame = append(frame[:frameHeaderSize], content...)
	}
	copy(frame, frameMagic)
	binary.BigEndian.PutUint32(frame[4:], uint32(len(frame)-frameHeaderSize))
	// Two tweaks never have the same CRC, so this ends within a few steps.
	for frame[tweakAt] = 0; ; frame[tweakAt]++ {
		binary.BigEndian.PutUint32(frame[8:], frameCRC(frame))
		if !bytes.Contains(frame[1:min(len(frame), frameHeaderSize+len(frameMark))], []byte(frameMagic)) {
			return frame
		}
	}
}

func frameCRC(frame []byte) uint32 {
	crc := crc32.Update(0, castagnoli(), frame[4:8])
	return crc32.Update(crc, castagnoli(), frame[tweakAt:])
}

// readFrame returns the record at the start of data and the length of its frame.
func readFrame(data []byte) (record []byte, size int, ok bool) {
	if len(data) < frameHeaderSize || string(data[:4]) != frameMagic {
		return nil, 0, false
	}
	n := int64(binary.BigEndian.Uint32(data[4:]))
	if n > int64(len(data)-frameHeaderSize) {
		return nil, 0, false
	}
	frame := data[:frameHeaderSize+int(n)]
	if binary.BigEndian.Uint32(frame[8:]) != frameCRC(frame) {
		return nil, 0, false
	}
	record = frame[frameHeaderSize:]
	if bytes.Contains(record, []byte(frameMark)) {
		record = bytes.ReplaceAll(record, []byte(stuffedMark), []byte(frameMark))
	}
	return record, len(frame), true
}

// nextFrame finds the first whole frame in data, for going on behind damage.
func nextFrame(data []byte) (offset int, ok bool) {
	for at := 0; ; {
		i := bytes.Index(data[at:], []byte(frameMagic))
		if i < 0 {
			return 0, false
		}
		at += i
		if _, _, ok := readFrame(data[at:]); ok {
			return at, true
		}
		at++
	}
}

// torn reports whether the end of a segment is what a crash in the middle of a
// write leaves: the beginning of a frame, or zeros where the file was made longer
// before its data came. A whole frame with a wrong checksum is neither.
func torn(end []byte) bool {
	if len(bytes.TrimLeft(end, "\x00")) == 0 {
		return true
	}
	if n := min(len(end), len(frameMagic)); string(end[:n]) != frameMagic[:n] {
		return false
	}
	return len(end) < frameHeaderSize || int64(binary.BigEndian.Uint32(end[4:])) > int64(len(end)-frameHeaderSize)
}

// Damage is a stretch of a segment that holds no readable record.
type Damage struct {
	Segment int
	Offset  int64
	Bytes   int64
	// Torn is true at the end of a segment, where a crash in the middle of a
	// write leaves part of a record that nobody was told is safe.
	Torn bool
}

func (d Damage) String() string {
	what := "damaged record"
	if d.Torn {
		what = "torn end"
	}
	return fmt.Sprintf("segment %d: %s, %d bytes at offset %d", d.Segment, what, d.Bytes, d.Offset)
}

// Report says what a replay met.
type Report struct {
	Segments, Records int
	Damage            []Damage
}

// Replay reads every record of the log in order and calls fn with it; the
// record is valid during the call. Damage is stepped over and reported, not an
// error. An error is a segment of another format, a file that cannot be read,
// or what fn returns.
func Replay(dir string, fn func(segment int, record []byte) error) (Report, error) {
	var report Report
	segments, err := Segments(dir)
	if err != nil {
		return report, err
	}
	for _, s := range segments {
		data, err := os.ReadFile(filepath.Join(dir, segmentName(s)))
		if err != nil {
			return report, fmt.Errorf("replay write-ahead log: %w", err)
		}
		report.Segments++
		if err := replaySegment(s, data, &report, fn); err != nil {
			return report, err
		}
	}
	return report, nil
}

func replaySegment(segment int, data []byte, report *Report, fn func(int, []byte) error) error {
	at := 0
	switch {
	case len(data) < len(segmentMagic):
		if len(data) > 0 {
			report.Damage = append(report.Damage, Damage{Segment: segment, Bytes: int64(len(data)), Torn: true})
		}
		return nil
	case string(data[:len(segmentMagic)]) == segmentMagic:
		at = len(segmentMagic)
	case string(data[:5]) == segmentMagic[:5]:
		return fmt.Errorf("write-ahead log segment %d has format %q, this version reads %q: start the version that wrote it", segment, data[:8], segmentMagic)
	}
	for at < len(data) {
		record, size, ok := readFrame(data[at:])
		if ok {
			report.Records++
			if err := fn(segment, record); err != nil {
				return fmt.Errorf("replay write-ahead log segment %d at offset %d: %w", segment, at, err)
			}
			at += size
			continue
		}
		d := Damage{Segment: segment, Offset: int64(at)}
		skip, found := nextFrame(data[at+1:])
		if !found {
			d.Bytes, d.Torn = int64(len(data)-at), torn(data[at:])
			report.Damage = append(report.Damage, d)
			return nil
		}
		d.Bytes = int64(skip + 1)
		report.Damage = append(report.Damage, d)
		at += skip + 1
	}
	return nil
}

// Segments lists the numbers of the segments in dir, ascending.
func Segments(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list write-ahead log: %w", err)
	}
	var out []int
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), segmentSuffix)
		if !ok {
			continue
		}
		n, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		out = append(out, n)
	}
	slices.Sort(out)
	return out, nil
}

func segmentName(n int) string { return fmt.Sprintf("%08d%s", n, segmentSuffix) }

// datasync is fdatasync: the file's length is written with its data, its times
// are not, which saves a journal commit on most file systems.
func datasync(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if err != syscall.EINTR {
			return err
		}
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
