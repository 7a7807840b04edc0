package ruler

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/palliumhq/pallium/authn/tenant"
)

// definition is a group as it was read.
type definition struct {
	Definition
	content string // equal for equal groups
	fresh   bool   // stored since the definitions were read before
	share   int
}

func (d *definition) key() string { return d.Namespace + "\x00" + d.Group.Name }

// parallelReads is the number of tenants whose rules are read at once.
const parallelReads = 16

// syncLoop reads the rules of all tenants regularly, and those of woken tenants at once.
func (r *Ruler) syncLoop(ctx context.Context) {
	tick := time.NewTicker(syncInterval)
	defer tick.Stop()
	r.syncAll(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.syncAll(ctx)
		case <-r.resync:
			r.syncWoken(ctx)
		}
	}
}

// syncAll reads which tenants have rules, and the groups of those whose version has changed.
func (r *Ruler) syncAll(ctx context.Context) {
	began := r.opts.Now()
	ids, err := r.opts.Rules.Tenants(ctx)
	var versions map[tenant.ID]string
	if err == nil {
		versions, err = r.opts.Rules.Versions(ctx, ids)
	}
	if err != nil {
		r.syncFailed(ctx, "could not read which tenants have rules: the known rules stay", "", err)
		return
	}
	listed := map[tenant.ID]bool{}
	var reads errgroup.Group
	reads.SetLimit(parallelReads)
	for _, id := range ids {
		listed[id] = true
		reads.Go(func() error { r.sync(ctx, id, versions[id]); return nil })
	}
	_ = reads.Wait()
	if ctx.Err() != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastSync = began
	for id, t := range r.tenants {
		if !listed[id] {
			r.dropTenant(t)
		}
	}
}

// syncWoken reads the groups of woken tenants.
func (r *Ruler) syncWoken(ctx context.Context) {
	r.mu.Lock()
	woken := r.woken
	r.woken = map[tenant.ID]bool{}
	r.mu.Unlock()
	for id := range woken {
		versions, err := r.opts.Rules.Versions(ctx, []tenant.ID{id})
		if err != nil {
			r.syncFailed(ctx, "could not read the version of a tenant's rules: the known rules stay", id, err)
			continue
		}
		r.sync(ctx, id, versions[id])
	}
}

func (r *Ruler) syncFailed(ctx context.Context, message string, id tenant.ID, err error) {
	if ctx.Err() != nil {
		return
	}
	r.metrics.syncFailures.Inc()
	r.opts.Logger.Warn(message, "tenant", id, "err", err)
}

// sync brings the groups of a tenant up to date.
func (r *Ruler) sync(ctx context.Context, id tenant.ID, version string) {
	gone, err := r.opts.Deleted(ctx, id)
	if err != nil {
		r.syncFailed(ctx, "could not read whether a tenant was deleted: its rules stay", id, err)
	}
	r.mu.Lock()
	t := r.tenants[id]
	if gone {
		if t != nil {
			r.opts.Logger.Info("the tenant was deleted: its rules are not evaluated any more", "tenant", id)
			r.dropTenant(t)
		}
		r.mu.Unlock()
		return
	}
	if t == nil {
		t = &rulerTenant{id: id, fresh: !r.lastSync.IsZero(), groups: map[string]*group{}, ghosts: map[*group]bool{}}
		r.tenants[id] = t
	}
	current := t.loaded && t.version == version
	r.mu.Unlock()
	var set Set
	if !current {
		if set, err = r.opts.Rules.Groups(ctx, id); err != nil {
			r.syncFailed(ctx, "could not read the rules of a tenant: the known rules stay", id, err)
			return
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tenants[id] != t {
		return
	}
	if !current {
		t.replace(set, r.opts.Count)
	}
	r.apply(t)
	for _, d := range t.defs {
		d.fresh = false
	}
	r.signal()
}

// replace sets the definitions of a tenant.
func (t *rulerTenant) replace(set Set, count int) {
	before := map[string]bool{}
	for _, d := range t.defs {
		before[d.key()] = true
	}
	known := t.loaded || t.fresh
	t.version, t.loaded, t.defs = set.Version, true, definitions(set.Groups)
	for _, d := range t.defs {
		d.fresh = known && !before[d.key()]
		d.share = Share(t.id, d.Namespace, d.Group.Name, count)
	}
}

// definitions returns the groups in the order in which they count for the limit.
func definitions(list []Definition) []*definition {
	out := make([]*definition, 0, len(list))
	for _, d := range list {
		content, err := json.Marshal(d.Group) // fails for no group
		if err == nil && d.AlignEvaluationTime {
			content = append(content, "aligned"...)
		}
		out = append(out, &definition{Definition: d, content: string(content)})
	}
	slices.SortFunc(out, func(a, b *definition) int { return strings.Compare(a.key(), b.key()) })
	return out
}

// dropTenant stops all rules of a tenant, without staleness markers: its data is deleted with
// it. r.mu is locked.
func (r *Ruler) dropTenant(t *rulerTenant) {
	for _, g := range t.all() {
		r.drop(t, g)
	}
	delete(r.tenants, t.id)
}
