package main

import (
	"fmt"
	"path/filepath"

	"github.com/palliumhq/pallium/backend/redisconn"
)

// Resolve makes every path of the configuration absolute and clean. It must be called before a path
// is used: other code compares paths and walks up to the root, which does not work with relative
// paths. All relative paths, including those in the configuration file, are relative to the working
// directory.
func (c *Config) Resolve() error {
	paths := map[string]*string{
		"data_dir":                        &c.DataDir,
		"tls.cert_file":                   &c.TLS.CertFile,
		"tls.key_file":                    &c.TLS.KeyFile,
		"cluster.tls.cert_file":           &c.Cluster.TLS.CertFile,
		"cluster.tls.key_file":            &c.Cluster.TLS.KeyFile,
		"cluster.tls.ca_file":             &c.Cluster.TLS.CAFile,
		"store.bigtable.credentials_file": &c.Store.Bigtable.CredentialsFile,
	}
	for store, b := range c.Store.buckets() {
		for key, path := range b.files() {
			paths["store."+store+"."+key] = path
		}
	}
	for name, r := range map[string]*redisconn.TLS{"cluster.redis": &c.Cluster.Redis.TLS, "cluster.cache_redis": &c.Cluster.CacheRedis.TLS} {
		paths[name+".tls.ca_file"] = &r.CAFile
		paths[name+".tls.cert_file"] = &r.CertFile
		paths[name+".tls.key_file"] = &r.KeyFile
	}
	for i := range c.Auth.Issuers {
		keys, name := &c.Auth.Issuers[i].Keys, fmt.Sprintf("auth.issuers[%d].keys", i)
		paths[name+".jwks_file"] = &keys.JWKSFile
		paths[name+".secret_file"] = &keys.SecretFile
		for k := range keys.PEM {
			paths[fmt.Sprintf("%s.pem[%d].file", name, k)] = &keys.PEM[k].File
		}
	}
	for name, path := range paths {
		if *path == "" {
			continue // not set
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return fmt.Errorf("%s: make %q absolute: %w", name, *path, err)
		}
		*path = abs
	}
	return nil
}
