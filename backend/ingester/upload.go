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
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/disk"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/progress"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

// LongTerm is the long-term store that sealed packs become part of; see package
// store for what each call promises.
type LongTerm interface {
	Upload(ctx context.Context, u store.Upload) error
	Intend(ctx context.Context, ingester string, windows map[store.Window]schema.Intent) error
	Settle(ctx context.Context, ingester string, windows []store.Window) error
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
	// dropDelay is how long a local pack is served after it was compacted: reads
	// under way elsewhere may still count on it.
	dropDelay = time.Hour
	// uploadedSuffix marks a local pack that is part of the long-term store.
	uploadedSuffix = ".uploaded"
)

// uploader makes sealed packs part of the long-term store, and says there what
// this ingester still owes. One call of its methods runs at a time.
type uploader struct {
	ing  *Ingester
	long LongTerm

	// turn is held by the call that runs: a channel, so that whoever waits for a
	// call that hangs ends with its context.
	turn     chan struct{}
	progress *progress.Worker
	declared map[store.Window]bool // windows that have an intent of ours; nil before the first look
	looked   time.Time             // when Consumed was asked last

	asides   map[asideKey]store.AsideOf // what is recorded as set aside; nil before the first look
	asidesAt time.Time                  // of the last look
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
			u.ing.opts.Logger.Error("uploading sealed packs failed, it will be tried again; they stay on disk until then", "err", err)
		}
		if now := u.ing.opts.Now(); now.Sub(u.looked) >= consumeEvery {
			u.looked = now
			if err := u.drop(ctx); err != nil && ctx.Err() == nil {
				u.ing.opts.Logger.Error("dropping compacted packs failed, it will be tried again", "err", err)
			}
		}
	}
}

func newUploader(ing *Ingester, long LongTerm) *uploader {
	return &uploader{ing: ing, long: long, turn: make(chan struct{}, 1), progress: progress.NewWorker(progress.Options{
		Metric:  "pallium_ingester_upload_stalled_seconds",
		Help:    "How long the upload under way has made no progress; 0 when there is none, or it made some within a minute.",
		Message: "upload makes no progress: the object store or the row store does not answer",
		Now:     ing.opts.Now, Logger: ing.opts.Logger, Registerer: ing.opts.Registerer})}
}

// take waits for the turn of a call.
func (u *uploader) take(ctx context.Context) error {
	select {
	case u.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the upload that is under way: %w", ctx.Err())
	}
}

func (u *uploader) give() { <-u.turn }

// sync declares what is owed, uploads what is sealed and takes back what is not
// owed any more.
func (u *uploader) sync(ctx context.Context) error {
	if err := u.take(ctx); err != nil {
		return err
	}
	defer u.give()
	ctx, task := u.progress.Begin(ctx, "intents of windows")
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
	progress.At(ctx, "settling of windows")
	if err := u.clearAside(ctx); err != nil {
		return err
	}
	var settled []store.Window
	owed := u.owed(nil)
	for w := range u.declared {
		if !owed[w] {
			settled = append(settled, w)
		}
	}
	if len(settled) == 0 {
		return nil
	}
	if err := u.long.Settle(ctx, u.ing.opts.ID, settled); err != nil {
		return err
	}
	for _, w := range settled {
		delete(u.declared, w)
	}
	return nil
}

// owed is the windows of which samples are in the head, or in packs that are not
// uploaded, but for one, or set aside without a record of it.
func (u *uploader) owed(except *localPack) map[store.Window]bool {
	// In the order in which samples move: what moves meanwhile is in a later one.
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

// declare writes an intent for every window that has none yet.
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
	for w := range u.owed(nil) {
		if !u.declared[w] {
			end := w.Day*series.DayMillis + int64(w.Number+1)*series.WindowMillis
			intents[w] = schema.Intent{Since: now.UnixMilli(), Zone: u.ing.opts.Zone, Late: now.UnixMilli() > end+sealDelay.Milliseconds()}
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

// upload makes one pack part of the long-term store and marks it so.
func (u *uploader) upload(ctx context.Context, lp *localPack) error {
	info := lp.reader.Info()
	crc, err := pack.FileCRC(lp.path)
	if err != nil {
		return err
	}
	owed := u.owed(lp)
	up := store.Upload{Path: lp.path, Object: store.L0Object(lp.windows, u.ing.opts.ID, info.ID), CRC: crc, Info: info,
		Ingester: u.ing.opts.ID, Zone: u.ing.opts.Zone, Sealed: int64(info.ID.Time()), Windows: lp.windows}
	for _, w := range lp.windows {
		if !owed[w] {
			up.Settled = append(up.Settled, w)
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
	for _, w := range up.Settled {
		delete(u.declared, w)
	}
	return nil
}

// mark writes the marker of an uploaded pack. Losing it means one more upload,
// which finds everything there.
func mark(path string) error {
	if err := disk.ReplaceFile(path+uploadedSuffix, nil); err != nil {
		return fmt.Errorf("mark an uploaded pack: %w", err)
	}
	return nil
}

// drop stops serving packs that have been compacted for an hour, and deletes
// them.
func (u *uploader) drop(ctx context.Context) error {
	if err := u.take(ctx); err != nil {
		return err
	}
	defer u.give()
	ctx, task := u.progress.Begin(ctx, "look for compacted packs")
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
			errs = errors.Join(errs, u.ing.packs.drop(lp))
			u.ing.metrics.packsDropped.Inc()
		}
	}
	return errs
}

// Upload makes everything that is sealed part of the long-term store, and
// returns when it is.
func (ing *Ingester) Upload(ctx context.Context) error {
	if ing.uploads == nil {
		return nil
	}
	return ing.uploads.sync(ctx)
}

// Owes counts the windows of which samples are not in the long-term store.
func (ing *Ingester) Owes() int {
	if ing.uploads == nil {
		return 0
	}
	return len(ing.uploads.owed(nil))
}

// removeMarkers deletes markers whose packs are gone, as a crash in the middle
// of a deletion leaves them, and those that a crash left half written.
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

// done returns the packs that are uploaded.
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

// drop stops serving one pack and deletes its file.
func (p *packSet) drop(lp *localPack) error {
	_, err := p.removeIf(func(o *localPack) bool { return o == lp })
	return err
}
