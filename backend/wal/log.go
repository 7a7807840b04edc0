// Package wal is the ingester's write-ahead log: opaque records in numbered
// segment files, each record framed so that damage to one is found, reported
// and stepped over without the loss of any other.
//
// One log serves all tenants of an ingester. Append hands records to the
// operating system; Sync returns when they are on disk, one fsync serving every
// caller that waits (group commit). The bytes are described in
// docs/format/wal.md, which also says why this is not tsdb/wlog.
package wal

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// DefaultSegmentBytes is the size at which a segment is closed.
const DefaultSegmentBytes = 64 << 20

// Options of a Log; the zero value of each field has a default.
type Options struct {
	SegmentBytes int64 // DefaultSegmentBytes
	FirstSegment int   // the new segment has at least this number; 1
	Logger       *slog.Logger
	Registerer   prometheus.Registerer
}

// Log is an open write-ahead log. It is safe for concurrent use.
type Log struct {
	dir     string
	maxSize int64
	logger  *slog.Logger
	metrics logMetrics

	syncMu sync.Mutex // taken before mu; held during fsync and Cut
	synced uint64     // last appended record that is on disk

	mu      sync.Mutex
	file    *os.File // nil when the disk had no room to begin the segment; failed says so
	segment int
	size    int64  // bytes of good records in the segment
	seq     uint64 // last appended record
	failed  error  // why the segment takes no more records
	closed  bool
	buf     []byte

	appended atomic.Int64 // bytes appended since Open
	onDisk   atomic.Int64 // bytes of all segments
}

type logMetrics struct {
	records, bytes, syncs, failures prometheus.Counter
}

// Position is the place of an appended record, to be given to Sync.
type Position struct {
	Segment int
	seq     uint64
}

// ErrClosed is returned by every call after Close.
var ErrClosed = errors.New("write-ahead log is closed")

// Open begins a new segment after those in dir, which it creates if need be.
// It never writes to an existing segment: what a crash left at the end of one
// stays as it is. Call Replay on the directory before the first Append.
func Open(dir string, o Options) (*Log, error) {
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = DefaultSegmentBytes
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create write-ahead log: %w", err)
	}
	segments, err := Segments(dir)
	if err != nil {
		return nil, err
	}
	next := max(o.FirstSegment, 1)
	if n := len(segments); n > 0 {
		next = max(next, segments[n-1]+1)
	}
	auto := promauto.With(o.Registerer)
	l := &Log{dir: dir, maxSize: o.SegmentBytes, logger: o.Logger, metrics: logMetrics{
		records:  auto.NewCounter(prometheus.CounterOpts{Name: "pallium_wal_records_total", Help: "Records appended to the write-ahead log."}),
		bytes:    auto.NewCounter(prometheus.CounterOpts{Name: "pallium_wal_bytes_total", Help: "Bytes appended to the write-ahead log."}),
		syncs:    auto.NewCounter(prometheus.CounterOpts{Name: "pallium_wal_syncs_total", Help: "Times the write-ahead log was synced to disk."}),
		failures: auto.NewCounter(prometheus.CounterOpts{Name: "pallium_wal_failures_total", Help: "Writes and syncs of the write-ahead log that failed."}),
	}}
	if err := l.measure(segments); err != nil {
		return nil, err
	}
	if err := l.begin(next); isFull(err) {
		// What is in the log is safe, and reading and sealing it does not need a new
		// segment: one is begun with the first record for which there is room.
		l.segment, l.failed = next, err
		l.logger.Error("no room for a new write-ahead log segment: writes are rejected until the disk has room", "dir", dir, "err", err)
	} else if err != nil {
		return nil, err
	}
	return l, nil
}

// isFull reports whether an error says that the file system has no room.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// measure counts the bytes of the segments that are there.
func (l *Log) measure(segments []int) error {
	for _, s := range segments {
		info, err := os.Stat(filepath.Join(l.dir, segmentName(s)))
		if err != nil {
			return fmt.Errorf("open write-ahead log: %w", err)
		}
		l.onDisk.Add(info.Size())
	}
	return nil
}

// begin creates and opens a segment. The caller holds both locks, or is Open.
func (l *Log) begin(segment int) error {
	path := filepath.Join(l.dir, segmentName(segment))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("begin write-ahead log segment: %w", err)
	}
	if _, err := f.WriteAt([]byte(segmentMagic), 0); err != nil {
		return errors.Join(fmt.Errorf("begin write-ahead log segment: %w", err), f.Close(), os.Remove(path))
	}
	if err := syncDir(l.dir); err != nil {
		return errors.Join(fmt.Errorf("begin write-ahead log segment: %w", err), f.Close(), os.Remove(path))
	}
	l.file, l.segment, l.size, l.failed = f, segment, int64(len(segmentMagic)), nil
	l.onDisk.Add(l.size)
	return nil
}

// Record is what Append writes: the caller builds it in place.
type Record interface {
	// AppendTo appends the record to dst. The record goes to the given segment.
	AppendTo(dst []byte, segment int) []byte
	// Appended is called once the record is in the segment, and not at all if
	// it could not be written.
	Appended(segment int)
}

// Append writes one record. It calls the record's methods under the log's lock,
// so their order is the order of the records. On an error nothing of the record
// remains in the log, and the next Append tries afresh: a disk that was full
// and has room again is used again.
func (l *Log) Append(record Record) (Position, error) {
	l.mu.Lock()
	for !l.closed && (l.failed != nil || l.size >= l.maxSize) {
		l.mu.Unlock()
		if err := l.rotate(); err != nil {
			l.metrics.failures.Inc()
			return Position{}, err
		}
		l.mu.Lock()
	}
	defer l.mu.Unlock()
	if l.closed {
		return Position{}, ErrClosed
	}
	l.buf = append(l.buf[:0], make([]byte, frameHeaderSize)...)
	l.buf = record.AppendTo(l.buf, l.segment)
	l.buf = sealFrame(l.buf)
	if _, err := l.file.WriteAt(l.buf, l.size); err != nil {
		l.metrics.failures.Inc()
		err = fmt.Errorf("write to write-ahead log segment %d: %w", l.segment, err)
		if terr := l.file.Truncate(l.size); terr != nil {
			l.failed = errors.Join(err, terr)
		}
		return Position{}, err
	}
	l.size += int64(len(l.buf))
	l.seq++
	record.Appended(l.segment)
	l.metrics.records.Inc()
	l.metrics.bytes.Add(float64(len(l.buf)))
	l.appended.Add(int64(len(l.buf)))
	l.onDisk.Add(int64(len(l.buf)))
	if cap(l.buf) > 8<<20 {
		l.buf = nil // one huge request must not pin its size
	}
	return Position{Segment: l.segment, seq: l.seq}, nil
}

// Sync returns when the record at p and all before it are on disk. Callers that
// arrive while an fsync runs share the next one. After an error the records of
// the segment that were not yet on disk may be lost, and the log goes on in a
// new segment.
func (l *Log) Sync(p Position) error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	if l.synced >= p.seq {
		return nil
	}
	l.mu.Lock()
	f, segment, upTo, failed, closed := l.file, l.segment, l.seq, l.failed, l.closed
	l.mu.Unlock()
	if closed {
		return ErrClosed
	}
	if failed != nil {
		return failed
	}
	if p.Segment != segment {
		return fmt.Errorf("write-ahead log segment %d was closed before its records were on disk", p.Segment)
	}
	l.metrics.syncs.Inc()
	if err := datasync(f); err != nil {
		l.metrics.failures.Inc()
		err = fmt.Errorf("sync write-ahead log segment %d: %w", segment, err)
		l.mu.Lock()
		l.failed = err
		l.mu.Unlock()
		return err
	}
	l.synced = upTo
	return nil
}

// rotate begins a new segment if the present one is full or failed. Many
// callers may find that at once; the first does it.
func (l *Log) rotate() error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || (l.failed == nil && l.size < l.maxSize) {
		return nil
	}
	return l.next()
}

// Cut closes the present segment and begins a new one, whose number it returns:
// every record appended before the call is in an earlier segment, on disk. A
// segment without records stays the present one.
func (l *Log) Cut() (int, error) {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, ErrClosed
	}
	if l.file == nil || (l.failed == nil && l.size == int64(len(segmentMagic))) {
		return l.segment, nil
	}
	if err := l.next(); err != nil {
		return 0, err
	}
	return l.segment, nil
}

// next syncs and leaves the present segment. A failed segment is left as it is:
// nobody was told that its last records are safe. The caller holds both locks.
func (l *Log) next() error {
	old := l.file
	if old == nil {
		return l.begin(l.segment)
	}
	if l.failed == nil {
		if err := old.Sync(); err != nil {
			l.failed = fmt.Errorf("sync write-ahead log segment %d: %w", l.segment, err)
			return l.failed
		}
		l.synced = l.seq
	}
	if err := l.begin(l.segment + 1); err != nil {
		return err
	}
	if err := old.Close(); err != nil {
		l.logger.Warn("closing a write-ahead log segment", "err", err)
	}
	return nil
}

// Segment is the number of the segment that is being written.
func (l *Log) Segment() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.segment
}

// Truncate deletes all segments below the given one. It is called when what
// they hold is safe elsewhere.
func (l *Log) Truncate(below int) error {
	segments, err := Segments(l.dir)
	if err != nil {
		return err
	}
	current := l.Segment()
	for _, s := range segments {
		if s >= below || s >= current {
			continue
		}
		path := filepath.Join(l.dir, segmentName(s))
		info, err := os.Stat(path)
		if err == nil {
			err = os.Remove(path)
		}
		if err != nil {
			return fmt.Errorf("truncate write-ahead log: %w", err)
		}
		l.onDisk.Add(-info.Size())
	}
	return syncDir(l.dir)
}

// Appended is the number of bytes appended since the log was opened.
func (l *Log) Appended() int64 { return l.appended.Load() }

// Bytes is about how much all segments take on disk.
func (l *Log) Bytes() int64 { return l.onDisk.Load() }

// Close syncs and closes the log.
func (l *Log) Close() error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	f := l.file
	if f == nil {
		return nil
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("close write-ahead log: %w", err)
	}
	return nil
}

// SyncAll is Sync for everything appended so far.
func (l *Log) SyncAll() error {
	l.mu.Lock()
	p := Position{Segment: l.segment, seq: l.seq}
	l.mu.Unlock()
	return l.Sync(p)
}
