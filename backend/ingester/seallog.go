package ingester

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/palliumhq/pallium/backend/disk"
	"github.com/palliumhq/pallium/backend/wal"
)

// sealLog remembers what was sealed, so that replay leaves it out and segments
// of the log can go: every sample in a segment below BeforeSegment that is older
// than BeforeTime, or not older than FromTime, is in a pack or set aside. Losing
// the file loses nothing; replay then brings back samples that are in packs too.
type sealLog struct {
	path   string
	damage error // why the file could not be decoded, and counts as absent

	mu       sync.Mutex
	seals    []seal
	segments map[int]segmentTimes // by number
}

// segmentTimes is what is known of a segment of the log.
type segmentTimes struct {
	epoch int // its first segment
	span
}

// span is what is known of the times of samples. Near ones are before the far
// future as it was when they came.
type span struct {
	near           int64 // the newest near one
	farMin, farMax int64 // the oldest and the newest of the far future
}

func noTimes() span { return span{near: math.MinInt64, farMin: math.MaxInt64, farMax: math.MinInt64} }

// add takes in a sample at t; far is where the far future begins.
func (p *span) add(t, far int64) {
	if t < far {
		p.near = max(p.near, t)
		return
	}
	p.farMin, p.farMax = min(p.farMin, t), max(p.farMax, t)
}

func (p *span) join(o span) {
	p.near, p.farMin, p.farMax = max(p.near, o.near), min(p.farMin, o.farMin), max(p.farMax, o.farMax)
}

type seal struct {
	BeforeSegment int   `json:"before_segment"`
	BeforeTime    int64 `json:"before_time_ms"`
	FromTime      int64 `json:"from_time_ms,omitempty"` // 0: none
}

func openSealLog(path string) (*sealLog, error) {
	l := &sealLog{path: path, segments: map[int]segmentTimes{}}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what was sealed: %w", err)
	}
	if err := json.Unmarshal(data, &l.seals); err != nil {
		l.seals, l.damage = nil, err
		// It goes, or a later start could find it mended, with numbers of segments that
		// a log that was taken away as well has given to new ones by then.
		if err := errors.Join(os.Remove(path), disk.SyncDir(filepath.Dir(path))); err != nil {
			return nil, fmt.Errorf("remove a damaged record of what was sealed: %w", err)
		}
	}
	return l, nil
}

// firstSegment is the lowest segment that no seal covers. A log whose files were
// taken away must not begin below it: its samples would count as sealed.
func (l *sealLog) firstSegment() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := 0
	for _, s := range l.seals {
		first = max(first, s.BeforeSegment)
	}
	return first
}

// covering is what the seals of a log have of one segment.
type covering struct {
	before  int64 // all samples before
	from    int64 // and from this time on, if hasFrom is set
	hasFrom bool
}

func (c *covering) has(t int64) bool { return t < c.before || c.hasFrom && t >= c.from }

// covering returns which samples of the segment are in packs.
func (l *sealLog) covering(segment int) covering {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := covering{before: math.MinInt64}
	for _, s := range l.seals {
		if segment >= s.BeforeSegment {
			continue
		}
		c.before = max(c.before, s.BeforeTime)
		if s.FromTime > 0 && (!c.hasFrom || s.FromTime < c.from) {
			c.from, c.hasFrom = s.FromTime, true
		}
	}
	return c
}

// note remembers the times of samples in a segment.
func (l *sealLog) note(at wal.Place, times span) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known, ok := l.segments[at.Segment]
	if !ok {
		known = segmentTimes{epoch: at.Epoch, span: noTimes()}
	}
	known.join(times)
	l.segments[at.Segment] = known
}

// settled reports whether all samples of the segment are in packs. It may say no
// for a while although they are.
func (l *sealLog) settled(segment int, times span) bool {
	last := max(times.near, times.farMax)
	for i := range l.seals {
		s := &l.seals[i]
		if segment >= s.BeforeSegment || s.FromTime == 0 {
			continue
		}
		// The seal has everything from FromTime on, what came as a near one by a clock
		// that was ahead, too.
		last = min(last, s.FromTime-1)
		if times.farMin >= s.FromTime {
			last = min(last, times.near)
		}
	}
	// One seal must have all that is left: two could leave a gap between them.
	return slices.ContainsFunc(l.seals, func(s seal) bool { return segment < s.BeforeSegment && last < s.BeforeTime })
}

// add records a seal, before which the log was cut at a place, and returns the
// first segment that is still needed. What is before it may be deleted once add
// has returned without an error. Epochs are deleted whole: the labels of a series
// are in the first segments of one, and needed for the samples in its last.
func (l *sealLog) add(s seal, cut wal.Place) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seals = append(l.seals, s)
	needed := cut.Epoch
	for segment, known := range l.segments {
		if segment < s.BeforeSegment && !l.settled(segment, known.span) {
			needed = min(needed, known.epoch)
		}
	}
	kept := l.seals[:0]
	for _, s := range l.seals {
		if s.BeforeSegment > needed {
			kept = append(kept, s)
		}
	}
	l.seals = kept
	for segment := range l.segments {
		if segment < needed {
			delete(l.segments, segment)
		}
	}
	return needed, l.save()
}

func (l *sealLog) save() error {
	if err := writeJSON(l.path, l.seals); err != nil {
		return fmt.Errorf("record what was sealed: %w", err)
	}
	return nil
}

// endOfTime is a bound that every sample is below.
const endOfTime = math.MaxInt64
