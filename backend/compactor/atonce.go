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

// Several tenants of a day are compacted concurrently, because most of them are small and
// mainly wait for a few calls of the stores. The number of tenants and the total size of
// the packs that are merged concurrently are limited. A tenant that exceeds the limit of
// bytes is compacted alone. Compaction therefore needs memory and scratch space for one
// large tenant, or for small tenants with as many bytes as the limit.

const (
	leastTenants = 8 // even with few processors
	mostTenants  = 64

	defaultInputBytes = 64 << 20
)

func defaultTenantsAtOnce() int { return min(max(4*runtime.GOMAXPROCS(0), leastTenants), mostTenants) }

// tally is a Report that several goroutines may add to.
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

// tenantResult is the result of compacting a tenant's day.
type tenantResult struct {
	left []ulid.ULID // packs that the tenant still needs
	err  error
}

// compactTenants compacts a day of the tenants, several concurrently, and returns their
// results in the same order. When ctx is done, no further compaction starts.
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

// admit waits until the packs that a compaction merges fit into InputBytes, and returns a
// function that releases the reserved bytes.
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
	go func() { admitted <- c.input.Acquire(ctx, n) }()
	tick := time.NewTicker(progress.StallAfter / 4)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			progress.Step(ctx) // waiting is not a stall: the compactions that it waits for report their own progress
		case err := <-admitted:
			if err != nil {
				return nil, fmt.Errorf("wait for other tenants' compactions: %w", err)
			}
			return func() { c.input.Release(n) }, nil
		}
	}
}
