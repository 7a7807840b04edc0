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

// loss describes the samples that a tenant lost in one UTC day.
type loss struct {
	Tenant  tenant.ID `json:"tenant"`
	Day     int64     `json:"day"`
	MinTime int64     `json:"min_time_ms"`
	MaxTime int64     `json:"max_time_ms"`
	Samples int       `json:"samples"`
	// Accepted losses stay in the list as long as replay finds them: the damaged log
	// exists until it is sealed.
	Accepted bool `json:"accepted,omitempty"`
}

// lossSet is the list of losses of an ingester without replicas. It is stored on
// disk, because the log in which the losses were found is deleted once it is
// sealed.
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
		return nil, fmt.Errorf("read the list of lost samples %s: %w; restore the file, or remove it: queries for lost "+
			"samples whose log was already deleted then succeed with samples missing", path, err)
	}
	return l, nil
}

// replayed records the losses that a replay found. It is idempotent. Accepted
// losses that the replay did not find are removed.
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
		o.Accepted = o.Accepted && f.Samples <= o.Samples // stay accepted if the loss did not grow
		o.MinTime, o.MaxTime, o.Samples = min(o.MinTime, f.MinTime), max(o.MaxTime, f.MaxTime), max(o.Samples, f.Samples)
	}
	return l.save()
}

func (l *lossSet) save() error {
	if err := writeJSON(l.path, l.list); err != nil {
		return fmt.Errorf("write the list of samples lost with the write-ahead log: %w", err)
	}
	return nil
}

// check returns series.ErrLost if samples of the tenant in [mint, maxt] were lost.
func (l *lossSet) check(id tenant.ID, mint, maxt int64) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for i := range l.list {
		if o := &l.list[i]; !o.Accepted && o.Tenant == id && o.MinTime <= maxt && o.MaxTime >= mint {
			return fmt.Errorf("%w: %d samples of %s", series.ErrLost, o.Samples, series.DateOf(o.Day))
		}
	}
	return nil
}

// LostStats describes samples of a tenant and UTC day that were lost with damaged records
// of the write-ahead log.
type LostStats struct {
	Tenant  tenant.ID `json:"tenant"`
	Day     int64     `json:"day"`     // days since 1970-01-01
	MinTime int64     `json:"minTime"` // Unix milliseconds
	MaxTime int64     `json:"maxTime"` // Unix milliseconds, inclusive
}

// stats returns the losses that are not accepted.
func (l *lossSet) stats() []LostStats {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var out []LostStats
	for i := range l.list {
		if o := &l.list[i]; !o.Accepted {
			out = append(out, LostStats{Tenant: o.Tenant, Day: o.Day, MinTime: o.MinTime, MaxTime: o.MaxTime})
		}
	}
	return out
}

// AcceptLoss accepts the loss of the samples of a UTC day that were lost with the
// log, so that queries for them no longer fail. It returns the number of tenants
// with such losses.
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

// recordLosses persists the damage that a replay found. With replicas it marks the
// windows as lost, as for a lost disk, because replicas have the samples. Without
// replicas, queries fail for the times of samples that are in the log but whose
// series is unknown.
func (ing *Ingester) recordLosses(ctx context.Context, r *replay, damage []wal.Damage) error {
	if ing.opts.Replication > 1 {
		windows := r.damagedWindows(damage)
		if len(windows) == 0 || ing.opts.MarkDamaged == nil {
			return nil
		}
		return ing.opts.MarkDamaged(ctx, windows)
	}
	var found []loss
	for id, days := range r.orphans {
		for day, o := range days {
			found = append(found, loss{Tenant: id, Day: day, MinTime: o.min, MaxTime: o.max, Samples: o.samples})
		}
	}
	return ing.losses.replayed(found)
}

// damagedWindows returns the starts of the windows of samples without labels and of
// samples near a damaged record, because the record's own times are unknown. All samples
// in its segment and in the segments before and after count as near. As these segments
// may have no other record, the two hours before the last modification of the damaged
// segment are included too.
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

// addWindows adds the windows from mint to maxt.
func addWindows(windows map[int64]bool, mint, maxt int64) {
	for w := series.WindowStart(mint); w <= maxt; w += series.WindowMillis {
		windows[w] = true
	}
}

// orphans counts the samples of a tenant and day whose labels are lost.
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

// nearBounds extends the time range of the current segment. It ignores times in the
// far future, which damaged records are assumed not to have, and times older than
// maxDamageAge.
func (r *replay) nearBounds(t int64) {
	if t >= r.far || t < r.far-maxDamageAge {
		return
	}
	b := r.inSegment
	b.min, b.max = min(b.min, t), max(b.max, t)
}

// maxDamageAge is the maximum age of samples near a damaged record whose windows are
// marked as lost, so that an import of old samples does not mark years.
const maxDamageAge = 64 * series.DayMillis

// segmentBounds are the oldest and the newest timestamp in a segment.
type segmentBounds struct{ min, max int64 }
