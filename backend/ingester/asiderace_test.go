package ingester

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

// TestAsideTenantNames checks that every valid tenant ID works as a directory name.
func TestAsideTenantNames(t *testing.T) {
	for _, id := range []tenant.ID{"a", "..a", ".a", "A", "-", "...", tenant.ID(strings.Repeat("!", tenant.MaxIDLength)), tenant.ID(strings.Repeat("(*')", tenant.MaxIDLength/4)),
		"." + tenant.ID(strings.Repeat("_", tenant.MaxIDLength-1))} {
		b := newBench(t)
		now := b.now.UnixMilli()
		bad := impossible("bad")
		b.push(id, entry(bad, f(now, 1)))
		b.push("other", entry(metric("good"), f(now, 1)))
		b.flush()
		b.crash()
		same(t, string(id), b.read(id), map[string][]series.Sample{bad.String(): {f(now, 1)}})
		if n := len(asideFiles(t, b.dir)); n != 1 {
			t.Errorf("tenant %s: %d files, want 1", id, n)
		}
	}
}

// TestAsideRemovedByHand checks that when files or their directory were removed, reads
// fail until an operator drops the series set aside, and that nothing else is affected.
func TestAsideRemovedByHand(t *testing.T) {
	for name, what := range map[string]string{"files": "aside/a/*", "directory": "aside/a", "all": "aside"} {
		t.Run(name, func(t *testing.T) {
			b, l := withLongTerm(t)
			b.halt()
			now := b.now.UnixMilli()
			b.push("a", entry(impossible("bad"), f(now, 1)))
			b.flush()
			upload(t, b)
			paths, err := filepath.Glob(filepath.Join(b.dir, what))
			if err != nil || len(paths) == 0 {
				t.Fatalf("files of the series set aside: %q, %v", paths, err)
			}
			for _, p := range paths {
				if err := os.RemoveAll(p); err != nil {
					t.Fatal(err)
				}
			}
			if _, _, err := b.ing.Select(context.Background(), series.Request{Tenant: "a", MinTime: now, MaxTime: now}); err == nil {
				t.Error("read without the file succeeded")
			}
			l.drop("a")
			b.set(b.now.Add(asideReadEvery))
			b.push("b", entry(metric("good"), f(now, 1)))
			b.flush()
			before := len(l.uploaded())
			upload(t, b)
			if len(l.uploaded()) != before+1 || len(l.records()) != 0 {
				t.Errorf("%d uploads, records %v; want one upload and no records", len(l.uploaded())-before, l.records())
			}
			if _, _, err := b.ing.Select(context.Background(), series.Request{Tenant: "a", MinTime: now, MaxTime: now}); err != nil {
				t.Errorf("read after the files were dropped: %v", err)
			}
		})
	}
}

// hookedDisk calls written after a file was written and before it is served.
type hookedDisk struct {
	osDisk
	written func(path string)
}

func (d hookedDisk) Write(path string, data []byte) error {
	err := d.osDisk.Write(path, data)
	d.written(path)
	return err
}

// TestAsideRemovedDuringWrite checks that removing a file concurrently with adding
// samples to it does not remove the added samples.
func TestAsideRemovedDuringWrite(t *testing.T) {
	b := newBench(t)
	b.halt()
	now := b.now.UnixMilli()
	bad := impossible("bad")
	b.push("a", entry(bad, f(now, 1)))
	b.flush()
	old := b.ing.aside.all()[0]
	removed := make(chan error, 1)
	b.ing.aside.disk = hookedDisk{written: func(string) {
		started := make(chan struct{})
		go func() {
			close(started)
			removed <- b.ing.aside.remove(old)
		}()
		<-started
		select { // it either completes now or waits for the writer
		case err := <-removed:
			removed <- err
		case <-time.After(100 * time.Millisecond):
		}
	}}
	b.push("a", entry(bad, f(now+1, 2)))
	b.flush()
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
	got := b.read("a")[bad.String()]
	if len(got) == 0 || got[len(got)-1] != f(now+1, 2) {
		t.Errorf("read %v: the new sample was acknowledged and sealed, and is missing", got)
	}
}

// hookedLongTerm calls functions before calls of Intend and ClearAside.
type hookedLongTerm struct {
	*longTerm
	intend func()
	clear  func()
}

func (l hookedLongTerm) Intend(ctx context.Context, ingester string, windows map[store.Window]schema.Intent) error {
	if l.intend != nil {
		l.intend()
	}
	return l.longTerm.Intend(ctx, ingester, windows)
}

func (l hookedLongTerm) ClearAside(ctx context.Context, list []store.AsideOf) error {
	l.clear()
	return l.longTerm.ClearAside(ctx, list)
}

// TestAsideRecordOutlivesRetry runs a retry of series set aside between the steps of an
// upload. It checks that the record of a series that is accepted into a pack stays until
// the pack is uploaded.
func TestAsideRecordOutlivesRetry(t *testing.T) {
	b, l := withLongTerm(t)
	now := b.now.UnixMilli()
	b.halt()
	chunks, err := series.Encode([]series.Sample{f(now, 1)})
	if err != nil {
		t.Fatal(err)
	}
	w := store.WindowOf(now)
	if err := b.ing.aside.keep(b.ing.asideHeader("a", metric("late"), w, "as a test"), chunks); err != nil {
		t.Fatal(err)
	}
	upload(t, b)
	if len(l.records()) != 1 || len(l.openIntents()) != 0 {
		t.Fatalf("records %v, intents %v", l.records(), l.openIntents())
	}
	cleared := false
	h := hookedLongTerm{longTerm: l, clear: func() {
		cleared = true
		if len(l.uploaded()) < 2 {
			t.Errorf("the record is cleared before the pack is uploaded: %d uploads, intents %v", len(l.uploaded()), l.openIntents())
		}
	}}
	h.intend = func() {
		if err := b.ing.retryAside(context.Background()); err != nil {
			t.Error(err)
		}
	}
	b.ing.uploads.long = h
	b.push("b", entry(metric("good"), f(now-2*series.WindowMillis, 1))) // another window, which needs an intent
	b.flush()
	for range 3 {
		upload(t, b)
	}
	if !cleared || len(l.records()) != 0 {
		t.Errorf("ClearAside was called: %v; records %v, want none", cleared, l.records())
	}
}

// TestSweepLooksUpTenantsOnce checks that a sweep that cannot find out which tenants were
// deleted looks up each tenant once, and not once per file: seals wait for the sweep.
func TestSweepLooksUpTenantsOnce(t *testing.T) {
	b := newBench(t)
	now := b.now.UnixMilli()
	for _, name := range []string{"x", "y", "z"} {
		b.push("a", entry(impossible(name), f(now, 1)))
	}
	b.flush()
	asked := 0
	b.ing.opts.Deleted = func(context.Context, tenant.ID) (bool, error) { asked++; return false, errors.New("down") }
	if err := b.ing.Sweep(); err == nil {
		t.Error("Sweep returned no error while the deletions of tenants could not be read")
	}
	if asked != 1 {
		t.Errorf("%d lookups, want 1", asked)
	}
}
