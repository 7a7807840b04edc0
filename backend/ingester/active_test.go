package ingester

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// restart stops the ingester as a graceful shutdown does, and opens its directory
// again.
func (b *bench) restart() {
	b.t.Helper()
	if err := b.ing.Flush(); err != nil {
		b.t.Fatal(err)
	}
	if err := b.ing.Close(); err != nil {
		b.t.Fatal(err)
	}
	b.open()
	b.still()
}

// kill is like crash, but the new ingester runs no goroutines.
func (b *bench) kill() {
	b.t.Helper()
	b.crash()
	b.still()
}

// atLimit checks that tenant a has n active series, that samples of these are
// accepted, and that new series are rejected.
func (b *bench) atLimit(name string, n int) {
	b.t.Helper()
	if got := b.ing.SeriesCount("a"); got != n {
		b.t.Errorf("active series = %d, want %d", got, n)
	}
	if out := b.push("a", b.some("new", 5)...); reasons(out)["max_active_series"] != 5 {
		b.t.Errorf("new series: %+v, want all rejected", out)
	}
	out := b.push("a", b.some(name, n)...)
	if out.Samples != n || out.Created != nil || out.Rejections != nil {
		b.t.Errorf("existing series: %d samples, %d created, %v", out.Samples, len(out.Created), reasons(out))
	}
	if got := b.ing.SeriesCount("a"); got != n {
		b.t.Errorf("active series after they were sent again = %d, want %d", got, n)
	}
	b.ing.counted(b.t)
}

// TestActiveAfterRestart checks that however the process ends, the active series
// are known afterwards, counted once each, and cannot be displaced by new series.
func TestActiveAfterRestart(t *testing.T) {
	const n = 1200 // enough for an index
	for name, again := range map[string]func(*bench){
		"graceful":       (*bench).restart,
		"graceful twice": func(b *bench) { b.restart(); b.restart() },
		"kill -9":        (*bench).kill,
		"kill -9 after a seal": func(b *bench) {
			if err := b.ing.Flush(); err != nil {
				t.Fatal(err)
			}
			b.kill()
		},
		"kill -9 with some in the log, some sealed": func(b *bench) {
			if err := b.ing.Flush(); err != nil {
				t.Fatal(err)
			}
			b.set(b.now.Add(time.Minute))
			b.push("a", b.some("m", n/2)...)
			b.ing.saveActive()
			b.kill()
			if got := b.ing.seriesCount(); got != n/2 {
				t.Errorf("replay restored %d series, want %d", got, n/2)
			}
		},
		"several restarts and kills": func(b *bench) { b.restart(); b.push("a", b.some("m", n/3)...); b.kill(); b.restart(); b.kill() },
	} {
		t.Run(name, func(t *testing.T) {
			b := atWindowStart(t)
			b.t = t
			b.lim.MaxActiveSeries = n
			b.push("a", b.some("m", n)...)
			b.set(b.now.Add(time.Minute))
			again(b)
			b.ing.counted(t)
			b.atLimit("m", n)
		})
	}
}

// TestReservationsExpire checks that a reservation ends half an hour after the first
// start that found the series; further starts and a clock that is set back do not
// extend it.
func TestReservationsExpire(t *testing.T) {
	for name, again := range map[string]func(*bench){"graceful": (*bench).restart, "kill -9": (*bench).kill} {
		t.Run(name, func(t *testing.T) {
			b := atWindowStart(t)
			b.lim.MaxActiveSeries = 10
			b.push("a", b.some("m", 10)...)
			b.restart()
			b.set(b.now.Add(10 * time.Minute)) // only the start saves the list
			again(b)
			b.set(b.now.Add(15 * time.Minute))
			again(b)
			if n := b.ing.SeriesCount("a"); n != 10 {
				t.Errorf("%d active series after 25 minutes, want 10", n)
			}
			b.tick(4 * time.Minute)
			if n := b.ing.SeriesCount("a"); n != 10 {
				t.Errorf("%d active series after 29 minutes, want 10", n)
			}
			b.tick(3 * time.Minute)
			if n := b.ing.SeriesCount("a"); n != 0 {
				t.Errorf("%d active series after 32 minutes, want 0", n)
			}
			if out := b.push("a", b.some("new", 10)...); out.Samples != 10 || len(out.Created) != 10 {
				t.Errorf("new series: %+v, want all accepted", out)
			}
			b.ing.counted(t)
		})
	}
	t.Run("expired but not swept", func(t *testing.T) {
		b := atWindowStart(t)
		b.lim.MaxActiveSeries = 10
		b.push("a", b.some("m", 10)...)
		b.restart()
		b.set(b.now.Add(31 * time.Minute))
		if out := b.push("a", b.some("m", 1)...); len(out.Created)+reasons(out)["max_active_series"] != 1 {
			t.Errorf("series whose reservation expired: %+v", out)
		}
		b.ing.counted(t)
	})
	t.Run("clock set back while the ingester is down", func(t *testing.T) {
		b := atWindowStart(t)
		b.push("a", b.some("m", 10)...)
		b.restart()
		b.set(b.now.Add(-3 * time.Hour))
		b.restart()
		if n := b.ing.SeriesCount("a"); n != 10 {
			t.Errorf("%d active series, want 10", n)
		}
		b.tick(31 * time.Minute)
		if n := b.ing.SeriesCount("a"); n != 0 {
			t.Errorf("%d active series half an hour later, want 0", n)
		}
	})
	t.Run("clock set back while the ingester runs", func(t *testing.T) {
		b := atWindowStart(t)
		b.push("a", b.some("m", 10)...)
		b.restart()
		b.set(b.now.Add(-24 * time.Hour))
		b.tick(2 * time.Minute)
		b.tick(31 * time.Minute)
		if n := b.ing.SeriesCount("a"); n != 0 {
			t.Errorf("%d active series, want 0", n)
		}
	})
}

// TestReservedMemory checks that the memory reserved for series counts as used
// for new series, and not for the reserved series themselves.
func TestReservedMemory(t *testing.T) {
	const n = 3000
	b := atWindowStart(t)
	b.push("a", b.some("m", n)...)
	took := b.ing.account.bytes.Load()
	b.memory = took * 100 / 81 // the reservations use some memory too
	b.restart()
	if held := b.ing.account.held.Load(); held < took*7/10 || held > took*13/10 {
		t.Errorf("%d bytes are reserved for series that used %d", held, took)
	}
	if b.ing.filled(50) {
		t.Errorf("%d of %d bytes are used, want less than half", b.ing.account.bytes.Load(), b.memory)
	}
	b.ing.counted(t)
	if out := b.push("a", b.some("new", 5)...); reasons(out)["instance_memory"] != 5 {
		t.Errorf("new series of the tenant with most memory: %+v, want all rejected", out)
	}
	if out := b.push("b", b.some("new", 5)...); out.Samples != 5 {
		t.Errorf("new series of another tenant: %+v, want all accepted", out)
	}
	if out := b.push("a", b.some("m", n)...); out.Samples != n || out.Created != nil {
		t.Errorf("existing series: %d samples, %v", out.Samples, reasons(out))
	}
	if held := b.ing.account.held.Load(); held != 0 {
		t.Errorf("%d bytes are still reserved for series that returned", held)
	}
	b.ing.counted(t)
	b.memory = took // more than is available for new series
	b.restart()
	if out := b.push("b", b.some("more", 5)...); reasons(out)["instance_memory"] != 5 {
		t.Errorf("new series of any tenant: %+v, want all rejected", out)
	}
	b.tick(31 * time.Minute)
	if out := b.push("b", b.some("more", 5)...); out.Samples != 5 || b.ing.account.held.Load() != 0 {
		t.Errorf("new series after the reservations expired: %+v, %d bytes reserved", out, b.ing.account.held.Load())
	}
}

// TestReservationsOfSeriesRemovedEarly checks that series removed early because memory was short
// stay reserved for the rest of their time, also after a restart, and that no memory is reserved
// for them.
func TestReservationsOfSeriesRemovedEarly(t *testing.T) {
	b := atWindowStart(t)
	b.lim.MaxActiveSeries = 110
	b.push("a", b.some("m", 100)...)
	if err := b.ing.Flush(); err != nil {
		t.Fatal(err)
	}
	b.fill(85)
	b.set(b.now.Add(6 * time.Minute))
	stay := b.some("stay", 10)
	b.ing.opts.MemoryBytes = 0
	b.push("a", stay...)
	b.fill(85)
	b.tick(time.Minute)
	if n := b.ing.seriesCount(); n != 10 {
		t.Fatalf("%d series are left, want 10", n)
	}
	b.restart()
	if held := b.ing.account.held.Load(); held <= 0 || held > 10*1200 {
		t.Errorf("%d bytes are reserved, want some, and at most 12,000", held)
	}
	b.push("a", stay...)
	if n := b.ing.account.held.Load(); n != 0 {
		t.Errorf("%d bytes are reserved for series that were removed early, want 0", n)
	}
	if n := b.ing.SeriesCount("a"); n != 110 {
		t.Errorf("%d active series, want 110", n)
	}
	if out := b.push("a", b.some("m", 100)...); out.Samples != 100 || out.Created != nil {
		t.Errorf("series that were removed early: %d samples, %v", out.Samples, reasons(out))
	}
}

// TestActiveUnusual tests a deleted tenant, a lowered limit, idle series, and equal
// hashes.
func TestActiveUnusual(t *testing.T) {
	t.Run("deleted tenant", func(t *testing.T) {
		b := atWindowStart(t)
		b.push("a", b.some("m", 10)...)
		b.push("b", b.some("m", 10)...)
		if err := errors.Join(b.ing.Flush(), b.ing.Close()); err != nil {
			t.Fatal(err)
		}
		o := b.options()
		o.Deleted = func(_ context.Context, id tenant.ID) (bool, error) {
			if id == "b" {
				return true, errors.New("down")
			}
			return true, nil
		}
		var err error
		if b.ing, err = Open(context.Background(), o); err != nil {
			t.Fatal(err)
		}
		if gone, unknown := b.ing.SeriesCount("a"), b.ing.SeriesCount("b"); gone != 0 || unknown != 10 {
			t.Errorf("%d active series of the deleted tenant, want 0; %d of a tenant that may be deleted, want 10", gone, unknown)
		}
	})
	t.Run("limit lowered", func(t *testing.T) {
		b := atWindowStart(t)
		b.push("a", b.some("m", 100)...)
		b.lim.MaxActiveSeries = 10
		b.restart()
		b.atLimit("m", 100)
	})
	t.Run("idle and sealed, crash before the list was saved", func(t *testing.T) {
		b := atWindowStart(t)
		b.push("a", b.some("old", 10)...)
		b.set(b.now.Add(29 * time.Minute))
		b.push("a", b.some("m", 10)...)
		path := filepath.Join(b.dir, activeFile)
		b.ing.saveActive()
		list, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b.set(b.now.Add(4 * time.Minute))
		if err := b.ing.Flush(); err != nil {
			t.Fatal(err)
		}
		if n := b.ing.SeriesCount("a"); n != 10 {
			t.Fatalf("%d active series, want 10", n)
		}
		if err := os.WriteFile(path, list, 0o600); err != nil {
			t.Fatal(err)
		}
		b.kill()
		if n := b.ing.SeriesCount("a"); n != 20 { // the saved list still has the series that were removed later
			t.Errorf("%d active series, want 20", n)
		}
		b.tick(32 * time.Minute)
		if n := b.ing.SeriesCount("a"); n != 0 {
			t.Errorf("%d active series half an hour later, want 0", n)
		}
	})
	t.Run("idle before the list was saved", func(t *testing.T) {
		b := atWindowStart(t)
		b.push("a", b.some("old", 10)...)
		b.set(b.now.Add(31 * time.Minute))
		b.push("a", b.some("m", 5)...)
		b.ing.saveActive() // the old series are idle, but still in the head, because they are not sealed
		path := filepath.Join(b.dir, activeFile)
		list, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(b.ing.Flush(), os.WriteFile(path, list, 0o600)); err != nil {
			t.Fatal(err)
		}
		b.kill()
		if n := b.ing.SeriesCount("a"); n != 5 {
			t.Errorf("%d active series, want 5", n)
		}
	})
	t.Run("equal hashes", func(t *testing.T) {
		b := atWindowStart(t)
		same := b.some("m", 3)
		for i := range same {
			same[i].Hash = 7
		}
		b.lim.MaxActiveSeries = 3
		b.push("a", same...)
		b.restart()
		if n := b.ing.SeriesCount("a"); n != 3 {
			t.Errorf("%d active series, want 3", n)
		}
		for i := range same {
			if out := b.push("a", same[i]); out.Samples != 1 || out.Created != nil {
				t.Errorf("series %d: %+v", i, out)
			}
		}
		b.ing.counted(t)
	})
}

// TestActiveSaved checks that the list is saved every five minutes, and that a
// failure to save it does not prevent a seal.
func TestActiveSaved(t *testing.T) {
	b := atWindowStart(t)
	path := filepath.Join(b.dir, activeFile)
	saved := func() int {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, lists, err := decodeActive(data)
		if err != nil || len(lists) != 1 {
			t.Fatalf("%d lists, want 1; error %v", len(lists), err)
		}
		return len(lists[0].series)
	}
	b.push("a", b.some("m", 10)...)
	b.ing.saveActive()
	b.push("a", b.some("n", 10)...)
	b.set(b.now.Add(saveActiveEvery - time.Second))
	if b.ing.saveActiveDue(); saved() != 10 {
		t.Errorf("%d series saved after %v, want 10", saved(), saveActiveEvery-time.Second)
	}
	b.set(b.now.Add(time.Second))
	if b.ing.saveActiveDue(); saved() != 20 {
		t.Errorf("%d series saved after %v, want 20", saved(), saveActiveEvery)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := b.ing.Flush(); err != nil {
		t.Errorf("seal without a saved list: %v", err)
	}
}

// TestActiveUnderPushes saves lists concurrently with pushes, for the race
// detector.
func TestActiveUnderPushes(t *testing.T) {
	b := newStillBench(t)
	b.push("a", b.some("m", 3000)...)
	done := make(chan error, 1)
	entries := make([][]series.Entry, 40)
	for i := range entries {
		entries[i] = b.some(fmt.Sprint("n", i), 50)
	}
	go func() {
		for _, e := range entries {
			if _, err := b.ing.Push(context.Background(), &series.Batch{Tenant: "a", Entries: e}); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for running := true; running; {
		select {
		case err := <-done:
			if running = false; err != nil {
				t.Fatal(err)
			}
		default:
			b.ing.saveActive()
		}
	}
	b.kill()
	b.ing.counted(t)
	if n := b.ing.SeriesCount("a"); n != 5000 {
		t.Errorf("%d active series, want 5000", n)
	}
}
