package ingester

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
)

// sealLog remembers what was sealed, so that replay leaves it out and segments
// of the log can go: every sample in a segment below BeforeSegment that is older
// than BeforeTime, or not older than FromTime, is in a pack or set aside. Losing
// the file loses nothing; replay then brings back samples that are in packs too.
type sealLog struct {
	path string

	mu    sync.Mutex
	seals []seal
	times map[int]span // by segment of the log
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

// covers reports whether the seal has the samples at t of a segment.
func (s *seal) covers(segment int, t int64) bool {
	return segment < s.BeforeSegment && (t < s.BeforeTime || s.FromTime > 0 && t >= s.FromTime)
}

func openSealLog(path string) (*sealLog, error) {
	l := &sealLog{path: path, times: map[int]span{}}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what was sealed: %w", err)
	}
	if err := json.Unmarshal(data, &l.seals); err != nil {
		return nil, fmt.Errorf("read what was sealed: %s: %w; the file may be removed, replay then takes longer", path, err)
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

// covers reports whether a sample at t in the segment is in a pack.
func (l *sealLog) covers(segment int, t int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.coversLocked(segment, t)
}

func (l *sealLog) coversLocked(segment int, t int64) bool {
	for i := range l.seals {
		if l.seals[i].covers(segment, t) {
			return true
		}
	}
	return false
}

// note remembers the times of samples in the segment.
func (l *sealLog) note(segment int, times span) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known, ok := l.times[segment]
	if !ok {
		known = noTimes()
	}
	known.join(times)
	l.times[segment] = known
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

// add records a seal and returns the first segment that is still needed. What
// stands before it may be deleted once add has returned without an error.
func (l *sealLog) add(s seal) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seals = append(l.seals, s)
	needed := s.BeforeSegment
	for segment, times := range l.times {
		if segment < needed && !l.settled(segment, times) {
			needed = segment
		}
	}
	kept := l.seals[:0]
	for _, s := range l.seals {
		if s.BeforeSegment > needed {
			kept = append(kept, s)
		}
	}
	l.seals = kept
	for segment := range l.times {
		if segment < needed {
			delete(l.times, segment)
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

func writeSynced(path string, data []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// endOfTime is a bound that every sample is below.
const endOfTime = math.MaxInt64
