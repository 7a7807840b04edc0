package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/palliumhq/pallium/authn/control"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/compactor"
	"github.com/palliumhq/pallium/backend/recovery"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/rpc"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/wire"
	"github.com/palliumhq/pallium/gateway/admin"
	"github.com/palliumhq/pallium/gateway/admin/operator"
)

// operations runs operators' commands; it implements operator.Backend.
type operations struct{ b *backend }

// clusterOperations runs operators' commands on the ring; it implements operator.Ring.
type clusterOperations struct {
	b *backend
	m *membership
}

// newCommands returns the operators' commands of this process.
func (b *backend) newCommands() *operator.Commands {
	o := operator.Options{Backend: operations{b}, Logger: b.opts.Logger,
		Background: b.background.Go}
	if b.cluster != nil {
		o.Ring = clusterOperations{b, b.cluster}
	}
	return operator.New(o)
}

// unavailable marks errors after which the command may succeed if it is repeated. They are
// logged by the operator package, which sends their causes to no client.
func unavailable(err error) error {
	for _, temporary := range []error{wire.ErrUnavailable, wire.ErrRejected, ring.ErrUnknown} {
		if errors.Is(err, temporary) {
			return fmt.Errorf("%w: %w", operator.ErrUnavailable, err)
		}
	}
	return err
}

// instance returns the instance that a command names, which must have the role. It returns
// nil for this process if it is the only one.
func (o operations) instance(ctx context.Context, id string, role Target) (*rpc.Peer, error) {
	if o.b.cluster == nil {
		if id == soleIngester {
			return nil, nil
		}
		return nil, admin.NotFound("instance", "the only instance is %s", soleIngester)
	}
	return o.b.cluster.instance(ctx, id, role)
}

func (m *membership) instance(ctx context.Context, id string, role Target) (*rpc.Peer, error) {
	r, err := m.members.Ring(ctx)
	if err != nil {
		return nil, unavailable(fmt.Errorf("read the ring: %w", err))
	}
	in, err := recovery.Member(r, id)
	if err != nil {
		return nil, admin.NotFound("instance", "instance %q is not in the ring; pallium ring list shows its members", id)
	}
	if !slices.Contains(in.Roles, string(role)) {
		return nil, admin.Invalid("instance", "instance %s does not have the role %s", id, role)
	}
	return m.pool.Peer(in.Addr)
}

// Flush implements operator.Backend.
func (o operations) Flush(ctx context.Context, instance string) (operator.Task, error) {
	do := o.flushAll
	if instance != "" {
		p, err := o.instance(ctx, instance, TargetIngester)
		if err != nil {
			return nil, err
		}
		if p != nil {
			do = p.Flush
		}
	}
	return func(ctx context.Context) (map[string]any, error) { return nil, unavailable(do(ctx)) }, nil
}

// flushAll makes all ingesters seal their heads and upload.
func (o operations) flushAll(ctx context.Context) error {
	if m := o.b.cluster; m != nil {
		return m.eachIngester(ctx, func(ctx context.Context, p *rpc.Peer) error { return p.Flush(ctx) })
	}
	if err := o.b.ingester.Flush(); err != nil {
		return err
	}
	return o.b.ingester.Upload(ctx)
}

// Compact implements operator.Backend.
func (o operations) Compact(ctx context.Context, instance string, expireAll bool) (operator.Task, error) {
	do := o.compactAll
	if instance != "" {
		p, err := o.instance(ctx, instance, TargetCompactor)
		if err != nil {
			return nil, err
		}
		if p != nil {
			do = p.Compact
		}
	}
	return func(ctx context.Context) (map[string]any, error) {
		report, err := do(ctx, expireAll)
		return map[string]any{
			"days":      report.Days,
			"published": report.Published,
			"series":    report.Series,
			"samples":   report.Samples,
		}, unavailable(err)
	}, nil
}

// compactAll compacts all uploaded packs, in this process if it is a compactor, or in another one.
func (o operations) compactAll(ctx context.Context, expire bool) (compactor.Report, error) {
	if o.b.compactor == nil {
		return o.b.cluster.compactAnywhere(ctx, expire)
	}
	report, err := o.b.compactor.Compact(ctx, compactor.All)
	if err == nil && expire {
		err = o.b.compactor.ExpireAll(ctx)
	}
	return report, err
}

// compactAnywhere makes the first available compactor compact.
func (m *membership) compactAnywhere(ctx context.Context, expire bool) (compactor.Report, error) {
	r, err := m.members.Ring(ctx)
	if err != nil {
		return compactor.Report{}, err
	}
	errs := fmt.Errorf("%w: no compactor in the ring is available", operator.ErrUnavailable)
	for _, in := range slices.Concat(r.Others(), r.Instances()) {
		if !slices.Contains(in.Roles, string(TargetCompactor)) || in.Unhealthy {
			continue
		}
		p, err := m.pool.Peer(in.Addr)
		if err == nil {
			var report compactor.Report
			if report, err = p.Compact(ctx, expire); err == nil {
				return report, nil
			}
		}
		if err = fmt.Errorf("compactor %s: %w", in.ID, err); !errors.Is(err, wire.ErrUnavailable) {
			return compactor.Report{}, err // another compactor would also fail
		}
		errs = errors.Join(errs, err)
	}
	return compactor.Report{}, errs
}

// l0Gone is the maximum time for which level 0 packs still have samples of a deleted tenant. Such a
// pack has samples of many tenants, and is deleted a week after it was compacted.
const l0Gone = 9 * 24 * time.Hour

// Erasure implements operator.Backend.
func (o operations) Erasure(ctx context.Context, id tenant.ID) (*operator.Erasure, error) {
	var found *control.Tenant
	err := o.b.control.AllTenants(ctx, func(t control.Tenant) bool {
		if t.ID == id && t.Deleted() {
			found = &t
		}
		return t.ID != id
	})
	if err != nil || found == nil {
		return nil, err
	}
	e, err := o.b.keeper.Erasure(ctx, id)
	if err != nil {
		return nil, err
	}
	return &operator.Erasure{Tenant: id, DeletedAt: found.DeletedAt.UTC(), Objects: e.Objects, Bytes: e.Bytes, Rows: e.Rows,
		SharedBy: found.DeletedAt.Add(l0Gone).UTC()}, nil
}

func asideOf(a *store.AsideOf) operator.Aside {
	v := operator.Aside{AsideKey: operator.AsideKey{Ingester: a.Ingester, Tenant: a.Tenant, Day: a.Window.Day, Window: a.Window.Number},
		Zone: a.Zone, Since: time.UnixMilli(a.Since).UTC(), Series: a.Series, Samples: a.Samples, Bytes: a.Bytes, Reason: a.Reason}
	if a.Dropped != 0 {
		at := time.UnixMilli(a.Dropped).UTC()
		v.Dropped = &at
	}
	return v
}

// Asides implements operator.Backend.
func (o operations) Asides(ctx context.Context) ([]operator.Aside, error) {
	all, err := o.b.longTerm.Asides(ctx)
	var out []operator.Aside
	for i := range all {
		out = append(out, asideOf(&all[i]))
	}
	return out, err
}

// DropAside implements operator.Backend.
func (o operations) DropAside(ctx context.Context, key operator.AsideKey) (dropped operator.Aside, lost bool, err error) {
	got, err := o.b.longTerm.DropAside(ctx, key.Ingester, store.Window{Day: key.Day, Number: key.Window}, key.Tenant)
	if errors.Is(err, store.ErrNoAside) {
		return operator.Aside{}, false, operator.ErrNoAside
	}
	return asideOf(&got), store.IsLost(got.Ingester), err
}

// list returns all members of the ring, ingesters first.
func (m *membership) list(r *ring.Ring) []operator.Member {
	shares := r.Shares(m.replication)
	out := []operator.Member{}
	for i, in := range slices.Concat(r.Instances(), r.Others()) {
		one := operator.Member{ID: in.ID, Address: in.Addr, Zone: in.Zone, Roles: in.Roles, State: string(in.State), Unhealthy: in.Unhealthy,
			Since: in.SinceHeartbeat.Round(time.Second / 10).String(), Registered: in.Registered.UTC(), Tokens: len(in.Tokens),
			Incarnation: in.Incarnation}
		if i < len(shares) {
			one.Share = shares[i]
		}
		out = append(out, one)
	}
	return out
}

// Members implements operator.Ring.
func (o clusterOperations) Members(ctx context.Context) ([]operator.Member, error) {
	r, err := o.m.members.Ring(ctx)
	if err != nil {
		return nil, unavailable(fmt.Errorf("read the ring: %w", err))
	}
	list := o.m.list(r)
	for _, id := range o.m.members.UntrustedIDs() {
		list = append(list, operator.Member{ID: id, State: operator.Untrusted, Roles: []string{}})
	}
	return list, nil
}

// Forget implements operator.Ring.
func (o clusterOperations) Forget(ctx context.Context, id string, force bool) (int, error) {
	windows, err := o.m.recovery.Forget(ctx, id, force)
	switch {
	case errors.Is(err, recovery.ErrNotMember):
		return 0, admin.NotFound("instance", "instance %q is not in the ring; pallium ring list shows its members", id)
	case errors.Is(err, recovery.ErrAlive):
		return 0, admin.Conflict("force", "instance %s was not forgotten: %s. Stop it first; "+
			"to remove a running ingester without loss, run: pallium ring leave %s", id, err, id)
	case errors.Is(err, recovery.ErrHasAside):
		return 0, admin.Conflict("instance", "instance %s was not forgotten: %s", id, err)
	case err != nil:
		return 0, unavailable(err)
	}
	if windows > 0 {
		o.b.background.Go(func(ctx context.Context) { o.m.recovery.Restore(ctx, id) })
	}
	return windows, nil
}

// Leave implements operator.Ring.
func (o clusterOperations) Leave(ctx context.Context, id string, wait bool) error {
	p, err := o.m.instance(ctx, id, TargetIngester)
	if err != nil {
		return err
	}
	return notLeft(id, p.Leave(ctx, wait))
}

// notLeft converts the error of an ingester that could not leave the ring for the operator package.
// After an error that is not a conflict, the command can be repeated.
func notLeft(id string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpc.ErrConflict):
		return admin.Conflict("instance", "ingester %s cannot leave: %s", id, err)
	}
	return fmt.Errorf("%w: ingester %s: leave the ring: %w", operator.ErrUnavailable, id, err)
}
