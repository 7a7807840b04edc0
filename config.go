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

// Config is the configuration file. Every key has a default; docs/configuration.md
// describes them.
type Config struct {
	DataDir     string `yaml:"data_dir"`     // -data-dir
	Listen      string `yaml:"listen"`       // -listen, the edge
	AdminListen string `yaml:"admin_listen"` // -admin-listen
	// AdminHosts are the host names in URLs of the admin listener, beside IP
	// addresses, localhost and the host of AdminListen.
	AdminHosts []string `yaml:"admin_hosts"`
	// InternalListen is where backend roles serve gateways (HTTP), RPCListen where
	// they serve each other (gRPC). Only `pallium backend` has them.
	InternalListen string `yaml:"internal_listen"` // -internal-listen
	RPCListen      string `yaml:"rpc_listen"`      // -rpc-listen
	// ExternalURL is how clients reach the edge; it stands in the snippets that
	// are printed with a new token. Default: http://localhost and Listen's port.
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
	Store    Store          `yaml:"store"`
	Cluster  Cluster        `yaml:"cluster"` // of `pallium backend`, and of gateways before it

	Compactor Compactor `yaml:"compactor"`
	Self      Self      `yaml:"self_monitoring"`

	// ShutdownTimeout is how long stopping may take in all; requests under way get
	// half of it at most.
	ShutdownTimeout model.Duration `yaml:"shutdown_timeout"`

	lines map[string]int // of the keys in the file
}

// TLS has the files of a certificate and its key; empty means plain HTTP.
type TLS struct {
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

// Log says how logs are written.
type Log struct {
	Level  string `yaml:"level"`  // debug, info, warn, error
	Format string `yaml:"format"` // text, json
}

// Upstream is the backend of a gateway on its own.
type Upstream struct {
	URLs []string `yaml:"urls"`
	// WriteURLs take the writes, when they are others than those that answer
	// queries.
	WriteURLs []string `yaml:"write_urls"`
}

// Ingester has the knobs of the ingester.
type Ingester struct {
	// MemoryBytes is the head's budget; 0 is two fifths of the memory.
	MemoryBytes int64 `yaml:"memory_bytes"`
	// AsideBytes is each tenant's part of the disk for series that no pack can hold;
	// 0 is 1 GiB.
	AsideBytes int64 `yaml:"aside_bytes"`
}

// Querier has the knobs of the querier.
type Querier struct {
	ExperimentalFunctions bool `yaml:"experimental_functions"`
}

// Store says where rows and packs are kept, and has the knobs of reading them:
// bytes of memory, of which 0 is the default.
type Store struct {
	Bigtable Bigtable `yaml:"bigtable"` // empty: rows in the data directory
	GCS      GCS      `yaml:"gcs"`      // empty: packs in the data directory

	PageCacheBytes  int64 `yaml:"page_cache_bytes"`
	FrameCacheBytes int64 `yaml:"frame_cache_bytes"`
	TableCacheBytes int64 `yaml:"table_cache_bytes"`
	// MaxQueryBytes is what one read may fetch from objects.
	MaxQueryBytes int64 `yaml:"max_query_bytes"`
}

// Compactor has the knobs of the compactor.
type Compactor struct {
	Interval model.Duration `yaml:"interval"` // between two looks at the work
}

// Self says whether and how often Pallium writes its own metrics to the
// built-in tenant.
type Self struct {
	Disabled bool           `yaml:"disabled"`
	Interval model.Duration `yaml:"interval"`
}

// DefaultConfig is the configuration of an empty file.
func DefaultConfig() Config {
	return Config{
		DataDir: "./data", Listen: ":9009", AdminListen: "127.0.0.1:9010", InternalListen: ":9011", RPCListen: ":9012",
		Cluster:         Cluster{Replication: 3},
		Log:             Log{Level: "info", Format: "text"},
		Self:            Self{Interval: model.Duration(5 * time.Second)},
		Compactor:       Compactor{Interval: model.Duration(5 * time.Minute)},
		ShutdownTimeout: model.Duration(2 * time.Minute),
	}
}

// Check reports what is wrong with the values, and in which line of the file.
func (c *Config) Check() error { return c.located(c.check()) }

// located puts the line of the key that an error begins with before it.
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

// checkPlaces reports what is wrong with the directory, the addresses and their
// certificate.
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
