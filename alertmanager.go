package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/alertmanager"
	"github.com/palliumhq/pallium/backend/alertmanager/claims"
	"github.com/palliumhq/pallium/backend/alertmanager/compiler"
	"github.com/palliumhq/pallium/backend/alertmanager/integrations"
	"github.com/palliumhq/pallium/backend/alertmanager/pace"
	"github.com/palliumhq/pallium/backend/api/alertsapi"
	"github.com/palliumhq/pallium/backend/api/exchange"
	"github.com/palliumhq/pallium/backend/egress"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/rpc"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/wire"
)

// alerting contains the parts of the Alertmanager role.
type alerting struct {
	*alertmanager.Alertmanagers
	claims *claims.Claims
}

// replicasOfTenant is the number of processes that run a tenant's Alertmanager.
const replicasOfTenant = 3

// secretKeys returns the keys with which secrets of receivers are encrypted, or "" if none are configured.
func (b *backend) secretKeys() (string, error) {
	s := secret{name: "PALLIUM_SECRET_KEY", file: "secret-key", make: b.opts.Role == All}
	if !s.make && !isSet(b.opts.Env, s.name) {
		return "", nil
	}
	text, _, _, err := s.load(b.cfg.DataDir, b.opts.Env)
	return text, err
}

// needAlertCompiler creates the compiler of Alertmanagers' configurations unless it exists. The compiler also checks
// configurations before they are stored.
func (b *backend) needAlertCompiler() error {
	if b.alertCompiler != nil {
		return nil
	}
	keys, err := b.secretKeys()
	if err != nil {
		return err
	}
	rules, err := egress.New(b.cfg.Egress.Allow)
	if err != nil {
		return fmt.Errorf("egress.allow: %w", err)
	}
	b.alertPace = pace.New(func(t tenant.ID) float64 { return b.knownLimits(t).AlertmanagerCpus }, b.registry)
	b.alertCompiler, err = compiler.New(compiler.Options{Egress: rules, Limits: b.limitsOf, Keys: keys, Logger: b.opts.Logger,
		Metrics: integrations.NewMetrics(b.registry), Pace: b.alertPace,
		ExternalURL: func(tenant.ID) string { return b.edgeURL() + alertmanager.Prefix }})
	if err != nil {
		return fmt.Errorf("PALLIUM_SECRET_KEY: %w", err)
	}
	return nil
}

// buildAlertmanager builds the Alertmanager role.
func (b *backend) buildAlertmanager(context.Context) error {
	if err := b.needAlertCompiler(); err != nil {
		return err
	}
	ix := b.longTerm.Options().Index
	a := &alerting{}
	a.claims = claims.New(claims.Options{Store: ix.Alertmanagers, ID: b.id() + "/" + incarnation(), Running: b.running(), Now: b.opts.Now,
		Logger: b.opts.Logger, Metrics: claims.NewMetrics(b.registry), Tell: b.tellReplicas})
	a.Alertmanagers = alertmanager.New(alertmanager.Options{
		Store: ix.Alertmanagers, Claims: a.claims, Compile: b.alertCompiler.Compile, Fallback: b.alertCompiler.Fallback,
		Pace: b.alertPace, Limits: b.knownLimits, Position: b.alertPosition, Mine: b.hasAlertmanager, Deleted: b.tenantGone,
		Running: b.running(), Now: b.opts.Now, Logger: b.opts.Logger, Registerer: b.registry,
	})
	b.alerting = a
	return nil
}

// recordTime is the time in which a stopping Alertmanager completes notifications in progress, which takes up to ten seconds,
// and records those that were sent.
const recordTime = 15 * time.Second

// runAlertmanager runs the Alertmanagers of tenants until ctx ends.
func (b *backend) runAlertmanager(ctx context.Context) {
	var wg sync.WaitGroup
	claiming, stop := context.WithCancel(context.WithoutCancel(ctx))
	wg.Go(func() { b.alerting.claims.Run(claiming) })
	b.alerting.Run(ctx)
	stop()
	wg.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	if err := b.alerting.claims.Flush(last); err != nil {
		b.opts.Logger.Warn("notifications that were sent could not be recorded: they may be sent again", "err", err)
	}
}

// addAlertmanager adds the Alertmanager to the RPC server of a process in a cluster.
func (b *backend) addAlertmanager() {
	if b.alerting != nil {
		b.cluster.server.ServeAlertmanager(calledAlertmanager{b.alerting})
	}
}

// calledAlertmanager answers calls of other processes to this process's Alertmanager. It implements rpc.Alertmanager.
type calledAlertmanager struct{ *alerting }

// Serve implements rpc.Alertmanager.
func (c calledAlertmanager) Serve(ctx context.Context, t tenant.ID, r *wire.AlertmanagerRequest) (*wire.AlertmanagerResponse, error) {
	out, err := c.alerting.Serve(ctx, t, &alertmanager.Request{Method: r.Method, Path: r.Path, ContentType: r.ContentType, Body: r.Body})
	if err != nil {
		return nil, err
	}
	return &wire.AlertmanagerResponse{Code: int32(out.Code), ContentType: out.ContentType, Body: out.Body}, nil
}

// Told implements rpc.Alertmanager.
func (c calledAlertmanager) Told(key, entry string, flushed int64) {
	c.claims.Told(key, entry, flushed)
}

// replicas returns the processes that run a tenant's Alertmanager, in the order of their positions. They are the alive
// processes with the highest hashes, in different zones as far as possible.
func replicas(r *ring.Ring, t tenant.ID) []ring.Instance {
	type candidate struct {
		ring.Instance
		hash uint64
	}
	var list []candidate
	for _, in := range slices.Concat(r.Instances(), r.Others()) {
		if slices.Contains(in.Roles, string(TargetAlertmanager)) && in.Addr != "" && !in.Unhealthy {
			list = append(list, candidate{in, xxhash.Sum64String(in.ID + "\x00" + string(t))})
		}
	}
	slices.SortFunc(list, func(a, b candidate) int {
		if a.hash > b.hash {
			return -1
		}
		return 1
	})
	var out, others []ring.Instance
	zones := map[string]bool{}
	for _, c := range list {
		if c.Zone != "" && zones[c.Zone] {
			others = append(others, c.Instance)
			continue
		}
		zones[c.Zone] = true
		out = append(out, c.Instance)
	}
	out = append(out, others...)
	return out[:min(len(out), replicasOfTenant)]
}

// replicasOf returns the replicas of a tenant in a cluster.
func (b *backend) replicasOf(ctx context.Context, t tenant.ID) ([]ring.Instance, error) {
	r, err := b.cluster.members.Ring(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the ring: %w", err)
	}
	return replicas(r, t), nil
}

// hasAlertmanager reports whether this process is a replica of a tenant.
func (b *backend) hasAlertmanager(ctx context.Context, t tenant.ID) (bool, error) {
	if b.cluster == nil {
		return true, nil
	}
	list, err := b.replicasOf(ctx, t)
	return slices.ContainsFunc(list, func(in ring.Instance) bool { return in.ID == b.id() }), err
}

// alertPosition returns the index of this process among the replicas of a tenant.
func (b *backend) alertPosition(t tenant.ID) int {
	if b.cluster == nil {
		return 0
	}
	list, err := b.replicasOf(context.Background(), t)
	if err != nil {
		return replicasOfTenant
	}
	if i := slices.IndexFunc(list, func(in ring.Instance) bool { return in.ID == b.id() }); i >= 0 {
		return i
	}
	return replicasOfTenant
}

// alertTime limits a request to one replica.
const alertTime = 10 * time.Second

// errNoReplica is returned if no process has the role.
var errNoReplica = exchange.Unavailable("no process with the role alertmanager is alive")

// forwardAlerts sends a request to the tenant's Alertmanager: alerts to all replicas, other requests to one of them.
func (b *backend) forwardAlerts(ctx context.Context, t tenant.ID, r *alertmanager.Request) (*alertmanager.Response, error) {
	if b.cluster == nil {
		return b.alerting.Serve(ctx, t, r)
	}
	list, err := b.replicasOf(ctx, t)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errNoReplica
	}
	if path, _, _ := strings.Cut(r.Path, "?"); r.Method == http.MethodPost && path == alertmanager.Prefix+"/api/v2/alerts" {
		return b.putAlerts(ctx, t, r, list)
	}
	var errs error
	for i := range list {
		out, err := b.callReplica(ctx, t, r, &list[i])
		if err == nil {
			return out, nil
		}
		errs = errors.Join(errs, fmt.Errorf("%s: %w", list[i].ID, err))
		if r.Method != http.MethodGet && errors.Is(err, context.DeadlineExceeded) {
			break // the replica may still carry out the request
		}
	}
	return nil, fmt.Errorf("no replica of the Alertmanager answered: %w", errs)
}

func (b *backend) callReplica(ctx context.Context, t tenant.ID, r *alertmanager.Request, in *ring.Instance,
) (*alertmanager.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, alertTime)
	defer cancel()
	if in.ID == b.id() && b.alerting != nil {
		return b.alerting.Serve(ctx, t, r)
	}
	p, err := b.cluster.pool.Peer(in.Addr)
	if err != nil {
		return nil, err
	}
	out, err := p.Alertmanager(ctx, t, &wire.AlertmanagerRequest{Method: r.Method, Path: r.Path, ContentType: r.ContentType, Body: r.Body})
	if err != nil {
		return nil, err
	}
	return &alertmanager.Response{Code: int(out.Code), ContentType: out.ContentType, Body: out.Body}, nil
}

// putAlerts sends alerts to all replicas. When the majority has accepted them, it returns the last of these responses.
// Otherwise it returns a response that rejects them, or an error if there is none.
func (b *backend) putAlerts(ctx context.Context, t tenant.ID, r *alertmanager.Request, list []ring.Instance,
) (*alertmanager.Response, error) {
	type reply struct {
		out *alertmanager.Response
		err error
	}
	replies := make(chan reply, len(list))
	for i := range list {
		go func() { // ends after alertTime
			out, err := b.callReplica(context.WithoutCancel(ctx), t, r, &list[i])
			replies <- reply{out, err}
		}()
	}
	var errs error
	var rejected *alertmanager.Response
	accepted := 0
	for range list {
		got := <-replies
		switch {
		case got.err != nil:
			errs = errors.Join(errs, got.err)
		case got.out.Code/100 == 2:
			if accepted++; accepted > len(list)/2 {
				return got.out, nil
			}
		default:
			rejected = got.out
		}
	}
	if rejected != nil {
		return rejected, nil
	}
	return nil, fmt.Errorf("%d of %d replicas of the Alertmanager accepted the alerts: %w", accepted, len(list), errs)
}

// postAlerts sends alerts of the ruler to the tenant's Alertmanager.
func (b *backend) postAlerts(ctx context.Context, t tenant.ID, body []byte) (code int, text string, err error) {
	out, err := b.forwardAlerts(ctx, t, &alertmanager.Request{Method: http.MethodPost, Path: alertmanager.Prefix + "/api/v2/alerts",
		ContentType: "application/json", Body: body})
	if err != nil {
		return 0, "", err
	}
	return out.Code, string(out.Body), nil
}

// addAlertHandlers adds Alertmanager's configuration and API to the API.
func (b *backend) addAlertHandlers() error {
	if err := b.needAlertCompiler(); err != nil {
		return err
	}
	handlers := alertsapi.New(alertsapi.Options{Store: b.longTerm.Options().Index.Alertmanagers, Check: b.alertCompiler.Check,
		Seal: b.sealSecret, Forward: b.forwardAlerts, ForwardAll: b.askReplicas, Pace: b.alertPace, Limits: b.limitsOf, Memory: b.memory,
		Changed: b.alertConfigChanged, Logger: b.opts.Logger})
	maps.Copy(b.api.Handlers, handlers)
	return nil
}

// sealSecret encrypts a secret of a receiver.
func (b *backend) sealSecret(t tenant.ID, name string, value []byte) ([]byte, error) {
	sealed, ok := b.alertCompiler.Seal(t, name, value)
	if !ok {
		return nil, alertsapi.ErrNoKey
	}
	return sealed, nil
}

// changeTime is the maximum time that the response to a new configuration waits until the replicas run it.
const changeTime = 2 * time.Second

// alertConfigChanged makes the replicas of a tenant read its configuration now. A replica that cannot be reached reads
// it within ten seconds.
func (b *backend) alertConfigChanged(t tenant.ID) {
	done := make(chan struct{})
	b.background.Go(func(ctx context.Context) {
		defer close(done)
		ctx, cancel := context.WithTimeout(ctx, alertTime)
		defer cancel()
		b.eachReplica(ctx, t, func(ctx context.Context, p *rpc.Peer) error { return p.AlertmanagerChanged(ctx, t) },
			func(ctx context.Context) error { return b.alerting.Changed(ctx, t) })
	})
	select {
	case <-done:
	case <-time.After(changeTime):
	}
}

// tellReplicas tells the other replicas of a tenant about a notification that was sent without a claim.
func (b *backend) tellReplicas(key, entry string, flushed int64) {
	t, ok := schema.TenantOf(key)
	if b.cluster == nil || !ok {
		return
	}
	b.background.Go(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, alertTime)
		defer cancel()
		b.eachReplica(ctx, t, func(ctx context.Context, p *rpc.Peer) error { return p.AlertmanagerTold(ctx, t, key, entry, flushed) },
			func(context.Context) error { return nil })
	})
}

// eachReplica calls the replicas of a tenant. It only logs errors, because a replica that was not reached finds out later.
func (b *backend) eachReplica(ctx context.Context, t tenant.ID, call func(context.Context, *rpc.Peer) error,
	own func(context.Context) error) {
	if b.cluster == nil {
		b.untold(ctx, t, own(ctx))
		return
	}
	list, err := b.replicasOf(ctx, t)
	if err != nil {
		b.untold(ctx, t, err)
		return
	}
	var members []peers.Peer[*ring.Instance]
	for i := range list {
		members = append(members, peers.Peer[*ring.Instance]{ID: list[i].ID, Client: &list[i]})
	}
	for _, reply := range peers.Each(ctx, members, func(ctx context.Context, in *ring.Instance) (struct{}, error) {
		if in.ID == b.id() && b.alerting != nil {
			return struct{}{}, own(ctx)
		}
		p, err := b.cluster.pool.Peer(in.Addr)
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, call(ctx, p)
	}) {
		b.untold(ctx, t, reply.Err)
	}
}

func (b *backend) untold(ctx context.Context, t tenant.ID, err error) {
	if err != nil && ctx.Err() == nil {
		b.opts.Logger.Warn("could not tell a replica of an Alertmanager about a change, which it will notice later", "tenant", t, "err", err)
	}
}
