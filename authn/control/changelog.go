package control

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/palliumhq/pallium/backend/rows"
)

// The change log is one row: the number n of the last change, and the last
// keepChanges changes. Appending is one conditional write (if the number is still n,
// write n+1 and the change), so that numbers are unique and consecutive.
//
// A change is logged after its record is written. After a crash in between, other
// processes see the change when their cached entries expire; after an error in
// between, the change is pending in this process, which appends it later.

// keepChanges is the number of changes in the row. A process that is further behind drops
// its whole cache.
const keepChanges = 1024

// maxPending bounds the pending changes; beyond it, they are replaced by one change that
// drops everything.
const maxPending = 100

// Kinds of changes.
const (
	changedTenant = "tenant"
	changedPlan   = "plan"
	changedPolicy = "policy"
	changedKey    = "key"
	changedAll    = "all"
)

// change names the cached entries to drop.
type change struct {
	Kind string   `json:"kind"`
	IDs  []string `json:"ids,omitempty"`
}

type changelog struct {
	appending sync.Mutex // serializes the appends of this process, so that they do not conflict

	mu      sync.Mutex
	seen    uint64   // number of the last change that was applied here
	pending []change // changes whose append failed
}

const cellHead = "a" // sorts before the changes, so that reading it alone is cheap

func cellChange(n uint64) string { return "c" + string(binary.BigEndian.AppendUint64(nil, n)) }

// publish applies a change to the caches of this process and appends it to the log for
// other processes.
func (c *Control) publish(ctx context.Context, kind string, ids ...string) error {
	ch := change{Kind: kind, IDs: ids}
	c.apply(ch)
	err := c.append(ctx, ch)
	if err == nil {
		return nil
	}
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	if c.log.pending = append(c.log.pending, ch); len(c.log.pending) > maxPending {
		c.log.pending = []change{{Kind: changedAll}}
	}
	c.metrics.pending.Set(float64(len(c.log.pending)))
	return fmt.Errorf("the change is stored, but other gateways may see it up to 30 s later: %w", err)
}

// apply drops the cached entries that are outdated after the change.
func (c *Control) apply(ch change) {
	among := func(id string) bool { return slices.Contains(ch.IDs, id) }
	switch ch.Kind {
	case changedKey:
		c.credentials.drop(ch.IDs...)
	case changedPolicy:
		// Keys that were invalid because of this policy may be valid now. Which
		// ones is unknown, so all of them are dropped; each costs one read.
		c.credentials.missing.clear()
		c.credentials.found.dropIf(func(v credential) bool { return among(v.policy) })
	case changedTenant:
		c.limits.drop(ch.IDs...)
		c.credentials.found.dropIf(func(v credential) bool {
			for _, t := range v.Identity.Tenants {
				if among(string(t)) {
					return true
				}
			}
			return false
		})
	case changedPlan:
		c.limits.found.dropIf(func(v tenantLimits) bool { return among(v.plan) })
	default: // changedAll, and kinds of a later version
		c.credentials.clear()
		c.limits.clear()
	}
}

// append writes a change with the next number.
func (c *Control) append(ctx context.Context, ch change) error {
	data, err := json.Marshal(ch)
	if err != nil {
		return fmt.Errorf("encode change: %w", err)
	}
	c.log.appending.Lock()
	defer c.log.appending.Unlock()
	for {
		n, err := c.readHead(ctx)
		if err != nil {
			return err
		}
		cond := rows.ValueIs(rows.System, cellHead, strconv.AppendUint(nil, n, 10))
		if n == 0 {
			cond = rows.Absent(rows.System, cellHead)
		}
		next := []rows.Mutation{set(cellHead, strconv.AppendUint(nil, n+1, 10)), set(cellChange(n+1), data)}
		if n >= keepChanges {
			next = append(next, rows.DeleteColumn(rows.System, cellChange(n+1-keepChanges)))
		}
		ok, err := c.store.CheckAndMutate(ctx, keyLog, cond, next, nil)
		if err != nil {
			return fmt.Errorf("append to change log: %w", err)
		}
		if ok {
			return nil
		}
		// Another process was faster. Every failed attempt means that another
		// change was appended, so all processes together make progress.
	}
}

// readHead returns the number of the last change, or 0 if there is none.
func (c *Control) readHead(ctx context.Context) (uint64, error) {
	f := newest
	f.Qualifiers = []string{cellHead}
	var head uint64
	var bad error
	err := c.store.ReadRows(ctx, []rows.Range{rows.Single(keyLog)}, f, func(r rows.Row) bool {
		head, bad = strconv.ParseUint(row(r).text(cellHead), 10, 64)
		return false
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return 0, fmt.Errorf("read change log: %w", err)
	}
	return head, nil
}

// Poll reads new changes from the log and applies them, and appends pending changes.
// Start calls it twice per second.
func (c *Control) Poll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	err := c.readChanges(ctx)
	if err == nil {
		err = c.appendPending(ctx)
	}
	if err != nil {
		c.metrics.pollErrors.Inc()
	}
	return err
}

func (c *Control) readChanges(ctx context.Context) error {
	head, err := c.readHead(ctx)
	if err != nil {
		return err
	}
	c.log.mu.Lock()
	seen := c.log.seen
	c.log.mu.Unlock()
	if head == seen {
		return nil
	}
	r, err := c.readRow(ctx, keyLog)
	if err != nil {
		return fmt.Errorf("read change log: %w", err)
	}
	for n := seen + 1; n <= head; n++ {
		var ch change
		data := r.value(cellChange(n))
		if data == nil || json.Unmarshal(data, &ch) != nil {
			ch = change{Kind: changedAll} // this process is too far behind, or the change is unreadable
			n = head
		}
		c.apply(ch)
	}
	if head < seen { // the store was restored from a backup
		c.apply(change{Kind: changedAll})
	}
	c.log.mu.Lock()
	c.log.seen = head
	c.log.mu.Unlock()
	return nil
}

func (c *Control) appendPending(ctx context.Context) error {
	for {
		c.log.mu.Lock()
		if len(c.log.pending) == 0 {
			c.metrics.pending.Set(0)
			c.log.mu.Unlock()
			return nil
		}
		ch := c.log.pending[0]
		c.log.pending = c.log.pending[1:]
		c.log.mu.Unlock()
		if err := c.append(ctx, ch); err != nil {
			c.log.mu.Lock()
			c.log.pending = append([]change{ch}, c.log.pending...)
			c.log.mu.Unlock()
			return err
		}
	}
}
