package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/palliumhq/pallium/authn"
	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/gateway"
	"github.com/palliumhq/pallium/gateway/admin/operator"
	"github.com/palliumhq/pallium/gateway/conn"
	"github.com/palliumhq/pallium/policies/budget"
	budgetredis "github.com/palliumhq/pallium/policies/budget/redis"
)

// edge is the part of a process that serves clients.
type edge struct {
	auth        *authn.Authenticator
	gateway     *gateway.Gateway
	cert        *conn.Certificate // nil without TLS
	connections conn.Limits
	trusted     []netip.Prefix      // proxies in front of the edge
	toBackend   *operator.Forwarder // forwards operators' commands; nil except in a gateway of a cluster
}

// edgeSecrets are the secrets that only a process with an edge has: a backend checks no API
// keys and accepts no commands directly from operators.
type edgeSecrets struct {
	adminToken string
	pepper     *apikey.Pepper
}

func (p *process) loadEdgeSecrets() (edgeSecrets, error) {
	mayMake := p.opts.Role == All
	token, path, made, err := secret{name: "PALLIUM_ADMIN_TOKEN", file: "admin-token", make: mayMake}.load(p.cfg.DataDir, p.opts.Env)
	if err != nil {
		return edgeSecrets{}, fmt.Errorf("admin token: %w", err)
	}
	if made {
		p.opts.Logger.Info("admin token generated; the pallium command reads it from the file", "file", path)
	}
	text, _, _, err := secret{name: "PALLIUM_KEY_PEPPER", file: "key-pepper", make: mayMake}.load(p.cfg.DataDir, p.opts.Env)
	if err != nil {
		return edgeSecrets{}, fmt.Errorf("key pepper: %w", err)
	}
	pepper, err := apikey.NewPepper([]byte(text))
	return edgeSecrets{token, &pepper}, err
}

// openEdge reads the edge's files and checks its settings. It runs before the backend is opened, so
// that mistakes are reported at once and not after a long replay.
func (p *process) openEdge(keys edgeSecrets) (err error) {
	e := &edge{}
	p.edge = e
	if p.signer == nil && p.cacheRedis != nil {
		if p.signer, err = pepperSigner(*keys.pepper); err != nil {
			return err
		}
	}
	if e.auth, err = authn.New(authn.Options{
		Config: p.cfg.Auth, Keys: p.control, Pepper: *keys.pepper, Now: p.opts.Now, Logger: p.opts.Logger, Registerer: p.registry,
	}); err != nil {
		return err
	}
	if p.cfg.TLS.CertFile != "" {
		e.cert = &conn.Certificate{CertFile: p.cfg.TLS.CertFile, KeyFile: p.cfg.TLS.KeyFile}
		if err := e.cert.Load(); err != nil {
			return err
		}
	}
	if e.trusted, err = p.cfg.Gateway.Trusted(); err == nil {
		e.connections, err = p.cfg.Gateway.Connections.Resolve(conn.OpenFiles())
	}
	if err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	return nil
}

// buildEdge builds the gateway of this process, in front of its own backend or of others.
func (p *process) buildEdge() (err error) {
	e := p.edge
	o := gateway.Options{
		Config: p.cfg.Gateway, Auth: e.auth, Tenants: p.control, Memory: edgeMemory{p.memory},
		BackendURLs: p.cfg.Upstream.URLs, WriteURLs: p.cfg.Upstream.WriteURLs,
		Ready: p.ready, Version: p.opts.Version, Logger: p.opts.Logger, Registerer: p.registry, Now: p.opts.Now,
	}
	if p.backend != nil {
		o.Backend = p.backend.handler
	}
	if p.security != nil {
		o.Dial = p.dialBackend()
		if e.toBackend, err = operator.NewForwarder(p.cfg.Upstream.URLs, p.toCluster(), p.opts.Logger); err != nil {
			return err
		}
	}
	if e.gateway, err = gateway.New(o); err != nil {
		return err
	}
	if p.cacheRedis != nil {
		p.shareBudgets()
	}
	return nil
}

// toCluster returns the HTTP transport to internal_listen of backends.
func (p *process) toCluster() http.RoundTripper {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	transport.DialContext = p.dialBackend()
	transport.DialTLSContext = transport.DialContext
	return transport
}

// shareBudgets shares tenants' rate limits with the other gateways until the process ends.
func (p *process) shareBudgets() {
	id := p.cfg.Cluster.Instance
	if id == "" {
		id = holder()
	}
	sharer := budget.New(budget.Options{
		ID: id, Tenants: p.edge.gateway.Budgets(), Gateways: p.cfg.Gateway.Gateways,
		Now: p.opts.Now, Logger: p.opts.Logger, Registerer: p.registry,
		Exchange: budgetredis.New(p.cacheRedis, "pallium:budget", p.signer,
			budgetredis.Options{Logger: p.opts.Logger, Registerer: p.registry}),
	})
	p.start("rate budget exchange", sharer.Run)
}

// edgeURL returns the URL of the edge for clients: external_url, or a guess from listen.
func (p *process) edgeURL() string {
	if p.cfg.ExternalURL != "" {
		return strings.TrimRight(p.cfg.ExternalURL, "/")
	}
	scheme := "http"
	if p.cfg.TLS.CertFile != "" {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(p.cfg.Listen)
	if err != nil || port == "" {
		return scheme + "://localhost:9009"
	}
	if host == "" || host == "0.0.0.0" || host == "::" {
		host = "localhost"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// edgeMemory adapts the process's memory account to gateway.Memory.
type edgeMemory struct{ account *memory.Account }

// Hold implements gateway.Memory.
func (m edgeMemory) Hold(id tenant.ID, most int64, write bool) gateway.Held {
	return edgeHeld{m.account.Begin(memory.Request{Tenant: id, Limit: most, Write: write})}
}

type edgeHeld struct{ *memory.Holding }

// Take implements gateway.Held.
func (h edgeHeld) Take(n int64) error {
	err := h.Holding.Take(n)
	var large *memory.TooLargeError
	switch {
	case errors.As(err, &large):
		return fmt.Errorf("%w: %w", gateway.ErrNeverFits, err)
	case errors.Is(err, memory.ErrFull) || errors.Is(err, memory.ErrEnded):
		return fmt.Errorf("%w: %w", gateway.ErrNoMemory, err)
	}
	return err
}
