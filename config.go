package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
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
	// InternalListen is the address on which a backend serves gateways (HTTP), RPCListen the one on
	// which it serves other backends (gRPC). Only `pallium backend` uses them.
	InternalListen string `yaml:"internal_listen"` // -internal-listen
	RPCListen      string `yaml:"rpc_listen"`      // -rpc-listen
	// ExternalURL is the URL of the edge for clients, used in the snippets that are printed
	// with a new token; default: derived from Listen and TLS.
	ExternalURL string `yaml:"external_url"`
	TLS         TLS    `yaml:"tls"` // of the edge
	Log         Log    `yaml:"log"`

	Auth     authn.Config   `yaml:"auth"`
	Gateway  gateway.Config `yaml:"gateway"`
	Upstream Upstream       `yaml:"upstream"` // for `pallium gateway` only
	Limits   limits.Partial `yaml:"limits"`   // over the built-in defaults, for all tenants
	Memory   Memory         `yaml:"memory"`
	Ingester Ingester       `yaml:"ingester"`
	Querier  Querier        `yaml:"querier"`
	Frontend Frontend       `yaml:"frontend"`
	Store    Store          `yaml:"store"`
	Cluster  Cluster        `yaml:"cluster"` // for `pallium backend`, and gateways in front of it

	Compactor Compactor `yaml:"compactor"`
	Ruler     Ruler     `yaml:"ruler"`
	Egress    Egress    `yaml:"egress"`
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
	// WriteURLs are the URLs for writes; empty means URLs.
	WriteURLs []string `yaml:"write_urls"`
}

// Ingester configures the ingester.
type Ingester struct {
	// MemoryBytes is the memory limit of the head; 0 means 40% of Go's memory limit.
	MemoryBytes int64 `yaml:"memory_bytes"`
	// AsideBytes is the disk space per tenant for series that are set aside because no pack can
	// hold them; 0 means 1 GiB.
	AsideBytes int64 `yaml:"aside_bytes"`
}

// Querier configures the querier.
type Querier struct {
	// Concurrency is the maximum number of concurrent evaluations in a querier or a single process; 0
	// means the number of CPUs plus one, at least 3.
	Concurrency int `yaml:"concurrency"`
	// LogQueriesLongerThan is the duration from which queries and other reads are logged; 0 disables this
	// log.
	LogQueriesLongerThan model.Duration `yaml:"log_queries_longer_than"`
}

// Frontend configures how range queries are answered.
type Frontend struct {
	Enabled bool `yaml:"enabled"` // false: every range query is evaluated as a whole
	Cache   bool `yaml:"cache"`   // cache results
	// CacheBytes is the size of the cache in memory; 0 means a share of the process's memory.
	CacheBytes int64 `yaml:"cache_bytes"`
	// MaxShards is the maximum number of shards into which an aggregation, or an expression without
	// aggregations, is divided. A shard is the evaluation of one range of its series. 0 means the
	// number of CPUs, or 16 in a query frontend of a cluster; 1 means that nothing is divided.
	MaxShards int `yaml:"max_shards"`
	// ShardPoints is the minimum work of a shard, in samples; 0 means the default.
	ShardPoints int64 `yaml:"shard_points"`
}

// Store configures where rows and packs are stored, and the memory for reading them in bytes,
// where 0 means the default.
type Store struct {
	Bigtable Bigtable `yaml:"bigtable"` // empty means rows in the data directory
	GCS      GCS      `yaml:"gcs"`      // empty means packs in the data directory

	PageCacheBytes  int64 `yaml:"page_cache_bytes"`
	FrameCacheBytes int64 `yaml:"frame_cache_bytes"`
	TableCacheBytes int64 `yaml:"table_cache_bytes"`
	// MaxQueryBytes is the maximum number of bytes of compacted packs that one query may read, from
	// objects or the frame cache.
	MaxQueryBytes int64 `yaml:"max_query_bytes"`
}

// Compactor configures the compactor.
type Compactor struct {
	Interval model.Duration `yaml:"interval"` // time between two searches for days to compact
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
		Querier:         Querier{LogQueriesLongerThan: model.Duration(10 * time.Second)},
		Self:            Self{Interval: model.Duration(5 * time.Second)},
		Compactor:       Compactor{Interval: model.Duration(5 * time.Minute)},
		ShutdownTimeout: model.Duration(2 * time.Minute),
	}
}

// Check returns the errors of all invalid values, with their lines in the file. It does not check
// the sections auth and upstream, which are checked when they are used.
func (c *Config) Check() error {
	var all error
	for _, part := range c.errors() {
		for _, err := range each(part) {
			all = errors.Join(all, c.located(err))
		}
	}
	return all
}

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

// errors returns the errors of all parts of the configuration that Check checks; some are nil.
func (c *Config) errors() []error {
	lim := limits.Merge(limits.Default(), c.Limits)
	return append(c.checkPlaces(),
		notNegative("ingester.memory_bytes", c.Ingester.MemoryBytes),
		notNegative("ingester.aside_bytes", c.Ingester.AsideBytes),
		notNegative("querier.concurrency", int64(c.Querier.Concurrency)),
		notNegative("frontend.cache_bytes", c.Frontend.CacheBytes), notNegative("frontend.max_shards", int64(c.Frontend.MaxShards)),
		notNegative("frontend.shard_points", c.Frontend.ShardPoints),
		atLeastSecond("self_monitoring.interval", c.Self.Interval),
		atLeastSecond("compactor.interval", c.Compactor.Interval),
		aboveZero("shutdown_timeout", c.ShutdownTimeout),
		c.Log.checkLevel(),
		c.Log.checkFormat(),
		admin.CheckHosts(c.AdminHosts),
		c.Store.check(),
		c.Memory.check(),
		notNegative("ruler.concurrency", int64(c.Ruler.Concurrency)),
		within("ruler", c.Ruler.check()), within("egress", c.Egress.check()),
		within("gateway", c.Gateway.Check()),
		within("cluster", c.Cluster.check()),
		within("limits", lim.Check()),
	)
}

// within returns the errors of a section, each with the section's name.
func within(section string, err error) error {
	var all error
	for _, one := range each(err) {
		all = errors.Join(all, fmt.Errorf("%s: %w", section, one))
	}
	return all
}

// each returns the errors that are joined in err.
func each(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, one := range joined.Unwrap() {
			out = append(out, each(one)...)
		}
		return out
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

func notNegative(key string, n int64) error {
	if n >= 0 {
		return nil
	}
	return fmt.Errorf("%s is %d, it must not be negative", key, n)
}

func atLeastSecond(key string, d model.Duration) error {
	if d >= model.Duration(time.Second) {
		return nil
	}
	return fmt.Errorf("%s is %s, it must be at least 1s", key, d)
}

func aboveZero(key string, d model.Duration) error {
	if d > 0 {
		return nil
	}
	return fmt.Errorf("%s is %s, it must be above zero", key, d)
}

// checkPlaces checks the data directory, the addresses, the paths of the certificate, and the external URL.
func (c *Config) checkPlaces() []error {
	var errs []error
	if c.DataDir == "" {
		errs = append(errs, errors.New("data_dir is empty: name a directory to keep data in"))
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		errs = append(errs, errors.New("tls needs both cert_file and key_file"))
	}
	if u, err := url.Parse(c.ExternalURL); c.ExternalURL != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		errs = append(errs, fmt.Errorf("external_url is %q, it must have the form http(s)://host[:port][/path]", redacted(c.ExternalURL)))
	}
	return append(errs,
		checkAddress("listen", c.Listen, ":9009"),
		checkAddress("admin_listen", c.AdminListen, "127.0.0.1:9010"),
		checkAddress("internal_listen", c.InternalListen, ":9011"),
		checkAddress("rpc_listen", c.RPCListen, ":9012"),
		c.checkDistinct("admin_listen", c.AdminListen, "listen", c.Listen),
		c.checkDistinct("rpc_listen", c.RPCListen, "internal_listen", c.InternalListen),
	)
}

// checkAddress returns an error for an address that is not valid for a listener.
func checkAddress(key, addr, example string) error {
	if addr == "" {
		return fmt.Errorf("%s is empty: name an address such as %s", key, example)
	}
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		return fmt.Errorf("%s is %q, it must be an address such as %s", key, addr, example)
	}
	return nil
}

// checkDistinct returns an error if two listeners of a process have the same address. The
// error begins with the key that is in the file, if only one is, so that located finds its line.
func (c *Config) checkDistinct(key, addr, other, otherAddr string) error {
	if addr == "" || addr != otherAddr || strings.HasSuffix(addr, ":0") {
		return nil
	}
	if c.lines[key] == 0 {
		key, other = other, key
	}
	return fmt.Errorf("%s and %s are both %q: each needs an address of its own", key, other, addr)
}

func (l *Log) checkLevel() error {
	switch l.Level {
	case "debug", "info", "warn", "error":
		return nil
	}
	return fmt.Errorf("log.level is %q; choose debug, info, warn or error", l.Level)
}

func (l *Log) checkFormat() error {
	if l.Format != "text" && l.Format != "json" {
		return fmt.Errorf("log.format is %q; choose text or json", l.Format)
	}
	return nil
}
