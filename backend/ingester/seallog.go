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

// sealLog records seals, so that replay skips sealed samples and segments of the
// log can be deleted: every sample in a segment below BeforeSegment that is before
// BeforeTime, or at or after FromTime, is in a pack or set aside. Losing the file
// loses no samples: replay then restores samples that are in packs too.
type sealLog struct {
	path   string
	damage error // why the file could not be decoded; it then counts as absent

	mu       sync.Mutex
	seals    []seal
	segments map[int]segmentTimes // by number
}

// segmentTimes describes a segment of the log.
type segmentTimes struct {
	epoch int // first segment of the epoch
	span
}

// span is a summary of the times of samples. Near times are before the far future as
// of the push or the replay of the sample.
type span struct {
	near           int64 // the newest near time
	farMin, farMax int64 // the oldest and the newest far time
}

func noTimes() span { return span{near: math.MinInt64, farMin: math.MaxInt64, farMax: math.MinInt64} }

// add adds a sample at t; `far` is the start of the far future.
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
	FromTime      int64 `json:"from_time_ms,omitempty"` // 0 = none
}

func openSealLog(path string) (*sealLog, error) {
	l := &sealLog{path: path, segments: map[int]segmentTimes{}}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the list of seals: %w", err)
	}
	if err := json.Unmarshal(data, &l.seals); err != nil {
		l.seals, l.damage = nil, err
		// Remove it. Otherwise a later start could find it repaired, with numbers of
		// segments that meanwhile belong to a new log if the log was removed too.
		if err := errors.Join(os.Remove(path), disk.SyncDir(filepath.Dir(path))); err != nil {
			return nil, fmt.Errorf("remove the damaged list of seals: %w", err)
		}
	}
	return l, nil
}

// firstSegment returns the lowest segment number that no seal covers. A log whose
// files were removed must not begin below it, because its samples would count as
// sealed.
func (l *sealLog) firstSegment() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := 0
	for _, s := range l.seals {
		first = max(first, s.BeforeSegment)
	}
	return first
}

// covering describes the samples of one segment that are covered by seals.
type covering struct {
	before  int64 // all samples before this time
	from    int64 // and all at or after this time, if hasFrom is set
	hasFrom bool
}

func (c *covering) has(t int64) bool { return t < c.before || c.hasFrom && t >= c.from }

// covering returns which samples of a segment are covered by seals.
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

// note records the times of samples in a segment.
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

// allSealed reports whether all samples of the segment are sealed. It may return
// false although they are.
func (l *sealLog) allSealed(segment int, times span) bool {
	last := max(times.near, times.farMax)
	for i := range l.seals {
		s := &l.seals[i]
		if segment >= s.BeforeSegment || s.FromTime == 0 {
			continue
		}
		// The seal has all samples at or after FromTime, including those that counted
		// as near because the clock was ahead.
		last = min(last, s.FromTime-1)
		if times.farMin >= s.FromTime {
			last = min(last, times.near)
		}
	}
	// One seal must cover all remaining samples: two seals may have a gap between
	// them.
	return slices.ContainsFunc(l.seals, func(s seal) bool { return segment < s.BeforeSegment && last < s.BeforeTime })
}

// add records a seal and the position at which the log was cut before it. It
// returns the first segment that is still needed; earlier segments may be deleted
// if the error is nil. Epochs are deleted as a whole, because the samples in an
// epoch's last segments need the labels in its first ones.
func (l *sealLog) add(s seal, cut wal.Place) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seals = append(l.seals, s)
	needed := cut.Epoch
	for segment, known := range l.segments {
		if segment < s.BeforeSegment && !l.allSealed(segment, known.span) {
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
		return fmt.Errorf("write the list of seals: %w", err)
	}
	return nil
}

// endOfTime is a bound above all samples.
const endOfTime = math.MaxInt64
