package main

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/palliumhq/pallium/gateway/admin"
	"github.com/palliumhq/pallium/gateway/admin/operator"
)

// openAdmin opens admin_listen, which reports the progress of the start until the process
// serves.
func (p *process) openAdmin() (err error) {
	p.admin, err = admin.Listen(admin.ListenerOptions{Address: p.cfg.AdminListen, Hosts: p.cfg.AdminHosts,
		Doing: p.startup.String, Logger: p.opts.Logger, Context: p.requests.Context()})
	if err != nil {
		return fmt.Errorf("admin_listen: %w", err)
	}
	p.onClose("admin listener", p.admin.Close)
	p.registerEarly(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo(p.opts.Version))
	return nil
}

func buildInfo(version string) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "pallium_build_info", Help: "Always 1; labeled with the version of the process.",
		ConstLabels: prometheus.Labels{"version": version}})
	g.Set(1)
	return g
}

// registerEarly registers metrics that are also served during the start.
func (p *process) registerEarly(cs ...prometheus.Collector) {
	p.registry.MustRegister(cs...)
	p.admin.Early().MustRegister(cs...)
}

// buildSurface sets the surface of the admin listener, which is served once the process serves
// requests. A gateway and a single process serve the admin API, the operator page and profiles,
// protected by the admin token. A backend has no admin token: its profiles need a token of their
// own, and it receives commands from gateways.
func (p *process) buildSurface(token string) (err error) {
	s := admin.Surface{Metrics: p.registry, Ready: func(ctx context.Context) (impaired, err error) {
		if err := p.ready(ctx); err != nil {
			return nil, err
		}
		return p.impaired(ctx), nil
	}}
	if p.opts.Role == Backend {
		s.Token, err = p.profilesToken()
		s.TokenName = "PALLIUM_PPROF_TOKEN"
		p.surface = s
		return err
	}
	o := operator.PageOptions{Version: p.opts.Version, Role: string(p.opts.Role), Now: p.opts.Now, Logger: p.opts.Logger}
	api := admin.Options{
		Control: p.control, Token: token, EdgeURL: p.edgeURL(),
		Logger: p.opts.Logger, Registerer: p.registry, Now: p.opts.Now,
	}
	switch {
	case p.backend != nil:
		o.Commands, api.Extra = p.backend.commands, p.backend.commands.Routes
	case p.edge.toBackend != nil:
		o.Forwarder, api.Extra = p.edge.toBackend, p.edge.toBackend.Routes
	}
	s.Token, s.TokenName = token, "admin token"
	if s.API, err = admin.New(api); err != nil {
		return err
	}
	if s.Page, err = operator.NewPage(o); err != nil {
		return err
	}
	p.surface = s
	return nil
}

// profilesToken returns the token for a backend's profiles. If none is configured, it returns ""
// and profiles are disabled.
func (p *process) profilesToken() (string, error) {
	const name = "PALLIUM_PPROF_TOKEN"
	if !isSet(p.opts.Env, name) {
		return "", nil
	}
	token, _, _, err := secret{name: name}.load(p.cfg.DataDir, p.opts.Env)
	if err == nil {
		err = admin.CheckToken(token)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return token, nil
}

// address is an address to listen on, and the name of its setting.
type address struct{ setting, addr string }

// addresses returns the addresses that are opened when the process can serve, the main one
// first.
func (p *process) addresses() []address {
	if p.opts.Role != Backend {
		return []address{{"listen", p.cfg.Listen}}
	}
	return []address{{"internal_listen", p.cfg.InternalListen}, {"rpc_listen", p.cfg.RPCListen}}
}

// open listens on all addresses, or returns an error and listens on none.
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

// checkAddresses returns an error if an address is in use, so that it is reported at once
// and not after a long replay. The listeners are closed again: otherwise clients would
// connect and wait for the whole start, while a refused connection makes them retry or use
// another process.
func (p *process) checkAddresses() error {
	list, err := p.open()
	return errors.Join(err, closeAll(list))
}
