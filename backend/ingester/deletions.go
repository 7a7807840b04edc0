package ingester

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

// ErrDeletionsUnknown is returned by reads, seals and deletions while the file of deletions of series is
// damaged and the deletions were not loaded from the long-term store yet: a
// response could contain deleted samples.
var ErrDeletionsUnknown = errors.New("deletions of series are unknown: the ingester's file of deletions is damaged, " +
	"and they were not loaded from the long-term store yet")

// deletionSet is the set of deletions of series that this ingester knows. It is
// stored on disk too. A section sealed after a deletion carries its number;
// sections with lower numbers are read without the deleted samples. A deletion that
// no local pack and no series set aside needs any more is pruned: its number stays
// in the set, its matchers are dropped.
type deletionSet struct {
	path    string
	writing sync.Mutex // one write to disk at a time, concurrent with reads

	mu       sync.RWMutex
	unknown  bool // the file was damaged, and the deletions were not loaded since
	byTenant map[tenant.ID]tenantDeletions
}

// tenantDeletions is a tenant's deletions. Its slices are immutable, because
// readers share them.
type tenantDeletions struct {
	known  []knownDeletion
	pruned numberSet
	last   uint64 // the highest number ever known
}

type knownDeletion struct {
	schema.Tombstone
	matches func(labels.Labels) bool
}

// has reports whether the deletion with the number is known.
func (d *tenantDeletions) has(number uint64) bool {
	return d.pruned.has(number) || slices.ContainsFunc(d.known, func(k knownDeletion) bool { return k.Number == number })
}

// with returns the deletions with another one added.
func (d tenantDeletions) with(ts schema.Tombstone) (tenantDeletions, error) {
	matches, err := ts.Compile()
	if err != nil {
		return d, fmt.Errorf("deletion %d: %w", ts.Number, err)
	}
	d.known = append(slices.Clone(d.known), knownDeletion{ts, matches})
	d.last = max(d.last, ts.Number)
	return d, nil
}

// any reports whether a deletion with a higher number is known and not pruned.
func (d *tenantDeletions) any(number uint64) bool {
	return slices.ContainsFunc(d.known, func(k knownDeletion) bool { return k.Number > number })
}

// after returns the intervals of a series that deletions with higher numbers
// deleted.
func (d *tenantDeletions) after(number uint64, ls labels.Labels) []series.Interval {
	var out []series.Interval
	for i := range d.known {
		if k := &d.known[i]; k.Number > number && k.matches(ls) {
			out = append(out, series.Interval{Min: k.MinTime, Max: k.MaxTime})
		}
	}
	return out
}

// of returns a tenant's deletions for one read. The caller must call it before it
// lists packs: a pack that it lists may need deletions that are pruned later.
// Matchers are evaluated without the lock, because a regular expression may take
// seconds and would block reads of other tenants.
func (d *deletionSet) of(t tenant.ID) (*tenantDeletions, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.unknown {
		return nil, ErrDeletionsUnknown
	}
	known := d.byTenant[t]
	return &known, nil
}

// ready returns an error while the deletions are unknown.
func (d *deletionSet) ready() error {
	_, err := d.of("")
	return err
}

// number returns the number of the tenant's last deletion. It never decreases:
// sections sealed later must not look older than sections sealed before.
func (d *deletionSet) number(t tenant.ID) uint64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.byTenant[t].last
}

// knows reports whether the tenant's deletion with the number is known.
func (d *deletionSet) knows(t tenant.ID, number uint64) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	known := d.byTenant[t]
	return known.has(number)
}

// learn adds a deletion, on disk first.
func (d *deletionSet) learn(t tenant.ID, ts schema.Tombstone) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	if err := d.ready(); err != nil {
		return err
	}
	all := d.all()
	of := all[t]
	if of.has(ts.Number) {
		return nil
	}
	of, err := of.with(ts)
	if err != nil {
		return fmt.Errorf("tenant %s: %w", t, err)
	}
	all[t] = of
	return d.replace(all)
}

// all returns a copy of the deletions of all tenants.
func (d *deletionSet) all() map[tenant.ID]tenantDeletions {
	d.mu.RLock()
	defer d.mu.RUnlock()
	out := make(map[tenant.ID]tenantDeletions, len(d.byTenant)+1)
	for t, known := range d.byTenant {
		out[t] = known
	}
	return out
}

// replace replaces all deletions, on disk first. The caller holds d.writing.
func (d *deletionSet) replace(all map[tenant.ID]tenantDeletions) error {
	if err := writeJSON(d.path, storedDeletions(all)); err != nil {
		return fmt.Errorf("write deletions of series: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.byTenant, d.unknown = all, false
	return nil
}

// prune drops the matchers of deletions that no local data needs. For each tenant,
// oldest has the lowest deletion number of its local packs and its series set
// aside.
func (d *deletionSet) prune(oldest map[tenant.ID]uint64) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	if d.ready() != nil {
		return nil
	}
	all, changed := d.all(), false
	for t, of := range all {
		lowest, held := oldest[t]
		var kept []knownDeletion
		pruned := slices.Clone(of.pruned)
		for _, k := range of.known {
			if held && lowest < k.Number {
				kept = append(kept, k)
				continue
			}
			pruned = pruned.with(k.Number)
			changed = true
		}
		of.known, of.pruned = kept, pruned
		all[t] = of
	}
	if !changed {
		return nil
	}
	return d.replace(all)
}

// numberSet is a set of numbers, stored as ascending ranges with gaps between them.
// A tenant's deletions are numbered consecutively, so there are few ranges.
type numberSet [][2]uint64

func (s numberSet) has(n uint64) bool {
	return slices.ContainsFunc(s, func(r [2]uint64) bool { return r[0] <= n && n <= r[1] })
}

// with returns the set with another number added. It may modify s.
func (s numberSet) with(n uint64) numberSet {
	if s.has(n) {
		return s
	}
	i := 0
	for i < len(s) && s[i][1] < n {
		i++
	}
	s = slices.Insert(s, i, [2]uint64{n, n})
	if i+1 < len(s) && s[i+1][0] == n+1 {
		s[i][1] = s[i+1][1]
		s = slices.Delete(s, i+1, i+2)
	}
	if i > 0 && s[i-1][1]+1 == n {
		s[i-1][1] = s[i][1]
		s = slices.Delete(s, i, i+1)
	}
	return s
}

// Delete applies a deletion to all samples that this ingester has now: it seals the
// head, and later reads of the sealed packs omit the deleted samples. Samples
// pushed afterwards are not affected; their packs carry the deletion's number.
func (ing *Ingester) Delete(t tenant.ID, ts schema.Tombstone) error {
	ing.sealMu.Lock()
	defer ing.sealMu.Unlock()
	if err := ing.sealLocked(endOfTime); err != nil {
		return fmt.Errorf("seal before deleting series: %w", err)
	}
	err := ing.deletions.learn(t, ts)
	ing.changes.changed(t)
	return err
}

// LearnDeletions loads the active deletions of the given tenants, which must be all
// existing tenants, from the long-term store. An ingester whose file of deletions
// is damaged rejects reads and does not seal until a call succeeds.
func (ing *Ingester) LearnDeletions(ctx context.Context, tenants []tenant.ID) error {
	unknown := ing.deletions.ready() != nil
	if ing.opts.LongTerm == nil {
		return ing.deletions.ready()
	}
	type deletion struct {
		of tenant.ID
		schema.Tombstone
	}
	var list []deletion
	err := ing.opts.LongTerm.ActiveDeletions(ctx, tenants, func(t tenant.ID, ts schema.Tombstone) error {
		if !ing.deletions.knows(t, ts.Number) {
			list = append(list, deletion{t, ts})
		}
		return nil
	})
	if err != nil || len(list) == 0 && !unknown {
		return err
	}
	ing.sealMu.Lock()
	defer ing.sealMu.Unlock()
	// The head may have samples of series that were deleted while this ingester was
	// not a member. With a damaged file this does not apply: the ingester sealed its
	// head before it confirmed any deletion, so all samples in the head are newer
	// than those deletions. The samples stay and get the deletions' numbers.
	if !unknown {
		if err := ing.sealLocked(endOfTime); err != nil {
			return fmt.Errorf("seal before loading deletions of series: %w", err)
		}
	}
	ing.deletions.writing.Lock()
	defer ing.deletions.writing.Unlock()
	all := ing.deletions.all()
	for _, d := range list {
		if all[d.of], err = all[d.of].with(d.Tombstone); err != nil {
			return fmt.Errorf("tenant %s: %w", d.of, err)
		}
	}
	if unknown {
		for t, number := range ing.packs.deletionNumbers(func(a, b uint64) uint64 { return max(a, b) }) {
			of := all[t]
			of.last = max(of.last, number)
			all[t] = of
		}
	}
	ing.opts.Logger.Info("loaded deletions of series from the long-term store", "deletions", len(list))
	err = ing.deletions.replace(all)
	for _, d := range list {
		ing.changes.changed(d.of)
	}
	return err
}

// pruneDeletions drops the matchers of deletions that no local pack and no series
// set aside needs. It does not run during a seal, because a seal in progress has
// already read the deletion numbers for its packs.
func (ing *Ingester) pruneDeletions() error {
	ing.sealMu.Lock()
	defer ing.sealMu.Unlock()
	// Files first, then packs, because samples move from files to packs.
	files := ing.aside.all()
	oldest := ing.packs.deletionNumbers(func(a, b uint64) uint64 { return min(a, b) })
	for _, f := range files {
		number := f.deletion
		if f.damage != nil {
			number = 0 // unknown
		}
		if n, ok := oldest[f.tenant]; !ok || number < n {
			oldest[f.tenant] = number
		}
	}
	return ing.deletions.prune(oldest)
}

// deletionNumbers returns one deletion number for each tenant with samples in
// packs, chosen from the numbers of the tenant's sections.
func (p *packSet) deletionNumbers(choose func(a, b uint64) uint64) map[tenant.ID]uint64 {
	p.mu.RLock()
	defer p.mu.RUnlock()
	out := map[tenant.ID]uint64{}
	for _, lp := range p.packs {
		info := lp.reader.Info()
		for i := range info.Sections {
			s := &info.Sections[i]
			if n, ok := out[s.Tenant]; ok {
				out[s.Tenant] = choose(n, s.Deletion)
			} else {
				out[s.Tenant] = s.Deletion
			}
		}
	}
	return out
}

// numberOf returns the number of the last deletion that was applied to the tenant's
// section of a pack.
func numberOf(info pack.Info, t tenant.ID) uint64 {
	for i := range info.Sections {
		if info.Sections[i].Tenant == t {
			return info.Sections[i].Deletion
		}
	}
	return 0
}

// spanLeft reports whether at least one chunk is not completely deleted.
func spanLeft(refs []pack.ChunkRef, gone []series.Interval) bool {
	return slices.ContainsFunc(refs, func(c pack.ChunkRef) bool {
		return !slices.ContainsFunc(gone, func(g series.Interval) bool { return g.Min <= c.MinTime && g.Max >= c.MaxTime })
	})
}

// packLabels calls fn for the series of a pack that the request selects, without
// deleted ones.
func packLabels(ctx context.Context, r *pack.Reader, req series.Request, d *tenantDeletions, fn func(labels.Labels)) error {
	found, err := r.Select(ctx, req.Tenant, req.MinTime, req.MaxTime, req.Matchers...)
	if err != nil {
		return err
	}
	number := numberOf(r.Info(), req.Tenant)
	for i := range found {
		if spanLeft(found[i].Chunks, d.after(number, found[i].Labels)) {
			fn(found[i].Labels)
		}
	}
	return nil
}
