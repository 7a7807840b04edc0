package ruler

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
)

// definition is a group as it was read. It is immutable.
type definition struct {
	Definition
	content string    // equal for equal groups
	since   time.Time // when the first version of the group that this ruler read was written
	share   int
}

func (d *definition) key() string { return d.Namespace + "\x00" + d.Group.Name }

// syncLoop regularly reads which tenants have rules.
func (r *Ruler) syncLoop(ctx context.Context) {
	tick := time.NewTicker(syncInterval)
	defer tick.Stop()
	for {
		r.syncAll(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// syncAll reads which tenants have rules, and the versions of their rules.
func (r *Ruler) syncAll(ctx context.Context) {
	r.mu.Lock()
	known := make([]*rulerTenant, 0, len(r.tenants))
	for _, t := range r.tenants {
		known = append(known, t)
	}
	r.mu.Unlock()
	ids, err := r.opts.Rules.Tenants(ctx)
	var versions map[tenant.ID]string
	if err == nil {
		versions, err = r.opts.Rules.Versions(ctx, ids)
	}
	if err != nil {
		r.syncFailed(ctx, "could not read which tenants have rules: keeping the known rules", "", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	listed := map[tenant.ID]bool{}
	for _, id := range ids {
		listed[id] = true
		r.enqueue(id, false, func(t *task) { t.listed, t.version = true, versions[id] })
	}
	for _, t := range known { // without tenants that were woken after the read began
		if !listed[t.id] && r.tenants[t.id] == t {
			r.dropTenant(t)
		}
	}
}

func (r *Ruler) syncFailed(ctx context.Context, message string, id tenant.ID, err error) {
	if ctx.Err() != nil {
		return
	}
	r.metrics.syncFailures.Inc()
	r.opts.Logger.Warn(message, "tenant", id, "err", err)
}

// sync executes a task. Only one goroutine executes a task of a tenant at a time.
func (r *Ruler) sync(ctx context.Context, id tenant.ID, do task) {
	if do.woken {
		versions, err := r.opts.Rules.Versions(ctx, []tenant.ID{id})
		if err != nil {
			r.syncFailed(ctx, "could not read the version of a tenant's rules: keeping the known rules", id, err)
			do.listed = false
		} else {
			do.listed, do.version = true, versions[id]
		}
	}
	t := r.tenant(ctx, id, do.listed)
	if t == nil || do.listed && !r.read(ctx, t, do.version) {
		return
	}
	r.apply(ctx, t)
}

// tenant returns a tenant, or nil if the tenant was deleted. An unknown tenant is added if `read` is set, otherwise nil is
// returned.
func (r *Ruler) tenant(ctx context.Context, id tenant.ID, read bool) *rulerTenant {
	gone := false
	if read {
		var err error
		if gone, err = r.opts.Deleted(ctx, id); err != nil {
			r.syncFailed(ctx, "could not read whether a tenant was deleted: keeping its rules", id, err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tenants[id]
	switch {
	case gone && t != nil:
		r.opts.Logger.Info("the tenant was deleted: its rules are not evaluated any more", "tenant", id)
		r.dropTenant(t)
		return nil
	case gone || t == nil && !read:
		return nil
	case t == nil:
		t = &rulerTenant{id: id, groups: map[string]*group{}, ghosts: map[*group]bool{}}
		r.tenants[id] = t
	}
	return t
}

// read reads the groups of a tenant if the version has changed. It returns false if the groups could not be read.
func (r *Ruler) read(ctx context.Context, t *rulerTenant, version string) bool {
	r.mu.Lock()
	loaded, known, defs := t.loaded, t.version, t.defs
	r.mu.Unlock()
	if loaded && known == version {
		return true
	}
	before := make(map[string]*definition, len(defs))
	for _, d := range defs {
		before[d.key()] = d
	}
	set, err := r.opts.Rules.Groups(ctx, t.id, func(namespace, name, text string) *Definition {
		if d := before[namespace+"\x00"+name]; d != nil && d.Err == nil && d.Text != "" && d.Text == text {
			return &d.Definition
		}
		return nil
	})
	if err != nil {
		r.syncFailed(ctx, "could not read the rules of a tenant: keeping the known rules", t.id, err)
		return false
	}
	defs = definitions(t.id, set.Groups, before, r.opts.Count)
	r.mu.Lock()
	defer r.mu.Unlock()
	t.version, t.loaded, t.defs = set.Version, true, defs
	return true
}

// definitions returns the groups of a tenant in the order in which the limit of groups applies to them.
func definitions(id tenant.ID, list []Definition, before map[string]*definition, count int) []*definition {
	out := make([]*definition, 0, len(list))
	for _, g := range list {
		d := &definition{Definition: g, content: g.Text, since: g.Written, share: Share(id, g.Namespace, g.Group.Name, count)}
		if d.content == "" {
			content, _ := json.Marshal(g.Group) // returns no error for a group
			d.content = fmt.Sprint(string(content), g.AlignEvaluationTime, g.Err)
		}
		if old := before[d.key()]; old != nil {
			d.since = old.since
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b *definition) int { return strings.Compare(a.key(), b.key()) })
	return out
}

// dropTenant stops all rules of a tenant. It writes no staleness markers, because the tenant's data
// is deleted as well. r.mu is locked.
func (r *Ruler) dropTenant(t *rulerTenant) {
	for _, g := range t.all() {
		r.drop(t, g)
	}
	delete(r.tenants, t.id)
}
