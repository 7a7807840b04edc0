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
	"github.com/palliumhq/pallium/backend/background"
	"github.com/palliumhq/pallium/backend/clock"
	"github.com/palliumhq/pallium/backend/series"
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
	// TakenBy tells which series an instance of the cluster takes once it is active;
	// nil outside a cluster.
	TakenBy func(ctx context.Context, instance string) (Takes, error)
	// LongTerm is where sealed packs go; nil keeps them here.
	LongTerm LongTerm
	Zone     string // of this ingester; empty without zones
	// MemoryBytes is the head's budget; pressure.go has what is rejected near it.
	// 0 is no budget.
	MemoryBytes int64
	// PageCacheBytes is for decoded pages of local packs; 0 is 64 MiB.
	PageCacheBytes int64
	// AsideBytes is each tenant's part of the disk for series that no pack can
	// hold; 0 is DefaultAsideBytes.
	AsideBytes int64
	asideDisk  asideDisk // nil: the file system
	logDisk    wal.Disk  // nil: the file system
	idle       bool      // start no goroutines: whoever opens it calls what they would
	// Deleted reports whether a tenant was deleted; nil: none ever is.
	Deleted func(context.Context, tenant.ID) (bool, error)
	// DiskFree tells how many bytes can still be written to the file system of a
	// directory; nil asks the operating system.
	DiskFree func(dir string) (int64, error)

	// Damaged is told the starts of windows of which records of the log are damaged
	// and others have the samples, before Open returns; nil: nobody is. Without
	// replicas it is not called: reads of what is missing fail with series.ErrLost.
	Damaged func(ctx context.Context, windows []int64) error

	// Replaying is told how many bytes of the log were replayed, of how many, about
	// every second while Open replays it and once at the end; nil: nobody is.
	Replaying func(done, total int64)

	Now func() time.Time
	// Clock tells whether Now can decide what is deleted; nil: it always can.
	Clock      *clock.Guard
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Errors of Push that are the ingester's trouble, not the sender's: it should
// send the request again.
var (
	ErrFull     = errors.New("ingester's memory is full")
	ErrDiskFull = errors.New("ingester's disk is nearly full")
	ErrStopped  = errors.New("ingester is not running")
	ErrLog      = errors.New("write-ahead log rejected the request")
)

// Ingester is one running ingester. It is safe for concurrent use.
type Ingester struct {
	opts    Options
	log     *wal.Log
	packs   *packSet
	aside   *asideSet
	losses  *lossSet
	metrics *metrics

	tenantsMu sync.RWMutex
	tenants   map[tenant.ID]*tenantHead

	nextRef   atomic.Uint64
	labels    *labelLog
	border    atomic.Int64 // the end of the window that the present epoch of the log is for, Unix ms
	borderMu  sync.Mutex   // held while an epoch ends there
	keptBytes atomic.Int64 // of log that keepExemplars wrote last: sealing again does not free them
	bodies    sync.Pool    // *[]byte, of records under way
	account   account

	// gate is held for reading while a request is logged and applied, and for
	// writing where no request may be in between.
	gate    pushGate
	stopped bool // guarded by gate
	leaving bool // takes no pushes; guarded by gate

	disk         *diskGuard
	early        earlySeals
	largestSlice atomic.Int64 // most series removed under one hold of the gate

	sweepMu sync.Mutex // one sweep at a time
	expiry  expiry     // guarded by sweepMu

	sealMu   sync.Mutex // one seal at a time
	sealed   atomic.Int64
	lateFrom atomic.Int64 // when the first sample below sealed arrived, Unix ms; 0 = none
	seals    *sealLog

	activeMu    sync.Mutex // one writer of the file of active series at a time
	activeSaved time.Time  // when it was written last; guarded by activeMu

	deletions  *deletionSet
	unsealed   windowSet
	uploads    *uploader     // nil without a long-term store
	uploadNow  chan struct{} // asks the uploader to look
	flushNow   chan struct{} // asks run to seal everything
	background *background.Group
}

// Open replays what the directory holds and returns an ingester that is ready.
// Call Close to stop it. When ctx ends first, Open gives up with its error; the
// log is as it was. ctx is for opening only.
func Open(ctx context.Context, o Options) (*Ingester, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clock.New(clock.Options{Now: o.Now})
	}
	o.Replication = max(o.Replication, 1)
	ing := &Ingester{opts: o, tenants: map[tenant.ID]*tenantHead{}, flushNow: make(chan struct{}, 1), uploadNow: make(chan struct{}, 1)}
	ing.labels = newLabelLog(o.Now)
	ing.border.Store(series.WindowStart(o.Now().UnixMilli()) + series.WindowMillis)
	ing.metrics = newMetrics(o.Registerer, ing)
	ing.disk = newDiskGuard(ing)
	packs, err := openPacks(filepath.Join(o.Dir, "l0"), o.PageCacheBytes, o.Logger)
	if err != nil {
		return nil, err
	}
	ing.packs = packs
	if err := ing.openDeletions(); err != nil {
		return nil, errors.Join(err, packs.close())
	}
	if ing.aside, err = openAsideSet(filepath.Join(o.Dir, "aside"), o.AsideBytes, o.asideDisk, o.Logger); err != nil {
		return nil, errors.Join(err, packs.close())
	}
	if ing.losses, err = openLosses(filepath.Join(o.Dir, "lost.json")); err != nil {
		return nil, errors.Join(err, packs.close())
	}
	if err := ing.recover(ctx); err != nil {
		return nil, errors.Join(err, packs.close())
	}
	if err := ing.loadActive(ctx); err != nil {
		return nil, errors.Join(err, ing.log.Close(), packs.close())
	}
	if ing.seals.damage != nil {
		o.Logger.Warn("record of what was sealed is damaged and was removed: nothing is lost, the whole write-ahead log was replayed",
			"file", ing.seals.path, "err", ing.seals.damage)
	}
	ing.disk.begin(o.Registerer)
	ing.background = background.New()
	if o.LongTerm != nil {
		ing.uploads = newUploader(ing, o.LongTerm)
	}
	if !o.idle {
		ing.start()
	}
	return ing, nil
}

// start runs what an ingester does by itself, until it is closed.
func (ing *Ingester) start() {
	ing.background.Go(ing.run)
	ing.background.Go(func(ctx context.Context) {
		ing.labels.run(ctx, func(err error) {
			ing.opts.Logger.Error("labels could not be written to the write-ahead log a second time; retrying", "err", err)
		})
	})
	ing.background.Go(func(ctx context.Context) {
		if err := ing.retryAside(ctx); err != nil && ctx.Err() == nil {
			ing.opts.Logger.Error("series that were set aside could not be sealed; they stay where they are until the next start", "err", err)
		}
	})
	if ing.uploads != nil {
		ing.background.Go(ing.uploads.run)
		ing.background.Go(ing.uploads.progress.Watch)
	}
	if ing.opts.Replication > 1 {
		ing.background.Go(ing.syncEverySecond)
	}
}

// recover replays the log into the head and opens a new segment behind it.
func (ing *Ingester) recover(ctx context.Context) error {
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
	start := time.Now()
	r := newReplay(ing, dir)
	report, err := r.run(ctx)
	if err != nil {
		return fmt.Errorf("ingester: %w", err)
	}
	ing.reportReplay(r, report)
	if err := ing.recordLosses(ctx, r, report.Damage); err != nil {
		return err
	}
	ing.log, err = wal.Open(dir,
		wal.Options{FirstSegment: seals.firstSegment(), Disk: ing.opts.logDisk, Logger: ing.opts.Logger, Registerer: ing.opts.Registerer})
	if err != nil {
		return err
	}
	ing.labels.log = ing.log
	// A damaged record may have had references that nobody knows of: none that an
	// earlier process gave out is given out again.
	ing.nextRef.Store(max(ing.nextRef.Load(), uint64(ing.log.Segment())<<firstRefShift))
	if report.Records > 0 {
		ing.opts.Logger.Info("write-ahead log replayed", "segments", report.Segments, "records", report.Records,
			"samples", r.samples, "sealed_before", r.skipped, "took", time.Since(start).Round(time.Millisecond))
	}
	return nil
}

// firstRefShift puts the references of a process above all of those before it.
const firstRefShift = 32

// reportReplay logs and counts what replay could not read.
func (ing *Ingester) reportReplay(r *replay, report wal.Report) {
	for _, d := range report.Damage {
		if d.Torn {
			ing.opts.Logger.Info("write-ahead log ends in part of a record, as a crash in the middle of a write leaves it; "+
				"nothing acknowledged was in it, unless the file was changed since", "where", d.String())
			continue
		}
		ing.metrics.damage.Inc()
		ing.opts.Logger.Error("write-ahead log is damaged: the samples of the damaged record are lost", "where", d.String())
	}
	for id, days := range r.orphans {
		for day, o := range days {
			ing.opts.Logger.Error("samples in the write-ahead log belong to series whose labels were damaged", "tenant", id, "day", day,
				"samples", o.samples, "from", time.UnixMilli(o.min).UTC(), "to", time.UnixMilli(o.max).UTC())
		}
	}
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
	ing.background.Stop()
	ing.sealMu.Lock()
	defer ing.sealMu.Unlock()
	return errors.Join(ing.log.Close(), ing.packs.close())
}

// StopPushes has every push rejected from now on with ErrStopped, and returns when
// those under way are done: what is uploaded afterwards is everything.
func (ing *Ingester) StopPushes() { ing.setLeaving(true) }

// ResumePushes undoes StopPushes.
func (ing *Ingester) ResumePushes() { ing.setLeaving(false) }

func (ing *Ingester) setLeaving(leaving bool) {
	ing.gate.Lock()
	defer ing.gate.Unlock()
	ing.leaving = leaving
}

func (ing *Ingester) syncEverySecond(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := ing.log.SyncAll()
		if err != nil && !failing {
			// What was answered and is not on disk now never will be by way of the log.
			ing.opts.Logger.Error("write-ahead log could not be synced: sealing what is in memory", "err", err)
			ing.flushSoon()
		}
		failing = err != nil
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
		th = newTenantHead(id, &ing.account)
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
