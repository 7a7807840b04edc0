package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync/atomic"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/palliumhq/pallium/gateway/admin"
	"github.com/palliumhq/pallium/gateway/conn"
)

// adminListener is open from the beginning of the start to the end of the
// process, so that probes, Prometheus and an operator can tell a long replay from
// a process that hangs.
type adminListener struct {
	listener net.Listener
	server   *http.Server
	handler  atomic.Pointer[http.Handler]
	failed   chan error // what Serve returned
	// early has the metrics that are complete while the rest is built: collectors
	// of p.registry may read parts of the process that do not exist yet.
	early *prometheus.Registry
	all   http.Handler // what it serves after the start
}

// openAdmin opens admin_listen, which tells of the start until serve is called.
func (p *process) openAdmin() error {
	l, err := net.Listen("tcp", p.cfg.AdminListen)
	if err != nil {
		return fmt.Errorf("admin_listen: %w", err)
	}
	ad := &adminListener{listener: l, failed: make(chan error, 1), early: prometheus.NewRegistry()}
	p.admin = ad
	p.registerEarly(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo(p.opts.Version))
	ad.serve(p.starting())
	ad.server = conn.Server(conn.Options{Handler: admin.RequireHost(p.adminNames(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		(*ad.handler.Load()).ServeHTTP(w, r)
	})), Logger: p.opts.Logger})
	ad.server.BaseContext = p.requestContext
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ad.failed <- ad.server.Serve(l)
	}()
	p.onClose("admin listener", func() error {
		err := errors.Join(ad.server.Close(), ignoreNetClosed(l.Close())) // Serve may not have begun
		<-ended
		return err
	})
	return nil
}

func buildInfo(version string) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "pallium_build_info", Help: "Always 1; the labels tell the version.",
		ConstLabels: prometheus.Labels{"version": version}})
	g.Set(1)
	return g
}

// adminNames are the host names under which the admin listener may be asked, beside
// localhost: those of the configuration, and the one that it listens on.
func (p *process) adminNames() []string {
	names := slices.Clone(p.cfg.AdminHosts)
	if host, _, err := net.SplitHostPort(p.cfg.AdminListen); err == nil && host != "" {
		names = append(names, host)
	}
	return names
}

// ignoreNetClosed is for listeners that their server may have closed.
func ignoreNetClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// serve has h answer from now on.
func (ad *adminListener) serve(h http.Handler) { ad.handler.Store(&h) }

// serveAll has the process's own handler answer from now on.
func (ad *adminListener) serveAll() { ad.serve(ad.all) }

// registerEarly adds metrics that can be read during the start, too.
func (p *process) registerEarly(cs ...prometheus.Collector) {
	p.registry.MustRegister(cs...)
	p.admin.early.MustRegister(cs...)
}

// starting is the admin listener's handler during the start.
func (p *process) starting() http.Handler {
	r := chi.NewRouter()
	r.Handle("/metrics", promhttp.HandlerFor(p.admin.early, promhttp.HandlerOpts{}))
	r.Get("/healthy", serveHealthy)
	r.Get("/ready", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, p.startup.String(), http.StatusServiceUnavailable)
	})
	other := admin.Starting(p.startup.String, p.opts.Logger)
	r.NotFound(other.ServeHTTP)
	r.MethodNotAllowed(other.ServeHTTP)
	return r
}

func serveHealthy(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("healthy\n")) }

// address is one on which the process listens, and the setting that has it.
type address struct{ setting, addr string }

// addresses are those that open when the process can serve: the main one first.
func (p *process) addresses() []address {
	if p.opts.Role != Backend {
		return []address{{"listen", p.cfg.Listen}}
	}
	return []address{{"internal_listen", p.cfg.InternalListen}, {"rpc_listen", p.cfg.RPCListen}}
}

// open listens on all addresses, or on none.
func (p *process) open() ([]net.Listener, error) {
	var out []net.Listener
	for _, one := range p.addresses() {
		l, err := net.Listen("tcp", one.addr)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", one.setting, err), closeAll(out))
		}
		out = append(out, l)
	}
	return out, nil
}

func closeAll(list []net.Listener) error {
	var errs error
	for _, l := range list {
		errs = errors.Join(errs, l.Close())
	}
	return errs
}

// checkAddresses reports at once, and not after a long replay, that an address is
// taken. The listeners do not stay open: the system would accept connections that
// nobody answers, and clients would wait where a refused connection has them try
// again, or elsewhere.
func (p *process) checkAddresses() error {
	list, err := p.open()
	return errors.Join(err, closeAll(list))
}
