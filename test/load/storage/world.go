package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/compactor"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/objects/dir"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/rows/pebble"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/test/load/counted"
)

const firstDay = 20_000

// world is a store in a directory of its own, with its tenants.
type world struct {
	dir     string
	count   *counted.Counter
	rows    rows.Store
	objects *dir.Store
	store   *store.Store
	tenants []tenant.ID
	now     time.Time
}

func newWorld(parent, name string) (*world, error) {
	w := &world{dir: filepath.Join(parent, name), count: &counted.Counter{}}
	if err := os.MkdirAll(w.dir, 0o755); err != nil {
		return nil, err
	}
	db, err := pebble.Open(filepath.Join(w.dir, "rows"), pebble.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	w.rows = db
	if w.objects, err = dir.Open(filepath.Join(w.dir, "objects"), "l0", "l1"); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return w, w.reopen()
}

// reopen opens the store again, with empty caches.
func (w *world) reopen() (err error) {
	if w.store != nil {
		if err := w.store.Close(); err != nil {
			return err
		}
	}
	ix, err := index.New(index.Options{Rows: counted.Rows{Store: w.rows, Counter: w.count}, Now: func() time.Time { return w.now }})
	if err != nil {
		return err
	}
	w.store, err = store.Open(store.Options{
		Index: ix, Objects: counted.Objects{Store: w.objects, Counter: w.count}, Scratch: filepath.Join(w.dir, "scratch"),
		Retention: func(context.Context, tenant.ID) (time.Duration, error) { return 0, nil },
		Deleted:   func(context.Context, tenant.ID) (bool, error) { return false, nil },
		Now:       func() time.Time { return w.now },
	})
	return err
}

func (w *world) close() error {
	return errors.Join(w.store.Close(), w.rows.Close(), w.objects.Close(), os.RemoveAll(w.dir))
}

// upload seals and uploads all windows of a run for each ingester.
func (w *world) upload(ctx context.Context, t tenant.ID, r *run) error {
	w.tenants = append(w.tenants, t)
	end := (firstDay + int64(r.days)) * series.DayMillis
	for start := int64(firstDay) * series.DayMillis; start < end; start += series.WindowMillis {
		if err := w.uploadWindow(ctx, t, r, start); err != nil {
			return err
		}
	}
	w.now = time.UnixMilli(end).Add(6 * time.Hour)
	return nil
}

func (w *world) uploadWindow(ctx context.Context, t tenant.ID, r *run, start int64) error {
	w.now = time.UnixMilli(start + series.WindowMillis)
	type sealing struct {
		id   ulid.ULID
		path string
		w    *pack.Writer
	}
	var out []sealing
	for i := range r.ingesters {
		s := sealing{id: ulid.Make()}
		s.path = filepath.Join(w.dir, "sealed", s.id.String()+pack.Suffix)
		var err error
		if s.w, err = pack.Create(s.path, pack.Options{ID: s.id, Source: fmt.Sprintf("ingester-%d", i)}); err != nil {
			return err
		}
		if err := s.w.StartSection(t, series.Day(start), nil); err != nil {
			return err
		}
		out = append(out, s)
	}
	err := r.window(start, func(ingester, i int, chunks []series.Chunk) error {
		return out[ingester].w.Add(r.series[i].labels, chunks)
	})
	if err != nil {
		return err
	}
	for i, s := range out {
		info, err := s.w.Close()
		if err != nil {
			return err
		}
		crc, err := pack.FileCRC(s.path)
		if err != nil {
			return err
		}
		windows, ingester := store.WindowsOf(info), fmt.Sprintf("ingester-%d", i)
		err = w.store.Upload(ctx, store.Upload{Path: s.path, Object: store.L0Object(windows, ingester, s.id), CRC: crc, Info: info,
			Ingester: ingester, Sealed: w.now.UnixMilli(), Windows: windows, Cleared: windows})
		if err != nil {
			return err
		}
		if err := os.Remove(s.path); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) compact(ctx context.Context) (compactor.Report, error) {
	c := compactor.New(compactor.Options{ID: "load", Store: w.store, Now: func() time.Time { return w.now },
		Retention:     func(context.Context, tenant.ID) (time.Duration, error) { return 0, nil },
		Tenants:       func(context.Context) (active, deleted []tenant.ID, err error) { return w.tenants, nil, nil },
		KeepDeletions: func(tenant.ID) time.Duration { return 28 * 24 * time.Hour }})
	return c.Compact(ctx, compactor.All)
}
