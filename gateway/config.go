package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/prometheus/common/model"

	"github.com/palliumhq/pallium/gateway/conn"
)

// Config is the section "gateway" of the configuration file. A value of 0 selects the
// default.
type Config struct {
	// MaxInFlight bounds the concurrent requests of all tenants to the backend; default
	// 2000.
	MaxInFlight int `yaml:"max_in_flight"`
	// MaxQueued bounds the queued requests of one tenant; default 200.
	MaxQueued int `yaml:"max_queued"`
	// QueueTimeout is the longest time that a request waits in the queue; default 5s.
	QueueTimeout model.Duration `yaml:"queue_timeout"`
	// MaxBodyBytes bounds every request body, also of tenants without a limit of their
	// own; default 256 MiB.
	MaxBodyBytes int64 `yaml:"max_body_bytes"`
	// MaxTenants bounds the number of tenants whose budgets are in memory; default
	// 200000.
	MaxTenants int `yaml:"max_tenants"`
	// Gateways is the number of gateways that share the rate limits until the shared
	// Redis has reported it; default 1.
	Gateways int `yaml:"gateways"`
	// TrustedProxies are the networks whose X-Forwarded-For header is trusted; default
	// none.
	TrustedProxies []string `yaml:"trusted_proxies"`
	// Connections bounds the connections of clients; the defaults depend on how many
	// files the process may open.
	Connections conn.Limits `yaml:"connections"`
	// MaxHeaderBytes bounds a request header including the request line; default 256 KiB.
	// In HTTP/2, the limit is at most 64 KiB.
	MaxHeaderBytes int `yaml:"max_header_bytes"`
	// MaxBufferedBytes bounds the request bodies, and the responses to HTTP/1.0 clients, that
	// `pallium gateway` buffers; default a quarter of Go's memory limit. `pallium all` has
	// memory.request_bytes instead.
	MaxBufferedBytes int64 `yaml:"max_buffered_bytes"`
	// IdleTimeout is how long an idle connection stays open; default 60s. A load balancer
	// that keeps its connections open for longer occasionally responds with 502.
	IdleTimeout model.Duration `yaml:"idle_timeout"`
}

// maxIdleTimeout is longer than load balancers keep connections open.
const maxIdleTimeout = 15 * time.Minute

// The bounds of max_header_bytes. Headers are read before the client is
// authenticated.
const (
	minHeaderBytes = 4 << 10
	maxHeaderBytes = 1 << 20
)

// HeaderBytes returns max_header_bytes or its default.
func (c *Config) HeaderBytes() int {
	if c.MaxHeaderBytes == 0 {
		return conn.HeaderBytes
	}
	return c.MaxHeaderBytes
}

// Check returns the errors of all invalid settings, joined; each begins with its key.
func (c *Config) Check() error {
	var errs error
	for _, n := range []struct {
		key   string
		value int64
	}{
		{"max_in_flight", int64(c.MaxInFlight)}, {"max_queued", int64(c.MaxQueued)}, {"queue_timeout", int64(c.QueueTimeout)},
		{"max_body_bytes", c.MaxBodyBytes}, {"max_tenants", int64(c.MaxTenants)}, {"gateways", int64(c.Gateways)},
		{"max_buffered_bytes", c.MaxBufferedBytes},
	} {
		if n.value < 0 {
			errs = errors.Join(errs, fmt.Errorf("%s must not be negative", n.key))
		}
	}
	if n := c.HeaderBytes(); n < minHeaderBytes || n > maxHeaderBytes {
		errs = errors.Join(errs, fmt.Errorf("max_header_bytes is %d: it must be between %d and %d", n, minHeaderBytes, maxHeaderBytes))
	}
	if d := time.Duration(c.IdleTimeout); d < 0 || d > maxIdleTimeout {
		errs = errors.Join(errs, fmt.Errorf("idle_timeout is %s: it must be between 0s (the default, 60s) and %s", d, maxIdleTimeout))
	}
	if err := c.Connections.Check(); err != nil {
		errs = errors.Join(errs, fmt.Errorf("connections: %w", err))
	}
	_, err := c.Trusted()
	return errors.Join(errs, err)
}

// setDefaults replaces settings of 0 by their defaults.
func (c *Config) setDefaults() {
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 2000
	}
	if c.MaxQueued == 0 {
		c.MaxQueued = 200
	}
	if c.QueueTimeout == 0 {
		c.QueueTimeout = model.Duration(5 * time.Second)
	}
	if c.MaxBodyBytes == 0 {
		c.MaxBodyBytes = 256 << 20
	}
	if c.MaxTenants == 0 {
		c.MaxTenants = 200_000
	}
}

// Trusted returns the networks of trusted_proxies.
func (c *Config) Trusted() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range c.TrustedProxies {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("trusted_proxies: %q is not a network such as 10.0.0.0/8", s)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
