package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"github.com/palliumhq/pallium/authn"
	"github.com/palliumhq/pallium/gateway"
	"github.com/palliumhq/pallium/gateway/admin"
	"github.com/palliumhq/pallium/policies/limits"
)

// Config is the configuration file. Every key has a default. docs/configuration.md describes
// the keys.
type Config struct {
	DataDir     string `yaml:"data_dir"`     // -data-dir
	Listen      string `yaml:"listen"`       // -listen, the edge
	AdminListen string `yaml:"admin_listen"` // -admin-listen
	// AdminHosts are host names that requests to the admin listener may have, in addition to
	// IP addresses, localhost and the host of AdminListen.
	AdminHosts []string `yaml:"admin_hosts"`
	// InternalListen is the address of backend roles for gateways (HTTP), RPCListen the one
	// for each other (gRPC). Only `pallium backend` uses them.
	InternalListen string `yaml:"internal_listen"` // -internal-listen
	RPCListen      string `yaml:"rpc_listen"`      // -rpc-listen
	// ExternalURL is the URL of the edge for clients, used in the snippets that are printed
	// with a new token; default http://localhost with the port of Listen.
	ExternalURL string `yaml:"external_url"`
	TLS         TLS    `yaml:"tls"` // of the edge
	Log         Log    `yaml:"log"`

	Auth     authn.Config   `yaml:"auth"`
	Gateway  gateway.Config `yaml:"gateway"`
	Upstream Upstream       `yaml:"upstream"` // only for `pallium gateway`
	Limits   limits.Partial `yaml:"limits"`   // over the built-in defaults, for all tenants
	Memory   Memory         `yaml:"memory"`
	Ingester Ingester       `yaml:"ingester"`
	Querier  Querier        `yaml:"querier"`
	Frontend Frontend       `yaml:"frontend"`
	Store    Store          `yaml:"store"`
	Cluster  Cluster        `yaml:"cluster"` // for `pallium backend`, and gateways in front of it

	Compactor Compactor `yaml:"compactor"`
	Self      Self      `yaml:"self_monitoring"`

	// ShutdownTimeout is the time limit for stopping. Requests in progress get at most half of
	// it.
	ShutdownTimeout model.Duration `yaml:"shutdown_timeout"`

	lines map[string]int // of the keys in the file
}

// TLS configures the certificate of the edge and its key; empty means plain HTTP.
type TLS struct {
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

// Log configures the log.
type Log struct {
	Level  string `yaml:"level"`  // debug, info, warn, error
	Format string `yaml:"format"` // text, json
}

// Upstream configures the backend of `pallium gateway`.
type Upstream struct {
	URLs []string `yaml:"urls"`
	// WriteURLs receive writes, if they differ from URLs, which then serve queries.
	WriteURLs []string `yaml:"write_urls"`
}

// Ingester configures the ingester.
type Ingester struct {
	// MemoryBytes is the memory limit of the head; 0 means two fifths of the memory.
	MemoryBytes int64 `yaml:"memory_bytes"`
	// AsideBytes is the disk space per tenant for series set aside, which no pack can hold; 0
	// means 1 GiB.
	AsideBytes int64 `yaml:"aside_bytes"`
}

// Querier configures the querier.
type Querier struct {
	ExperimentalFunctions bool `yaml:"experimental_functions"`
}

// Frontend configures how range queries are answered.
type Frontend struct {
	Enabled bool `yaml:"enabled"` // false: every range is evaluated as a whole
	Cache   bool `yaml:"cache"`   // keep results of days
	// CacheBytes is the memory for results; 0 means a share of the memory.
	CacheBytes int64 `yaml:"cache_bytes"`
}

// Store configures where rows and packs are stored, and the memory for reading them in bytes,
// where 0 means the default.
type Store struct {
	Bigtable Bigtable `yaml:"bigtable"` // empty means rows in the data directory
	GCS      GCS      `yaml:"gcs"`      // empty means packs in the data directory

	PageCacheBytes  int64 `yaml:"page_cache_bytes"`
	FrameCacheBytes int64 `yaml:"frame_cache_bytes"`
	TableCacheBytes int64 `yaml:"table_cache_bytes"`
	// MaxQueryBytes is the limit of bytes that one read fetches from the object store.
	MaxQueryBytes int64 `yaml:"max_query_bytes"`
}

// Compactor configures the compactor.
type Compactor struct {
	Interval model.Duration `yaml:"interval"` // between two checks for days to compact
}

// Self configures whether and how often Pallium writes its own metrics to the built-in
// tenant.
type Self struct {
	Disabled bool           `yaml:"disabled"`
	Interval model.Duration `yaml:"interval"`
}

// DefaultConfig returns the configuration of an empty file.
func DefaultConfig() Config {
	return Config{
		DataDir: "./data", Listen: ":9009", AdminListen: "127.0.0.1:9010", InternalListen: ":9011", RPCListen: ":9012",
		Cluster:         Cluster{Replication: 3},
		Log:             Log{Level: "info", Format: "text"},
		Frontend:        Frontend{Enabled: true, Cache: true},
		Self:            Self{Interval: model.Duration(5 * time.Second)},
		Compactor:       Compactor{Interval: model.Duration(5 * time.Minute)},
		ShutdownTimeout: model.Duration(2 * time.Minute),
	}
}

// Check returns an error if a value is invalid, with the line in the file.
func (c *Config) Check() error { return c.located(c.check()) }

// located returns the error prefixed with the line of the key that the error begins with.
func (c *Config) located(err error) error {
	if err == nil {
		return nil
	}
	text := strings.ReplaceAll(err.Error(), ": ", ".") // "cluster: zone is ..."
	line, longest := 0, 0
	for key, n := range c.lines {
		if rest, ok := strings.CutPrefix(text, key); ok && len(key) > longest && !strings.HasPrefix(rest, "_") {
			line, longest = n, len(key)
		}
	}
	if line == 0 {
		return err
	}
	return fmt.Errorf("line %d: %w", line, err)
}

func (c *Config) check() error {
	if err := c.checkPlaces(); err != nil {
		return err
	}
	switch {
	case c.Ingester.MemoryBytes < 0:
		return fmt.Errorf("ingester.memory_bytes is %d, it must not be negative", c.Ingester.MemoryBytes)
	case c.Ingester.AsideBytes < 0:
		return fmt.Errorf("ingester.aside_bytes is %d, it must not be negative", c.Ingester.AsideBytes)
	case c.Self.Interval < model.Duration(time.Second):
		return fmt.Errorf("self_monitoring.interval is %s, it must be at least 1s", c.Self.Interval)
	case c.Compactor.Interval < model.Duration(time.Second):
		return fmt.Errorf("compactor.interval is %s, it must be at least 1s", c.Compactor.Interval)
	case c.ShutdownTimeout <= 0:
		return errors.New("shutdown_timeout must be above zero")
	}
	if err := c.Log.check(); err != nil {
		return err
	}
	if err := admin.CheckHosts(c.AdminHosts); err != nil {
		return err
	}
	if err := c.Store.check(); err != nil {
		return err
	}
	if err := c.Memory.check(); err != nil {
		return err
	}
	if err := c.Cluster.check(); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	lim := limits.Merge(limits.Default(), c.Limits)
	if err := lim.Check(); err != nil {
		return fmt.Errorf("limits: %w", err)
	}
	return nil
}

// checkPlaces checks the data directory, the addresses and the certificate.
func (c *Config) checkPlaces() error {
	switch {
	case c.DataDir == "":
		return errors.New("data_dir is empty: name a directory to keep data in")
	case c.Listen == "":
		return errors.New("listen is empty: name an address such as :9009")
	case c.AdminListen == "":
		return errors.New("admin_listen is empty: name an address such as 127.0.0.1:9010")
	case c.InternalListen == "":
		return errors.New("internal_listen is empty: name an address such as :9011")
	case c.RPCListen == "":
		return errors.New("rpc_listen is empty: name an address such as :9012")
	case (c.TLS.CertFile == "") != (c.TLS.KeyFile == ""):
		return errors.New("tls needs both cert_file and key_file")
	}
	return nil
}

func (l *Log) check() error {
	switch l.Level {
	case "debug", "info", "warn", "error":
	default:
		return fmt.Errorf("log.level is %q; choose debug, info, warn or error", l.Level)
	}
	if l.Format != "text" && l.Format != "json" {
		return fmt.Errorf("log.format is %q; choose text or json", l.Format)
	}
	return nil
}
