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

// restart stops the ingester as a shutdown does, and opens its directory again.
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

// kill is crash without what an ingester does by itself afterwards.
func (b *bench) kill() {
	b.t.Helper()
	b.crash()
	b.still()
}

// atLimit checks that a tenant has n active series that may all be sent, and that
// new ones are rejected.
func (b *bench) atLimit(name string, n int) {
	b.t.Helper()
	if got := b.ing.SeriesCount("a"); got != n {
		b.t.Errorf("%d active series, want %d", got, n)
	}
	if out := b.push("a", b.some("new", 5)...); reasons(out)["max_active_series"] != 5 {
		b.t.Errorf("new series: %+v", out)
	}
	out := b.push("a", b.some(name, n)...)
	if out.Samples != n || out.Created != nil || out.Rejections != nil {
		b.t.Errorf("known series: %d samples, %d created, %v", out.Samples, len(out.Created), reasons(out))
	}
	if got := b.ing.SeriesCount("a"); got != n {
		b.t.Errorf("%d active series after they were sent again, want %d", got, n)
	}
	b.ing.counted(b.t)
}

// TestActiveAfterRestart: whatever ends the process, the active series are known
// afterwards, each counted once, and new ones do not take their places.
func TestActiveAfterRestart(t *testing.T) {
	const n = 1200 // with an index
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
				t.Errorf("replay brought back %d series", got)
			}
		},
		"all ways": func(b *bench) { b.restart(); b.push("a", b.some("m", n/3)...); b.kill(); b.restart(); b.kill() },
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

// TestActivePlacesEnd: a place ends half an hour after the first start that found
// it; further starts, and a clock that was set back, do not extend it.
func TestActivePlacesEnd(t *testing.T) {
	for name, again := range map[string]func(*bench){"graceful": (*bench).restart, "kill -9": (*bench).kill} {
		t.Run(name, func(t *testing.T) {
			b := atWindowStart(t)
			b.lim.MaxActiveSeries = 10
			b.push("a", b.some("m", 10)...)
			b.restart()
			b.set(b.now.Add(10 * time.Minute)) // and nothing is saved but by the start
			again(b)
			b.set(b.now.Add(15 * time.Minute))
			again(b)
			if n := b.ing.SeriesCount("a"); n != 10 {
				t.Errorf("%d active series after 25 minutes", n)
			}
			b.tick(4 * time.Minute)
			if n := b.ing.SeriesCount("a"); n != 10 {
				t.Errorf("%d active series after 29 minutes", n)
			}
			b.tick(3 * time.Minute)
			if n := b.ing.SeriesCount("a"); n != 0 {
				t.Errorf("%d active series after 32 minutes", n)
			}
			if out := b.push("a", b.some("new", 10)...); out.Samples != 10 || len(out.Created) != 10 {
				t.Errorf("new series: %+v", out)
			}
			b.ing.counted(t)
		})
	}
	t.Run("over but not swept", func(t *testing.T) {
		b := atWindowStart(t)
		b.lim.MaxActiveSeries = 10
		b.push("a", b.some("m", 10)...)
		b.restart()
		b.set(b.now.Add(31 * time.Minute))
		if out := b.push("a", b.some("m", 1)...); len(out.Created)+reasons(out)["max_active_series"] != 1 {
			t.Errorf("a series whose place is over: %+v", out)
		}
		b.ing.counted(t)
	})
	t.Run("clock set back while it is down", func(t *testing.T) {
		b := atWindowStart(t)
		b.push("a", b.some("m", 10)...)
		b.restart()
		b.set(b.now.Add(-3 * time.Hour))
		b.restart()
		if n := b.ing.SeriesCount("a"); n != 10 {
			t.Errorf("%d active series", n)
		}
		b.tick(31 * time.Minute)
		if n := b.ing.SeriesCount("a"); n != 0 {
			t.Errorf("%d active series half an hour later", n)
		}
	})
	t.Run("clock set back while it runs", func(t *testing.T) {
		b := atWindowStart(t)
		b.push("a", b.some("m", 10)...)
		b.restart()
		b.set(b.now.Add(-24 * time.Hour))
		b.tick(2 * time.Minute)
		b.tick(31 * time.Minute)
		if n := b.ing.SeriesCount("a"); n != 0 {
			t.Errorf("%d active series", n)
		}
	})
}

// TestActiveHoldsMemory: what the series of places will need is used for new
// series, and not for those that come back.
func TestActiveHoldsMemory(t *testing.T) {
	const n = 3000
	b := atWindowStart(t)
	b.push("a", b.some("m", n)...)
	took := b.ing.account.bytes.Load()
	b.memory = took * 100 / 81 // their places take some, too
	b.restart()
	if held := b.ing.account.held.Load(); held < took*7/10 || held > took*13/10 {
		t.Errorf("%d bytes are held for series that took %d", held, took)
	}
	if b.ing.filled(50) {
		t.Errorf("%d of %d bytes are used", b.ing.account.bytes.Load(), b.memory)
	}
	b.ing.counted(t)
	if out := b.push("a", b.some("new", 5)...); reasons(out)["instance_memory"] != 5 {
		t.Errorf("new series of the tenant that has the memory: %+v", out)
	}
	if out := b.push("b", b.some("new", 5)...); out.Samples != 5 {
		t.Errorf("new series of another: %+v", out)
	}
	if out := b.push("a", b.some("m", n)...); out.Samples != n || out.Created != nil {
		t.Errorf("known series: %d samples, %v", out.Samples, reasons(out))
	}
	if held := b.ing.account.held.Load(); held != 0 {
		t.Errorf("%d bytes are held for series that are back", held)
	}
	b.ing.counted(t)
	b.memory = took // more than is there for new ones
	b.restart()
	if out := b.push("b", b.some("more", 5)...); reasons(out)["instance_memory"] != 5 {
		t.Errorf("new series of any tenant: %+v", out)
	}
	b.tick(31 * time.Minute)
	if out := b.push("b", b.some("more", 5)...); out.Samples != 5 || b.ing.account.held.Load() != 0 {
		t.Errorf("new series once the places are over: %+v, %d bytes held", out, b.ing.account.held.Load())
	}
}

// TestActiveEarlyLeavers: who left early because memory was short has its place
// after a restart, for the rest of its time, and holds no memory.
func TestActiveEarlyLeavers(t *testing.T) {
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
		t.Fatalf("%d series are left", n)
	}
	b.restart()
	if held := b.ing.account.held.Load(); held <= 0 || held > 10*1200 {
		t.Errorf("%d bytes are held", held)
	}
	b.push("a", stay...)
	if n := b.ing.account.held.Load(); n != 0 {
		t.Errorf("%d bytes are held for series that left early", n)
	}
	if n := b.ing.SeriesCount("a"); n != 110 {
		t.Errorf("%d active series", n)
	}
	if out := b.push("a", b.some("m", 100)...); out.Samples != 100 || out.Created != nil {
		t.Errorf("series that left early: %d samples, %v", out.Samples, reasons(out))
	}
}

// TestActiveUnusual: tenants and limits that changed, series that left, and
// equal hashes.
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
			t.Errorf("%d active series of the deleted tenant, %d of one that may be there", gone, unknown)
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
			t.Fatalf("%d active series", n)
		}
		if err := os.WriteFile(path, list, 0o600); err != nil {
			t.Fatal(err)
		}
		b.kill()
		if n := b.ing.SeriesCount("a"); n != 20 { // for some time: the list does not say that they left
			t.Errorf("%d active series", n)
		}
		b.tick(32 * time.Minute)
		if n := b.ing.SeriesCount("a"); n != 0 {
			t.Errorf("%d active series half an hour later", n)
		}
	})
	t.Run("idle before the list was saved", func(t *testing.T) {
		b := atWindowStart(t)
		b.push("a", b.some("old", 10)...)
		b.set(b.now.Add(31 * time.Minute))
		b.push("a", b.some("m", 5)...)
		b.ing.saveActive() // they are in the head: they are not sealed
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
			t.Errorf("%d active series", n)
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
			t.Errorf("%d active series", n)
		}
		for i := range same {
			if out := b.push("a", same[i]); out.Samples != 1 || out.Created != nil {
				t.Errorf("series %d: %+v", i, out)
			}
		}
		b.ing.counted(t)
	})
}

// TestActiveSaved: the list is saved every five minutes, and when that fails a
// seal goes on.
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
			t.Fatalf("%d lists: %v", len(lists), err)
		}
		return len(lists[0].series)
	}
	b.push("a", b.some("m", 10)...)
	b.ing.saveActive()
	b.push("a", b.some("n", 10)...)
	b.set(b.now.Add(saveActiveEvery - time.Second))
	if b.ing.saveActiveDue(); saved() != 10 {
		t.Errorf("%d series after %v", saved(), saveActiveEvery-time.Second)
	}
	b.set(b.now.Add(time.Second))
	if b.ing.saveActiveDue(); saved() != 20 {
		t.Errorf("%d series after %v", saved(), saveActiveEvery)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := b.ing.Flush(); err != nil {
		t.Errorf("a seal whose list cannot be saved: %v", err)
	}
}

// TestActiveUnderPushes saves lists while series are pushed, for the race detector.
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
		t.Errorf("%d active series", n)
	}
}
