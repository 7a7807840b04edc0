package ingester

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
)

// sealLog remembers what was sealed, so that replay leaves it out and segments
// of the log can go: every sample that stands in a segment below BeforeSegment
// and is older than BeforeTime is in a pack. Losing the file loses nothing;
// replay then brings back samples that are in packs too.
type sealLog struct {
	path string

	mu     sync.Mutex
	seals  []seal
	newest map[int]int64 // newest sample time by segment of the log
}

type seal struct {
	BeforeSegment int   `json:"before_segment"`
	BeforeTime    int64 `json:"before_time_ms"`
}

func openSealLog(path string) (*sealLog, error) {
	l := &sealLog{path: path, newest: map[int]int64{}}
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
	for _, s := range l.seals {
		if segment < s.BeforeSegment && t < s.BeforeTime {
			return true
		}
	}
	return false
}

// note remembers that the segment holds a sample at t.
func (l *sealLog) note(segment int, t int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if old, ok := l.newest[segment]; !ok || t > old {
		l.newest[segment] = t
	}
}

// add records a seal and returns the first segment that is still needed. What
// stands before it may be deleted once add has returned without an error.
func (l *sealLog) add(s seal) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seals = append(l.seals, s)
	needed := s.BeforeSegment
	for segment, t := range l.newest {
		if segment < needed && !l.coversLocked(segment, t) {
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
	for segment := range l.newest {
		if segment < needed {
			delete(l.newest, segment)
		}
	}
	return needed, l.save()
}

func (l *sealLog) save() error {
	data, err := json.Marshal(l.seals)
	if err != nil {
		return err
	}
	tmp := l.path + ".tmp"
	if err := writeSynced(tmp, data); err != nil {
		return fmt.Errorf("record what was sealed: %w", err)
	}
	if err := os.Rename(tmp, l.path); err != nil {
		return fmt.Errorf("record what was sealed: %w", err)
	}
	return syncDir(filepath.Dir(l.path))
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
