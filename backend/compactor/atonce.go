package compactor

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/progress"
	"github.com/palliumhq/pallium/backend/store"
)

// Tenants of a day are compacted several at once, since most of them are small and
// take the time of a few calls of the stores. Two bounds hold for all of them
// together: their number, and the bytes of what they merge. Whoever merges more
// than the bound has it to itself, so that memory and scratch space are those of
// one large tenant, or of small ones that together have as much as the bound.

const (
	leastTenants = 8 // at once, however few processors there are
	mostTenants  = 64

	defaultInputBytes = 64 << 20
)

func defaultTenantsAtOnce() int { return min(max(4*runtime.GOMAXPROCS(0), leastTenants), mostTenants) }

// tally is the report of a compaction while several tenants add to it.
type tally struct {
	mu sync.Mutex
	Report
}

func (t *tally) add(r Report) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Days += r.Days
	t.Published += r.Published
	t.Series += r.Series
	t.Samples += r.Samples
}

// tenantResult is what became of a tenant's day.
type tenantResult struct {
	left []ulid.ULID // packs that the tenant still needs
	err  error
}

// compactTenants compacts a day of the tenants, several at once, and returns what
// became of each, in their order. When ctx ends, the rest is not begun.
func (c *Compactor) compactTenants(ctx context.Context, d *store.DayWork, tenants []tenant.ID, packs *openPacks, which Which,
	report *tally) []tenantResult {
	out := make([]tenantResult, len(tenants))
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(c.opts.TenantsAtOnce, len(tenants)) {
		workers.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(tenants) {
					return
				}
				out[i] = c.oneTenant(ctx, d, tenants[i], packs, which, report)
			}
		})
	}
	workers.Wait()
	return out
}

func (c *Compactor) oneTenant(ctx context.Context, d *store.DayWork, t tenant.ID, packs *openPacks, which Which,
	report *tally) tenantResult {
	ctx, task := c.work.Begin(ctx, fmt.Sprintf("tenant %s day %d", t, d.Day))
	defer task.End()
	left, err := c.tenantDay(ctx, t, d, packs, which, report)
	if err != nil {
		err = fmt.Errorf("tenant %s: %w", t, err)
	}
	return tenantResult{left, err}
}

// admit waits until there is room for what a compaction merges, and returns how to
// give it back.
func (c *Compactor) admit(ctx context.Context, catalog *store.Catalog) (release func(), err error) {
	n := int64(0)
	for i := range catalog.L0 {
		n += catalog.L0[i].Length
	}
	if catalog.Manifest != nil {
		for i := range catalog.Manifest.Packs {
			n += catalog.Manifest.Packs[i].Size
		}
	}
	n = min(max(n, 1), c.opts.InputBytes)
	admitted := make(chan error, 1)
	go func() { admitted <- c.room.Acquire(ctx, n) }()
	tick := time.NewTicker(progress.StallAfter / 4)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			progress.Step(ctx) // whoever has the room says whether it makes progress
		case err := <-admitted:
			if err != nil {
				return nil, fmt.Errorf("wait for other tenants' compactions: %w", err)
			}
			return func() { c.room.Release(n) }, nil
		}
	}
}
