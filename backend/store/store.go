// Package store is the long-term store: packs in the object store and the index
// that finds their series, as one thing that can be written, published and read.
// Package lifecycle deletes from it, package fsck checks and mends it.
//
// Ingesters upload what they sealed (level 0, Upload); the compactor makes one
// sorted copy of a tenant's day of it (level 1, Generation) and publishes that
// by one conditional write of the day's catalog row; reads (Select, LabelNames,
// LabelValues) join both. docs/format/store.md has the order of every write and
// what holds after a crash between any two of them.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/schema"
)

// Options of a Store.
type Options struct {
	Index   *index.Index
	Objects objects.Store
	Scratch string // directory for packs that are being written; emptied by Open

	// Retention is how long a tenant's samples are kept, now; 0 is for ever. An
	// error stops what would delete; reads do not ask, their caller clips.
	Retention func(context.Context, tenant.ID) (time.Duration, error)
	// Deleted reports whether a tenant was deleted; its data is then neither
	// written nor published any more.
	Deleted func(context.Context, tenant.ID) (bool, error)

	PageCacheBytes  int64 // decoded pages; default 64 MiB
	FrameCacheBytes int64 // frames as stored; default 128 MiB
	TableCacheBytes int64 // uncompressed frames; default 64 MiB
	MaxQueryBytes   int64 // that one read may fetch from objects; default 1 GiB
	PackBytes       int64 // at which a compacted pack is closed; default 512 MiB

	Now        func() time.Time // the index's clock too; default time.Now
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Times of the protocols.
const (
	garbageDelay = 6 * time.Hour       // from publication to the deletion of what it replaced; above any query's time
	attemptDelay = 48 * time.Hour      // after which an attempt that was not published is rubbish
	expiryDelay  = 30 * 24 * time.Hour // by which cells outlive the retention they were written under

	maxAttemptAge = 24 * time.Hour // of an attempt that may be published

	// L0Delay is how long consumed L0 packs are kept, so that a bad compaction can be
	// repaired.
	L0Delay = 7 * 24 * time.Hour
)

var errNoOption = errors.New("store: Index, Objects, Scratch, Retention and Deleted must be set")

// work is what the index has of work: those who write and recover use it as part of
// the store.
type work = index.Work

// Store is the long-term store. It is safe for concurrent use.
type Store struct {
	*work
	opts    Options
	index   *index.Index
	decoder *pack.Decoder
	encoder *pack.Encoder
	pages   *cache[pageKey, *pack.Page]
	frames  *cache[blockKey, []byte]
	tables  *cache[blockKey, tableEntry]
	metrics *metrics
}

// Open returns a store over its two ports, which stay the caller's to close.
func Open(o Options) (*Store, error) {
	if o.Index == nil || o.Objects == nil || o.Scratch == "" || o.Retention == nil || o.Deleted == nil {
		return nil, errNoOption
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		v     *int64
		value int64
	}{
		{&o.PageCacheBytes, 64 << 20}, {&o.FrameCacheBytes, 128 << 20}, {&o.TableCacheBytes, 64 << 20},
		{&o.MaxQueryBytes, 1 << 30}, {&o.PackBytes, 512 << 20},
	} {
		if *d.v == 0 {
			*d.v = d.value
		}
	}
	o.Objects = steppingObjects{o.Objects}
	if err := emptyDir(o.Scratch); err != nil {
		return nil, fmt.Errorf("store: scratch directory: %w", err)
	}
	dec, err := pack.NewDecoder()
	if err != nil {
		return nil, err
	}
	enc, err := pack.NewEncoder()
	if err != nil {
		return nil, err
	}
	s := &Store{work: o.Index.Work, opts: o, index: o.Index, decoder: dec, encoder: enc}
	s.pages = newCache[pageKey, *pack.Page](o.PageCacheBytes, (*pack.Page).Bytes)
	s.frames = newCache[blockKey](o.FrameCacheBytes, func(b []byte) int64 { return int64(len(b)) })
	s.tables = newCache[blockKey](o.TableCacheBytes, func(t tableEntry) int64 { return t.bytes })
	s.metrics = newMetrics(o.Registerer, s)
	return s, nil
}

// Options returns what the store was opened with, with the defaults: rooms that work
// on the same data take it from here. Calls of its Objects tell the task of their
// context that they returned.
func (s *Store) Options() Options { return s.opts }

// Close releases what the store keeps open of its own.
func (s *Store) Close() error { return nil }

// emptyDir makes a directory and removes what an earlier process left in it.
func emptyDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range left {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) nowMillis() int64 { return s.opts.Now().UnixMilli() }

// Catalog reads what there is of a tenant's day.
func (s *Store) Catalog(ctx context.Context, t tenant.ID, day int64) (Catalog, error) {
	return s.index.Catalogs.Read(ctx, t, day)
}

// Day reads a tenant's day and its deletions, for compaction.
func (s *Store) Day(ctx context.Context, t tenant.ID, day int64) (Catalog, Deletions, error) {
	return s.index.Catalogs.Day(ctx, t, day)
}

// ActiveDeletions calls visit for every active deletion of the tenants, in order
// of tenant and number.
func (s *Store) ActiveDeletions(ctx context.Context, tenants []tenant.ID, visit func(tenant.ID, schema.Tombstone) error) error {
	return s.index.Tombstones.Active(ctx, tenants, visit)
}
