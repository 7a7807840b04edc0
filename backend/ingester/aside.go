package ingester

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

const (
	// DefaultAsideBytes is the default limit of disk space, in bytes, for a tenant's
	// series set aside.
	DefaultAsideBytes = 1 << 30
	// asideCharge is the minimum number of bytes that is counted for a file, because
	// small files have a cost too.
	asideCharge = 64 << 10
)

// ErrAside is returned for pushes of a tenant whose disk space for series set aside
// is full.
var ErrAside = errors.New("the tenant's disk quota for series that cannot be stored (ingester.aside_bytes) is used up")

// asideFile is one file that is served. It is immutable.
type asideFile struct {
	path     string
	tenant   tenant.ID
	window   store.Window
	min, max int64 // Unix milliseconds, inclusive
	deletion uint64
	since    int64 // Unix milliseconds
	samples  int64
	bytes    int64
	reason   string
	damage   error // set if the header cannot be read
}

// asideSet manages the files of series that no pack could hold, one file for each
// series and window; see docs/format/aside.md.
type asideSet struct {
	dir    string
	limit  int64 // bytes per tenant
	disk   asideDisk
	logger *slog.Logger
	// removed is called when a file is no longer read; nil: not called.
	removed func(tenant.ID)

	changing sync.Mutex      // serializes writes and removals of files; acquired before mu
	dirty    map[string]bool // directories with entries that may not be synced yet; guarded by changing

	mu      sync.RWMutex
	files   map[tenant.ID]map[string]*asideFile // by path
	leaving map[*asideFile]bool                 // being removed, and therefore not read any more
	charge  map[tenant.ID]int64
}

// openAsideSet opens the files below dir and removes temporary files that a crash
// left. The samples of the removed files are still in the log.
func openAsideSet(dir string, limit int64, disk asideDisk, logger *slog.Logger) (*asideSet, error) {
	limit = asideLimit(limit)
	if disk == nil {
		disk = osDisk{}
	}
	s := &asideSet{
		dir:     dir,
		limit:   limit,
		disk:    disk,
		logger:  logger,
		files:   map[tenant.ID]map[string]*asideFile{},
		leaving: map[*asideFile]bool{},
		dirty:   map[string]bool{},
		charge:  map[tenant.ID]int64{},
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && path == dir:
			return filepath.SkipAll
		case err != nil || d.IsDir():
			return err
		case strings.HasSuffix(path, asideSuffix+".tmp"):
			return os.Remove(path)
		case !strings.HasSuffix(path, asideSuffix):
			return nil
		}
		return s.open(path)
	})
	if err != nil {
		return nil, fmt.Errorf("open directory of series set aside: %w", err)
	}
	return s, nil
}

// asideLimit returns the disk space per tenant for a value of Options.AsideBytes.
func asideLimit(bytes int64) int64 {
	if bytes <= 0 {
		return DefaultAsideBytes
	}
	return bytes
}

// open registers a file to be served. A file whose header cannot be read is
// registered as damaged, with the tenant and window of its path.
func (s *asideSet) open(path string) error {
	rel, err := filepath.Rel(s.dir, path)
	if err != nil {
		return err
	}
	t, w, err := parseAsidePath(rel)
	if err != nil {
		return fmt.Errorf("%s: %w; move the file out of this directory", path, err)
	}
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	f := &asideFile{path: path, tenant: t, window: w, bytes: st.Size()}
	f.min, f.max = windowBounds(w)
	h, _, err := readAside(path, nil)
	if err == nil && (h.tenant != t || h.window != w) {
		err = fmt.Errorf("%s: %w: its header names tenant %s, day %d, window %d, but its path does not",
			path, errAside, h.tenant, h.window.Day, h.window.Number)
	}
	if err != nil {
		f.damage, f.reason = err, "damaged file"
		s.logger.Error("failed to read the file of a series set aside: queries of its tenant and window fail; "+
			"restore it from a copy and restart, or drop it: pallium aside drop", "tenant", t, "day", w.Day, "window", w.Number, "err", err)
	} else {
		f.fill(&h)
	}
	s.put(f)
	return nil
}

func (f *asideFile) fill(h *asideHeader) {
	f.min, f.max, f.deletion, f.since, f.samples, f.reason = h.minTime, h.maxTime, h.deletion, h.since, int64(h.samples), h.reason
}

// windowBounds returns the first and the last millisecond of a window.
func windowBounds(w store.Window) (mint, maxt int64) {
	if w.Day >= math.MaxInt64/series.DayMillis {
		return w.Day * series.DayMillis, math.MaxInt64
	}
	mint = w.Day*series.DayMillis + int64(w.Number)*series.WindowMillis
	return mint, mint + series.WindowMillis - 1
}

func (s *asideSet) put(f *asideFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files[f.tenant] == nil {
		s.files[f.tenant] = map[string]*asideFile{}
	}
	if old := s.files[f.tenant][f.path]; old != nil {
		s.charge[f.tenant] -= max(old.bytes, asideCharge)
		delete(s.leaving, old)
	}
	s.files[f.tenant][f.path] = f
	s.charge[f.tenant] += max(f.bytes, asideCharge)
}

// remove deletes a file, unless another file replaced it. From then on the file is
// not read any more, even if deleting it fails; a later call for the same file
// retries the deletion.
func (s *asideSet) remove(f *asideFile) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	if !s.leave(f) {
		return nil
	}
	if s.removed != nil {
		s.removed(f.tenant)
	}
	if err := s.disk.Remove(f.path); err != nil {
		return fmt.Errorf("remove the file of a series set aside: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.leaving, f)
	delete(s.files[f.tenant], f.path)
	s.charge[f.tenant] -= max(f.bytes, asideCharge)
	if len(s.files[f.tenant]) == 0 {
		delete(s.files, f.tenant)
		delete(s.charge, f.tenant)
	}
	return nil
}

// leave ends reads of a file, unless another file replaced it. It does no disk I/O,
// because every push acquires mu.
func (s *asideSet) leave(f *asideFile) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files[f.tenant][f.path] != f {
		return false
	}
	s.leaving[f] = true
	return true
}

// check returns ErrAside if the tenant's disk space for series set aside is full.
func (s *asideSet) check(t tenant.ID) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if used := s.charge[t]; used >= s.limit {
		return fmt.Errorf("%w: %d of %d bytes used", ErrAside, used, s.limit)
	}
	return nil
}

// overlapping lists the files of a tenant that may have samples in [mint, maxt].
func (s *asideSet) overlapping(t tenant.ID, mint, maxt int64) []*asideFile {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []*asideFile
	for _, f := range s.files[t] {
		if f.min <= maxt && f.max >= mint && !s.leaving[f] {
			out = append(out, f)
		}
	}
	return out
}

// all lists all files, sorted by path.
func (s *asideSet) all() []*asideFile {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []*asideFile
	for _, files := range s.files {
		for _, f := range files {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b *asideFile) int { return strings.Compare(a.path, b.path) })
	return out
}

func (s *asideSet) empty() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.files) == 0
}

// current reports whether a file is still served.
func (s *asideSet) current(f *asideFile) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.files[f.tenant][f.path] == f && !s.leaving[f]
}

// keep writes the samples of one series and window to a file, merged with the
// samples of an existing file, and serves that file from then on. The file is
// durable after a call of the method sync.
func (s *asideSet) keep(h asideHeader, chunks []series.Chunk) error {
	s.changing.Lock() // until the new file is served: remove would mistake it for the old one
	defer s.changing.Unlock()
	base := filepath.Join(s.dir, asideName(h.tenant, h.window, h.labels))
	path := base + asideSuffix
	for try := 1; ; try++ {
		old, had, err := readAside(path, func(*asideHeader) bool { return true })
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err == nil && labels.Equal(old.labels, h.labels) && old.deletion == h.deletion {
			h.since = old.since
			chunks = series.DropCopies(slices.Concat(had, chunks))
			break
		}
		// The existing file is damaged, older than a deletion, or of another series
		// with the same hash: leave it unchanged.
		path = fmt.Sprintf("%s-%d%s", base, try, asideSuffix)
	}
	data := encodeAside(&h, chunks)
	s.dirty[filepath.Dir(path)] = true
	if err := s.disk.Write(path, data); err != nil {
		return fmt.Errorf("set series aside: %w", err)
	}
	f := &asideFile{path: path, tenant: h.tenant, window: h.window, bytes: int64(len(data))}
	f.fill(&h)
	s.put(f)
	return nil
}

// sync makes the names of all written files durable.
func (s *asideSet) sync() error {
	s.changing.Lock()
	defer s.changing.Unlock()
	if len(s.dirty) == 0 {
		return nil
	}
	// The parent directories may be new too.
	dirs := append(slices.Sorted(maps.Keys(s.dirty)), s.dir, filepath.Dir(s.dir))
	if err := s.disk.Sync(dirs); err != nil {
		return fmt.Errorf("set series aside: %w", err)
	}
	clear(s.dirty)
	return nil
}

// readAsideLabels calls fn with the labels of the series set aside that match the
// request.
func (ing *Ingester) readAsideLabels(ctx context.Context, req series.Request, deleted *tenantDeletions, fn func(labels.Labels)) error {
	req.LabelsOnly = true
	return ing.selectAside(ctx, req, deleted, func(ls labels.Labels, _ []series.Chunk) error { fn(ls); return nil })
}

// selectAside calls fn for the series set aside that match the request. Without
// LabelsOnly, fn also gets their chunks, which it owns.
func (ing *Ingester) selectAside(
	ctx context.Context, req series.Request, deleted *tenantDeletions, fn func(labels.Labels, []series.Chunk) error,
) error {
	for _, f := range ing.aside.overlapping(req.Tenant, req.MinTime, req.MaxTime) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := ing.readAsideFile(f, req, deleted, fn); err != nil {
			return fmt.Errorf("read series set aside: %w", err)
		}
	}
	return nil
}

func (ing *Ingester) readAsideFile(
	f *asideFile, req series.Request, deleted *tenantDeletions, fn func(labels.Labels, []series.Chunk) error,
) error {
	if f.damage != nil {
		return f.damage
	}
	var gone []series.Interval
	wanted := false
	h, chunks, err := readAside(f.path, func(h *asideHeader) bool {
		gone = deleted.after(h.deletion, h.labels)
		wanted = matches(h.labels, req.Matchers) && req.Range.Contains(h.labels) && !covers(gone, h.minTime, h.maxTime)
		return wanted && !req.LabelsOnly
	})
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && !ing.aside.current(f) {
			return nil
		}
		return err
	}
	if !wanted {
		return nil
	}
	if req.LabelsOnly {
		return fn(h.labels, nil)
	}
	chunks = slices.DeleteFunc(chunks, func(c series.Chunk) bool { return !c.Overlaps(req.MinTime, req.MaxTime) })
	if chunks, err = series.Without(chunks, gone); err != nil || len(chunks) == 0 {
		return err
	}
	return fn(h.labels, chunks)
}

// covers reports whether one of the intervals contains all of [mint, maxt].
func covers(gone []series.Interval, mint, maxt int64) bool {
	return slices.ContainsFunc(gone, func(g series.Interval) bool { return g.Min <= mint && g.Max >= maxt })
}
