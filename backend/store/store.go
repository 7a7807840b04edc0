// Package store implements the long-term store. It writes packs to the object store
// and the index of their series to the row store, publishes them, and reads both.
// Package lifecycle deletes from the store; package fsck checks and repairs it.
//
// Ingesters upload sealed packs (level 0, Upload). The compactor merges them into
// one sorted copy of a tenant's day (level 1, Generation) and publishes it by one
// conditional write of the day's catalog row. Reads (Select, LabelNames,
// LabelValues) merge both levels. docs/format/store.md lists the order of all
// writes and the state after a crash between any two of them.
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

	// Retention returns a tenant's current retention; 0 keeps samples forever.
	// If it returns an error, nothing of the tenant is deleted. Reads do not call it: the
	// caller of a read clips the range.
	Retention func(context.Context, tenant.ID) (time.Duration, error)
	// Deleted reports whether a tenant was deleted. The data of a deleted tenant
	// is neither written nor published.
	Deleted func(context.Context, tenant.ID) (bool, error)

	PageCacheBytes  int64 // decoded pages; default 64 MiB
	FrameCacheBytes int64 // compressed frames; default 128 MiB
	TableCacheBytes int64 // uncompressed frames; default 64 MiB
	MaxQueryBytes   int64 // bytes of blocks of compacted packs that one query may read, from objects or the frame cache; default 1 GiB
	PackBytes       int64 // size at which a compacted pack is closed; default 512 MiB

	Now        func() time.Time // the same clock as the index's; default time.Now
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Delays of the protocols in docs/format/store.md.
const (
	garbageDelay = 6 * time.Hour       // from publication to the deletion of the replaced generation; longer than any query
	attemptDelay = 48 * time.Hour      // until an unpublished attempt is swept
	expiryDelay  = 30 * 24 * time.Hour // from the end of retention, as it was when a cell was written, to the cell's expiry

	maxAttemptAge = 24 * time.Hour // an older attempt may not be published

	// L0Delay is how long consumed L0 packs are kept, so that a bad compaction can be
	// repaired.
	L0Delay = 7 * 24 * time.Hour
)

var errNoOption = errors.New("store: Index, Objects, Scratch, Retention and Deleted must be set")

// work makes the methods of index.Work part of Store, for ingesters, the compactor
// and recovery.
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

// Open returns a store on the index and the object store of the options. The caller
// closes the index and the object store.
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
		return nil, fmt.Errorf("store: empty the scratch directory: %w", err)
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

// Options returns the options that the store was opened with, defaults included, for
// packages that work on the same data. The returned Objects report progress to the
// task in the context of each call; see steppingObjects.
func (s *Store) Options() Options { return s.opts }

// Close does nothing: the store owns no files or connections. The caller closes the
// index and the object store.
func (s *Store) Close() error { return nil }

// emptyDir creates a directory, or removes everything that an earlier process left
// in it.
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

// Catalog reads the catalog of a tenant's day.
func (s *Store) Catalog(ctx context.Context, t tenant.ID, day int64) (Catalog, error) {
	return s.index.Catalogs.Read(ctx, t, day)
}

// Day reads the catalog of a tenant's day and the tenant's deletions, for compaction.
func (s *Store) Day(ctx context.Context, t tenant.ID, day int64) (Catalog, Deletions, error) {
	return s.index.Catalogs.Day(ctx, t, day)
}

// ActiveDeletions calls visit for every active deletion of the tenants, in order
// of tenant and number.
func (s *Store) ActiveDeletions(ctx context.Context, tenants []tenant.ID, visit func(tenant.ID, schema.Tombstone) error) error {
	return s.index.Tombstones.Active(ctx, tenants, visit)
}
