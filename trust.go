package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/backend/redisconn"
)

// buildSecurity builds the credentials by which this process proves that it is a member of
// the cluster. A gateway needs none in front of other backends, such as Mimir.
func (p *process) buildSecurity() error {
	o := cluster.Options{TLS: p.cfg.Cluster.TLS, PlainText: p.cfg.Cluster.PlainText}
	if isSet(p.opts.Env, "PALLIUM_CLUSTER_SECRET") {
		value, _, _, err := (secret{name: "PALLIUM_CLUSTER_SECRET", file: "cluster-secret"}).load(p.cfg.DataDir, p.opts.Env)
		if err != nil {
			return fmt.Errorf("cluster secret: %w", err)
		}
		if o.Secrets, err = cluster.ParseSecrets(value); err != nil {
			return fmt.Errorf("PALLIUM_CLUSTER_SECRET: %w", err)
		}
	}
	if o.Secrets == nil && o.TLS == (cluster.TLSFiles{}) && p.opts.Role == Gateway {
		return nil
	}
	if o.PlainText {
		p.opts.Logger.Warn("connections between processes are not encrypted: cluster.insecure_plain_text is set")
	}
	var err error
	if p.security, err = cluster.New(o); err == nil {
		p.signer = p.security
	}
	return err
}

// dialBackend returns the dial function for internal_listen of backends of this cluster.
func (p *process) dialBackend() func(ctx context.Context, network, addr string) (net.Conn, error) {
	return p.security.Dial((&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext)
}

// isSet reports whether the environment has a secret, or the path of its file.
func isSet(env func(string) (string, bool), name string) bool {
	_, value := env(name)
	_, file := env(name + "_FILE")
	return value || file
}

// openRedis opens clients of the configured Redis servers.
func (p *process) openRedis() error {
	c := &p.cfg.Cluster
	password, _, err := optionalSecret(p.opts.Env, "PALLIUM_REDIS_PASSWORD")
	if err != nil {
		return err
	}
	cachePassword, own, err := optionalSecret(p.opts.Env, "PALLIUM_CACHE_REDIS_PASSWORD")
	if err != nil {
		return err
	}
	if !own {
		cachePassword = password
	}
	open := func(cfg redisconn.Config, password string) (goredis.UniversalClient, error) {
		client, err := redisconn.Open(cfg, password)
		if err == nil {
			p.onClose("connections to Redis", client.Close)
		}
		return client, err
	}
	if c.Redis.Set() {
		if p.redis, err = open(c.Redis, password); err != nil {
			return fmt.Errorf("cluster.redis: %w", err)
		}
	}
	p.cacheRedis = p.redis
	if c.CacheRedis.Set() {
		if p.cacheRedis, err = open(c.CacheRedis, cachePassword); err != nil {
			return fmt.Errorf("cluster.cache_redis: %w", err)
		}
	}
	return nil
}

// optionalSecret returns the environment variable name, or else the content of the file that the
// environment variable name_FILE names.
func optionalSecret(env func(string) (string, bool), name string) (value string, set bool, err error) {
	if value, set = env(name); set {
		return value, true, nil
	}
	path, ok := env(name + "_FILE")
	if !ok {
		return "", false, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", true, fmt.Errorf("%s_FILE: %w", name, err)
	}
	return strings.TrimSpace(string(data)), true, nil
}

// signer signs and verifies values that processes exchange through Redis; see
// authn/cluster.Member.
type signer interface {
	Sign(purpose string, parts ...string) (string, error)
	Verify(signature, host, purpose string, parts ...string) (aged bool, err error)
}

// pepperSigner returns the signer of gateways that are not in a cluster, for example in
// front of Mimir. Gateways that share a Redis server have the same pepper of API keys.
func pepperSigner(p apikey.Pepper) (signer, error) {
	derived := p.Derive("signatures of gateways")
	secrets, err := cluster.ParseSecrets(hex.EncodeToString(derived[:]))
	if err != nil {
		return nil, fmt.Errorf("derive the secret of gateways: %w", err)
	}
	return cluster.New(cluster.Options{Secrets: secrets})
}
