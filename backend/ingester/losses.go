package ingester

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"slices"
	"sync"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wal"
)

// loss is what a tenant lost of one UTC day.
type loss struct {
	Tenant  tenant.ID `json:"tenant"`
	Day     int64     `json:"day"`
	MinTime int64     `json:"min_time_ms"`
	MaxTime int64     `json:"max_time_ms"`
	Samples int       `json:"samples"`
	// Accepted losses are kept while replay finds them: the log is there until it is
	// sealed.
	Accepted bool `json:"accepted,omitempty"`
}

// lossSet has the losses of an ingester without replicas, on disk too: the log in
// which they were found is deleted once it is sealed. It is bounded by the days
// and tenants of one log.
type lossSet struct {
	path string

	mu   sync.RWMutex
	list []loss
}

func openLosses(path string) (*lossSet, error) {
	l := &lossSet{path: path}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &l.list)
	}
	if err != nil {
		return nil, fmt.Errorf("read what was lost with the write-ahead log: %s: %w; removing the file accepts the loss", path, err)
	}
	return l, nil
}

// replayed records what a replay found before the start goes on. Finding losses
// again changes nothing; accepted ones that it did not find are forgotten.
func (l *lossSet) replayed(found []loss) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := len(l.list)
	l.list = slices.DeleteFunc(l.list, func(o loss) bool {
		return o.Accepted && !slices.ContainsFunc(found, func(f loss) bool { return o.Tenant == f.Tenant && o.Day == f.Day })
	})
	if len(found) == 0 && len(l.list) == before {
		return nil
	}
	for _, f := range found {
		at := slices.IndexFunc(l.list, func(o loss) bool { return o.Tenant == f.Tenant && o.Day == f.Day })
		if at < 0 {
			l.list = append(l.list, f)
			continue
		}
		o := &l.list[at]
		o.Accepted = o.Accepted && f.Samples <= o.Samples // it has become no more
		o.MinTime, o.MaxTime, o.Samples = min(o.MinTime, f.MinTime), max(o.MaxTime, f.MaxTime), max(o.Samples, f.Samples)
	}
	return l.save()
}

func (l *lossSet) save() error {
	if err := writeJSON(l.path, l.list); err != nil {
		return fmt.Errorf("record what was lost with the write-ahead log: %w", err)
	}
	return nil
}

// check returns series.ErrLost when samples of the tenant in [mint, maxt] were lost.
func (l *lossSet) check(id tenant.ID, mint, maxt int64) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for i := range l.list {
		if o := &l.list[i]; !o.Accepted && o.Tenant == id && o.MinTime <= maxt && o.MaxTime >= mint {
			return fmt.Errorf("%w: %d samples of day %d", series.ErrLost, o.Samples, o.Day)
		}
	}
	return nil
}

// AcceptLoss lets queries go on that fail for samples of a UTC day that were lost
// with the log. It returns of how many tenants there were some.
func (ing *Ingester) AcceptLoss(day int64) (int, error) {
	l := ing.losses
	l.mu.Lock()
	defer l.mu.Unlock()
	old, n := l.list, 0
	l.list = slices.Clone(old)
	for i := range l.list {
		if o := &l.list[i]; o.Day == day && !o.Accepted {
			o.Accepted = true
			n++
		}
	}
	if n == 0 {
		return 0, nil
	}
	if err := l.save(); err != nil {
		l.list = old
		return 0, err
	}
	return n, nil
}

// recordLosses makes sure that what replay found damaged is not forgotten. With
// replicas the windows are marked as lost, as those of a lost disk are: others
// have the samples. Without, queries of tenants fail for the times of samples
// that the log has and nobody can name.
func (ing *Ingester) recordLosses(ctx context.Context, r *replay, damage []wal.Damage) error {
	if ing.opts.Replication > 1 {
		windows := r.damagedWindows(damage)
		if len(windows) == 0 || ing.opts.Damaged == nil {
			return nil
		}
		return ing.opts.Damaged(ctx, windows)
	}
	var found []loss
	for id, days := range r.orphans {
		for day, o := range days {
			found = append(found, loss{Tenant: id, Day: day, MinTime: o.min, MaxTime: o.max, Samples: o.samples})
		}
	}
	return ing.losses.replayed(found)
}

// damagedWindows are the starts of the windows of samples without labels, and of
// all samples beside a damaged record: its own cannot be known. A segment may have
// no other, so the time at which it was last written counts, too.
func (r *replay) damagedWindows(damage []wal.Damage) []int64 {
	windows := map[int64]bool{}
	for _, days := range r.orphans {
		for _, o := range days {
			addWindows(windows, o.min, o.max)
		}
	}
	for _, d := range damage {
		if d.Torn {
			continue
		}
		if info, err := os.Stat(wal.SegmentPath(r.dir, d.Segment)); err == nil {
			written := info.ModTime().UnixMilli()
			addWindows(windows, written-series.WindowMillis, written)
		}
		for segment := d.Segment - 1; segment <= d.Segment+1; segment++ {
			if b, ok := r.perSegment[segment]; ok {
				addWindows(windows, b.min, b.max)
			}
		}
	}
	return slices.Sorted(maps.Keys(windows))
}

// addWindows adds the windows from one time to another.
func addWindows(windows map[int64]bool, mint, maxt int64) {
	for w := series.WindowStart(mint); w <= maxt; w += series.WindowMillis {
		windows[w] = true
	}
}

// orphans are samples of a tenant and day whose labels are lost.
type orphans struct {
	samples  int
	min, max int64
}

func (r *replay) orphan(t int64) {
	days := r.orphans[r.th.id]
	if days == nil {
		days = map[int64]*orphans{}
		r.orphans[r.th.id] = days
	}
	o := days[series.Day(t)]
	if o == nil {
		o = &orphans{min: math.MaxInt64, max: math.MinInt64}
		days[series.Day(t)] = o
	}
	o.samples, o.min, o.max = o.samples+1, min(o.min, t), max(o.max, t)
}

// nearBounds widens the times of the segment, without those of the far future: a
// damaged record is not taken for one of them.
func (r *replay) nearBounds(t int64) {
	if t >= r.far || t < r.far-maxDamageAge {
		return
	}
	b := r.inSegment
	b.min, b.max = min(b.min, t), max(b.max, t)
}

// maxDamageAge is how old samples beside a damaged record may be for its windows
// to be marked: an import of years must not mark years.
const maxDamageAge = 64 * series.DayMillis

// segmentBounds are the first and last time of a segment.
type segmentBounds struct{ min, max int64 }
