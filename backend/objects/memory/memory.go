// Package memory implements objects.Store in memory, for tests and benchmarks.
package memory

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/palliumhq/pallium/backend/disk"
	"github.com/palliumhq/pallium/backend/objects"
)

// Store is an objects.Store in memory. Use New to create one.
type Store struct {
	mu     sync.Mutex
	byName map[string]object
	closed bool
}

// object is an object with its immutable bytes.
type object struct {
	objects.Object
	data []byte
}

var _ objects.Store = (*Store)(nil)

// New returns an empty store.
func New() *Store { return &Store{byName: map[string]object{}} }

// enter starts a call and locks the store. The caller unlocks s.mu.
func (s *Store) enter(ctx context.Context) error {
	s.mu.Lock()
	err := ctx.Err()
	if s.closed {
		err = objects.ErrClosed
	}
	if err != nil {
		s.mu.Unlock()
	}
	return err
}

// find returns an object.
func (s *Store) find(ctx context.Context, name string) (object, error) {
	if err := objects.CheckName(name); err != nil {
		return object{}, err
	}
	if err := s.enter(ctx); err != nil {
		return object{}, err
	}
	defer s.mu.Unlock()
	o, ok := s.byName[name]
	if !ok {
		return o, fmt.Errorf("%w: %s", objects.ErrNotFound, name)
	}
	return o, nil
}

// Put implements objects.Store. The object is a copy of the file.
func (s *Store) Put(ctx context.Context, name, path string, crc uint32) (objects.Object, error) {
	if err := objects.CheckName(name); err != nil {
		return objects.Object{}, err
	}
	if err := s.enter(ctx); err != nil {
		return objects.Object{}, err
	}
	s.mu.Unlock() // the file is read without the lock
	data, err := os.ReadFile(path)
	if err != nil {
		return objects.Object{}, fmt.Errorf("put %s: %w", name, err)
	}
	if got := disk.Checksum(data); got != crc {
		return objects.Object{}, fmt.Errorf("put %s: %w: the file has checksum %08x, want %08x", name, objects.ErrInvalid, got, crc)
	}
	if err := s.enter(ctx); err != nil {
		return objects.Object{}, err
	}
	defer s.mu.Unlock()
	o, ok := s.byName[name]
	if ok && (o.Size != int64(len(data)) || o.CRC != crc) {
		return objects.Object{}, fmt.Errorf("put %s: %w", name, objects.ErrExists)
	}
	if !ok {
		o = object{objects.Object{Name: name, Size: int64(len(data)), CRC: crc, Created: time.Now()}, data}
		s.byName[name] = o
	}
	return o.Object, nil
}

// Get implements objects.Store.
func (s *Store) Get(ctx context.Context, name string, off int64, n int) ([]byte, error) {
	if err := objects.CheckRange(off, n); err != nil {
		return nil, err
	}
	o, err := s.find(ctx, name)
	if err != nil {
		return nil, err
	}
	if off > o.Size || int64(n) > o.Size-off {
		return nil, fmt.Errorf("%w: range of %d bytes from %d in object %s of %d bytes", objects.ErrInvalid, n, off, name, o.Size)
	}
	return bytes.Clone(o.data[off : off+int64(n)]), nil
}

// Stat implements objects.Store.
func (s *Store) Stat(ctx context.Context, name string) (objects.Object, error) {
	o, err := s.find(ctx, name)
	return o.Object, err
}

// List implements objects.Store.
func (s *Store) List(ctx context.Context, prefix string, visit func(objects.Object) bool) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(s.byName))
	s.mu.Unlock() // visit may call the store
	for _, name := range names {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		if err := s.enter(ctx); err != nil {
			return err
		}
		o, there := s.byName[name]
		s.mu.Unlock()
		o.CRC = 0 // List does not return it
		if there && !visit(o.Object) {
			return nil
		}
	}
	return nil
}

// Delete implements objects.Store.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := objects.CheckName(name); err != nil {
		return err
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	delete(s.byName, name)
	return nil
}

// Bytes returns the bytes of an object, or nil if there is none. The caller must not change
// them.
func (s *Store) Bytes(name string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byName[name].data
}

// Replace replaces the bytes of an object, with their size and CRC, to simulate damage. No
// method of objects.Store can do that.
func (s *Store) Replace(name string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.byName[name]
	o.Name, o.Size, o.CRC, o.data = name, int64(len(data)), disk.Checksum(data), data
	s.byName[name] = o
}

// Close implements objects.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.byName = true, nil
	return nil
}
