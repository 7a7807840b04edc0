package app

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/gateway/conn"
)

type pushFunc = func(context.Context, *series.Batch) (series.Outcome, error)

// Run serves until ctx is done, then drains: listeners close, requests under
// way end, and what is in memory is safe on disk. started, if not nil, is told
// the addresses of the edge (of a backend: of internal_listen) and of the admin
// listener once all listeners are open. All of stopping has shutdown_timeout:
// when it takes longer, Run returns ErrStopTimeout.
func (a *App) Run(ctx context.Context, started func(edge, admin net.Addr)) error {
	return a.bounded(ctx, a.ending, func() error { return a.run(ctx, started) })
}

func (a *App) run(ctx context.Context, started func(edge, admin net.Addr)) error {
	var list []net.Listener
	err := notStarted(ctx)
	if err == nil {
		a.startup.step("opening the listeners")
		list, err = a.open()
	}
	if err != nil {
		a.ending.begin()
		a.cutOff()
		return errors.Join(err, a.close())
	}
	a.admin.serve(a.adminHandler)
	a.opts.Logger.Info("serving", append(a.logAddresses(list), "role", string(a.opts.Role), "version", a.opts.Version)...)
	if started != nil {
		started(list[0].Addr(), a.admin.listener.Addr())
	}
	main, two := a.mainServers()
	servers := []*http.Server{main, two, a.admin.server}
	failed := make(chan error, 2)
	var serving, background sync.WaitGroup
	serving.Go(func() { failed <- a.serveMain(main, two, list[0]) })
	if a.rpc != nil {
		serving.Go(func() { failed <- a.rpc.Serve(list[1]) })
	}
	bgCtx, stopBackground := context.WithCancel(context.Background())
	if a.push != nil && !a.cfg.Self.Disabled {
		m := &selfMonitor{gatherer: a.registry, push: a.push, every: time.Duration(a.cfg.Self.Interval), now: a.opts.Now, logger: a.opts.Logger, host: a.cfg.Cluster.Instance}
		background.Go(func() {
			if a.members == nil || a.members.Wait(bgCtx) == nil {
				m.run(bgCtx)
			}
		})
	}
	if a.pool != nil {
		background.Go(func() { a.prunePeers(bgCtx) })
	}
	background.Go(func() { a.watchZones(bgCtx) })
	if err = a.activate(ctx); err == nil {
		a.serving.Store(true)
		if a.members != nil && a.ingester != nil {
			background.Go(func() { a.recovery.Restore(bgCtx, a.members.Self().ID) })
		}
		select {
		case <-ctx.Done():
			a.opts.Logger.Info("stopping")
		case err = <-failed:
		case err = <-a.admin.failed:
		}
	}
	return errors.Join(ignoreClosed(err), a.stop(servers, stopBackground, &background, &serving))
}

// activate lets an ingester of a cluster take writes, now that it listens.
func (a *App) activate(ctx context.Context) error {
	if a.members == nil || a.ingester == nil {
		return nil
	}
	if err := a.members.SetState(ctx, ring.Active); err != nil {
		a.opts.Logger.Warn("Redis does not know yet that this ingester serves", "err", err)
	}
	return nil
}

// requestContext is the context of all requests: it ends when they are cut off.
func (a *App) requestContext(net.Listener) context.Context { return a.requests }

// logAddresses are the attributes of what the process listens on.
func (a *App) logAddresses(list []net.Listener) []any {
	out := []any{"edge", list[0].Addr().String(), "admin", a.admin.listener.Addr().String()}
	if len(list) > 1 {
		out[0] = "internal"
		out = append(out, "rpc", list[1].Addr().String())
	}
	return out
}

// handler is what the main listener serves.
func (a *App) handler() http.Handler {
	if a.opts.Role == Backend {
		return a.internal()
	}
	return a.edge
}

// mainServers are those of the main listener, the second one for HTTP/2.
func (a *App) mainServers() (one, two *http.Server) {
	header := a.cfg.Gateway.HeaderBytes()
	if a.opts.Role == Backend { // a gateway writes a query string anew, up to three times as long
		header *= 4
	}
	o := conn.Options{Handler: a.handler(), Logger: a.opts.Logger, HeaderBytes: header, Hasty: a.opts.Role != Backend}
	if a.opts.Role != Backend {
		o.IdleTimeout = time.Duration(a.cfg.Gateway.IdleTimeout)
	}
	one, two = conn.Server(o), conn.ServerOfHTTP2(o)
	one.BaseContext, two.BaseContext = a.requestContext, a.requestContext
	return one, two
}

// serveMain serves the edge, or a backend for gateways.
func (a *App) serveMain(srv, two *http.Server, l net.Listener) error {
	if a.opts.Role == Backend {
		rejected := &rejections{log: a.opts.Logger}
		return srv.Serve(a.security.Listen(l, func(err error) { rejected.add(err, time.Now()) }))
	}
	var config *tls.Config
	if a.cert != nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: a.cert.get}
	}
	return conn.Serve(srv, two, conn.Limit(l, a.connections, a.trusted, a.registry), config, a.cfg.Gateway.HeaderBytes())
}

// seal writes what is in the head into packs, so that the next start has no log
// to replay. If it fails nothing is lost: the log has it all.
// It begins however little time is left before deadline: how long it takes is not
// known, and one that is cut off costs the next start no more than none at all.
func (a *App) seal(deadline time.Time) {
	if a.ingester == nil {
		return
	}
	a.opts.Logger.Info("sealing the head; if that is cut off, nothing is lost: the next start replays the write-ahead log",
		"head_bytes", a.ingester.Stats().HeadBytes, "time_left", deadline.Sub(a.opts.Now()).Round(time.Millisecond))
	if err := a.ingester.Flush(); err != nil {
		a.opts.Logger.Warn("sealing at the end failed; the next start replays the write-ahead log", "err", err)
	}
}

// pruneEvery is how often connections to instances that left are closed.
const pruneEvery = 30 * time.Second

func (a *App) prunePeers(ctx context.Context) {
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		r, err := a.members.Ring(ctx)
		if err != nil {
			continue
		}
		addrs := map[string]bool{}
		for _, in := range r.Instances() {
			addrs[in.Addr] = true
		}
		for _, in := range r.Others() {
			addrs[in.Addr] = true
		}
		a.pool.Keep(addrs)
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
