package ingester

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/disk"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/progress"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

// LongTerm is the long-term store to which sealed packs are uploaded. Package store
// documents its methods.
type LongTerm interface {
	Upload(ctx context.Context, u store.Upload) error
	Intend(ctx context.Context, ingester string, windows map[store.Window]schema.Intent) error
	ClearIntents(ctx context.Context, ingester string, windows []store.Window) error
	Intents(ctx context.Context, ingester string) ([]store.Window, error)
	Consumed(ctx context.Context, info pack.Info) (bool, error)

	SetAside(ctx context.Context, list []store.AsideOf) error
	ClearAside(ctx context.Context, list []store.AsideOf) error
	Asides(ctx context.Context) ([]store.AsideOf, error)
	ActiveDeletions(ctx context.Context, tenants []tenant.ID, visit func(tenant.ID, schema.Tombstone) error) error
}

const (
	uploadEvery  = 10 * time.Second
	consumeEvery = 5 * time.Minute
	// dropDelay is how long a local pack is served after the uploader found it
	// compacted, because reads in progress elsewhere may depend on it.
	dropDelay = time.Hour
	// uploadedSuffix is the suffix of the marker of a local pack that was uploaded.
	uploadedSuffix = ".uploaded"
)

// uploader uploads sealed packs to the long-term store, and maintains this
// ingester's intents there. Its methods sync and drop run one at a time.
type uploader struct {
	ing  *Ingester
	long LongTerm

	// turn is held by the running call of sync or drop. It is a channel, so that
	// waiting for a call that hangs ends with the context.
	turn      chan struct{}
	progress  *progress.Worker
	declared  map[store.Window]bool // windows with an intent of this ingester; nil until they are read
	droppedAt time.Time             // when drop last ran

	asidesMu sync.Mutex                 // for writing asides, and for reading it without turn
	asides   map[asideKey]store.AsideOf // records of series set aside; nil until they are read
	asidesAt time.Time                  // when the records were read last
}

func (u *uploader) run(ctx context.Context) {
	tick := time.NewTicker(uploadEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-u.ing.uploadNow:
		}
		if err := u.sync(ctx); err != nil && ctx.Err() == nil {
			u.ing.metrics.uploadFailures.Inc()
			u.ing.opts.Logger.Error("failed to sync sealed packs with the long-term store; retrying", "err", err)
		}
		if now := u.ing.opts.Now(); since(now, u.droppedAt) >= consumeEvery {
			u.droppedAt = now
			if err := u.drop(ctx); err != nil && ctx.Err() == nil {
				u.ing.opts.Logger.Error("failed to delete compacted local packs; retrying", "err", err)
			}
		}
	}
}

func newUploader(ing *Ingester, long LongTerm) *uploader {
	return &uploader{ing: ing, long: long, turn: make(chan struct{}, 1), progress: progress.NewWorker(progress.Options{
		Metric: "pallium_ingester_upload_stalled_seconds",
		Help: "Seconds since the current upload or check of uploaded packs last made progress; 0 if there is none, or if it made progress " +
			"within the last minute.",
		Message: "no progress in uploading or checking packs: the object store or the row store does not respond",
		Now:     ing.opts.Now, Logger: ing.opts.Logger, Registerer: ing.opts.Registerer})}
}

// acquire waits until no other call of sync or drop runs.
func (u *uploader) acquire(ctx context.Context) error {
	select {
	case u.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the upload in progress: %w", ctx.Err())
	}
}

func (u *uploader) release() { <-u.turn }

// sync writes intents for pending windows, updates the records of series set aside,
// uploads sealed packs, and clears the intents of windows that are no longer pending.
func (u *uploader) sync(ctx context.Context) error {
	if err := u.acquire(ctx); err != nil {
		return err
	}
	defer u.release()
	ctx, task := u.progress.Begin(ctx, "write intents")
	defer task.End()
	if err := u.declare(ctx); err != nil {
		return err
	}
	if err := u.recordAside(ctx); err != nil {
		return err
	}
	for _, lp := range u.ing.packs.pending() {
		progress.At(ctx, lp.path)
		if err := u.upload(ctx, lp); err != nil {
			return err
		}
	}
	progress.At(ctx, "clear intents")
	if err := u.clearAside(ctx); err != nil {
		return err
	}
	var cleared []store.Window
	pending := u.pendingWindows(nil)
	for w := range u.declared {
		if !pending[w] {
			cleared = append(cleared, w)
		}
	}
	if len(cleared) == 0 {
		return nil
	}
	if err := u.long.ClearIntents(ctx, u.ing.opts.ID, cleared); err != nil {
		return err
	}
	for _, w := range cleared {
		delete(u.declared, w)
	}
	return nil
}

// pendingWindows returns the pending windows: those with samples in the head, in
// packs that are not uploaded, or set aside without a record. The pack `except` is not
// counted.
func (u *uploader) pendingWindows(except *localPack) map[store.Window]bool {
	// A seal moves samples from the head to packs and to the files of series set
	// aside. Read the head first, the packs last, so that none are missed.
	out := u.ing.unsealed.all()
	for _, w := range u.unrecorded() {
		out[w] = true
	}
	for _, lp := range u.ing.packs.pending() {
		if lp != except {
			for _, w := range lp.windows {
				out[w] = true
			}
		}
	}
	return out
}

// declare writes an intent for every pending window that has none yet.
func (u *uploader) declare(ctx context.Context) error {
	if u.declared == nil {
		list, err := u.long.Intents(ctx, u.ing.opts.ID)
		if err != nil {
			return err
		}
		u.declared = map[store.Window]bool{}
		for _, w := range list {
			u.declared[w] = true
		}
	}
	now := u.ing.opts.Now()
	intents := map[store.Window]schema.Intent{}
	for w := range u.pendingWindows(nil) {
		if !u.declared[w] {
			end := w.Day*series.DayMillis + int64(w.Number+1)*series.WindowMillis
			intents[w] = schema.Intent{Since: now.UnixMilli(), Zone: u.ing.opts.Zone, Late: now.UnixMilli() > end+SealDelay.Milliseconds()}
		}
	}
	if len(intents) == 0 {
		return nil
	}
	if err := u.long.Intend(ctx, u.ing.opts.ID, intents); err != nil {
		return err
	}
	for w := range intents {
		u.declared[w] = true
	}
	return nil
}

// upload uploads one pack to the long-term store and marks it as uploaded.
func (u *uploader) upload(ctx context.Context, lp *localPack) error {
	info := lp.reader.Info()
	crc, err := pack.FileCRC(lp.path)
	if err != nil {
		return err
	}
	pending := u.pendingWindows(lp)
	up := store.Upload{Path: lp.path, Object: store.L0Object(lp.windows, u.ing.opts.ID, info.ID), CRC: crc, Info: info,
		Ingester: u.ing.opts.ID, Zone: u.ing.opts.Zone, Sealed: int64(info.ID.Time()), Windows: lp.windows}
	for _, w := range lp.windows {
		if !pending[w] {
			up.Cleared = append(up.Cleared, w)
		}
	}
	if err := u.long.Upload(ctx, up); err != nil {
		return err
	}
	if err := mark(lp.path); err != nil {
		return err
	}
	u.ing.packs.uploaded(lp)
	u.ing.metrics.uploads.Inc()
	for _, w := range up.Cleared {
		delete(u.declared, w)
	}
	return nil
}

// mark writes the marker of an uploaded pack. If the marker is lost, the pack is
// uploaded again, which is idempotent.
func mark(path string) error {
	if err := disk.ReplaceFile(path+uploadedSuffix, nil); err != nil {
		return fmt.Errorf("write the marker of an uploaded pack: %w", err)
	}
	return nil
}

// drop deletes local packs at least dropDelay after it found them compacted, and
// files of series set aside whose samples were deleted.
func (u *uploader) drop(ctx context.Context) error {
	if err := u.acquire(ctx); err != nil {
		return err
	}
	defer u.release()
	ctx, task := u.progress.Begin(ctx, "check for compacted packs")
	defer task.End()
	now := u.ing.opts.Now()
	errs := u.dropDeleted(ctx)
	for _, lp := range u.ing.packs.done() {
		if ctx.Err() != nil {
			return errors.Join(errs, ctx.Err())
		}
		consumed, err := u.long.Consumed(ctx, lp.reader.Info())
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("pack %s: %w", lp.path, err))
			continue
		}
		switch {
		case !consumed:
			lp.consumed = time.Time{}
		case lp.consumed.IsZero():
			lp.consumed = now
		case now.Sub(lp.consumed) >= dropDelay:
			if err := u.ing.packs.drop(lp); err != nil {
				errs = errors.Join(errs, err)
				continue
			}
			u.ing.metrics.packsDropped.Inc()
		}
	}
	return errs
}

// Upload uploads all sealed packs to the long-term store, and returns when that is
// done.
func (ing *Ingester) Upload(ctx context.Context) error {
	if ing.uploads == nil {
		return nil
	}
	return ing.uploads.sync(ctx)
}

// PendingWindows returns the number of pending windows.
func (ing *Ingester) PendingWindows() int {
	if ing.uploads == nil {
		return 0
	}
	return len(ing.uploads.pendingWindows(nil))
}

// removeMarkers deletes markers without packs, as a crash during a deletion leaves
// them, and incomplete markers.
func removeMarkers(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, uploadedSuffix+disk.TemporarySuffix) {
			return os.Remove(path)
		}
		if err != nil || d.IsDir() || !strings.HasSuffix(path, uploadedSuffix) {
			return err
		}
		if _, err := os.Stat(strings.TrimSuffix(path, uploadedSuffix)); errors.Is(err, fs.ErrNotExist) {
			return os.Remove(path)
		}
		return nil
	})
}

// pending returns the packs that are not uploaded, oldest first.
func (p *packSet) pending() []*localPack {
	return p.choose(func(lp *localPack) bool { return !lp.isUploaded })
}

// done returns the uploaded packs, oldest first.
func (p *packSet) done() []*localPack {
	return p.choose(func(lp *localPack) bool { return lp.isUploaded })
}

func (p *packSet) choose(want func(*localPack) bool) []*localPack {
	p.mu.RLock()
	defer p.mu.RUnlock()
	var out []*localPack
	for _, lp := range p.packs {
		if want(lp) {
			out = append(out, lp)
		}
	}
	slices.SortFunc(out, func(a, b *localPack) int { return a.reader.Info().ID.Compare(b.reader.Info().ID) })
	return out
}

func (p *packSet) uploaded(lp *localPack) {
	p.mu.Lock()
	defer p.mu.Unlock()
	lp.isUploaded = true
}

// drop removes one pack from the set and deletes its file.
func (p *packSet) drop(lp *localPack) error {
	_, err := p.removeIf(func(o *localPack) bool { return o == lp })
	return err
}
