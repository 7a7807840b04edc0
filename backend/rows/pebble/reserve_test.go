package pebble

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/palliumhq/pallium/backend/rows"
)

// fullFS is a file system that a test fills: only a released reserve is free space then.
type fullFS struct {
	vfs.FS
	reserve string
	full    bool
	used    bool // another writer used the released space
}

func (f *fullFS) held() int64 {
	info, err := os.Stat(f.reserve)
	if err != nil {
		return 0
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

func (f *fullFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	if f.used {
		return vfs.DiskUsage{AvailBytes: leastReserve - 1}, nil
	}
	if f.full {
		return vfs.DiskUsage{AvailBytes: uint64(reserveBytes-f.held()) / 2}, nil
	}
	return vfs.DiskUsage{AvailBytes: 1 << 30}, nil
}

func (f *fullFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if f.full && f.held() > 0 {
		return nil, &os.PathError{Op: "create", Path: name, Err: syscall.ENOSPC}
	}
	return f.FS.Create(name, c)
}

// TestStartOnFullDisk checks that a store on a full disk can be opened and read, rejects writes, and
// reserves space for the next start again.
func TestStartOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	fs := &fullFS{FS: vfs.Default, reserve: filepath.Join(dir, reserveName)}
	ctx := context.Background()
	set := func(s *Store, key string) error {
		return s.Mutate(ctx, rows.RowMutation{Key: key, Mutations: []rows.Mutation{rows.Set(rows.System, "q", 1, []byte("v"))}})
	}
	s, err := Open(dir, Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	if err := set(s, "a"); err != nil {
		t.Fatal(err)
	}
	if held := fs.held(); held < reserveBytes {
		t.Fatalf("%d bytes are reserved", held)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	fs.full = true
	for range 3 {
		if s, err = Open(dir, Options{FS: fs}); err != nil {
			t.Fatal(err)
		}
		n := 0
		if err := s.ReadRows(ctx, []rows.Range{rows.Single("a")}, rows.Filter{}, func(rows.Row) bool { n++; return true }); err != nil || n != 1 {
			t.Errorf("%d rows, %v", n, err)
		}
		if err := set(s, "b"); err == nil {
			t.Error("a write on a full disk succeeded")
		}
		if held := fs.held(); held < reserveBytes {
			t.Errorf("%d bytes are reserved for the next start", held)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	fs.used = true // otherwise Pebble would retry forever
	if _, err = Open(dir, Options{FS: fs}); err == nil || !strings.Contains(err.Error(), "disk is full") {
		t.Fatalf("Open without any free space: %v, want an error", err)
	}
	fs.used = false
	// A reserve lost while the disk was full is created again when there is free space.
	if err := os.RemoveAll(fs.reserve); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(dir, Options{FS: fs}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if held := fs.held(); held > 0 {
		t.Errorf("%d bytes of a full disk were reserved", held)
	}
	fs.full = false
	if err := set(s, "c"); err != nil {
		t.Fatal(err)
	}
	if held := fs.held(); held < reserveBytes {
		t.Errorf("%d bytes are reserved after space was freed", held)
	}
}

// TestReserveThatCannotBeReleased checks the error if the reserve cannot be deleted.
func TestReserveThatCannotBeReleased(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, reserveName, "x"), 0o750); err != nil {
		t.Fatal(err)
	}
	_, err := Open(dir, Options{FS: &fullFS{FS: vfs.Default, reserve: filepath.Join(dir, "none"), full: true}})
	if !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("Open(): %v, want the error of the release", err)
	}
}
