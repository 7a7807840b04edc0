package ingester

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

// deletionSet has the deletions of series that this ingester knows, on disk
// too. What is sealed after a deletion carries its number; local packs with a
// lower one are read without what it deleted.
type deletionSet struct {
	path string

	mu       sync.RWMutex
	byTenant map[tenant.ID][]knownDeletion
}

type knownDeletion struct {
	schema.Tombstone
	matches func(labels.Labels) bool
}

func openDeletions(path string) (*deletionSet, error) {
	d := &deletionSet{path: path, byTenant: map[tenant.ID][]knownDeletion{}}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err != nil {
		return nil, fmt.Errorf("deletions of series: %w", err)
	}
	var stored map[tenant.ID][]schema.Tombstone
	if err := json.Unmarshal(data, &stored); err != nil {
		return nil, fmt.Errorf("deletions of series: %s is damaged: %w; restore it from a copy", path, err)
	}
	for t, list := range stored {
		for _, ts := range list {
			if err := d.add(t, ts); err != nil {
				return nil, fmt.Errorf("deletions of series: %s: %w", path, err)
			}
		}
	}
	return d, nil
}

func (d *deletionSet) add(t tenant.ID, ts schema.Tombstone) error {
	matches, err := ts.Compile()
	if err != nil {
		return fmt.Errorf("deletion %d of tenant %s: %w", ts.Number, t, err)
	}
	d.byTenant[t] = append(d.byTenant[t], knownDeletion{ts, matches})
	return nil
}

// number is that of a tenant's last deletion.
func (d *deletionSet) number(t tenant.ID) uint64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	n := uint64(0)
	for i := range d.byTenant[t] {
		n = max(n, d.byTenant[t][i].Number)
	}
	return n
}

// after tells what the deletions above a number took of a series.
func (d *deletionSet) after(t tenant.ID, number uint64, ls labels.Labels) []series.Interval {
	d.mu.RLock()
	defer d.mu.RUnlock()
	var out []series.Interval
	for i := range d.byTenant[t] {
		if k := &d.byTenant[t][i]; k.Number > number && k.matches(ls) {
			out = append(out, series.Interval{Min: k.MinTime, Max: k.MaxTime})
		}
	}
	return out
}

// any reports whether the tenant has a deletion above the number.
func (d *deletionSet) any(t tenant.ID, number uint64) bool { return d.number(t) > number }

// learn writes a deletion to disk and then knows it.
func (d *deletionSet) learn(t tenant.ID, ts schema.Tombstone) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if slices.ContainsFunc(d.byTenant[t], func(k knownDeletion) bool { return k.Number == ts.Number }) {
		return nil
	}
	if _, err := ts.Compile(); err != nil {
		return fmt.Errorf("deletion %d of tenant %s: %w", ts.Number, t, err)
	}
	stored := map[tenant.ID][]schema.Tombstone{}
	for id, known := range d.byTenant {
		for _, k := range known {
			stored[id] = append(stored[id], k.Tombstone)
		}
	}
	stored[t] = append(stored[t], ts)
	if err := writeJSON(d.path, stored); err != nil {
		return fmt.Errorf("write deletions of series: %w", err)
	}
	return d.add(t, ts)
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

// Knows reports whether a deletion of the tenant with the number is known.
func (ing *Ingester) Knows(t tenant.ID, number uint64) bool {
	ing.deletions.mu.RLock()
	defer ing.deletions.mu.RUnlock()
	return slices.ContainsFunc(ing.deletions.byTenant[t], func(k knownDeletion) bool { return k.Number == number })
}

// writeJSON replaces a small file: either the old or the new content survives a
// crash.
func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := writeSynced(path+".tmp", data); err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
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
func (ing *Ingester) packLabels(ctx context.Context, r *pack.Reader, req series.Request, fn func(labels.Labels)) error {
	found, err := r.Select(ctx, req.Tenant, req.MinTime, req.MaxTime, req.Matchers...)
	if err != nil {
		return err
	}
	number := numberOf(r.Info(), req.Tenant)
	for i := range found {
		if spanLeft(found[i].Chunks, ing.deletions.after(req.Tenant, number, found[i].Labels)) {
			fn(found[i].Labels)
		}
	}
	return nil
}
