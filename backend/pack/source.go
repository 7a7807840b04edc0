package pack

import (
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync/atomic"

	"github.com/prometheus/prometheus/tsdb/fileutil"

	"github.com/palliumhq/pallium/backend/disk"
)

// Source provides the bytes of a pack. It must be safe for concurrent use.
type Source interface {
	// Range returns the n bytes at off, or an error. The bytes are valid until
	// Close and must not be modified. Later reads of a range must return the
	// same bytes: readers verify a frame's checksum only once.
	Range(off int64, n int) ([]byte, error)
	// Size returns the length of the pack in bytes.
	Size() int64
	Close() error
}

// fileSource is a memory-mapped file; its ranges are slices of the mapping.
type fileSource struct {
	file   *fileutil.MmapFile
	bytes  []byte
	closed atomic.Bool
}

// OpenFile maps the pack file at path into memory.
func OpenFile(path string) (Source, error) {
	if st, err := os.Stat(path); err == nil && st.Size() == 0 {
		return nil, fmt.Errorf("open pack %s: %w: the file is empty", path, ErrCorrupt)
	}
	f, err := fileutil.OpenMmapFile(path)
	if err != nil {
		return nil, fmt.Errorf("open pack: %w", err)
	}
	return &fileSource{file: f, bytes: f.Bytes()}, nil
}

func (s *fileSource) Range(off int64, n int) ([]byte, error) {
	if s.closed.Load() {
		return nil, ErrClosed
	}
	return rangeOf(s.bytes, off, n)
}

// rangeOf returns n bytes of b from off.
func rangeOf(b []byte, off int64, n int) ([]byte, error) {
	if off < 0 || n < 0 || off > int64(len(b)) || int64(n) > int64(len(b))-off {
		return nil, fmt.Errorf("%w: bytes %d to %d are beyond the end of a file of %d bytes", ErrCorrupt, off, off+int64(n), len(b))
	}
	return b[off : off+int64(n) : off+int64(n)], nil
}

func (s *fileSource) Size() int64 { return int64(len(s.bytes)) }

// Close unmaps the file. Slices returned by Range must not be accessed
// afterwards.
func (s *fileSource) Close() error {
	if s.closed.Swap(true) {
		return ErrClosed
	}
	if err := s.file.Close(); err != nil {
		return fmt.Errorf("close pack: %w", err)
	}
	return nil
}

// FileCRC returns the CRC-32C of a whole file.
func FileCRC(path string) (uint32, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	h := crc32.New(disk.Castagnoli())
	if _, err := io.Copy(h, f); err != nil {
		return 0, fmt.Errorf("checksum of %s: %w", path, err)
	}
	return h.Sum32(), nil
}
