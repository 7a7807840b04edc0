package ingester

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/palliumhq/pallium/backend/wal"
)

const (
	// checkpointAfter is how long the labels of a series may be in only one segment
	// of the log: about one scrape interval.
	checkpointAfter = 15 * time.Second
	// sliceBytes is about the maximum size of the labels in one slice of a
	// checkpoint.
	sliceBytes = 256 << 10
)

// labelLog writes the labels of series to the log twice: in the first record of an
// epoch that has the series, and again in a later segment, concurrently with
// pushes. Damage to one of the copies therefore does not affect the samples of
// other records.
type labelLog struct {
	log *wal.Log
	now func() time.Time

	raw []byte // labels being written to a record; guarded by the log's lock

	one     sync.Mutex // one checkpoint at a time; acquired before all others
	mu      sync.Mutex // may be acquired while holding the log's lock
	present firstUses  // first uses in the current segment, or in an earlier one until the method turn is called
	earlier []firstUses
	wake    chan struct{} // has a token when the list `earlier` may not be empty
}

// firstUses are the series whose labels are only in one segment.
type firstUses struct {
	segment int
	since   time.Time // time of the first use; valid while these are labelLog.present
	series  map[*tenantHead][]*memSeries
}

func newLabelLog(now func() time.Time) *labelLog {
	return &labelLog{now: now, wake: make(chan struct{}, 1)}
}

// put appends a section with the labels of series to a record. The caller holds
// the log's lock.
func (l *labelLog) put(dst []byte, list []*memSeries) []byte {
	l.raw = putLabels(l.raw[:0], list)
	dst = putCompressed(dst, sectionSeries, l.raw)
	if cap(l.raw) > 4*sliceBytes {
		l.raw = nil // do not retain the buffer of one huge request
	}
	return dst
}

// used records series whose labels were just written to the segment. The caller
// holds the log's lock.
func (l *labelLog) used(th *tenantHead, list []*memSeries, segment int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turn(segment)
	if l.present.series == nil {
		l.present = firstUses{segment: segment, since: l.now(), series: map[*tenantHead][]*memSeries{}}
	}
	l.present.series[th] = append(l.present.series[th], list...)
}

// turn moves first uses in segments before the given one from l.present to l.earlier.
// The caller holds l.mu.
func (l *labelLog) turn(segment int) {
	if l.present.series == nil || l.present.segment >= segment {
		return
	}
	l.earlier = append(l.earlier, l.present)
	l.present = firstUses{}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// forget drops the first uses in deleted segments, which are the segments before
// the given one.
func (l *labelLog) forget(below int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.earlier) > 0 && l.earlier[0].segment < below {
		l.earlier = l.earlier[1:]
	}
	if l.present.segment < below {
		l.present = firstUses{}
	}
}

// waiting returns how many series have their labels in only one segment.
func (l *labelLog) waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, uses := range append([]firstUses{l.present}, l.earlier...) {
		for _, list := range uses.series {
			n += len(list)
		}
	}
	return n
}

// overdue reports whether series have waited so long that a new segment should
// begin for their second copy.
func (l *labelLog) overdue(segment int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turn(segment)
	return l.present.series != nil && since(l.now(), l.present.since) >= checkpointAfter
}

// run writes checkpoints until ctx is done. It passes errors to failed.
func (l *labelLog) run(ctx context.Context, failed func(error)) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-l.wake:
		}
		if err := l.checkpoint(ctx); err != nil && ctx.Err() == nil {
			failed(err)
		}
	}
}

// pause blocks checkpoints until the returned function is called. A seal of the
// whole head pauses them, because the segments that it is about to delete need no
// second copy.
func (l *labelLog) pause() (resume func()) {
	l.one.Lock()
	return l.one.Unlock
}

// checkpoint writes the second copy of labels whose first copy is in a segment
// before the current one. If labels have waited too long for the next segment,
// checkpoint begins one.
func (l *labelLog) checkpoint(ctx context.Context) error {
	l.one.Lock()
	defer l.one.Unlock()
	if l.overdue(l.log.Segment()) {
		at, err := l.log.Split()
		if err != nil {
			return fmt.Errorf("write the label checkpoint: %w", err)
		}
		l.mu.Lock()
		l.turn(at.Segment)
		l.mu.Unlock()
	}
	written, err := l.writeSlices(ctx)
	if err == nil && len(written) > 0 {
		// Labels may be missing in a segment whose sync fails.
		err = l.log.SyncAll()
	}
	if err != nil {
		l.putBack(written)
		return fmt.Errorf("write the label checkpoint: %w", err)
	}
	return nil
}

// writeSlices appends all due slices and returns them, including one that failed.
func (l *labelLog) writeSlices(ctx context.Context) (written []*labelSlice, err error) {
	for ctx.Err() == nil {
		s := l.slice()
		if s == nil {
			return written, nil
		}
		written = append(written, s)
		if _, err := l.log.Append(s); err != nil {
			return written, err
		}
		time.Sleep(slicePause)
	}
	return written, nil
}

// slice removes and returns the next slice of waiting series, or nil if none wait.
func (l *labelLog) slice() *labelSlice {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.earlier) > 0 {
		uses := l.earlier[0]
		for th, list := range uses.series {
			n, size := 0, 0
			for n < len(list) && size < sliceBytes {
				size += int(list[n].labels.ByteSize())
				n++
			}
			if uses.series[th] = list[n:]; n == len(list) {
				delete(uses.series, th)
			}
			return &labelSlice{labels: l, th: th, series: list[:n], segment: uses.segment}
		}
		l.earlier = l.earlier[1:]
	}
	return nil
}

// putBack schedules slices that may not be in the log to be written again.
func (l *labelLog) putBack(list []*labelSlice) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var back []firstUses
	for _, s := range list {
		back = append(back, firstUses{segment: s.segment, series: map[*tenantHead][]*memSeries{s.th: s.series}})
	}
	l.earlier = append(back, l.earlier...)
}

// labelSlice is a part of a checkpoint: a record with only labels.
type labelSlice struct {
	labels  *labelLog
	th      *tenantHead
	series  []*memSeries
	segment int // segment of the first copy
}

// AppendTo implements wal.Record.
func (s *labelSlice) AppendTo(dst []byte, _ wal.Place) []byte {
	return s.labels.put(beginRecord(dst, s.th.id), s.series)
}

// Appended implements wal.Record.
func (s *labelSlice) Appended(wal.Place) {}
