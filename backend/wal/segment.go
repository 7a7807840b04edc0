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

	"github.com/palliumhq/pallium/backend/disk"
)

// A segment is a header followed by frames. The header:
//
//	8 bytes  segment magic
//	8 bytes  number of the first segment of the epoch, big-endian
//	8 bytes  bytes of the previous segment that were durable when it was
//	         closed, big-endian; 0 = unknown
//	4 bytes  CRC-32C of the preceding bytes, big-endian
//
// A frame:
//
//	4 bytes  frame magic
//	4 bytes  length n of the content, big-endian
//	4 bytes  CRC-32C of the length, the tweak and the content, big-endian
//	1 byte   tweak
//	n bytes  content: the record, with a zero byte inserted after each mark
//
// The mark is the frame magic without its last byte, which is not zero. The magic
// is therefore in no content, and the tweak is chosen so that it is in no header
// either: it is only at the start of frames. A tenant that puts the bytes of a
// frame into a label cannot make replay read them as a frame when it searches for
// the next frame after damage.
const (
	segmentMagic    = "PLWAL002"
	oldSegmentMagic = "PLWAL001" // of segments whose header is only the magic
	headerSize      = 28
	frameMark       = "\xd6PW"
	frameMagic      = frameMark + "\x01"
	stuffedMark     = frameMark + "\x00"
	frameHeaderSize = 13
	tweakAt         = 12
	segmentSuffix   = ".wal"
)

// header is the header of a segment, and the segment's number.
type header struct {
	segment, epoch int
	previous       int64
}

func (h header) encode() []byte {
	b := append(make([]byte, 0, headerSize), segmentMagic...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.epoch))
	b = binary.BigEndian.AppendUint64(b, uint64(h.previous))
	return binary.BigEndian.AppendUint32(b, disk.Checksum(b))
}

// decodeHeader decodes the header of a segment in the current format; ok is false
// if it is damaged.
func decodeHeader(segment int, data []byte) (h header, ok bool) {
	const crcAt = headerSize - 4
	if len(data) < headerSize || binary.BigEndian.Uint32(data[crcAt:]) != disk.Checksum(data[:crcAt]) {
		return header{}, false
	}
	h = header{segment: segment, epoch: int(binary.BigEndian.Uint64(data[8:])), previous: int64(binary.BigEndian.Uint64(data[16:]))}
	return h, h.epoch > 0 && h.epoch <= segment && h.previous >= 0
}

// sealFrame turns a buffer with space for the frame header, followed by a record,
// into a frame.
func sealFrame(frame []byte) []byte {
	if record := frame[frameHeaderSize:]; bytes.Contains(record, []byte(frameMark)) {
		content := bytes.ReplaceAll(record, []byte(frameMark), []byte(stuffedMark))
		frame = append(frame[:frameHeaderSize], content...)
	}
	copy(frame, frameMagic)
	binary.BigEndian.PutUint32(frame[4:], uint32(len(frame)-frameHeaderSize))
	// Different tweaks have different CRCs, so this ends within a few steps.
	for frame[tweakAt] = 0; ; frame[tweakAt]++ {
		binary.BigEndian.PutUint32(frame[8:], frameCRC(frame))
		if !bytes.Contains(frame[1:min(len(frame), frameHeaderSize+len(frameMark))], []byte(frameMagic)) {
			return frame
		}
	}
}

func frameCRC(frame []byte) uint32 {
	crc := crc32.Update(0, disk.Castagnoli(), frame[4:8])
	return crc32.Update(crc, disk.Castagnoli(), frame[tweakAt:])
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

// nextFrame returns the offset of the first valid frame in data, for continuing
// after damage.
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

// torn reports whether the end of a segment looks like the result of a crash during
// a write: the beginning of a frame, or zeros, because the file was extended before
// its data was written. A complete frame with a wrong checksum is neither.
func torn(end []byte) bool {
	if len(bytes.TrimLeft(end, "\x00")) == 0 {
		return true
	}
	if n := min(len(end), len(frameMagic)); string(end[:n]) != frameMagic[:n] {
		return false
	}
	return len(end) < frameHeaderSize || int64(binary.BigEndian.Uint32(end[4:])) > int64(len(end)-frameHeaderSize)
}

// Segments returns the numbers of the segments in dir, in ascending order.
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

// SegmentPath returns the path of a segment of the log in dir.
func SegmentPath(dir string, segment int) string { return filepath.Join(dir, segmentName(segment)) }

func segmentName(n int) string { return fmt.Sprintf("%08d%s", n, segmentSuffix) }
