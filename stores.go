package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/objects/dir"
	objectsretried "github.com/palliumhq/pallium/backend/objects/retried"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/rows/bigtable"
	"github.com/palliumhq/pallium/backend/rows/pebble"
	rowsretried "github.com/palliumhq/pallium/backend/rows/retried"
	"github.com/palliumhq/pallium/migrations"
)

// inCluster reports whether a cluster secret or certificate is configured.
func (c *Config) inCluster(env func(string) (string, bool)) bool {
	return isSet(env, "PALLIUM_CLUSTER_SECRET") || c.Cluster.TLS != cluster.TLSFiles{}
}

// openObjects opens the object store: the configured bucket, or the directories l0 and l1
// of the data directory.
func openObjects(ctx context.Context, cfg *Config) (objects.Store, error) {
	for _, b := range cfg.Store.buckets() {
		if b.set() {
			return b.open(ctx)
		}
	}
	return dir.Open(cfg.DataDir, "l0", "l1")
}

// retriedObjects returns the object store with its reads retried and hedged if it is a bucket. With
// the data directory, another read would use the same disk.
func (s *Store) retriedObjects(o objects.Store, r prometheus.Registerer) objects.Store {
	for _, b := range s.buckets() {
		if b.set() {
			return objectsretried.New(o, objectsretried.Options{Permanent: b.permanent, Registerer: r})
		}
	}
	return o
}

// retriedRows is retriedObjects for the row store.
func (s *Store) retriedRows(r rows.Store, reg prometheus.Registerer) rows.Store {
	if !s.Bigtable.set() {
		return r
	}
	return rowsretried.New(r, rowsretried.Options{Permanent: bigtable.Permanent, Registerer: reg})
}

// openRows opens the row store of a server. An embedded one is migrated; a shared one must
// have this binary's version.
func (p *process) openRows(ctx context.Context) (rows.Store, error) {
	if b := &p.cfg.Store.Bigtable; b.set() {
		table, err := bigtable.Open(ctx, b.options())
		if err != nil {
			return nil, err
		}
		s := p.cfg.Store.retriedRows(p.withFaults(table), p.registry)
		if err := migrations.Check(ctx, s); err != nil {
			return nil, errors.Join(err, s.Close())
		}
		return s, nil
	}
	s, err := pebble.Open(filepath.Join(p.cfg.DataDir, "rows"), pebble.Options{CacheBytes: p.rowCache, Logger: p.opts.Logger})
	if err != nil {
		return nil, err
	}
	if err := migrations.UpOpen(ctx, p.migration(), s); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return p.withFaults(s), nil
}

// withFaults wraps a row store as tests request, below its retries.
func (p *process) withFaults(s rows.Store) rows.Store {
	if p.opts.wrapRows == nil {
		return s
	}
	return p.opts.wrapRows(s)
}

func (p *process) migration() migrations.Env {
	return migrations.Env{Holder: holder(), Binary: p.opts.Version, Now: p.opts.Now, Logger: p.opts.Logger}
}

// holder returns the name of this process as the holder of a lock.
func holder() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}

// migrationEnv returns the environment in which migrations open the configured row store, and a
// function to be called after the migration. An embedded store is created only if create is set,
// and only in an existing data directory; its index can then be rebuilt from the packs there.
func migrationEnv(ctx context.Context, cfg *Config, o Options, create bool) (migrations.Env, func() error, error) {
	e := migrations.Env{Holder: holder(), Binary: o.Version, Now: time.Now, Logger: o.Logger}
	done := func() error { return nil }
	b := &cfg.Store.Bigtable
	if !b.set() {
		dir := filepath.Join(cfg.DataDir, "rows")
		must := dir // otherwise opening would create an empty store, and a check of it would find nothing wrong
		if create {
			must = cfg.DataDir
		}
		if _, err := os.Stat(must); err != nil {
			return e, done, fmt.Errorf("no store in the data directory %s: set -data-dir or data_dir: %w", cfg.DataDir, err)
		}
		e.Open = func(context.Context) (rows.Store, error) {
			return pebble.Open(dir, pebble.Options{Logger: o.Logger})
		}
		return e, done, nil
	}
	admin, err := bigtable.OpenAdmin(ctx, b.options())
	if err != nil {
		return e, done, err
	}
	e.Tables = admin
	e.Open = func(ctx context.Context) (rows.Store, error) {
		s, err := bigtable.Open(ctx, b.options())
		if err != nil {
			return nil, err
		}
		return cfg.Store.retriedRows(s, nil), nil
	}
	return e, admin.Close, nil
}
