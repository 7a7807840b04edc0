// Package wal is the ingester's write-ahead log: opaque records in numbered segment
// files. Each record is framed so that a damaged one is found, reported and skipped
// without losing any other. Segments belong to epochs: the user of the log begins a
// new epoch with Cut, and the log itself begins one after a failed segment, whose
// records may be missing.
//
// One log serves all tenants of an ingester. Append writes records to the file;
// Sync returns when they are durable, and one fsync serves all waiting callers
// (group commit). docs/format/wal.md describes the format, and why this is not
// tsdb/wlog.
package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/backend/disk"
)

// DefaultSegmentBytes is the size at which a segment is closed.
const DefaultSegmentBytes = 64 << 20

// Options configure a Log. The zero value of each field has the given default.
type Options struct {
	SegmentBytes int64 // DefaultSegmentBytes
	FirstSegment int   // lowest number of the new segment; 1
	Disk         Disk  // OS()
	Logger       *slog.Logger
	Registerer   prometheus.Registerer
}

// Log is an open write-ahead log. It is safe for concurrent use.
type Log struct {
	dir     string
	disk    Disk
	maxSize int64
	logger  *slog.Logger
	metrics logMetrics

	syncMu  sync.Mutex  // acquired before mu; held during a sync and a cut
	decided uint64      // last appended record whose sync succeeded or finally failed
	lost    lostRecords // records up to decided that may not be on disk
	durable int64       // bytes of the segment that are known to be on disk

	mu      sync.Mutex
	file    File // nil if the disk was full when the segment was to begin; failed has the error
	segment int
	epoch   int    // first segment of the current epoch
	oldest  int    // first existing segment
	size    int64  // bytes of valid records in the segment
	seq     uint64 // number of the last appended record
	failed  error  // why the segment accepts no more records
	closed  bool
	buf     []byte

	appended atomic.Int64 // bytes appended since Open
	onDisk   atomic.Int64 // bytes of all segments
}

// ErrClosed is returned by appends, syncs and cuts after Close.
var ErrClosed = errors.New("write-ahead log is closed")

// Open begins a new segment after those in dir, which it creates if needed. It
// never writes to an existing segment, so a partial record that a crash left at the
// end of one stays. Call Replay on the directory before the first Append.
func Open(dir string, o Options) (*Log, error) {
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = DefaultSegmentBytes
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Disk == nil {
		o.Disk = OS()
	}
	if err := disk.MakeDir(dir); err != nil {
		return nil, fmt.Errorf("create write-ahead log: %w", err)
	}
	segments, err := Segments(dir)
	if err != nil {
		return nil, err
	}
	next := max(o.FirstSegment, 1)
	oldest := next
	if n := len(segments); n > 0 {
		next, oldest = max(next, segments[n-1]+1), segments[0]
	}
	l := &Log{dir: dir, disk: o.Disk, oldest: oldest, maxSize: o.SegmentBytes, logger: o.Logger, metrics: newMetrics(o.Registerer)}
	if err := l.measure(segments); err != nil {
		return nil, err
	}
	if err := l.begin(header{segment: next, epoch: next}); isFull(err) {
		// The existing log is safe, and reading and sealing it needs no new segment.
		// The first record for which there is space begins one.
		l.segment, l.epoch, l.failed = next, next, err
		l.logger.Error("no space for a new write-ahead log segment: writes are rejected until the disk has space", "dir", dir, "err", err)
	} else if err != nil {
		return nil, err
	}
	return l, nil
}

// isFull reports whether the error means that the file system is full.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// measure adds up the sizes of the existing segments.
func (l *Log) measure(segments []int) error {
	for _, s := range segments {
		info, err := os.Stat(SegmentPath(l.dir, s))
		if err != nil {
			return fmt.Errorf("open write-ahead log: %w", err)
		}
		l.onDisk.Add(info.Size())
	}
	return nil
}

// maxSkipped is the number of existing files at the paths of new segments that are
// skipped.
const maxSkipped = 1000

// begin creates a segment and makes it the current one. The caller holds both
// locks, or is Open.
func (l *Log) begin(h header) error {
	path := SegmentPath(l.dir, h.segment)
	f, err := l.disk.Create(path)
	for skipped := 0; errors.Is(err, fs.ErrExist) && skipped < maxSkipped; skipped++ {
		// An earlier call could neither begin nor remove this segment. Its content is
		// not needed.
		if h.epoch == h.segment {
			h.epoch++
		}
		h.segment, h.previous = h.segment+1, 0
		path = SegmentPath(l.dir, h.segment)
		f, err = l.disk.Create(path)
	}
	if err != nil {
		return fmt.Errorf("begin write-ahead log segment: %w", err)
	}
	_, err = f.WriteAt(h.encode(), 0)
	if err == nil {
		err = l.disk.SyncDir(l.dir)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("begin write-ahead log segment: %w", err), f.Close(), l.disk.Remove(path))
	}
	l.file, l.segment, l.epoch, l.size, l.durable, l.failed = f, h.segment, h.epoch, int64(headerSize), 0, nil
	l.onDisk.Add(int64(headerSize))
	return nil
}

// Append writes one record. It calls the record's methods with the log's lock held,
// so they are called in the order of the records. After an error the record is not
// in the log, except if the failed write could not be undone: then it may be at the
// end of the failed segment. The next Append tries again, because a full disk may
// have space again.
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
	at := Place{Segment: l.segment, Epoch: l.epoch}
	l.buf = record.AppendTo(l.buf, at)
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
	record.Appended(at)
	l.metrics.records.Inc()
	l.metrics.bytes.Add(float64(len(l.buf)))
	l.appended.Add(int64(len(l.buf)))
	l.onDisk.Add(int64(len(l.buf)))
	if cap(l.buf) > 8<<20 {
		l.buf = nil // do not retain the buffer of one huge request
	}
	return Position{Segment: l.segment, seq: l.seq}, nil
}

// Sync returns nil when the record at p is durable, with all earlier records except
// those that failed segments lost, and an error if that record may not be durable.
// Callers that arrive during a sync share the next one. After an error the records of
// the segment that were not durable may be lost, and the log continues in a new
// segment and a new epoch.
func (l *Log) Sync(p Position) error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	if p.seq <= l.decided {
		return l.lost.cause(p.seq)
	}
	l.mu.Lock()
	f, segment, upTo, size, failed, closed := l.file, l.segment, l.seq, l.size, l.failed, l.closed
	l.mu.Unlock()
	if closed {
		return ErrClosed
	}
	if failed != nil {
		return failed
	}
	l.metrics.syncs.Inc()
	if err := f.Datasync(); err != nil {
		l.metrics.failures.Inc()
		err = fmt.Errorf("sync write-ahead log segment %d: %w", segment, err)
		l.mu.Lock()
		l.failed = err
		l.mu.Unlock()
		return err
	}
	l.decided, l.durable = upTo, size
	return nil
}

// rotate begins a new segment if the current one is full or failed. Of several
// concurrent callers, only the first one begins it.
func (l *Log) rotate() error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || (l.failed == nil && l.size < l.maxSize) {
		return nil
	}
	return l.next(false)
}

// Split is Cut without a new epoch.
func (l *Log) Split() (Place, error) { return l.leave(false) }

// Cut closes the current segment and its epoch, and begins new ones at the returned
// place. All records appended before the call are in earlier segments, and durable
// unless Sync reports otherwise. If the current segment is the first of its epoch
// and has no records, it stays the current one.
func (l *Log) Cut() (Place, error) { return l.leave(true) }

func (l *Log) leave(newEpoch bool) (Place, error) {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return Place{}, ErrClosed
	}
	if l.file == nil || l.failed == nil && l.size == int64(headerSize) && (!newEpoch || l.epoch == l.segment) {
		return Place{Segment: l.segment, Epoch: l.epoch}, nil
	}
	if err := l.next(newEpoch); err != nil {
		return Place{}, err
	}
	return Place{Segment: l.segment, Epoch: l.epoch}, nil
}

// next syncs and closes the current segment and begins another one. It does not sync a
// failed segment, whose last records may be lost. As they may have the only labels of a
// series, a new epoch begins then. The caller holds both locks.
func (l *Log) next(newEpoch bool) error {
	old := l.file
	if old == nil {
		return l.begin(header{segment: l.segment, epoch: l.segment})
	}
	if l.failed == nil {
		l.metrics.syncs.Inc()
		if err := old.Datasync(); err != nil {
			l.metrics.failures.Inc()
			l.failed = fmt.Errorf("sync write-ahead log segment %d: %w", l.segment, err)
		} else {
			l.decided, l.durable = l.seq, l.size
		}
	}
	h := header{segment: l.segment + 1, epoch: l.epoch, previous: l.durable}
	if l.failed != nil {
		if l.seq > l.decided {
			l.lost.add(lostRange{from: l.decided + 1, to: l.seq, cause: l.failed})
			l.decided = l.seq
		}
		newEpoch = true
	}
	if newEpoch {
		h.epoch = h.segment
	}
	failed := l.failed
	if err := l.begin(h); err != nil {
		return err
	}
	if err := old.Close(); err != nil {
		l.logger.Warn("failed to close a write-ahead log segment", "err", err)
	}
	if failed != nil {
		l.logger.Error("write-ahead log segment failed: continuing in a new one", "failed", h.segment-1, "segment", h.segment, "err", failed)
	}
	return nil
}

// Segment returns the number of the current segment.
func (l *Log) Segment() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.segment
}

// Oldest returns the number of the first existing segment.
func (l *Log) Oldest() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.oldest
}

// Truncate deletes all segments below the given one, except the current one. The caller must have stored
// their records elsewhere.
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
		path := SegmentPath(l.dir, s)
		info, err := os.Stat(path)
		if err == nil {
			err = l.disk.Remove(path)
		}
		if err != nil {
			return fmt.Errorf("truncate write-ahead log: %w", err)
		}
		l.onDisk.Add(-info.Size())
	}
	l.mu.Lock()
	l.oldest = max(l.oldest, min(below, current))
	l.mu.Unlock()
	return l.disk.SyncDir(l.dir)
}

// Appended returns the number of bytes appended since the log was opened.
func (l *Log) Appended() int64 { return l.appended.Load() }

// Bytes returns about how many bytes all segments use on disk.
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
	if err := errors.Join(f.Datasync(), f.Close()); err != nil {
		return fmt.Errorf("close write-ahead log: %w", err)
	}
	return nil
}

// SyncAll syncs everything appended so far. It does not report records that were
// lost before.
func (l *Log) SyncAll() error {
	l.mu.Lock()
	p := Position{Segment: l.segment, seq: l.seq}
	l.mu.Unlock()
	l.syncMu.Lock()
	decided := p.seq <= l.decided
	l.syncMu.Unlock()
	if decided {
		return nil
	}
	return l.Sync(p)
}
