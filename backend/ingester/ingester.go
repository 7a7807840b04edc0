// Package ingester keeps the recent samples of all tenants: it writes them to
// the write-ahead log, holds them in memory as compressed chunks (the head),
// seals whole windows of time into local packs, and answers reads from both.
//
// The order that makes it safe: a request is logged and synced, then applied,
// then answered. A window's chunks leave memory only after the pack that holds
// them is on disk and being served, and a log segment is deleted only after
// everything in it is in a pack.
package ingester

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/wal"
	"github.com/palliumhq/pallium/policies/limits"
)

// Limits tells a tenant's limits as they are now.
type Limits func(tenant.ID) limits.Limits

// Options of an Ingester.
type Options struct {
	ID     string // name of the ingester in the ring and in its packs
	Dir    string // log and local packs live below it
	Limits Limits

	// Replication is how many ingesters hold each series. With one, a request is
	// on disk before it is answered; with more, the log is synced every second.
	Replication int
	// ShardSize tells how many ingesters share a tenant's series; the local series
	// limit is the tenant's limit × Replication / shard size. nil: Replication.
	ShardSize func(tenant.ID, *limits.Limits) int
	// LongTerm is where sealed packs go; nil keeps them here.
	LongTerm LongTerm
	Zone     string // of this ingester; empty without zones
	// MemoryBytes is the head's budget: at 80% of it everything is sealed early,
	// above it requests are answered with ErrFull. 0 is no budget.
	MemoryBytes int64
	// AsideBytes is each tenant's part of the disk for series that no pack can
	// hold; 0 is DefaultAsideBytes.
	AsideBytes int64
	asideDisk  asideDisk // nil: the file system
	idle       bool      // start no goroutines: whoever opens it calls what they would
	// Deleted reports whether a tenant was deleted; nil: none ever is.
	Deleted func(context.Context, tenant.ID) (bool, error)
	// DiskFree tells how many bytes can still be written to the file system of a
	// directory; nil asks the operating system.
	DiskFree func(dir string) (int64, error)

	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Errors of Push that are the ingester's trouble, not the sender's: it should
// send the request again.
var (
	ErrFull     = errors.New("ingester's memory is full")
	ErrDiskFull = errors.New("ingester's disk is nearly full")
	ErrStopped  = errors.New("ingester is not running")
	ErrLog      = errors.New("write-ahead log refused the request")
)

// Ingester is one running ingester. It is safe for concurrent use.
type Ingester struct {
	opts    Options
	log     *wal.Log
	packs   *packSet
	aside   *asideSet
	metrics *metrics

	tenantsMu sync.RWMutex
	tenants   map[tenant.ID]*tenantHead

	nextRef atomic.Uint64
	bytes   atomic.Int64 // rough size of the head

	// gate is held for reading while a request is logged and applied, and for
	// writing where no request may be in between.
	gate    pushGate
	stopped bool // guarded by gate

	disk         *diskGuard
	early        atomic.Int64 // when an early seal was last thought of, Unix ms
	largestSlice atomic.Int64 // most series removed under one hold of the gate

	sealMu   sync.Mutex // one seal at a time
	sealed   atomic.Int64
	lateFrom atomic.Int64 // when the first sample below sealed arrived, Unix ms; 0 = none
	seals    *sealLog

	deletions *deletionSet
	unsealed  windowSet
	uploads   *uploader     // nil without a long-term store
	uploadNow chan struct{} // asks the uploader to look
	flushNow  chan struct{} // asks run to seal everything
	stop      context.CancelFunc
	done      sync.WaitGroup
}

// Open replays what the directory holds and returns an ingester that is ready.
// Call Close to stop it.
func Open(o Options) (*Ingester, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Replication = max(o.Replication, 1)
	ing := &Ingester{opts: o, tenants: map[tenant.ID]*tenantHead{}, flushNow: make(chan struct{}, 1), uploadNow: make(chan struct{}, 1)}
	ing.metrics = newMetrics(o.Registerer, ing)
	ing.disk = newDiskGuard(ing)
	packs, err := openPacks(filepath.Join(o.Dir, "l0"), o.Logger)
	if err != nil {
		return nil, err
	}
	ing.packs = packs
	if ing.deletions, err = openDeletions(filepath.Join(o.Dir, "deletions.json")); err != nil {
		return nil, errors.Join(err, packs.close())
	}
	if ing.aside, err = openAsideSet(filepath.Join(o.Dir, "aside"), o.AsideBytes, o.asideDisk, o.Logger); err != nil {
		return nil, errors.Join(err, packs.close())
	}
	if err := ing.recover(); err != nil {
		return nil, errors.Join(err, packs.close())
	}
	ing.disk.begin(o.Registerer)
	ctx, cancel := context.WithCancel(context.Background())
	ing.stop = cancel
	if o.LongTerm != nil {
		ing.uploads = newUploader(ing, o.LongTerm)
	}
	if !o.idle {
		ing.start(ctx)
	}
	return ing, nil
}

// start runs what an ingester does by itself, until ctx is done.
func (ing *Ingester) start(ctx context.Context) {
	ing.done.Go(func() { ing.run(ctx) })
	ing.done.Go(func() {
		if err := ing.retryAside(ctx); err != nil && ctx.Err() == nil {
			ing.opts.Logger.Error("series that were set aside could not be sealed; they stay where they are until the next start", "err", err)
		}
	})
	if ing.uploads != nil {
		ing.done.Go(func() { ing.uploads.run(ctx) })
		ing.done.Go(func() { ing.uploads.progress.Watch(ctx) })
	}
	if ing.opts.Replication > 1 {
		ing.done.Go(func() { ing.syncEverySecond(ctx) })
	}
}

// recover replays the log into the head and opens a new segment behind it.
func (ing *Ingester) recover() error {
	dir := filepath.Join(ing.opts.Dir, "wal")
	seals, err := openSealLog(filepath.Join(ing.opts.Dir, "sealed.json"))
	if err != nil {
		return err
	}
	ing.seals = seals
	ing.sealed.Store(math.MinInt64)
	if err := ing.loadMetadata(); err != nil {
		return err
	}
	start := ing.opts.Now()
	r := newReplay(ing)
	report, err := wal.Replay(dir, r.record)
	if err != nil {
		return fmt.Errorf("ingester: %w", err)
	}
	r.finish()
	for _, d := range report.Damage {
		if d.Torn {
			ing.opts.Logger.Info("write-ahead log ends in part of a record, as a crash in the middle of a write leaves it; nothing acknowledged was in it, unless the file was changed since", "where", d.String())
			continue
		}
		ing.metrics.damage.Inc()
		ing.opts.Logger.Error("write-ahead log is damaged; the samples of the damaged record are lost, all others were read", "where", d.String())
	}
	if r.orphans > 0 {
		ing.opts.Logger.Error("samples in the write-ahead log belong to series whose labels were damaged", "samples", r.orphans)
	}
	ing.log, err = wal.Open(dir, wal.Options{FirstSegment: seals.firstSegment(), Logger: ing.opts.Logger, Registerer: ing.opts.Registerer})
	if err != nil {
		return err
	}
	if report.Records > 0 {
		ing.opts.Logger.Info("write-ahead log replayed", "segments", report.Segments, "records", report.Records,
			"samples", r.samples, "sealed_before", r.skipped, "took", ing.opts.Now().Sub(start).Round(time.Millisecond))
	}
	return nil
}

// Close stops the ingester. What is in the head stays in the log.
func (ing *Ingester) Close() error {
	ing.gate.Lock()
	already := ing.stopped
	ing.stopped = true
	ing.gate.Unlock()
	if already {
		return nil
	}
	ing.stop()
	ing.done.Wait()
	ing.sealMu.Lock()
	defer ing.sealMu.Unlock()
	return errors.Join(ing.log.Close(), ing.packs.close())
}

func (ing *Ingester) syncEverySecond(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := ing.log.SyncAll(); err != nil {
				ing.opts.Logger.Error("write-ahead log", "err", err)
			}
		}
	}
}

// head returns the tenant's head, and makes it if create is set.
func (ing *Ingester) head(id tenant.ID, create bool) *tenantHead {
	ing.tenantsMu.RLock()
	th := ing.tenants[id]
	ing.tenantsMu.RUnlock()
	if th != nil || !create {
		return th
	}
	ing.tenantsMu.Lock()
	defer ing.tenantsMu.Unlock()
	if th = ing.tenants[id]; th == nil {
		th = newTenantHead(id)
		ing.tenants[id] = th
	}
	return th
}

func (ing *Ingester) heads() []*tenantHead {
	ing.tenantsMu.RLock()
	defer ing.tenantsMu.RUnlock()
	out := make([]*tenantHead, 0, len(ing.tenants))
	for _, th := range ing.tenants {
		out = append(out, th)
	}
	return out
}
