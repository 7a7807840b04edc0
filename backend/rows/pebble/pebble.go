// Package pebble implements rows.Store in an embedded Pebble database, for Pallium on one
// machine. Outside of tests, only package main and package rows/memory import it.
package pebble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/palliumhq/pallium/backend/rows"
)

// layout is the layout version of the keys (see key.go) in a new store.
const layout = "pallium rows 1"

// Options are the options of a store. The zero value is ready to use.
type Options struct {
	CacheBytes int64        // block cache; 0 = 64 MiB
	Logger     *slog.Logger // for Pebble's errors; nil = none
	FS         vfs.FS       // nil = the operating system's; tests use one in memory
}

// Store is a rows.Store in a directory.
type Store struct {
	db  *pebble.DB
	dir string
	fs  vfs.FS

	mu     sync.RWMutex // held for reading by every call, for writing by Close
	closed bool

	// A change of rows read-locks prefix and locks the stripes of its rows, so that no
	// other change happens between a condition and its mutations. DeletePrefix locks
	// prefix for writing.
	prefix  sync.RWMutex
	stripes stripes
	unlock  func() error // releases the directory
	reserve *reserve
}

var _ rows.Store = (*Store)(nil)

// Open opens or creates the store in dir. It returns an error if another process has the
// directory open, or if the layout is unknown.
func Open(dir string, o Options) (*Store, error) {
	fs := o.FS
	if fs == nil {
		fs = vfs.Default
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create directory of row store: %w", err)
	}
	lock, err := pebble.LockDirectory(dir, fs)
	if err != nil {
		return nil, fmt.Errorf("row store %s cannot be locked, it is probably in use by another pallium process: "+
			"stop that process, or use another -data-dir: %w", dir, err)
	}
	r := &reserve{fs: fs, dir: dir, path: fs.PathJoin(dir, reserveName)}
	if err := r.release(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	defer r.hold()
	po := options(o, fs)
	po.Lock = lock
	db, err := pebble.Open(dir, po)
	po.Cache.Unref() // the database holds its own reference
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open row store %s: %w", dir, err), lock.Close())
	}
	s := &Store{db: db, dir: dir, fs: fs, reserve: r}
	if err := s.checkLayout(); err != nil {
		return nil, errors.Join(fmt.Errorf("open row store %s: %w", dir, err), db.Close(), lock.Close())
	}
	s.unlock = lock.Close
	return s, nil
}

// options returns options for a small embedded store: limited memory, few files, fast
// start.
func options(o Options, fs vfs.FS) *pebble.Options {
	size := o.CacheBytes
	if size == 0 {
		size = 64 << 20
	}
	po := &pebble.Options{
		FS:                          fs,
		Cache:                       pebble.NewCache(size),
		MemTableSize:                16 << 20,
		MemTableStopWritesThreshold: 4,
		MaxOpenFiles:                500,
		FormatMajorVersion:          pebble.FormatNewest,
		Logger:                      logger{o.Logger},
	}
	return po
}

func (s *Store) checkLayout() error {
	v, closer, err := s.db.Get(formatKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return s.db.Set(formatKey, []byte(layout), pebble.Sync)
	}
	if err != nil {
		return err
	}
	have := string(v)
	if err := closer.Close(); err != nil {
		return err
	}
	if have != layout {
		return fmt.Errorf("unknown layout %q: this version of Pallium supports %q only", have, layout)
	}
	return nil
}

// enter starts a call and prevents Close until s.mu.RUnlock.
func (s *Store) enter(ctx context.Context) error {
	s.mu.RLock()
	err := ctx.Err()
	if s.closed {
		err = rows.ErrClosed
	}
	if err != nil {
		s.mu.RUnlock()
	}
	return err
}

// Close implements rows.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if err := errors.Join(s.db.Close(), s.unlock()); err != nil {
		return fmt.Errorf("close row store: %w", err)
	}
	return nil
}

// Mutate implements rows.Store.
func (s *Store) Mutate(ctx context.Context, m rows.RowMutation) error {
	if err := rows.CheckRow(m); err != nil {
		return err
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.mu.RUnlock()
	return s.apply([]rows.RowMutation{m})
}

// batchBytes is the approximate size of one batch of MutateRows.
const batchBytes = 8 << 20

// MutateRows implements rows.Store.
func (s *Store) MutateRows(ctx context.Context, ms []rows.RowMutation) []error {
	errs := make([]error, len(ms))
	if err := rows.CheckRows(ms); err != nil {
		return fill(errs, err)
	}
	if err := s.enter(ctx); err != nil {
		return fill(errs, err)
	}
	defer s.mu.RUnlock()

	var batch []rows.RowMutation
	var at []int
	failed, size := false, 0
	flush := func() {
		err := ctx.Err()
		if err == nil {
			err = s.apply(batch)
		}
		for _, i := range at {
			errs[i] = err
		}
		failed = failed || err != nil
		batch, at, size = batch[:0], at[:0], 0
	}
	for i, m := range ms {
		if errs[i] = rows.CheckRow(m); errs[i] != nil {
			failed = true
			continue
		}
		batch, at = append(batch, m), append(at, i)
		for _, mut := range m.Mutations {
			size += len(mut.Qualifier) + len(mut.Value)
		}
		if size >= batchBytes {
			flush()
		}
	}
	if len(batch) > 0 {
		flush()
	}
	if !failed {
		return nil
	}
	return errs
}

func fill(errs []error, err error) []error {
	for i := range errs {
		errs[i] = err
	}
	return errs
}

// apply writes checked rows as one synced batch.
func (s *Store) apply(ms []rows.RowMutation) error {
	s.prefix.RLock()
	defer s.prefix.RUnlock()
	unlock := s.stripes.lock(ms)
	defer unlock()

	b := s.db.NewIndexedBatch()
	defer closeBatch(b)
	for _, m := range ms {
		if err := addRow(b, m); err != nil {
			return fmt.Errorf("write rows: %w", err)
		}
	}
	if err := s.commit(b); err != nil {
		return fmt.Errorf("write rows: %w", err)
	}
	return nil
}

// CheckAndMutate implements rows.Store.
func (s *Store) CheckAndMutate(ctx context.Context, key string, c rows.Condition, then, otherwise []rows.Mutation) (bool, error) {
	if err := rows.CheckCondition(key, c, then, otherwise); err != nil {
		return false, err
	}
	if err := s.enter(ctx); err != nil {
		return false, err
	}
	defer s.mu.RUnlock()
	s.prefix.RLock()
	defer s.prefix.RUnlock()
	unlock := s.stripes.lock([]rows.RowMutation{{Key: key}})
	defer unlock()

	holds, err := s.holds(key, c)
	if err != nil {
		return false, fmt.Errorf("check row: %w", err)
	}
	ms := otherwise
	if holds {
		ms = then
	}
	if len(ms) == 0 {
		return holds, nil
	}
	b := s.db.NewIndexedBatch()
	defer closeBatch(b)
	if err := addRow(b, rows.RowMutation{Key: key, Mutations: ms}); err != nil {
		return holds, fmt.Errorf("write row: %w", err)
	}
	if err := s.commit(b); err != nil {
		return holds, fmt.Errorf("write row: %w", err)
	}
	return holds, nil
}

// holds evaluates the condition on the newest version of its cell.
func (s *Store) holds(key string, c rows.Condition) (bool, error) {
	column := columnPrefix(rowPrefix(key), c.Family, c.Qualifier)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: column, UpperBound: prefixEnd(column)})
	if err != nil {
		return false, err
	}
	present := it.First()
	var equal bool
	if present && c.Test == rows.HasValue {
		v, verr := it.ValueAndErr()
		if verr != nil {
			return false, errors.Join(verr, it.Close())
		}
		equal = bytes.Equal(v, c.Value)
	}
	if err := it.Close(); err != nil {
		return false, err
	}
	switch c.Test {
	case rows.IsAbsent:
		return !present, nil
	case rows.IsPresent:
		return present, nil
	default:
		return equal, nil
	}
}

// DeletePrefix implements rows.Store.
func (s *Store) DeletePrefix(ctx context.Context, prefix string) error {
	if err := rows.CheckPrefix(prefix); err != nil {
		return err
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.mu.RUnlock()
	s.prefix.Lock()
	defer s.prefix.Unlock()
	if err := s.space(); err != nil {
		return fmt.Errorf("delete prefix: %w", err)
	}
	lower, _ := bounds(rows.Range{Start: prefix})
	if err := s.db.DeleteRange(lower, prefixEnd(appendEscaped(nil, prefix)), pebble.Sync); err != nil {
		return fmt.Errorf("delete prefix: %w", err)
	}
	return nil
}
