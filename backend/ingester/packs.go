package ingester

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/disk"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/store"
)

// defaultPageCache is the default size, in bytes, of the cache of decoded pages.
const defaultPageCache = 64 << 20

// packSet is the set of local packs that the ingester serves.
type packSet struct {
	dir    string
	logger *slog.Logger
	pages  *pack.PageCache

	mu       sync.RWMutex
	packs    []*localPack
	byTenant map[tenant.ID][]tenantPack
}

type localPack struct {
	path    string
	reader  *pack.Reader
	windows []store.Window

	isUploaded bool      // guarded by packSet.mu
	consumed   time.Time // when the uploader first found the pack compacted; zero = not compacted; used only by the uploader
}

// tenantPack is a pack with samples of a tenant, and their time range.
type tenantPack struct {
	pack       *localPack
	mint, maxt int64
}

// openPacks opens all packs below dir and removes files that a crash left
// incomplete. A pack that cannot be opened is an error: without it queries would
// return incomplete results.
func openPacks(dir string, pageCache int64, logger *slog.Logger) (*packSet, error) {
	if err := disk.MakeDir(dir); err != nil {
		return nil, fmt.Errorf("open local packs: %w", err)
	}
	dir, err := filepath.EvalSymlinks(dir) // WalkDir does not follow links: it would find no packs
	if err != nil {
		return nil, fmt.Errorf("open local packs: %w", err)
	}
	p := &packSet{
		dir:      dir,
		logger:   logger,
		pages:    pack.NewPageCache(cmp.Or(pageCache, defaultPageCache)),
		byTenant: map[tenant.ID][]tenantPack{},
	}
	removed, err := pack.RemoveTemporary(dir)
	if err != nil {
		return nil, fmt.Errorf("open local packs: %w", err)
	}
	if err := removeMarkers(dir); err != nil {
		return nil, fmt.Errorf("open local packs: %w", err)
	}
	for _, path := range removed {
		logger.Info("removed an incomplete pack: its samples are still in the write-ahead log or set aside", "file", path)
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, pack.Suffix) {
			return err
		}
		return p.open(path)
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open local packs: %w", err), p.close())
	}
	return p, nil
}

// open opens the pack at path and adds it to the set.
func (p *packSet) open(path string) error {
	src, err := pack.OpenFile(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	r, err := pack.Open(src, pack.WithPageCache(p.pages))
	if err != nil {
		return errors.Join(unreadable(path, err), src.Close())
	}
	lp := &localPack{path: path, reader: r, windows: store.WindowsOf(r.Info())}
	if _, err := os.Stat(path + uploadedSuffix); err == nil {
		lp.isUploaded = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.packs = append(p.packs, lp)
	for id, b := range boundsByTenant(r.Info()) {
		p.byTenant[id] = append(p.byTenant[id], tenantPack{pack: lp, mint: b.min, maxt: b.max})
	}
	return nil
}

// unreadable returns the error for a pack that cannot be read, because it is damaged
// or was written by a newer version. It prevents the start, and tells the operator
// what to do.
func unreadable(path string, err error) error {
	return fmt.Errorf("%s cannot be read: %w; restore it from a copy, or move it out of the directory to start without its samples", path, err)
}

func boundsByTenant(info pack.Info) map[tenant.ID]timeBounds {
	out := map[tenant.ID]timeBounds{}
	for _, s := range info.Sections {
		b := out[s.Tenant]
		b.add(s.MinTime)
		b.add(s.MaxTime)
		out[s.Tenant] = b
	}
	return out
}

// retain returns the packs with samples of the tenant in [mint, maxt]. The caller
// must release each of them.
func (p *packSet) retain(id tenant.ID, mint, maxt int64) []*pack.Reader {
	p.mu.RLock()
	defer p.mu.RUnlock()
	var out []*pack.Reader
	for _, tp := range p.byTenant[id] {
		if tp.mint <= maxt && tp.maxt >= mint && tp.pack.reader.Retain() {
			out = append(out, tp.pack.reader)
		}
	}
	return out
}

// remove removes the packs for which expired returns true for every tenant, and
// deletes their files. Queries in progress can still read them. It returns the
// number removed, and their tenants.
func (p *packSet) remove(expired func(id tenant.ID, maxt int64) bool) (int, map[tenant.ID]bool, error) {
	of := map[tenant.ID]bool{}
	n, err := p.removeIf(func(lp *localPack) bool {
		bounds := boundsByTenant(lp.reader.Info())
		for id, b := range bounds {
			if !expired(id, b.max) {
				return false
			}
		}
		for id := range bounds {
			of[id] = true
		}
		return true
	})
	return n, of, err
}

func (p *packSet) removeIf(want func(*localPack) bool) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs error
	n := 0
	p.packs = slices.DeleteFunc(p.packs, func(lp *localPack) bool {
		if !want(lp) {
			return false
		}
		if err := os.Remove(lp.path); err != nil {
			errs = errors.Join(errs, err)
			return false
		}
		if err := os.Remove(lp.path + uploadedSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = errors.Join(errs, err)
		}
		for id, packs := range p.byTenant {
			p.byTenant[id] = slices.DeleteFunc(packs, func(tp tenantPack) bool { return tp.pack == lp })
		}
		errs = errors.Join(errs, lp.reader.Release())
		n++
		return true
	})
	return n, errs
}

// recent calls fn for the packs with samples at or after mint, oldest first. An
// error of fn counts as damage of the pack.
func (p *packSet) recent(mint int64, fn func(*pack.Reader) error) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	type aged struct {
		pack *localPack
		maxt int64
	}
	var all []aged
	for _, lp := range p.packs {
		newest := int64(math.MinInt64)
		for _, s := range lp.reader.Info().Sections {
			newest = max(newest, s.MaxTime)
		}
		if newest >= mint {
			all = append(all, aged{lp, newest})
		}
	}
	slices.SortFunc(all, func(a, b aged) int { return cmp.Compare(a.maxt, b.maxt) })
	for _, a := range all {
		if err := fn(a.pack.reader); err != nil {
			return unreadable(a.pack.path, err)
		}
	}
	return nil
}

func (p *packSet) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs error
	for _, lp := range p.packs {
		errs = errors.Join(errs, lp.reader.Release())
	}
	p.packs, p.byTenant = nil, nil
	return errs
}
