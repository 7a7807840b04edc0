// Package ingester stores the recent samples of all tenants: it writes them to the
// write-ahead log, holds them in memory as compressed chunks (the head), seals
// whole windows of time into local packs, and serves reads from both.
//
// Durability depends on the order of operations: a request is logged and, without
// replication, synced, then applied, then acknowledged. A window's chunks leave memory
// only after their pack is on disk and being served, and a log segment is deleted only
// after all its samples are in packs or in files of series set aside.
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

// Limits returns a tenant's current limits.
type Limits func(tenant.ID) limits.Limits

// Options configure an Ingester.
type Options struct {
	ID     string // name of the ingester in the ring and in its packs
	Dir    string // directory of the log, local packs and other files
	Limits Limits

	// Replication is the number of ingesters that have each series. With one, a
	// request is synced to disk before it is acknowledged; with more, the log is synced
	// every second.
	Replication int
	// ShardSize returns the number of ingesters that share a tenant's series. The
	// local series limit is the tenant's limit × Replication / shard size. nil:
	// Replication.
	ShardSize func(tenant.ID, *limits.Limits) int
	// TakenBy returns which series an instance of the cluster receives once it is
	// ACTIVE; nil outside a cluster.
	TakenBy func(ctx context.Context, instance string) (Takes, error)
	// LongTerm is the store to which sealed packs are uploaded; nil: packs stay
	// local.
	LongTerm LongTerm
	Zone     string // of this ingester; empty without zones
	// MemoryBytes is the head's memory budget. pressure.go has the rules for
	// rejections near it. 0: no budget.
	MemoryBytes int64
	// PageCacheBytes is the size of the cache of decoded pages of local packs; 0: 64
	// MiB.
	PageCacheBytes int64
	// AsideBytes is each tenant's disk space for series that no pack can hold; 0:
	// DefaultAsideBytes.
	AsideBytes int64
	asideDisk  asideDisk // nil: the file system
	logDisk    wal.Disk  // nil: the file system
	idle       bool      // do not start goroutines; tests call their functions
	// Deleted reports whether a tenant was deleted; nil: no tenant is.
	Deleted func(context.Context, tenant.ID) (bool, error)
	// DiskFree returns how many bytes can still be written to the file system of a
	// directory; nil: statfs.
	DiskFree func(dir string) (int64, error)

	// MarkDamaged is called before Open returns if records of the log are damaged and
	// replicas have their samples, with the starts of the windows; nil: not called.
	// Without replicas it is not called: reads fail with series.ErrLost for the times
	// of samples whose labels are lost.
	MarkDamaged func(ctx context.Context, windows []int64) error

	// Replaying is called about every second during the replay, and once at its end,
	// with the replayed and the total bytes of the log; nil: not called.
	Replaying func(done, total int64)

	Now func() time.Time
	// Clock tells whether Now is reliable enough to decide deletions; nil: always.
	Clock      *clock.Guard
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Errors of Push that are not caused by the sender, which should send the request
// again.
var (
	ErrFull     = errors.New("ingester's memory is full")
	ErrDiskFull = errors.New("ingester's disk is nearly full")
	ErrStopped  = errors.New("ingester is not running")
	ErrLog      = errors.New("write to the write-ahead log failed")
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
	border    atomic.Int64 // end of the window of the current log epoch, Unix milliseconds
	borderMu  sync.Mutex   // held while an epoch ends at the border
	keptBytes atomic.Int64 // bytes of log that keepExemplars wrote last; another seal does not free them
	bodies    sync.Pool    // *[]byte, buffers of records in progress
	account   account

	// gate is held for reading while a request is logged and applied, and for writing
	// by operations that must not run concurrently with requests.
	gate    pushGate
	stopped bool // guarded by gate
	leaving bool // rejects pushes; guarded by gate

	disk         *diskGuard
	early        earlySeals
	largestSlice atomic.Int64 // most series removed while the gate was held once

	sweepMu sync.Mutex // one sweep at a time
	expiry  expiry     // guarded by sweepMu

	sealMu   sync.Mutex   // one seal at a time
	sealed   atomic.Int64 // end of the newest sealed window, Unix milliseconds
	lateFrom atomic.Int64 // when the first sample before sealed arrived, Unix milliseconds; 0 = none
	seals    *sealLog

	activeMu    sync.Mutex // one writer of the file of active series at a time
	activeSaved time.Time  // last write of the file; guarded by activeMu

	changes    *changeLog
	deletions  *deletionSet
	unsealed   windowSet
	uploads    *uploader     // nil without a long-term store
	uploadNow  chan struct{} // wakes the uploader
	flushNow   chan struct{} // tells run to seal the whole head
	background *background.Group
}

// Open replays the directory's log and returns a ready ingester. Call Close to stop
// it. If ctx is done first, Open returns its error and the log is unchanged. ctx is
// used only while opening.
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
	ing.changes = newChangeLog()
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
	ing.aside.removed = ing.changes.changed
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
		o.Logger.Warn("removed the damaged list of seals: no samples are lost, replayed the whole write-ahead log",
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

// start starts the background goroutines.
func (ing *Ingester) start() {
	ing.background.Go(ing.run)
	ing.background.Go(func(ctx context.Context) {
		ing.labels.run(ctx, func(err error) {
			ing.opts.Logger.Error("label checkpoint in the write-ahead log failed; retrying", "err", err)
		})
	})
	ing.background.Go(func(ctx context.Context) {
		if err := ing.retryAside(ctx); err != nil && ctx.Err() == nil {
			ing.opts.Logger.Error("failed to move series set aside into packs: they stay in their files until the next start", "err", err)
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

// recover replays the log into the head and opens a new segment after it.
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
	// A damaged record may have had references that are not known now: start above
	// all references that earlier processes assigned.
	ing.nextRef.Store(max(ing.nextRef.Load(), uint64(ing.log.Segment())<<firstRefShift))
	if report.Records > 0 {
		ing.opts.Logger.Info("replayed the write-ahead log", "segments", report.Segments, "records", report.Records,
			"samples", r.samples, "sealed_before", r.skipped, "took", time.Since(start).Round(time.Millisecond))
	}
	return nil
}

// firstRefShift makes the references of a process higher than the references of all
// earlier processes.
const firstRefShift = 32

// reportReplay logs the damage and the losses that a replay found, and counts the
// damaged records.
func (ing *Ingester) reportReplay(r *replay, report wal.Report) {
	for _, d := range report.Damage {
		if d.Torn {
			ing.opts.Logger.Info("write-ahead log ends in a partial record, as after a crash during a write: "+
				"unless the file was modified since, its samples were not acknowledged, or are on replicas", "where", d.String())
			continue
		}
		ing.metrics.damage.Inc()
		ing.opts.Logger.Error("damaged write-ahead log: this ingester lost the samples of the damaged record", "where", d.String())
	}
	for id, days := range r.orphans {
		for day, o := range days {
			ing.opts.Logger.Error("this ingester lost samples: the labels of their series were in a damaged record of the write-ahead log",
				"tenant", id, "day", day, "samples", o.samples, "from", time.UnixMilli(o.min).UTC(), "to", time.UnixMilli(o.max).UTC())
		}
	}
}

// Close stops the ingester. The samples in the head stay in the log.
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

// StopPushes makes all later pushes fail with ErrStopped, and returns when the
// pushes in progress are done, so that a following upload is complete.
func (ing *Ingester) StopPushes() { ing.setLeaving(true) }

// ResumePushes reverts StopPushes.
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
			// Acknowledged samples that are not synced now will never be: a failed sync
			// cannot be retried.
			ing.opts.Logger.Error("failed to sync the write-ahead log: sealing the head into packs, so that its samples become durable", "err", err)
			ing.flushSoon()
		}
		failing = err != nil
	}
}

// head returns the tenant's head. If there is none, it returns nil, or creates it
// if create is set.
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
