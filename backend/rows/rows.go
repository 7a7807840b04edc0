// Package rows is the port to the sorted key-value store for the index and the control
// data: Bigtable in a cluster, Pebble on one machine. It defines the Store interface
// with its types, and the checks of arguments that every adapter runs first, so that a
// write that works with Pebble does not fail with Bigtable. Package rowtest tests that an
// adapter keeps the contract.
package rows

import "context"

// Store is a table of rows sorted by key. A row holds cells, addressed by
// family, qualifier and timestamp; a row without cells does not exist.
//
// Rules that hold for all methods:
//   - Keys and qualifiers are bytes and sort as bytes.
//   - The store does not retain or change arguments after the call; the caller owns the
//     results.
//   - A write that has returned without an error survives a crash of the machine.
//   - A change of one row is atomic: readers and other changes see all of it or
//     nothing. There is no atomicity across rows.
//   - An invalid argument (see the Check functions) returns ErrInvalid, and nothing is
//     written. After Close every call returns ErrClosed.
//   - After any other error, including a context error, a write may or may not have
//     been applied. All methods but CheckAndMutate may be repeated, because the caller
//     sets the timestamps; after CheckAndMutate, read the row first.
//   - All methods are safe for concurrent use.
type Store interface {
	// ReadRows calls visit for each row in the ranges that has a cell after filtering,
	// in key order and once each even where ranges overlap, until visit returns false.
	// Without ranges it reads no rows. Each row is a consistent snapshot; different rows
	// may be read at different times. Rows written before the call are read. visit must
	// not call the store.
	ReadRows(ctx context.Context, ranges []Range, f Filter, visit func(Row) bool) error

	// Mutate applies the mutations of one row in their order, atomically.
	Mutate(ctx context.Context, m RowMutation) error

	// MutateRows applies many rows, in any order, each atomically. It returns
	// nil if all were applied, otherwise one error per row, nil for the applied ones.
	// A key must not appear twice. An invalid row does not prevent the others from
	// being applied.
	MutateRows(ctx context.Context, ms []RowMutation) []error

	// CheckAndMutate applies the mutations in then if the condition holds for the row,
	// and those in otherwise if it does not, atomically with the check. Either may be
	// empty. It reports whether the condition held.
	CheckAndMutate(ctx context.Context, key string, c Condition, then, otherwise []Mutation) (bool, error)

	// DeletePrefix deletes every row whose key starts with prefix, which must
	// not be empty. It is not atomic: rows written meanwhile may or may not be deleted.
	DeletePrefix(ctx context.Context, prefix string) error

	// Close waits for running calls and closes the store. A second Close does nothing.
	Close() error
}

// Family is a group of cells with one rule of garbage collection.
type Family string

const (
	// Data is for cells that expire. Bigtable may drop them 400 days after their
	// timestamp, so writers derive the timestamp from the expiry; see Filter.MinTime.
	Data Family = "x"
	// System is for cells that do not expire. Only the newest version of a cell is
	// guaranteed to be kept.
	System Family = "s"
)

// Families returns all families, in their order within a row.
func Families() []Family { return []Family{System, Data} }

// Cell is one version of one value.
type Cell struct {
	Family    Family
	Qualifier string
	Time      int64 // milliseconds since 1970, chosen by the writer
	Value     []byte
}

// Row is a key with its cells, ordered by family and qualifier, and then from the newest
// version to the oldest.
type Row struct {
	Key   string
	Cells []Cell
}

// Cell returns the newest of the row's cells with that family and qualifier.
func (r Row) Cell(f Family, qualifier string) (Cell, bool) {
	for _, c := range r.Cells {
		if c.Family == f && c.Qualifier == qualifier {
			return c, true
		}
	}
	return Cell{}, false
}

// Range selects keys from Start (included) to End (excluded; "" is the end of
// the table). The zero Range is the whole table.
type Range struct {
	Start, End string
}

// Single selects one key.
func Single(key string) Range { return Range{Start: key, End: key + "\x00"} }

// Prefix selects all keys that start with p.
func Prefix(p string) Range { return Range{Start: p, End: PrefixEnd(p)} }

// PrefixEnd returns the first key after all keys that start with p, or "" if there is
// none.
func PrefixEnd(p string) string {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] != 0xff {
			return p[:i] + string([]byte{p[i] + 1})
		}
	}
	return ""
}

// Filter selects cells of the rows. Its parts apply in the order of the fields. The zero
// Filter selects all cells.
type Filter struct {
	Families        []Family // none = all
	Qualifiers      []string // none = all; else exactly these
	QualifierPrefix string   // may not be set together with Qualifiers
	MinTime         int64    // drops cells with an older timestamp (milliseconds)
	Latest          bool     // only the newest version of each cell
	CellsPerRow     int      // 0 = all; else the first n; requires exactly one family, since a store may count families in another order
	Rows            int      // 0 = all; else at most n rows that have a cell left
}

// Op is the operation of a Mutation.
type Op uint8

// The operations; the zero Op is invalid.
const (
	OpSet Op = iota + 1
	OpDeleteCell
	OpDeleteColumn
	OpDeleteRow
)

// Mutation is one change of a row; make it with the functions below.
type Mutation struct {
	Op        Op
	Family    Family
	Qualifier string
	Time      int64 // milliseconds since 1970
	Value     []byte
}

// Set writes a cell, replacing the one with the same family, qualifier and
// timestamp.
func Set(f Family, qualifier string, ms int64, value []byte) Mutation {
	return Mutation{Op: OpSet, Family: f, Qualifier: qualifier, Time: ms, Value: value}
}

// DeleteCell deletes the one version of a cell with that timestamp.
func DeleteCell(f Family, qualifier string, ms int64) Mutation {
	return Mutation{Op: OpDeleteCell, Family: f, Qualifier: qualifier, Time: ms}
}

// DeleteColumn deletes all versions of a cell.
func DeleteColumn(f Family, qualifier string) Mutation {
	return Mutation{Op: OpDeleteColumn, Family: f, Qualifier: qualifier}
}

// DeleteRow deletes all cells of the row.
func DeleteRow() Mutation { return Mutation{Op: OpDeleteRow} }

// RowMutation is a list of changes of one row.
type RowMutation struct {
	Key       string
	Mutations []Mutation
}

// Test is the kind of test in a Condition.
type Test uint8

// The tests; the zero Test is invalid.
const (
	IsAbsent Test = iota + 1
	IsPresent
	HasValue
)

// Condition is a test of the newest version of one cell; make it with Absent,
// Present and ValueIs.
type Condition struct {
	Test      Test
	Family    Family
	Qualifier string
	Value     []byte // for HasValue
}

// Absent holds if the row has no such cell.
func Absent(f Family, qualifier string) Condition {
	return Condition{Test: IsAbsent, Family: f, Qualifier: qualifier}
}

// Present holds if the row has such a cell.
func Present(f Family, qualifier string) Condition {
	return Condition{Test: IsPresent, Family: f, Qualifier: qualifier}
}

// ValueIs holds if the newest version of the cell has exactly this value. An
// absent cell has no value.
func ValueIs(f Family, qualifier string, value []byte) Condition {
	return Condition{Test: HasValue, Family: f, Qualifier: qualifier, Value: value}
}
