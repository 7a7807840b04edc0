package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/backend/rows"
)

// The rows of the control data. All keys begin with 02, which the index does not use,
// and all cells are in the family that never expires.
//
//	row                  cells
//	02 'm'               format, pepper: format version, fingerprint of the pepper
//	02 'l'               a: number of the last change; c<n:8>: change n, for the last keepChanges changes
//	02 't' tenant        d: Tenant, e: ETag
//	02 'p' plan          d: Plan, e: ETag
//	02 'a' policy        d: Policy, e: ETag
//	02 'k' token         d: token with hashes, e: ETag
//	02 'i' key id        d: token and policy of the key, e: ETag; u: last use, ms as text
//	02 'v' ^time:8 id    d: audit event; o: its outcome
//	02 'r' hash          d: idempotency record; o: encrypted answer
const (
	keyMeta      = "\x02m"
	keyLog       = "\x02l"
	prefTenant   = "\x02t"
	prefPlan     = "\x02p"
	prefPolicy   = "\x02a"
	prefToken    = "\x02k"
	prefKeyIndex = "\x02i"
	prefAudit    = "\x02v"
	prefRequest  = "\x02r"
)

const (
	cellData    = "d"
	cellETag    = "e"
	cellUse     = "u"
	cellOutcome = "o"

	// cellTime is the timestamp of every cell, so that a write replaces the previous
	// value.
	cellTime = 1
)

var errNoRow = errors.New("no such record")

func set(qualifier string, value []byte) rows.Mutation {
	return rows.Set(rows.System, qualifier, cellTime, value)
}

// row is a rows.Row with access to its values.
type row rows.Row

func (r row) value(qualifier string) []byte {
	c, _ := rows.Row(r).Cell(rows.System, qualifier)
	return c.Value
}

func (r row) text(qualifier string) string { return string(r.value(qualifier)) }

var newest = rows.Filter{Families: []rows.Family{rows.System}, Latest: true}

// readRows reads single rows. Rows that do not exist are missing in the result.
func (c *Control) readRows(ctx context.Context, keys ...string) (map[string]row, error) {
	ranges := make([]rows.Range, 0, len(keys))
	for _, k := range keys {
		ranges = append(ranges, rows.Single(k))
	}
	out := make(map[string]row, len(keys))
	err := c.store.ReadRows(ctx, ranges, newest, func(r rows.Row) bool {
		out[r.Key] = row(r)
		return true
	})
	return out, err
}

func (c *Control) readRow(ctx context.Context, key string) (row, error) {
	all, err := c.readRows(ctx, key)
	return all[key], err
}

// record is an object that is stored as data and ETag in one row.
type record interface {
	setETag(string)
}

// decode decodes a record from its row, or returns errNoRow.
func decode(r row, into record) error {
	data := r.value(cellData)
	if data == nil {
		return errNoRow
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("record %q is damaged: %w", r.Key, err)
	}
	into.setETag(r.text(cellETag))
	return nil
}

func (c *Control) load(ctx context.Context, key string, into record) error {
	r, err := c.readRow(ctx, key)
	if err != nil {
		return fmt.Errorf("read control data: %w", err)
	}
	return decode(r, into)
}

// save writes a record if the row has the given ETag or, if etag is "", if the row does
// not exist. It reports whether the condition was true, and sets the record's new ETag.
func (c *Control) save(ctx context.Context, key, etag string, v record) (bool, error) {
	next, err := apikey.NewID(12)
	if err != nil {
		return false, err
	}
	data, err := json.Marshal(v)
	if err != nil {
		return false, fmt.Errorf("encode control data: %w", err)
	}
	ok, err := c.store.CheckAndMutate(ctx, key, holds(etag), []rows.Mutation{set(cellData, data), set(cellETag, []byte(next))}, nil)
	if err != nil {
		return false, fmt.Errorf("write control data: %w", err)
	}
	if ok {
		v.setETag(next)
	}
	return ok, nil
}

// remove deletes a record if it has the given ETag.
func (c *Control) remove(ctx context.Context, key, etag string) (bool, error) {
	ok, err := c.store.CheckAndMutate(ctx, key, holds(etag), []rows.Mutation{rows.DeleteRow()}, nil)
	if err != nil {
		return false, fmt.Errorf("delete control data: %w", err)
	}
	return ok, nil
}

func holds(etag string) rows.Condition {
	if etag == "" {
		return rows.Absent(rows.System, cellETag)
	}
	return rows.ValueIs(rows.System, cellETag, []byte(etag))
}

// match compares the ETag that the caller sent with the current one. AnyETag matches
// every ETag.
func match(want, have string) error {
	if want == have || want == AnyETag {
		return nil
	}
	return stale()
}

func stale() *Error {
	return fail(Stale, "If-Match", "the ETag is not the current one of the object: read it again and repeat the change with the new ETag")
}

// AnyETag matches every ETag.
const AnyETag = "*"
