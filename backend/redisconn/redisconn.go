// Package redisconn opens connections to Redis for the packages that store soft state there: the
// ring, elections, shared rate budgets, cached results. They use a single server, Sentinel and
// Redis Cluster through the same interface.
package redisconn

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// Config is the configuration of a Redis server in the configuration file. The password is
// not part of it: it comes from the environment.
type Config struct {
	Addresses  []string `yaml:"addresses"`   // host:port of the server, or of sentinels, or of nodes of a Redis Cluster
	Username   string   `yaml:"username"`    // of an ACL user; empty means the default user
	MasterName string   `yaml:"master_name"` // if set, addresses are sentinels
	Cluster    bool     `yaml:"cluster"`     // addresses are nodes of a Redis Cluster
	DB         int      `yaml:"db"`
	TLS        TLS      `yaml:"tls"`
}

// TLS is the TLS configuration of a connection to Redis.
type TLS struct {
	Enabled  bool   `yaml:"enabled"`
	CAFile   string `yaml:"ca_file"` // empty means the system's certificates
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

// Set reports whether a server is configured.
func (c *Config) Set() bool { return len(c.Addresses) > 0 }

// Check returns an error if the configuration is invalid.
func (c *Config) Check() error {
	for _, a := range c.Addresses {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return fmt.Errorf("addresses: %q must be host:port", a[strings.LastIndex(a, "@")+1:]) // the text before the @ may be a password
		}
	}
	switch {
	case !c.Set() && c.hasOptions():
		return errors.New("addresses is empty: set the server's host:port")
	case c.MasterName != "" && c.Cluster:
		return errors.New("master_name (Sentinel) and cluster are mutually exclusive")
	case len(c.Addresses) > 1 && c.MasterName == "" && !c.Cluster:
		return errors.New("more than one address needs master_name (Sentinel) or cluster: true")
	case c.Cluster && c.DB != 0:
		return errors.New("db must be 0 with cluster: true")
	case c.DB < 0:
		return errors.New("db must not be negative")
	}
	return c.TLS.check()
}

// hasOptions reports whether an option is set that requires a server.
func (c *Config) hasOptions() bool {
	return c.Username != "" || c.MasterName != "" || c.Cluster || c.DB != 0 || c.TLS != TLS{}
}

func (t *TLS) check() error {
	switch {
	case (t.CertFile == "") != (t.KeyFile == ""):
		return errors.New("tls needs both cert_file and key_file")
	case !t.Enabled && *t != TLS{}:
		return errors.New("tls has other settings but enabled is false: set tls.enabled to true")
	}
	return nil
}

// Timeouts are short, because all users of Redis can continue without it.
const (
	dialTimeout = 2 * time.Second
	callTimeout = 2 * time.Second
	poolSize    = 16
)

// quiet disables the library's global logger to standard error: callers report failures.
var quiet sync.Once

// Open returns a client, which the caller must close. It does not wait for the server,
// because a process must start and run without Redis.
func Open(c Config, password string) (goredis.UniversalClient, error) {
	if err := c.Check(); err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	quiet.Do(func() { goredis.SetLogger(noLogger{}) })
	o := &goredis.UniversalOptions{
		Addrs: c.Addresses, Username: c.Username, Password: password, MasterName: c.MasterName, DB: c.DB,
		SentinelUsername: c.Username, SentinelPassword: password, IsClusterMode: c.Cluster,
		DialTimeout: dialTimeout, ReadTimeout: callTimeout, WriteTimeout: callTimeout, PoolTimeout: callTimeout,
		PoolSize: poolSize, MaxRetries: 1, ContextTimeoutEnabled: true, ClientName: "pallium",
	}
	if c.TLS.Enabled {
		t, err := c.TLS.config()
		if err != nil {
			return nil, fmt.Errorf("redis: tls: %w", err)
		}
		o.TLSConfig = t
	}
	return goredis.NewUniversalClient(o), nil
}

func (t *TLS) config() (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, err
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file %s contains no certificate", t.CAFile)
		}
	}
	if t.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, err
		}
		out.Certificates = []tls.Certificate{cert}
	}
	return out, nil
}

type noLogger struct{}

func (noLogger) Printf(context.Context, string, ...any) {}
