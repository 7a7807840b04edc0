package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/objects/gcs"
	"github.com/palliumhq/pallium/backend/rows/bigtable"
)

// Bigtable configures the table for rows, instead of the data directory.
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

// GCS configures the bucket for packs, instead of the data directory.
type GCS struct {
	Bucket          string `yaml:"bucket"`
	Prefix          string `yaml:"prefix"`
	CredentialsFile string `yaml:"credentials_file"`
	Endpoint        string `yaml:"endpoint"` // URL of an emulator
}

func (g *GCS) set() bool { return *g != GCS{} }

func (g *GCS) check() error {
	if g.Bucket == "" {
		return errors.New("store.gcs needs bucket")
	}
	return nil
}

func (g *GCS) files() map[string]*string {
	return map[string]*string{"credentials_file": &g.CredentialsFile}
}

func (g *GCS) open(ctx context.Context) (objects.Store, error) {
	return gcs.Open(ctx, gcs.Options{Bucket: g.Bucket, Prefix: g.Prefix, CredentialsFile: g.CredentialsFile, Endpoint: g.Endpoint})
}

func (g *GCS) permanent(err error) bool { return gcs.Permanent(err) }

// bucket is the configuration of one kind of shared object store.
type bucket interface {
	set() bool                 // whether it is configured
	check() error              // of a configured one
	files() map[string]*string // paths of files, by key
	open(context.Context) (objects.Store, error)
	permanent(error) bool // whether a read that failed with the error would fail again
}

// buckets returns the kinds of shared object stores by their keys below store. A new kind
// needs an adapter, a field of Store, and an entry here.
func (s *Store) buckets() map[string]bucket {
	return map[string]bucket{"gcs": &s.GCS}
}

// shared returns the key of the configured shared object store, or "".
func (s *Store) shared() string {
	for name, b := range s.buckets() {
		if b.set() {
			return name
		}
	}
	return ""
}

// bucketKeys returns the settings that configure a shared object store, for errors.
func (s *Store) bucketKeys() string {
	var out []string
	for name := range s.buckets() {
		out = append(out, "store."+name)
	}
	slices.Sort(out)
	return strings.Join(out, " or ")
}

func (s *Store) check() error {
	return errors.Join(
		notNegative("store.page_cache_bytes", s.PageCacheBytes),
		notNegative("store.frame_cache_bytes", s.FrameCacheBytes),
		notNegative("store.table_cache_bytes", s.TableCacheBytes),
		notNegative("store.max_query_bytes", s.MaxQueryBytes),
		s.checkPlaces())
}

// checkPlaces returns an error if the settings of the stores for rows and packs are incomplete
// or contradict each other.
func (s *Store) checkPlaces() error {
	if b := &s.Bigtable; b.set() && (b.Project == "" || b.Instance == "") {
		return errors.New("store.bigtable needs both project and instance")
	}
	n := 0
	for _, b := range s.buckets() {
		if !b.set() {
			continue
		}
		n++
		if err := b.check(); err != nil {
			return err
		}
	}
	if n > 1 {
		return fmt.Errorf("store has %d buckets: choose one of %s", n, s.bucketKeys())
	}
	return s.checkTogether()
}

// checkTogether returns an error if packs are shared between processes and rows are not.
func (s *Store) checkTogether() error {
	if shared := s.shared(); shared != "" && !s.Bigtable.set() {
		return fmt.Errorf("store.%s needs store.bigtable: set both, or neither for one process with embedded storage", shared)
	}
	return nil
}

// ownStore is the part of error texts that says why a process must not use a store of its own.
const ownStore = "otherwise the process would use a private store in its data directory that no other process sees"

// checkRole returns an error for a process that would use an embedded store for data that must be
// shared: it would seem to work, but no other process would see its data. For the processes of
// `pallium backend`, see Targets.check.
func (s *Store) checkRole(role Role, inCluster bool) error {
	bigtable, shared := s.Bigtable.set(), s.shared()
	switch {
	case role == Gateway && inCluster && !bigtable:
		return fmt.Errorf("gateway of a cluster (PALLIUM_CLUSTER_SECRET or cluster.tls is set) needs store.bigtable: "+
			"copy the setting from the backends; %s", ownStore)
	case bigtable && shared == "" && role != Gateway:
		return fmt.Errorf("store.bigtable needs %s: set both, or neither for one process with embedded storage", s.bucketKeys())
	}
	return nil
}
