// Package rows is the port to the sorted key-value store that holds the index
// and the control data: Bigtable in a cluster, Pebble on one machine. It has
// the Store interface, the nouns that it speaks in, and the checks of sizes and
// shapes that every adapter makes first, so that what works embedded does not
// fail in a cluster. Package rowtest is its contract in executable form.
package rows

import "context"

// Store is a table of rows sorted by key. A row holds cells, addressed by
// family, qualifier and timestamp; a row without cells does not exist.
//
// Rules that hold for all methods:
//   - Keys and qualifiers are bytes and sort as bytes.
//   - Values and rows handed in are not kept or changed after the call; what is
//     handed out belongs to the caller.
//   - What a call has reported as written survives a crash of the machine.
//   - A change of one row is atomic: readers and other changes see all of it or
//     nothing. There is no atomicity across rows.
//   - A mistake of the caller (see the Check functions) is ErrInvalid, found
//     before anything is written. After Close every call returns ErrClosed.
//   - Any other error, of the context too, leaves open whether a write has
//     happened. All but CheckAndMutate may simply be repeated, since timestamps
//     are given by the caller; after CheckAndMutate read the row first.
//   - All methods may be called at the same time from many goroutines.
type Store interface {
	// ReadRows calls visit for each row in the ranges that has a cell left after
	// the filter, in key order and once each even where ranges overlap, until
	// visit returns false. No ranges select no rows. Every row is seen as of one
	// moment, different rows perhaps as of different ones. A row written before
	// the call is seen. visit must not call the store.
	ReadRows(ctx context.Context, ranges []Range, f Filter, visit func(Row) bool) error

	// Mutate applies the mutations of one row in their order, atomically.
	Mutate(ctx context.Context, m RowMutation) error

	// MutateRows applies many rows, in any order, each atomically. It returns
	// nil if all were applied, else one error per row, nil for the applied ones.
	// No key may stand twice. A row that is itself invalid does not hinder the
	// others.
	MutateRows(ctx context.Context, ms []RowMutation) []error

	// CheckAndMutate applies then if the condition holds for the row, and
	// otherwise if not, atomically with the check. Either may be empty. It
	// reports whether the condition held.
	CheckAndMutate(ctx context.Context, key string, c Condition, then, otherwise []Mutation) (bool, error)

	// DeletePrefix deletes every row whose key starts with prefix, which must
	// not be empty. It is not atomic: rows written meanwhile may stay or go.
	DeletePrefix(ctx context.Context, prefix string) error

	// Close releases the store. Calls under way end first. A second Close does
	// nothing.
	Close() error
}

// Family is a group of cells with one rule of garbage collection.
type Family string

const (
	// Data is for cells that age. A cluster store may drop them 400 days after
	// their timestamp, so writers put the expiry into it; see Filter.MinTime.
	Data Family = "x"
	// System is for cells that stay until they are deleted. Only the newest
	// version of a cell is sure to be kept.
	System Family = "s"
)

// Families lists all families, in their order within a row.
func Families() []Family { return []Family{System, Data} }

// Cell is one version of one value.
type Cell struct {
	Family    Family
	Qualifier string
	Time      int64 // milliseconds since 1970, chosen by the writer
	Value     []byte
}

// Row is a key with its cells, ordered by family, qualifier, newest first.
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

// PrefixEnd is the first key behind all keys that start with p, or "" if there
// is none.
func PrefixEnd(p string) string {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] != 0xff {
			return p[:i] + string([]byte{p[i] + 1})
		}
	}
	return ""
}

// Filter says which cells of the rows are wanted. Its parts apply in the order
// of the fields. The zero Filter wants everything.
type Filter struct {
	Families        []Family // none = all
	Qualifiers      []string // none = all; else exactly these
	QualifierPrefix string   // may not be set together with Qualifiers
	MinTime         int64    // drops cells with an older timestamp (milliseconds)
	Latest          bool     // only the newest version of each cell
	CellsPerRow     int      // 0 = all; else the first n; needs exactly one family, whose order is sure
	Rows            int      // 0 = all; else at most n rows that have a cell left
}

// Op is what a Mutation does.
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

// Test is what a Condition asks of a cell.
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
