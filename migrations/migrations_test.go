package migrations

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/rows/bigtable"
	rowsfaulty "github.com/palliumhq/pallium/backend/rows/faulty"
	rowsmemory "github.com/palliumhq/pallium/backend/rows/memory"
	"github.com/palliumhq/pallium/test/kit/programs"
)

var ctx = context.Background()

// kept is a store that ignores Close.
type kept struct{ rows.Store }

func (kept) Close() error { return nil }

// eachStore runs a test with an empty Pebble store and an empty Bigtable store.
func eachStore(t *testing.T, test func(t *testing.T, env func(holder string) Env)) {
	t.Run("pebble", func(t *testing.T) {
		s, err := rowsmemory.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		test(t, func(holder string) Env {
			return Env{Open: func(context.Context) (rows.Store, error) { return kept{s}, nil }, Holder: holder, Binary: "v1.2.3", Now: time.Now}
		})
	})
	t.Run("bigtable", func(t *testing.T) {
		o := bigtable.Options{Project: "p", Instance: "i", Table: "ix1", Emulator: programs.Bigtable(t)}
		test(t, func(holder string) Env {
			admin, err := bigtable.OpenAdmin(ctx, o)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = admin.Close() })
			return Env{Tables: admin, Open: func(ctx context.Context) (rows.Store, error) { return bigtable.Open(ctx, o) }, Holder: holder, Binary: "v1.2.3", Now: time.Now}
		})
	})
}

func check(t *testing.T, e Env) error {
	t.Helper()
	s, err := e.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	return Check(ctx, s)
}

func TestUp(t *testing.T) {
	eachStore(t, func(t *testing.T, env func(string) Env) {
		e := env("one")
		st, err := Look(ctx, e)
		if err != nil || st.Version != 0 || st.Tables != (e.Tables == nil) || len(st.Steps) != Latest() || st.Steps[0].Done {
			t.Fatalf("Look() at an empty store = %+v, %v", st, err)
		}
		if e.Tables == nil {
			if err := check(t, e); !errors.Is(err, ErrBehind) || !strings.Contains(err.Error(), "pallium migrate up") {
				t.Fatalf("Check() of a store that must be migrated: %v", err)
			}
		}
		for range 2 {
			if err := Up(ctx, e); err != nil {
				t.Fatal(err)
			}
			st, err := Look(ctx, e)
			if err != nil || st.Version != Latest() || !st.Tables || !st.Steps[Latest()-1].Done || st.Binary != "v1.2.3" {
				t.Fatalf("Look() after Up() = %+v, %v", st, err)
			}
			if err := check(t, e); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestNewerStore checks that a store of a newer binary is rejected with an error that says which version to
// run.
func TestNewerStore(t *testing.T) {
	eachStore(t, func(t *testing.T, env func(string) Env) {
		e := env("one")
		if err := Up(ctx, e); err != nil {
			t.Fatal(err)
		}
		s, err := e.Open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		value := []byte(fmt.Sprintf(`{"version": %d, "binary": "v9.8.7"}`, Latest()+1))
		if err := s.Mutate(ctx, rows.RowMutation{Key: stateKey, Mutations: []rows.Mutation{rows.Set(rows.System, versionCell, 0, value)}}); err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{check(t, e), Up(ctx, e)} {
			if !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "v9.8.7") {
				t.Errorf("store of a newer binary: %v, want ErrNewer with the version", err)
			}
		}
	})
}

// TestConcurrentMigrations checks that one of several concurrent runs migrates the store, and that the others
// return ErrLocked or find it migrated.
func TestConcurrentMigrations(t *testing.T) {
	eachStore(t, func(t *testing.T, env func(string) Env) {
		var wg sync.WaitGroup
		errs := make([]error, 4)
		for i := range errs {
			e := env(fmt.Sprint("run ", i))
			wg.Go(func() { errs[i] = Up(ctx, e) })
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else if !errors.Is(err, ErrLocked) {
				t.Errorf("a concurrent run: %v, want ErrLocked", err)
			}
		}
		if won == 0 {
			t.Errorf("no run migrated the store: %v", errs)
		}
		if err := check(t, env("x")); err != nil {
			t.Error(err)
		}
	})
}

// TestInterrupted checks that the next run completes a migration that was killed at any call, after the
// lock has expired.
func TestInterrupted(t *testing.T) {
	eachStore(t, func(t *testing.T, env func(string) Env) {
		e := env("setup")
		if e.Tables != nil {
			if err := e.Tables.Create(ctx); err != nil {
				t.Fatal(err)
			}
		}
		s, err := e.Open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for calls := 0; ; calls++ {
			if err := s.DeletePrefix(ctx, stateKey); err != nil {
				t.Fatal(err)
			}
			plan := &faults.Plan{}
			plan.Fail(calls+1, faults.Killed)
			killed := Env{Holder: "killed", Binary: "v1", Now: time.Now, Open: func(context.Context) (rows.Store, error) {
				return rowsfaulty.Store{Store: kept{s}, Plan: plan}, nil
			}}
			err := Up(ctx, killed)
			if err == nil {
				if calls < 10 {
					t.Fatalf("the migration was complete after %d calls, want 10 or more", calls)
				}
				return
			}
			if !errors.Is(err, faults.ErrInjected) {
				t.Fatalf("after %d calls: %v", calls, err)
			}
			next := Env{Holder: "next", Binary: "v1", Now: func() time.Time { return time.Now().Add(lockLife + time.Second) }, Open: func(context.Context) (rows.Store, error) { return kept{s}, nil }}
			if err := Up(ctx, next); err != nil {
				t.Fatalf("after a kill at call %d: %v", calls, err)
			}
			if err := Check(ctx, s); err != nil {
				t.Fatalf("after a kill at call %d: %v", calls, err)
			}
		}
	})
}
