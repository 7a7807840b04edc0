package control

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	rowsmemory "github.com/palliumhq/pallium/backend/rows/memory"
	"github.com/palliumhq/pallium/test/kit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

// flaky is a store with injected failures.
type flaky struct {
	rows.Store
	mu   sync.Mutex
	fail func(op, key string) error
}

func (f *flaky) set(fail func(op, key string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

func (f *flaky) check(op, key string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail == nil {
		return nil
	}
	return f.fail(op, key)
}

func (f *flaky) ReadRows(ctx context.Context, ranges []rows.Range, flt rows.Filter, visit func(rows.Row) bool) error {
	for _, r := range ranges {
		if err := f.check("read", r.Start); err != nil {
			return err
		}
	}
	return f.Store.ReadRows(ctx, ranges, flt, visit)
}

func (f *flaky) CheckAndMutate(ctx context.Context, key string, c rows.Condition, then, otherwise []rows.Mutation) (bool, error) {
	if err := f.check("write", key); err != nil {
		return false, err
	}
	return f.Store.CheckAndMutate(ctx, key, c, then, otherwise)
}

// MutateRows returns an error for each row for which check returns one.
func (f *flaky) MutateRows(ctx context.Context, ms []rows.RowMutation) []error {
	errs, failed := make([]error, len(ms)), false
	for i, m := range ms {
		if errs[i] = f.check("write", m.Key); errs[i] != nil {
			failed = true
			continue
		}
		errs[i] = f.Mutate(ctx, m)
	}
	if !failed {
		return nil
	}
	return errs
}

var errDown = errors.New("store is down")

func down(string, string) error { return errDown }

type world struct {
	t     *testing.T
	store *flaky
	clock *kit.Clock
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, err := rowsmemory.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &world{t: t, store: &flaky{Store: s}, clock: kit.NewClock(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))}
}

func pepper(t *testing.T, b byte) apikey.Pepper {
	t.Helper()
	p, err := apikey.NewPepper(bytes.Repeat([]byte{b}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// open returns a Control of a new process on the store.
func (w *world) open() *Control {
	w.t.Helper()
	c, err := Open(ctx, Options{Store: w.store, Pepper: pepper(w.t, 'p'), Now: w.clock.Now})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// issue creates the tenant if it does not exist, and a key with rights to read and write
// it.
func issue(t *testing.T, c *Control, id tenant.ID) (Token, apikey.Key) {
	t.Helper()
	if _, err := c.CreateTenant(ctx, Tenant{ID: id}); err != nil && !IsKind(err, Conflict) {
		t.Fatal(err)
	}
	tk, key, err := c.IssueToken(ctx, TokenRequest{Name: "test", Tenant: id, Scopes: []tenant.Scope{tenant.MetricsWrite, tenant.MetricsRead}})
	if err != nil {
		t.Fatal(err)
	}
	return tk, key
}

func wantKind(t *testing.T, what string, err error, k Kind) {
	t.Helper()
	if !IsKind(err, k) {
		t.Errorf("%s: got %v, want an error of kind %d", what, err, k)
	}
}

func usable(t *testing.T, c *Control, keyID string) bool {
	t.Helper()
	cred, err := c.Credential(ctx, keyID)
	if errors.Is(err, apikey.ErrNotFound) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	return !cred.Revoked && c.now().Before(cred.ExpiresAt)
}
