package ingester

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/store"
)

// asideReadEvery is the interval at which the records of series set aside are read
// again, because an operator may have dropped some.
const asideReadEvery = time.Minute

// asideKey identifies a record of series set aside.
type asideKey struct {
	window store.Window
	tenant tenant.ID
}

// recordWindow returns the window under which the files of window w are recorded.
// Row keys cannot name every day; see docs/format/aside.md.
func recordWindow(w store.Window) store.Window {
	if w.Day < 0 || w.Day > schema.MaxDay {
		return store.Window{Day: schema.MaxDay, Number: 11}
	}
	return w
}

// groups groups the files by their record.
func (s *asideSet) groups() map[asideKey][]*asideFile {
	out := map[asideKey][]*asideFile{}
	for _, f := range s.all() {
		k := asideKey{recordWindow(f.window), f.tenant}
		out[k] = append(out[k], f)
	}
	return out
}

// asideRecord returns the record of the files of one window and tenant, as the work
// row should have it.
func (ing *Ingester) asideRecord(k asideKey, files []*asideFile) store.AsideOf {
	a := store.AsideOf{
		Ingester: ing.opts.ID,
		Window:   k.window,
		Tenant:   k.tenant,
		Aside:    schema.Aside{Zone: ing.opts.Zone, Reason: files[0].reason},
	}
	for i, f := range files {
		a.Series++
		a.Samples += f.samples
		a.Bytes += f.bytes
		if i == 0 || f.since < a.Since {
			a.Since = f.since
		}
	}
	return a
}

// recordAside updates the records of series set aside to match the files. It must
// run before anything that ends an intent of their windows.
func (u *uploader) recordAside(ctx context.Context) error {
	now := u.ing.opts.Now()
	if u.asides == nil || since(now, u.asidesAt) >= asideReadEvery && len(u.asides) > 0 {
		if err := u.readAsideRecords(ctx); err != nil {
			return err
		}
		u.asidesAt = now
	}
	groups := u.ing.aside.groups()
	var set []store.AsideOf
	for k, files := range groups {
		want := u.ing.asideRecord(k, files)
		if have, ok := u.asides[k]; !ok || have.Aside != want.Aside {
			set = append(set, want)
		}
	}
	if len(set) > 0 {
		if err := u.long.SetAside(ctx, set); err != nil {
			return err
		}
		u.asidesMu.Lock()
		defer u.asidesMu.Unlock()
		for _, a := range set {
			u.asides[asideKey{a.Window, a.Tenant}] = a
		}
	}
	return nil
}

// clearAside deletes records without files. The samples of removed files are in a
// pack, or are not needed any more. While a pack of the tenant is not uploaded, the
// record stays: it prevents older deletions of series from being forgotten.
func (u *uploader) clearAside(ctx context.Context) error {
	groups, pending := u.ing.aside.groups(), map[tenant.ID]bool{}
	for _, lp := range u.ing.packs.pending() { // read after the files, because a retry moves samples from files to packs
		for t := range boundsByTenant(lp.reader.Info()) {
			pending[t] = true
		}
	}
	var clear []store.AsideOf
	for k, a := range u.asides {
		if len(groups[k]) == 0 && !pending[k.tenant] {
			clear = append(clear, a)
		}
	}
	if len(clear) == 0 {
		return nil
	}
	if err := u.long.ClearAside(ctx, clear); err != nil {
		return err
	}
	u.asidesMu.Lock()
	defer u.asidesMu.Unlock()
	for _, a := range clear {
		delete(u.asides, asideKey{a.Window, a.Tenant})
	}
	return nil
}

// readAsideRecords reads the records again. It deletes the files of records that an
// operator dropped, unless the files have changed since the operator saw the
// record.
func (u *uploader) readAsideRecords(ctx context.Context) error {
	all, err := u.long.Asides(ctx)
	if err != nil {
		return err
	}
	known := map[asideKey]store.AsideOf{}
	groups := u.ing.aside.groups()
	for _, a := range all {
		if a.Ingester != u.ing.opts.ID {
			continue
		}
		k := asideKey{a.Window, a.Tenant}
		known[k] = a
		files := groups[k]
		if a.Dropped == 0 || len(files) == 0 {
			continue
		}
		want := u.ing.asideRecord(k, files)
		if want.Series != a.Series || want.Samples != a.Samples || want.Bytes != a.Bytes {
			continue
		}
		var errs error
		for _, f := range files {
			errs = errors.Join(errs, u.ing.aside.remove(f))
		}
		if errs != nil { // do not fail: uploads must continue
			u.ing.opts.Logger.Error("failed to delete files of series set aside that an operator dropped; retrying", "tenant", a.Tenant, "err", errs)
			continue
		}
		u.ing.opts.Logger.Warn("deleted the files of series set aside, which an operator had dropped", "tenant", a.Tenant, "day", a.Window.Day,
			"window", a.Window.Number, "series", a.Series, "samples", a.Samples)
	}
	u.asidesMu.Lock()
	defer u.asidesMu.Unlock()
	u.asides = known
	return nil
}

// unrecorded lists the windows with files whose record is missing or outdated. It
// omits windows that no row key can name (see recordWindow).
func (u *uploader) unrecorded() []store.Window {
	groups := u.ing.aside.groups()
	u.asidesMu.Lock()
	defer u.asidesMu.Unlock()
	var out []store.Window
	for k, files := range groups {
		if have, ok := u.asides[k]; (!ok || have.Aside != u.ing.asideRecord(k, files).Aside) && files[0].window == k.window {
			out = append(out, k.window)
		}
	}
	return out
}

// Aside lists the series set aside, sorted by window and tenant.
func (ing *Ingester) Aside() []store.AsideOf {
	var out []store.AsideOf
	for k, files := range ing.aside.groups() {
		out = append(out, ing.asideRecord(k, files))
	}
	slices.SortFunc(out, func(a, b store.AsideOf) int {
		return cmp.Or(cmp.Compare(a.Window.Day, b.Window.Day), cmp.Compare(a.Window.Number, b.Window.Number), cmp.Compare(a.Tenant, b.Tenant))
	})
	return out
}

// sweepAside deletes the files of expired windows and of deleted tenants, and
// retries deletions that failed.
func (ing *Ingester) sweepAside(expired func(tenant.ID, int64) bool) error {
	var errs error
	ctx, cancel := context.WithTimeout(context.Background(), sweepTimeout)
	defer cancel()
	deleted, unknown := map[tenant.ID]bool{}, map[tenant.ID]bool{}
	for _, f := range ing.aside.all() {
		gone, known := deleted[f.tenant]
		if !known && ing.opts.Deleted != nil {
			var err error
			if gone, err = ing.opts.Deleted(ctx, f.tenant); err != nil {
				errs = errors.Join(errs, fmt.Errorf("tenant %s: %w", f.tenant, err))
			}
			deleted[f.tenant], unknown[f.tenant] = gone, err != nil
		}
		if unknown[f.tenant] {
			continue
		}
		if gone || expired(f.tenant, f.max) || !ing.aside.current(f) {
			errs = errors.Join(errs, ing.aside.remove(f))
		}
	}
	return errs
}

// sweepTimeout bounds the lookups of tenants in a sweep, because seals wait for it.
const sweepTimeout = 10 * time.Second

// dropDeleted removes files whose samples are all covered by one active deletion of
// series. Deletions that can still be canceled remove nothing.
func (u *uploader) dropDeleted(ctx context.Context) error {
	if u.ing.aside.empty() {
		return nil
	}
	byTenant := map[tenant.ID][]*asideFile{}
	for _, f := range u.ing.aside.all() {
		if f.damage == nil {
			byTenant[f.tenant] = append(byTenant[f.tenant], f)
		}
	}
	return u.long.ActiveDeletions(ctx, slices.Sorted(maps.Keys(byTenant)), func(t tenant.ID, ts schema.Tombstone) error {
		for _, f := range byTenant[t] {
			if ts.Number <= f.deletion || ts.MinTime > f.min || ts.MaxTime < f.max {
				continue
			}
			h, _, err := readAside(f.path, nil)
			if err != nil {
				continue // removed already, or damaged: a query reports the damage
			}
			matches, err := ts.Compile()
			if err != nil {
				return fmt.Errorf("deletion %d of tenant %s: %w", ts.Number, t, err)
			}
			if !matches(h.labels) {
				continue
			}
			if err := u.ing.aside.remove(f); err != nil {
				return err
			}
		}
		return nil
	})
}

// asideCollector exports the metrics of series set aside for the tenants that use
// most bytes, and the sum of all other tenants.
type asideCollector struct{ ing *Ingester }

// maxAsideTenants is the maximum number of tenants with their own metrics.
const maxAsideTenants = 100

func asideDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, []string{"tenant"}, nil)
}

func asideDescs() [2]*prometheus.Desc {
	return [2]*prometheus.Desc{
		asideDesc("pallium_ingester_aside_bytes",
			"Bytes on disk of series that no pack can hold, limited by ingester.aside_bytes per tenant; a file counts as at least 64 KiB; "+
				"the 100 largest tenants have a series each, the sum of all others has an empty tenant label."),
		asideDesc("pallium_ingester_aside_series",
			"Number of files of series that no pack can hold, usually one for each series and window; "+
				"the 100 tenants with most bytes have a series each, the sum of all others has an empty tenant label."),
	}
}

// Describe implements prometheus.Collector.
func (c asideCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range asideDescs() {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c asideCollector) Collect(ch chan<- prometheus.Metric) {
	if c.ing.aside == nil {
		return // starting
	}
	type use struct {
		tenant string
		n      [2]float64
	}
	byTenant := map[tenant.ID]*use{}
	for _, f := range c.ing.aside.all() {
		if byTenant[f.tenant] == nil {
			byTenant[f.tenant] = &use{tenant: string(f.tenant)}
		}
		byTenant[f.tenant].n[0] += float64(max(f.bytes, asideCharge)) // as in check
		byTenant[f.tenant].n[1]++
	}
	list := slices.SortedFunc(maps.Values(byTenant), func(a, b *use) int {
		if a.n[0] != b.n[0] {
			return int(b.n[0] - a.n[0])
		}
		return strings.Compare(a.tenant, b.tenant)
	})
	if len(list) > maxAsideTenants {
		rest := &use{}
		for _, u := range list[maxAsideTenants:] {
			rest.n[0] += u.n[0]
			rest.n[1] += u.n[1]
		}
		list = append(list[:maxAsideTenants], rest)
	}
	for i, d := range asideDescs() {
		for _, u := range list {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, u.n[i], u.tenant)
		}
	}
}
