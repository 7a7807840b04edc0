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

// ErrDeletionsUnknown is returned by reads while the file with the deletions of
// series is damaged and they were not read from the long-term store again: an
// answer could have samples that were deleted.
var ErrDeletionsUnknown = errors.New("ingester does not know the deletions of series: its file of them is damaged, " +
	"and they were not read from the long-term store yet")

// deletionSet has the deletions of series that this ingester knows, on disk
// too. What is sealed after a deletion carries its number; local packs with a
// lower one are read without what it deleted. A deletion that no local pack needs
// any more is pruned: its number stays known, its matchers are gone.
type deletionSet struct {
	path    string
	writing sync.Mutex // one write to disk at a time; reads go on meanwhile

	mu       sync.RWMutex
	unknown  bool // the file was damaged, and nothing was learned since
	byTenant map[tenant.ID]tenantDeletions
}

// tenantDeletions is what is known of a tenant's deletions. The lists of one are
// never changed: a reader may have them.
type tenantDeletions struct {
	known  []knownDeletion
	pruned numberSet
	last   uint64 // the highest number that was ever known
}

type knownDeletion struct {
	schema.Tombstone
	matches func(labels.Labels) bool
}

// has reports whether the deletion with the number is known.
func (d *tenantDeletions) has(number uint64) bool {
	return d.pruned.has(number) || slices.ContainsFunc(d.known, func(k knownDeletion) bool { return k.Number == number })
}

// with returns the deletions and one more.
func (d tenantDeletions) with(ts schema.Tombstone) (tenantDeletions, error) {
	matches, err := ts.Compile()
	if err != nil {
		return d, fmt.Errorf("deletion %d: %w", ts.Number, err)
	}
	d.known = append(slices.Clone(d.known), knownDeletion{ts, matches})
	d.last = max(d.last, ts.Number)
	return d, nil
}

// any reports whether there is a deletion above the number.
func (d *tenantDeletions) any(number uint64) bool {
	return slices.ContainsFunc(d.known, func(k knownDeletion) bool { return k.Number > number })
}

// after returns what the deletions above a number took of a series.
func (d *tenantDeletions) after(number uint64, ls labels.Labels) []series.Interval {
	var out []series.Interval
	for i := range d.known {
		if k := &d.known[i]; k.Number > number && k.matches(ls) {
			out = append(out, series.Interval{Min: k.MinTime, Max: k.MaxTime})
		}
	}
	return out
}

// of returns a tenant's deletions, for one read. A reader takes them before it
// looks for packs: what is pruned later, a pack that it finds may still need.
// They are tried on series without the lock: a regular expression may take
// seconds, and other tenants' reads wait for the lock.
func (d *deletionSet) of(t tenant.ID) (*tenantDeletions, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.unknown {
		return nil, ErrDeletionsUnknown
	}
	known := d.byTenant[t]
	return &known, nil
}

// ready returns an error while the deletions are not known.
func (d *deletionSet) ready() error {
	_, err := d.of("")
	return err
}

// number is that of a tenant's last deletion. It never goes down: what is sealed
// from now on must not be taken for older than what was sealed before.
func (d *deletionSet) number(t tenant.ID) uint64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.byTenant[t].last
}

// knows reports whether the deletion of the tenant with the number is known.
func (d *deletionSet) knows(t tenant.ID, number uint64) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	known := d.byTenant[t]
	return known.has(number)
}

// learn writes a deletion to disk and then knows it.
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

// all is a copy of what is known.
func (d *deletionSet) all() map[tenant.ID]tenantDeletions {
	d.mu.RLock()
	defer d.mu.RUnlock()
	out := make(map[tenant.ID]tenantDeletions, len(d.byTenant)+1)
	for t, known := range d.byTenant {
		out[t] = known
	}
	return out
}

// replace writes all deletions to disk and then knows them. d.writing is held.
func (d *deletionSet) replace(all map[tenant.ID]tenantDeletions) error {
	if err := writeJSON(d.path, storedDeletions(all)); err != nil {
		return fmt.Errorf("write deletions of series: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.byTenant, d.unknown = all, false
	return nil
}

// prune forgets the matchers of deletions that nothing local needs. oldest is the
// lowest number that a pack or file with samples of the tenant carries.
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

// numberSet is a set of numbers as ascending ranges with gaps between them. A
// tenant's deletions are numbered one by one, so there are few.
type numberSet [][2]uint64

func (s numberSet) has(n uint64) bool {
	return slices.ContainsFunc(s, func(r [2]uint64) bool { return r[0] <= n && n <= r[1] })
}

// with returns the set and one more number. It changes s.
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

// Delete drops what a deletion matches from everything that this ingester holds
// now: it seals the head, and from then on reads what is sealed without it. What
// is pushed afterwards stays, and carries the deletion's number.
func (ing *Ingester) Delete(t tenant.ID, ts schema.Tombstone) error {
	ing.sealMu.Lock()
	defer ing.sealMu.Unlock()
	if err := ing.sealLocked(endOfTime); err != nil {
		return fmt.Errorf("seal before deleting series: %w", err)
	}
	return ing.deletions.learn(t, ts)
}

// LearnDeletions has the ingester know the active deletions of the tenants, who
// are all there are. Until it succeeded once, an ingester whose file of them is
// damaged does not answer reads and seals nothing.
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
	// Of series that were deleted while this ingester was no member, it may have
	// samples in its head from before. Behind a damaged file the head is newer than
	// each deletion that this ingester ever confirmed, which sealed it first: what is
	// there stays, and gets their numbers.
	if !unknown {
		if err := ing.sealLocked(endOfTime); err != nil {
			return fmt.Errorf("seal before learning of deleted series: %w", err)
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
	ing.opts.Logger.Info("deletions of series learned from the long-term store", "deletions", len(list))
	return ing.deletions.replace(all)
}

// pruneDeletions forgets the matchers of deletions that no local pack and no
// series that was set aside needs. No seal may be under way, which has the number
// of its packs already.
func (ing *Ingester) pruneDeletions() error {
	ing.sealMu.Lock()
	defer ing.sealMu.Unlock()
	// In the order in which samples move from files to packs.
	files := ing.aside.all()
	oldest := ing.packs.deletionNumbers(func(a, b uint64) uint64 { return min(a, b) })
	for _, f := range files {
		number := f.deletion
		if f.damage != nil {
			number = 0 // it is not known
		}
		if n, ok := oldest[f.tenant]; !ok || number < n {
			oldest[f.tenant] = number
		}
	}
	return ing.deletions.prune(oldest)
}

// deletionNumbers returns one number for each tenant with samples in packs, chosen
// from those of its sections.
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

// numberOf is the number of the last deletion that was applied to what a pack
// has of a tenant.
func numberOf(info pack.Info, t tenant.ID) uint64 {
	for i := range info.Sections {
		if info.Sections[i].Tenant == t {
			return info.Sections[i].Deletion
		}
	}
	return 0
}

// spanLeft reports whether some of the chunks are not wholly deleted.
func spanLeft(refs []pack.ChunkRef, gone []series.Interval) bool {
	return slices.ContainsFunc(refs, func(c pack.ChunkRef) bool {
		return !slices.ContainsFunc(gone, func(g series.Interval) bool { return g.Min <= c.MinTime && g.Max >= c.MaxTime })
	})
}

// packLabels calls fn for the series of a pack that the request selects and that
// are not deleted.
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
