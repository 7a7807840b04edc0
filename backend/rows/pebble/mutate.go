package pebble

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"

	"github.com/palliumhq/pallium/backend/rows"
)

// addRow adds the mutations of one row to a batch. The batch is indexed, because
// deletions must see earlier mutations of the batch.
func addRow(b *pebble.Batch, m rows.RowMutation) error {
	row := rowPrefix(m.Key)
	for _, mut := range m.Mutations {
		var err error
		switch mut.Op {
		case rows.OpSet:
			err = b.Set(cellKey(row, mut.Family, mut.Qualifier, mut.Time), mut.Value, nil)
		case rows.OpDeleteCell:
			err = b.Delete(cellKey(row, mut.Family, mut.Qualifier, mut.Time), nil)
		case rows.OpDeleteColumn:
			err = deleteUnder(b, columnPrefix(row, mut.Family, mut.Qualifier))
		case rows.OpDeleteRow:
			err = deleteUnder(b, row)
		default:
			err = fmt.Errorf("unknown operation %d", mut.Op)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// closeBatch releases a batch. Commit has already returned every relevant error.
func closeBatch(b *pebble.Batch) { _ = b.Close() }

// manyCells is the number of cells above which one range deletion is cheaper for later
// reads than a tombstone per cell.
const manyCells = 64

// deleteUnder deletes all cells whose keys begin with p.
func deleteUnder(b *pebble.Batch, p []byte) error {
	end := prefixEnd(p)
	it, err := b.NewIter(&pebble.IterOptions{LowerBound: p, UpperBound: end})
	if err != nil {
		return err
	}
	var keys [][]byte
	for ok := it.First(); ok && len(keys) <= manyCells; ok = it.Next() {
		keys = append(keys, slices.Clone(it.Key()))
	}
	if err := it.Close(); err != nil {
		return err
	}
	if len(keys) > manyCells {
		return b.DeleteRange(p, end, nil)
	}
	for _, k := range keys {
		if err := b.Delete(k, nil); err != nil {
			return err
		}
	}
	return nil
}

// stripes are mutexes of rows, by the hash of the row key.
type stripes struct {
	locks [256]sync.Mutex
}

// lock locks the stripes of all the rows, in ascending order to avoid a deadlock.
func (s *stripes) lock(ms []rows.RowMutation) (unlock func()) {
	ids := make([]uint8, 0, len(ms))
	for _, m := range ms {
		ids = append(ids, uint8(xxhash.Sum64String(m.Key)))
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	for _, i := range ids {
		s.locks[i].Lock()
	}
	return func() {
		for _, i := range ids {
			s.locks[i].Unlock()
		}
	}
}

// logger logs Pebble's errors and discards its informational messages.
type logger struct{ to *slog.Logger }

func (l logger) Infof(string, ...any) {}

func (l logger) Errorf(format string, args ...any) {
	if l.to != nil {
		l.to.Error("embedded row store (Pebble) reported an error", "err", fmt.Sprintf(format, args...))
	}
}

// Fatalf panics. Pebble calls it when it can no longer guarantee the consistency of the
// store, and requires that it does not return.
func (l logger) Fatalf(format string, args ...any) {
	panic("row store: " + fmt.Sprintf(format, args...))
}
