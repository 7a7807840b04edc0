package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/backend/background"
	"github.com/palliumhq/pallium/backend/rpc"
	"github.com/palliumhq/pallium/backend/selfmonitor"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/gateway/conn"
)

type pushFunc = func(context.Context, *series.Batch) (series.Outcome, error)

// run serves until ctx is done or a listener fails, then stops: it drains requests, closes
// the listeners and seals the head. started, if not nil, is called once all listeners are
// open, with the addresses of the edge (for a backend, of internal_listen) and of the admin
// listener. If stopping takes longer than shutdown_timeout, run returns ErrStopTimeout.
func (p *process) run(ctx context.Context, started func(edge, admin net.Addr)) error {
	return p.bounded(ctx, p.ending, func() error { return p.serve(ctx, started) })
}

func (p *process) serve(ctx context.Context, started func(edge, admin net.Addr)) error {
	var list []net.Listener
	err := notStarted(ctx)
	if err == nil {
		p.startup.step("opening the listeners")
		list, err = p.open()
	}
	if err != nil {
		p.ending.begin()
		p.requests.Cancel()
		return errors.Join(err, p.close())
	}
	for _, begin := range p.onServing {
		begin()
	}
	p.admin.Serve(p.surface)
	p.opts.Logger.Info("serving", append(p.logAddresses(list), "role", string(p.opts.Role), "version", p.opts.Version)...)
	if started != nil {
		started(list[0].Addr(), p.admin.Addr())
	}
	main, two := p.mainServers()
	servers := []*http.Server{main, two, p.admin.Server()}
	failed := make(chan error, 2)
	var serving sync.WaitGroup
	serving.Go(func() { failed <- p.serveMain(main, two, list[0]) })
	if server := p.rpc(); server != nil {
		serving.Go(func() { failed <- server.Serve(list[1]) })
	}
	running := background.New()
	p.serveBackend(running)
	for _, r := range p.backendRoles() {
		if r.activate != nil {
			r.activate(p.backend, ctx)
		}
	}
	p.serving.Store(true)
	for _, r := range p.backendRoles() {
		if r.serve != nil {
			running.Go(func(ctx context.Context) { r.serve(p.backend, ctx) })
		}
	}
	select {
	case <-ctx.Done():
		p.opts.Logger.Info("stopping")
	case err = <-failed:
	case err = <-p.admin.Failed():
	}
	return errors.Join(ignoreClosed(err), p.stop(servers, running, &serving))
}

// serveBackend starts the background work of a backend that does not depend on its roles.
func (p *process) serveBackend(g *background.Group) {
	b := p.backend
	if b == nil {
		return
	}
	if b.cluster != nil {
		g.Go(b.cluster.prune)
	}
	if p.cfg.Self.Disabled {
		return
	}
	o := selfmonitor.Options{Gatherer: p.registry, Push: b.push, Limits: b.limitsOf, Interval: time.Duration(p.cfg.Self.Interval),
		Now: p.opts.Now, Logger: p.opts.Logger, Instance: p.cfg.Cluster.Instance}
	g.Go(func(ctx context.Context) {
		if b.cluster == nil || b.cluster.members.Wait(ctx) == nil {
			selfmonitor.Run(ctx, o)
		}
	})
}

// requestContext returns the context of all requests, which ends when they are canceled.
func (p *process) requestContext(net.Listener) context.Context { return p.requests.Context() }

// logAddresses returns log attributes with the addresses of the listeners.
func (p *process) logAddresses(list []net.Listener) []any {
	out := []any{"edge", list[0].Addr().String(), "admin", p.admin.Addr().String()}
	if len(list) > 1 {
		out[0] = "internal"
		out = append(out, "rpc", list[1].Addr().String())
	}
	return out
}

// handler returns the handler of the main listener.
func (p *process) handler() http.Handler {
	if p.edge == nil {
		return p.backend.internal()
	}
	return p.edge.gateway
}

// mainServers returns the servers of the main listener; the second one is for HTTP/2.
func (p *process) mainServers() (one, two *http.Server) {
	header := p.cfg.Gateway.HeaderBytes()
	if p.edge == nil { // a gateway re-encodes the query string, which may become three times as long
		header *= 4
	}
	o := conn.Options{Handler: p.handler(), Logger: p.opts.Logger, HeaderBytes: header, Hasty: p.edge != nil}
	if p.edge != nil {
		o.IdleTimeout = time.Duration(p.cfg.Gateway.IdleTimeout)
	}
	one, two = conn.Server(o), conn.ServerOfHTTP2(o)
	one.BaseContext, two.BaseContext = p.requestContext, p.requestContext
	return one, two
}

// serveMain serves the main listener: clients of the edge, or gateways of a backend.
func (p *process) serveMain(srv, two *http.Server, l net.Listener) error {
	if p.edge == nil {
		rejected := cluster.NewRejections(p.opts.Logger)
		return srv.Serve(p.security.Listen(l, func(err error) { rejected.Add(err, time.Now()) }))
	}
	var config *tls.Config
	if p.edge.cert != nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: p.edge.cert.Get}
	}
	return conn.Serve(srv, two, conn.Limit(l, p.edge.connections, p.edge.trusted, p.registry), config, p.cfg.Gateway.HeaderBytes())
}

// seal calls the roles' seal functions, so that the next start is faster.
func (p *process) seal(deadline time.Time) {
	for _, r := range p.backendRoles() {
		if r.seal != nil {
			r.seal(p.backend, deadline)
		}
	}
}

// backendRoles returns the backend roles of this process.
func (p *process) backendRoles() []role {
	if p.backend == nil {
		return nil
	}
	return p.backend.roles
}

// rpc returns the server for calls between processes; nil except in a backend of a cluster.
func (p *process) rpc() *rpc.Server {
	if p.backend == nil || p.backend.cluster == nil {
		return nil
	}
	return p.backend.cluster.server
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
