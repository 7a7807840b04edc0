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
// keepChanges changes. Appending is one conditional write (n is still n: write
// n+1 and the change), so no number is given twice and none is skipped.
//
// A change is logged after its record is written. A crash in between leaves a
// change that other processes see when their cached entries expire; an error in
// between leaves one that this process owes to the log and appends later.

// keepChanges is how many changes the row holds. Who is further behind drops
// all that it has cached.
const keepChanges = 1024

// maxOwed is how many changes may wait for the store; beyond, they become one
// change that drops everything.
const maxOwed = 100

// Kinds of changes.
const (
	changedTenant = "tenant"
	changedPlan   = "plan"
	changedPolicy = "policy"
	changedKey    = "key"
	changedAll    = "all"
)

// change says what to forget.
type change struct {
	Kind string   `json:"kind"`
	IDs  []string `json:"ids,omitempty"`
}

type changelog struct {
	appending sync.Mutex // one append at a time, so that they do not race each other

	mu   sync.Mutex
	seen uint64   // last change that was applied here
	owed []change // changes whose append failed
}

const cellHead = "a" // sorts before the changes, so that reading it reads no more

func cellChange(n uint64) string { return "c" + string(binary.BigEndian.AppendUint64(nil, n)) }

// publish makes a change known: here at once, elsewhere by the log.
func (c *Control) publish(ctx context.Context, kind string, ids ...string) error {
	ch := change{Kind: kind, IDs: ids}
	c.apply(ch)
	err := c.append(ctx, ch)
	if err == nil {
		return nil
	}
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	if c.log.owed = append(c.log.owed, ch); len(c.log.owed) > maxOwed {
		c.log.owed = []change{{Kind: changedAll}}
	}
	c.metrics.owed.Set(float64(len(c.log.owed)))
	return fmt.Errorf("the change is stored, but other gateways may see it up to 30 s late: %w", err)
}

// apply drops what the change makes out of date.
func (c *Control) apply(ch change) {
	among := func(id string) bool { return slices.Contains(ch.IDs, id) }
	switch ch.Kind {
	case changedKey:
		c.credentials.drop(ch.IDs...)
	case changedPolicy:
		// A key that was void may be good again. Which ones were void by this
		// policy is not known, and each costs one read.
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

// append writes a change as number n+1.
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
		// Another process was first; its success means that the loop as a whole
		// gets on.
	}
}

// readHead returns the number of the last change, 0 before the first.
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

// Poll reads what the log has new and applies it, and appends what is owed.
// Start calls it twice a second; a hint from elsewhere may call it sooner.
func (c *Control) Poll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	err := c.readChanges(ctx)
	if err == nil {
		err = c.payOwed(ctx)
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
			ch = change{Kind: changedAll} // too far behind, or not readable
			n = head
		}
		c.apply(ch)
	}
	if head < seen { // the store was put back to an earlier state
		c.apply(change{Kind: changedAll})
	}
	c.log.mu.Lock()
	c.log.seen = head
	c.log.mu.Unlock()
	return nil
}

func (c *Control) payOwed(ctx context.Context) error {
	for {
		c.log.mu.Lock()
		if len(c.log.owed) == 0 {
			c.metrics.owed.Set(0)
			c.log.mu.Unlock()
			return nil
		}
		ch := c.log.owed[0]
		c.log.owed = c.log.owed[1:]
		c.log.mu.Unlock()
		if err := c.append(ctx, ch); err != nil {
			c.log.mu.Lock()
			c.log.owed = append([]change{ch}, c.log.owed...)
			c.log.mu.Unlock()
			return err
		}
	}
}
