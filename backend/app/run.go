package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/gateway"
)

type pushFunc = func(context.Context, *series.Batch) (series.Outcome, error)

// Run serves until ctx is done, then drains: listeners close, requests under
// way end, and what is in memory is safe on disk. started, if not nil, is told
// the addresses once both listeners are open.
func (a *App) Run(ctx context.Context, started func(edge, admin net.Addr)) error {
	edge, err := net.Listen("tcp", a.cfg.Listen)
	if err != nil {
		return errors.Join(fmt.Errorf("listen: %w", err), a.close())
	}
	admin, err := net.Listen("tcp", a.cfg.AdminListen)
	if err != nil {
		return errors.Join(fmt.Errorf("admin_listen: %w", err), edge.Close(), a.close())
	}
	a.opts.Logger.Info("serving", "edge", edge.Addr().String(), "admin", admin.Addr().String(), "role", string(a.opts.Role), "version", a.opts.Version)
	if started != nil {
		started(edge.Addr(), admin.Addr())
	}
	servers := []*http.Server{gateway.Server(a.edge, a.opts.Logger), gateway.Server(a.admin, a.opts.Logger)}
	failed := make(chan error, 2)
	var serving, background sync.WaitGroup
	serving.Go(func() { failed <- servers[0].Serve(a.edgeListener(edge)) })
	serving.Go(func() { failed <- servers[1].Serve(admin) })
	bgCtx, stopBackground := context.WithCancel(context.Background())
	if a.push != nil && !a.cfg.Self.Disabled {
		m := &selfMonitor{gatherer: a.registry, push: a.push, every: time.Duration(a.cfg.Self.Interval), now: a.opts.Now, logger: a.opts.Logger}
		background.Go(func() { m.run(bgCtx) })
	}
	select {
	case <-ctx.Done():
		a.opts.Logger.Info("stopping")
	case err = <-failed:
	}
	stopBackground()
	background.Wait()
	errs := a.shutdown(servers)
	serving.Wait()
	a.seal()
	return errors.Join(ignoreClosed(err), errs, a.close())
}

// edgeListener wraps the edge's listener in TLS, if it is configured, and in
// the guard, which must see plain HTTP/1.1.
func (a *App) edgeListener(l net.Listener) net.Listener {
	if a.cert != nil {
		l = tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, GetCertificate: a.cert.get})
	}
	return gateway.GuardListener(l)
}

// seal writes what is in the head into packs, so that the next start has no log
// to replay. If it fails nothing is lost: the log has it all.
func (a *App) seal() {
	if a.ingester == nil {
		return
	}
	if err := a.ingester.Flush(); err != nil {
		a.opts.Logger.Warn("sealing at the end failed; the next start replays the write-ahead log", "err", err)
	}
}

func (a *App) shutdown(servers []*http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(a.cfg.ShutdownTimeout))
	defer cancel()
	var errs error
	for _, s := range servers {
		if err := s.Shutdown(ctx); err != nil {
			errs = errors.Join(errs, fmt.Errorf("requests were cut off: %w", err), s.Close())
		}
	}
	return errs
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
