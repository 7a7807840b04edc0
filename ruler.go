package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/prometheus/rules"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/alerts"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/ruler"
	"github.com/palliumhq/pallium/backend/ruler/backfill"
	"github.com/palliumhq/pallium/backend/ruler/shares"
	"github.com/palliumhq/pallium/policies/limits"
)

// The number of shares into which the rule groups of all tenants are divided.
const (
	sharesInCluster = 256
	sharesAlone     = 1
)

// ruling has the parts of a ruler.
type ruling struct {
	ruler     *ruler.Ruler
	holder    *shares.Holder
	sender    *alerts.Sender
	backfills *backfill.Jobs
	count     int // of shares
}

// buildRuler builds the ruler role.
func (b *backend) buildRuler(context.Context) error {
	if err := b.buildQueries(); err != nil {
		return err
	}
	if b.push == nil {
		b.newDistributor()
	}
	targets, err := b.cfg.Ruler.targets(&b.cfg.Egress, b.opts.Now, b.postAlerts)
	if err != nil {
		return err
	}
	r := &ruling{count: sharesAlone}
	if b.cluster != nil {
		r.count = sharesInCluster
	}
	r.sender = alerts.New(alerts.Options{Targets: targets, Now: b.opts.Now, Logger: b.opts.Logger, Registerer: b.registry})
	ix := b.longTerm.Options().Index
	r.holder = shares.New(shares.Options{Store: ix.Shares, Count: r.count, ID: b.id() + "/" + incarnation(), Rulers: b.rulers,
		Exclusive: b.cluster == nil, Running: b.running(), Now: b.opts.Now, Logger: b.opts.Logger, Registerer: b.registry})
	q := newRuleQueries(b)
	generator := b.cfg.generator(b.edgeURL())
	r.ruler = ruler.New(ruler.Options{
		Rules: storedRules{ix.Rules}, Query: q.instant, Select: q.queryable, Push: b.push,
		Notify: func(ctx context.Context, id tenant.ID, expr string, list ...*rules.Alert) {
			r.sender.Send(ctx, id, generator.Of(id, expr, list)...)
		},
		Limits:  func(id tenant.ID) *limits.Limits { l := b.limitsOf(id); return &l },
		Bounds:  b.ruleBounds,
		Deleted: b.tenantGone, Shares: r.holder, Count: r.count, Parsers: querier.NewParsers(querier.MaxOperators),
		ExternalURL: func(tenant.ID) string { return b.edgeURL() }, UserError: tenantsFault,
		Now: b.opts.Now, Running: b.running(), Concurrency: b.cfg.Ruler.Concurrency, Logger: b.opts.Logger, Registerer: b.registry,
	})
	past := backfills{b: b, ruling: r, queries: q, rules: ix.Rules}
	r.backfills = backfill.NewJobs(backfill.JobsOptions{Store: ix.Rules, Group: past.group, Mine: past.mine,
		Backfill: backfill.New(backfill.Options{Range: q.ranges, Push: past.push, Tenant: tenantsFault}),
		Logger:   b.opts.Logger, Registerer: b.registry})
	b.ruling = r
	return nil
}

// tenantGone reports whether a tenant does not exist, or was deleted, as the control plane knows it: within
// seconds. The ruler asks for every tenant every ten seconds.
func (b *backend) tenantGone(ctx context.Context, id tenant.ID) (bool, error) {
	_, err := b.control.Limits(ctx, id)
	if errors.Is(err, tenant.ErrUnknown) {
		return true, nil
	}
	return false, err
}

// running returns the monotonic clock of the process.
func (b *backend) running() func() time.Duration {
	if b.opts.Running != nil {
		return b.opts.Running
	}
	began := b.opts.Now()
	return func() time.Duration { return b.opts.Now().Sub(began) }
}

// incarnation returns a random text that differs for every start of a process.
func incarnation() string {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

// ruleBounds returns a tenant's limits of the evaluation of rules.
func (b *backend) ruleBounds(id tenant.ID) ruler.Bounds {
	l := b.limitsOf(id)
	return ruler.Bounds{MaxGroups: l.MaxRuleGroups, MaxResults: l.MaxRuleResults, Concurrent: l.MaxConcurrentRuleGroups,
		QueryOffset: time.Duration(l.RuleQueryOffset), Recording: l.RecordingRules, Alerting: l.AlertingRules}
}

// rulers returns the instances of the rulers that are alive.
func (b *backend) rulers(ctx context.Context) ([]string, error) {
	if b.cluster == nil {
		return []string{b.id()}, nil
	}
	r, err := b.cluster.members.Ring(ctx)
	if err != nil {
		return nil, err
	}
	return aliveRulers(r, b.id()), nil
}

// The time that alerts and shares get when the ruler stops.
const (
	releaseTime = 5 * time.Second
	drainAlerts = 10 * time.Second
)

// runRuler evaluates rules until ctx ends. Then evaluations in progress end, the shares are released, so that
// other rulers continue at once, and queued alerts are sent.
func (b *backend) runRuler(ctx context.Context) {
	r := b.ruling
	if b.cluster != nil && b.cluster.members.Wait(ctx) != nil {
		return
	}
	holding, stop := context.WithCancel(context.WithoutCancel(ctx))
	var held, filled sync.WaitGroup
	retire := context.AfterFunc(ctx, r.holder.Retire)
	defer retire()
	held.Go(func() { r.holder.Run(holding, r.ruler) })
	filled.Go(func() { r.backfills.Run(ctx) })
	r.ruler.Run(ctx)
	stop() // only now, because evaluations in progress needed their leases; backfills write nothing after ctx
	held.Wait()
	release, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	r.holder.Release(release)
	cancel()
	filled.Wait()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainAlerts)
	defer cancel()
	r.sender.Close(drain)
}

// storedRules are the stored rules for the ruler; it implements ruler.Rules.
type storedRules struct{ *index.Rules }

// Versions implements ruler.Rules.
func (s storedRules) Versions(ctx context.Context, ids []tenant.ID) (map[tenant.ID]string, error) {
	versions, err := s.Rules.Versions(ctx, ids)
	out := make(map[tenant.ID]string, len(versions))
	for id, v := range versions {
		out[id] = string(v.Encode())
	}
	return out, err
}

// Groups implements ruler.Rules.
func (s storedRules) Groups(ctx context.Context, id tenant.ID, known func(namespace, name, text string) *ruler.Definition,
) (ruler.Set, error) {
	set, err := s.List(ctx, id)
	if err != nil {
		return ruler.Set{}, err
	}
	out := ruler.Set{Version: string(set.Version.Encode())}
	for i := range set.Groups {
		g := &set.Groups[i]
		d := known(g.Namespace, g.Name, g.YAML)
		if d == nil {
			read := definitionOf(g)
			d = &read
		}
		out.Groups = append(out.Groups, *d)
	}
	return out, nil
}

// tenantError is an error of a query that the tenant's rules, data or limits cause.
type tenantError struct{ error }

// Unwrap returns the error.
func (e tenantError) Unwrap() error { return e.error }

// tenantsFault reports whether the tenant's rules, data or limits are the reason for an error of a query or a write.
func tenantsFault(err error) bool {
	var own tenantError
	var exceeded *limits.Exceeded
	return errors.As(err, &own) || errors.As(err, &exceeded)
}

// addRuler adds the ruler to the rpc server of a cluster.
func (b *backend) addRuler() {
	if b.ruling != nil {
		b.cluster.server.ServeRuler(calledRuler{b.ruling.ruler})
	}
}
