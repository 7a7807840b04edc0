package gateway

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/prometheus/common/model"

	"github.com/palliumhq/pallium/gateway/conn"
)

// Config of the gateway, as it stands in the configuration file. 0 means the
// default.
type Config struct {
	// MaxInFlight bounds requests under way, of all tenants; default 2000.
	MaxInFlight int `yaml:"max_in_flight"`
	// MaxQueued bounds requests of one tenant that wait for a place; default 200.
	MaxQueued int `yaml:"max_queued"`
	// QueueTimeout is the longest wait for a place; default 5s.
	QueueTimeout model.Duration `yaml:"queue_timeout"`
	// MaxBodyBytes bounds any request body, also of tenants without a limit
	// of their own; default 256 MiB.
	MaxBodyBytes int64 `yaml:"max_body_bytes"`
	// MaxTenants bounds the tenants whose budgets are in memory; default 200000.
	MaxTenants int `yaml:"max_tenants"`
	// Gateways is how many gateways share the rate limits as long as the shared
	// Redis has not told; default 1.
	Gateways int `yaml:"gateways"`
	// TrustedProxies are networks whose X-Forwarded-For is believed; default none.
	TrustedProxies []string `yaml:"trusted_proxies"`
	// Connections bound those of clients; the defaults follow from how many files the
	// process may open.
	Connections conn.Limits `yaml:"connections"`
	// MaxHeaderBytes bounds a header, with the request line; default 256 KiB.
	MaxHeaderBytes int `yaml:"max_header_bytes"`
	// MaxBufferedBytes bounds what `pallium gateway` keeps of bodies, and of answers to
	// HTTP/1.0; default a quarter of its memory. `pallium all` has memory.request_bytes.
	MaxBufferedBytes int64 `yaml:"max_buffered_bytes"`
	// IdleTimeout is how long a connection without a request stays open; default 60s.
	// A balancer that keeps its connections for longer than that answers 502 now and
	// then.
	IdleTimeout model.Duration `yaml:"idle_timeout"`
}

// mostIdle is longer than balancers keep connections.
const mostIdle = 15 * time.Minute

// The bounds of max_header_bytes. Headers are read before anybody has proven
// anything.
const (
	leastHeaderBytes = 4 << 10
	mostHeaderBytes  = 1 << 20
)

// HeaderBytes is max_header_bytes or its default.
func (c *Config) HeaderBytes() int {
	if c.MaxHeaderBytes == 0 {
		return conn.HeaderBytes
	}
	return c.MaxHeaderBytes
}

// check returns what is wrong with what is set.
func (c *Config) check() error {
	if c.MaxInFlight < 0 || c.MaxQueued < 0 || c.QueueTimeout < 0 || c.MaxBodyBytes < 0 || c.MaxTenants < 0 || c.Gateways < 0 {
		return fmt.Errorf("max_in_flight, max_queued, queue_timeout, max_body_bytes, max_tenants and gateways must not be negative")
	}
	if n := c.HeaderBytes(); n < leastHeaderBytes || n > mostHeaderBytes {
		return fmt.Errorf("max_header_bytes is %d, it must be from %d to %d", n, leastHeaderBytes, mostHeaderBytes)
	}
	if d := time.Duration(c.IdleTimeout); d < 0 || d > mostIdle {
		return fmt.Errorf("idle_timeout is %s, it must be from 0s (the default, 60s) to %s", d, mostIdle)
	}
	if c.MaxBufferedBytes < 0 {
		return fmt.Errorf("max_buffered_bytes must not be negative")
	}
	return nil
}

// setDefaults fills in what is not set.
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

// Trusted are trusted_proxies.
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
