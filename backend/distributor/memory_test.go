package distributor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wire"
	"github.com/palliumhq/pallium/test/kit"
)

// replicaFunc is a Replica implemented by a function.
type replicaFunc func(context.Context, *wire.Push) (wire.PushResponse, error)

func (f replicaFunc) Push(ctx context.Context, p *wire.Push) (wire.PushResponse, error) {
	return f(ctx, p)
}

func accounted(account *memory.Account, n int, replica func(*ring.Instance) Replica) limited {
	return unlimited(Options{Ring: newZones(n), Replication: 3, Memory: account, PushTimeout: 5 * time.Second,
		Replica: func(in *ring.Instance) (Replica, error) { return replica(in), nil }})
}

// eventuallyHeld waits until ok returns true for the used memory of an account.
func eventuallyHeld(t *testing.T, account *memory.Account, ok func(held int64) bool) {
	t.Helper()
	kit.Until(t, "the account's used memory is as expected", func() bool { return ok(account.Used()) })
}

// TestHeldForIngesters checks that the memory of a push is held until the last ingester has
// responded, and counted once for ingesters with the same push, however the request ends.
func TestHeldForIngesters(t *testing.T) {
	const limit = 64 << 20
	for _, n := range []int{1, 3} { // ingesters per zone; with one, all get the same push
		for name, end := range map[string]error{"responded": nil, "failed": errors.New("down"), "too large": &memory.TooLargeError{Need: 2, Most: 1}} {
			t.Run(fmt.Sprintf("%d ingesters, %s", 3*n, name), func(t *testing.T) {
				account := memory.NewAccount(limit, nil)
				var bodies, calls atomic.Int64
				release := make(chan struct{})
				d := accounted(account, n, func(in *ring.Instance) Replica {
					return replicaFunc(func(_ context.Context, p *wire.Push) (wire.PushResponse, error) {
						if held := account.Used(); held < pushFactor*int64(len(p.Write)) {
							t.Errorf("%d bytes held while pushing %d bytes", held, len(p.Write))
						}
						bodies.Add(int64(len(p.Write)))
						calls.Add(1)
						if in.Zone == "c" {
							<-release
						}
						return wire.PushResponse{}, end
					})
				})
				wait := 10 * time.Second
				if end != nil { // the third zone could still decide
					wait = 200 * time.Millisecond
				}
				ctx, cancel := context.WithTimeout(context.Background(), wait)
				_, err := d.Push(ctx, &series.Batch{Tenant: "t", Entries: manySeries(10_000)})
				if cancel(); (err == nil) != (end == nil) {
					t.Error(err)
				}
				eventuallyHeld(t, account, func(int64) bool { return calls.Load() == int64(3*n) }) // the last calls may begin later
				want := pushFactor * bodies.Load() / 3                                             // for the zone without response, which gets every series
				eventuallyHeld(t, account, func(held int64) bool { return held > 0 && held <= want+want/2 })
				if held := account.Used(); held < want-want/10 {
					t.Errorf("%d bytes held for a zone that gets %d bytes", held, want/pushFactor)
				}
				close(release)
				if err := d.Close(); err != nil || account.Used() != 0 || d.inflight.Load() != 0 {
					t.Errorf("Close = %v, %d bytes still held, %d in flight", err, account.Used(), d.inflight.Load())
				}
			})
		}
	}
}

// TestTooLargePush checks that a request is too large if it is too large for so many
// replicas that a majority cannot have it. If a majority fails for other reasons, the sender
// has to repeat it. No memory is held afterwards.
func TestTooLargePush(t *testing.T) {
	large, down := &memory.TooLargeError{Need: 2, Most: 1}, errors.New("down")
	tests := []struct {
		name    string
		answers [3]error
		large   bool
		ok      bool
	}{
		{"too large for all", [3]error{large, large, large}, true, false},
		{"too large for two", [3]error{large, nil, large}, true, false},
		{"too large for two, one unavailable", [3]error{down, large, large}, true, false},
		{"too large for one", [3]error{large, nil, nil}, false, true},
		{"too large for one, one unavailable", [3]error{large, down, nil}, false, false},
		{"two are full", [3]error{wire.ErrUnavailable, nil, wire.ErrUnavailable}, false, false},
	}
	batches := map[string]func() *series.Batch{
		"series": func() *series.Batch { return &series.Batch{Tenant: "t", Entries: manySeries(100)} },
		"metadata": func() *series.Batch {
			return &series.Batch{Tenant: "t", Metadata: []series.MetricMetadata{{Metric: "up"}}}
		},
	}
	for _, tt := range tests {
		for what, batch := range batches {
			account := memory.NewAccount(64<<20, nil)
			d := accounted(account, 1, func(in *ring.Instance) Replica {
				return replicaFunc(func(context.Context, *wire.Push) (wire.PushResponse, error) {
					return wire.PushResponse{}, tt.answers[in.ID[0]-'0']
				})
			})
			_, err := d.Push(context.Background(), batch())
			var tooLarge *memory.TooLargeError
			if errors.As(err, &tooLarge) != tt.large || (err == nil) != tt.ok || !tt.ok && !tt.large && !errors.Is(err, ErrUnavailable) {
				t.Errorf("%s of %s: %v", tt.name, what, err)
			}
			if err := d.Close(); err != nil || account.Used() != 0 {
				t.Errorf("%s of %s: Close() = %v, %d bytes still held", tt.name, what, err, account.Used())
			}
		}
	}
}

// TestNoMemoryForPushes checks the error of a request without memory for its pushes: it is
// too large if it and its pushes together exceed the whole memory. Otherwise the memory is
// full.
func TestNoMemoryForPushes(t *testing.T) {
	const limit = 16 << 20
	account := memory.NewAccount(limit, nil)
	d := accounted(account, 1, func(*ring.Instance) Replica {
		return replicaFunc(func(context.Context, *wire.Push) (wire.PushResponse, error) { return wire.PushResponse{}, nil })
	})
	batch := func() *series.Batch {
		b := &series.Batch{Tenant: "t"}
		for i := range 1500 {
			b.Entries = append(b.Entries, entryOf(rawLabels("__name__", "up", "i", fmt.Sprint(i), "long", strings.Repeat("x", 1000)), at(nowMillis)))
		}
		return b
	}
	for _, tt := range []struct {
		name                string
		request, by, others int64
		want                string // error
	}{
		{"alone", 0, 0, 0, ""},
		{"with the request's own memory", 5 << 20, 0, 0, "too large"},
		{"with other requests of the tenant", 0, 5 << 20, 0, "full"},
		{"with requests of other tenants", 0, 0, 7 << 20, "full"},
		{"alone again", 1 << 20, 0, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hold := func(id tenant.ID, n int64) *memory.Holding {
				h := account.Begin(memory.Request{Tenant: id, Write: true})
				if err := h.Take(n); err != nil {
					t.Fatal(err)
				}
				return h
			}
			request, by, others := hold("t", tt.request), hold("t", tt.by), hold("u", tt.others)
			_, err := d.Push(memory.NewContext(context.Background(), request), batch())
			var large *memory.TooLargeError
			if errors.As(err, &large) != (tt.want == "too large") || errors.Is(err, memory.ErrFull) != (tt.want == "full") || (err == nil) != (tt.want == "") {
				t.Errorf("Push = %v, want %q", err, tt.want)
			}
			d.pushes.Wait()
			for _, h := range []*memory.Holding{request, by, others} {
				h.Close()
			}
			if account.Used() != 0 {
				t.Errorf("%d bytes still held", account.Used())
			}
		})
	}
}
