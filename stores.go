package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/objects/dir"
	"github.com/palliumhq/pallium/backend/objects/gcs"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/rows/bigtable"
	"github.com/palliumhq/pallium/backend/rows/pebble"
	"github.com/palliumhq/pallium/migrations"
)

// Bigtable names the table that holds rows, instead of the data directory.
type Bigtable struct {
	Project         string `yaml:"project"`
	Instance        string `yaml:"instance"`
	Table           string `yaml:"table"`
	AppProfile      string `yaml:"app_profile"`
	CredentialsFile string `yaml:"credentials_file"`
	Emulator        string `yaml:"emulator"` // address of an emulator
}

func (b *Bigtable) set() bool { return *b != Bigtable{} }

func (b *Bigtable) options() bigtable.Options {
	o := bigtable.Options{
		Project:         b.Project,
		Instance:        b.Instance,
		Table:           b.Table,
		AppProfile:      b.AppProfile,
		CredentialsFile: b.CredentialsFile,
		Emulator:        b.Emulator,
	}
	if o.Table == "" {
		o.Table = "ix1"
	}
	return o
}

// GCS names the bucket that holds packs, instead of the data directory.
type GCS struct {
	Bucket          string `yaml:"bucket"`
	Prefix          string `yaml:"prefix"`
	CredentialsFile string `yaml:"credentials_file"`
	Endpoint        string `yaml:"endpoint"` // URL of an emulator
}

func (g *GCS) set() bool { return *g != GCS{} }

func (s *Store) check() error {
	if s.PageCacheBytes < 0 || s.FrameCacheBytes < 0 || s.TableCacheBytes < 0 || s.MaxQueryBytes < 0 {
		return errors.New("store: sizes must not be negative")
	}
	if b := &s.Bigtable; b.set() && (b.Project == "" || b.Instance == "") {
		return errors.New("store.bigtable needs both project and instance")
	}
	if g := &s.GCS; g.set() && g.Bucket == "" {
		return errors.New("store.gcs needs bucket")
	}
	return nil
}

// ownStore is why a process must not fall back to a store of its own.
const ownStore = "else it would keep a store of its own in the data directory, which no other process sees"

// checkRole returns an error for a process that would keep on its own what it must
// share: embedded stores look like working ones, and nobody else sees what is in them.
// The roles of a backend have their needs in the table of roles.
func (s *Store) checkRole(role Role, inCluster bool) error {
	bigtable, gcs := s.Bigtable.set(), s.GCS.set()
	switch {
	case role == Gateway && inCluster && !bigtable:
		return fmt.Errorf("this gateway belongs to a cluster (PALLIUM_CLUSTER_SECRET or cluster.tls is set) and needs store.bigtable: "+
			"set it as in the backends, %s, and its tenants, keys and limits would be unknown to the cluster", ownStore)
	case gcs && !bigtable:
		return fmt.Errorf("store.gcs is set and store.bigtable is not: set both or none, rows and packs belong together, %s", ownStore)
	case bigtable && !gcs && role != Gateway:
		return fmt.Errorf("store.bigtable is set and store.gcs is not: set both or none, rows and packs belong together, %s", ownStore)
	}
	return nil
}

// inCluster reports whether the process has what proves that it belongs to a
// cluster.
func (c *Config) inCluster(env func(string) (string, bool)) bool {
	_, ok := env("PALLIUM_CLUSTER_SECRET")
	return ok || hasFile(env, "PALLIUM_CLUSTER_SECRET") || c.Cluster.TLS != cluster.TLSFiles{}
}

// openObjects opens the object store: a bucket, or the directories l0 and l1 of
// the data directory.
func openObjects(ctx context.Context, cfg *Config) (objects.Store, error) {
	if g := &cfg.Store.GCS; g.set() {
		return gcs.Open(ctx, gcs.Options{Bucket: g.Bucket, Prefix: g.Prefix, CredentialsFile: g.CredentialsFile, Endpoint: g.Endpoint})
	}
	return dir.Open(cfg.DataDir, "l0", "l1")
}

// openRows opens the row store of a running process. An embedded one migrates
// itself; a shared one must be at this binary's version.
func (p *process) openRows(ctx context.Context) (rows.Store, error) {
	if b := &p.cfg.Store.Bigtable; b.set() {
		s, err := bigtable.Open(ctx, b.options())
		if err != nil {
			return nil, err
		}
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
	return s, nil
}

func (p *process) migration() migrations.Env {
	return migrations.Env{Holder: holder(), Binary: p.opts.Version, Now: p.opts.Now, Logger: p.opts.Logger}
}

// holder names this process in a lock.
func holder() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}

// migrationEnv is what migrations need to open the configured row store
// themselves.
func migrationEnv(ctx context.Context, cfg *Config, o Options) (migrations.Env, func() error, error) {
	e := migrations.Env{Holder: holder(), Binary: o.Version, Now: time.Now, Logger: o.Logger}
	done := func() error { return nil }
	b := &cfg.Store.Bigtable
	if !b.set() {
		e.Open = func(context.Context) (rows.Store, error) {
			return pebble.Open(filepath.Join(cfg.DataDir, "rows"), pebble.Options{Logger: o.Logger})
		}
		return e, done, nil
	}
	admin, err := bigtable.OpenAdmin(ctx, b.options())
	if err != nil {
		return e, done, err
	}
	e.Tables = admin
	e.Open = func(ctx context.Context) (rows.Store, error) { return bigtable.Open(ctx, b.options()) }
	return e, admin.Close, nil
}
