// Package dir implements objects.Store with files under a directory, for Pallium on one
// machine. An object's name is its path in the directory. Outside of
// tests, only package main imports it.
package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/palliumhq/pallium/backend/disk"
	"github.com/palliumhq/pallium/backend/objects"
)

const temporary = ".tmp"

// Store is an objects.Store in a directory. Only one process may use the directory at a
// time.
type Store struct {
	root   string
	tops   []string
	link   func(from, to string) error // os.Link, or a replacement in tests
	sums   checksums
	closed atomic.Bool
}

var _ objects.Store = (*Store)(nil)

// Open opens the directory, creates it if it does not exist, and removes incomplete copies
// left by a crash. tops are the allowed first segments of names: Store neither reads nor
// changes anything else under root. root may be any form of a path; root and tops may be
// symbolic links to directories.
func Open(root string, tops ...string) (*Store, error) {
	// Paths are compared with the root, so it must be an absolute, clean path.
	root, err := filepath.Abs(root)
	if err == nil {
		err = disk.MakeDir(root)
	}
	if err != nil {
		return nil, fmt.Errorf("open objects: %w", err)
	}
	for _, top := range tops {
		if err := sweep(filepath.Join(root, top)); err != nil {
			return nil, fmt.Errorf("open objects: remove temporary files: %w", err)
		}
	}
	return &Store{root: root, tops: tops, link: os.Link}, nil
}

// sweep removes temporary files under a directory, which may be a symbolic link.
func sweep(dir string) error {
	dir, err := filepath.EvalSymlinks(dir) // WalkDir does not follow a link
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, temporary) {
			return err
		}
		return os.Remove(path)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// path checks the arguments of a call and returns the path of the object's file.
func (s *Store) path(ctx context.Context, name string) (string, error) {
	if s.closed.Load() {
		return "", objects.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := objects.CheckName(name); err != nil {
		return "", err
	}
	if top, _, _ := strings.Cut(name, "/"); !slices.Contains(s.tops, top) {
		return "", fmt.Errorf("%w: object name %q does not begin with one of %q", objects.ErrInvalid, name, s.tops)
	}
	return filepath.Join(s.root, filepath.FromSlash(name)), nil
}

// Put implements objects.Store. The object is a hard link to the file where the file system
// allows it, and a copy otherwise. The file is first read to verify its CRC; a copy reads it
// again. Put sets the modification time of a linked file to the current time, which becomes
// Created.
func (s *Store) Put(ctx context.Context, name, path string, crc uint32) (objects.Object, error) {
	to, err := s.path(ctx, name)
	if err != nil {
		return objects.Object{}, err
	}
	if got, err := checksum(ctx, path); err != nil {
		return objects.Object{}, fmt.Errorf("put %s: %w", name, err)
	} else if got != crc {
		return objects.Object{}, fmt.Errorf("put %s: %w: the file has checksum %08x, want %08x", name, objects.ErrInvalid, got, crc)
	}
	if _, err := os.Lstat(to); err == nil {
		return s.existing(ctx, name, path, crc)
	}
	const attempts = 100 // concurrent Deletes may remove the directories
	for range attempts {
		if err = disk.MakeDir(filepath.Dir(to)); err == nil {
			err = s.place(ctx, path, to, crc)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return s.existing(ctx, name, path, crc)
	}
	if err == nil {
		err = s.syncPath(to)
	}
	if err != nil {
		return objects.Object{}, fmt.Errorf("put %s: %w", name, err)
	}
	return s.stored(name, path, to, crc)
}

// stored describes an object that was just stored. A concurrent Delete may have removed it
// already.
func (s *Store) stored(name, path, to string, crc uint32) (objects.Object, error) {
	st, err := os.Stat(to)
	if missing(err) {
		if st, err = os.Stat(path); err == nil {
			return objects.Object{Name: name, Size: st.Size(), CRC: crc, Created: time.Now()}, nil
		}
	}
	if err != nil {
		return objects.Object{}, fmt.Errorf("put %s: %w", name, err)
	}
	s.sums.remember(name, st, crc)
	return objects.Object{Name: name, Size: st.Size(), CRC: crc, Created: st.ModTime()}, nil
}

// existing returns the existing object if it has the size and CRC of the file, and ErrExists
// otherwise.
func (s *Store) existing(ctx context.Context, name, path string, crc uint32) (objects.Object, error) {
	o, err := s.Stat(ctx, name)
	if err != nil {
		return o, err
	}
	st, err := os.Stat(path)
	if err != nil {
		return o, fmt.Errorf("put %s: %w", name, err)
	}
	if o.Size != st.Size() || o.CRC != crc {
		return objects.Object{}, fmt.Errorf("put %s: %w", name, objects.ErrExists)
	}
	// The call that created the link may not have synced its directories.
	return o, s.syncPath(filepath.Join(s.root, filepath.FromSlash(name)))
}

// Get implements objects.Store.
func (s *Store) Get(ctx context.Context, name string, off int64, n int) ([]byte, error) {
	path, err := s.path(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := objects.CheckRange(off, n); err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, named(name, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, named(name, err)
	}
	if st.IsDir() {
		return nil, named(name, fs.ErrNotExist)
	}
	if off > st.Size()-int64(n) {
		return nil, fmt.Errorf("get %s: %w: range of %d bytes from %d in an object of %d bytes", name, objects.ErrInvalid, n, off, st.Size())
	}
	b := make([]byte, n)
	if _, err := f.ReadAt(b, off); err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	return b, nil
}

// Stat implements objects.Store. The first Stat of an object that this process did not store
// reads the whole file to compute its CRC. Later calls use the remembered CRC while the
// file's identity, size and modification time are unchanged.
func (s *Store) Stat(ctx context.Context, name string) (objects.Object, error) {
	path, err := s.path(ctx, name)
	if err != nil {
		return objects.Object{}, err
	}
	st, err := os.Stat(path)
	if err == nil && st.IsDir() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return objects.Object{}, named(name, err)
	}
	crc, ok := s.sums.recall(name, st)
	if !ok {
		if crc, err = checksum(ctx, path); err != nil {
			return objects.Object{}, named(name, err)
		}
		s.sums.remember(name, st, crc)
	}
	return objects.Object{Name: name, Size: st.Size(), CRC: crc, Created: st.ModTime()}, nil
}

func named(name string, err error) error {
	if missing(err) {
		return fmt.Errorf("object %s: %w", name, objects.ErrNotFound)
	}
	return fmt.Errorf("object %s: %w", name, err)
}

// missing reports whether a file does not exist, which includes that a parent in its path is
// not a directory.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// List implements objects.Store. It reads one directory at a time.
func (s *Store) List(ctx context.Context, prefix string, visit func(objects.Object) bool) error {
	if s.closed.Load() {
		return objects.ErrClosed
	}
	_, err := s.list(ctx, "", prefix, visit)
	return err
}

// list visits the objects in dir, a path that is empty or ends in a slash, and its
// subdirectories. It reports whether to continue.
func (s *Store) list(ctx context.Context, dir, prefix string, visit func(objects.Object) bool) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	names, err := s.names(dir, prefix)
	if err != nil {
		return false, err
	}
	for _, name := range names {
		if strings.HasSuffix(name, "/") {
			if on, err := s.list(ctx, name, prefix, visit); !on || err != nil {
				return on, err
			}
			continue
		}
		if strings.HasSuffix(name, temporary) {
			continue
		}
		st, err := os.Stat(filepath.Join(s.root, filepath.FromSlash(name)))
		if missing(err) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("list objects: %w", err)
		}
		if !visit(objects.Object{Name: name, Size: st.Size(), Created: st.ModTime()}) {
			return false, nil
		}
	}
	return true, nil
}

// names returns the sorted entries of a directory that have the prefix or may contain names
// with it. Directories end in a slash, because their objects sort by the name with the slash.
func (s *Store) names(dir, prefix string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.root, filepath.FromSlash(dir)))
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list objects: %w", err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if dir == "" && !slices.Contains(s.tops, e.Name()) {
			continue
		}
		name, isDir := dir+e.Name(), e.IsDir() || dir == "" && s.isDir(e.Name())
		if isDir {
			name += "/"
		}
		if strings.HasPrefix(name, prefix) || strings.HasPrefix(prefix, name) && isDir {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// isDir reports whether a first segment is a directory or a link to one.
func (s *Store) isDir(top string) bool {
	st, err := os.Stat(filepath.Join(s.root, top))
	return err == nil && st.IsDir()
}

// Delete implements objects.Store. It also removes directories that become empty.
func (s *Store) Delete(ctx context.Context, name string) error {
	path, err := s.path(ctx, name)
	if err != nil {
		return err
	}
	st, err := os.Lstat(path)
	if missing(err) || err == nil && st.IsDir() {
		return nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !missing(err) {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	s.sums.forget(name)
	dirs, err := s.dirsOf(path)
	if err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	// Another Delete may have removed the directory: then its parent is synced.
	for _, dir := range dirs {
		if err = disk.SyncDir(dir); !missing(err) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	removeEmpty(dirs[:len(dirs)-1]) // except the root
	return nil
}

// removeEmpty removes directories, the deepest first, until one is not empty or is a symbolic
// link. It does not use os.Remove, which would remove a link to a directory with objects.
func removeEmpty(dirs []string) {
	for _, dir := range dirs {
		if syscall.Rmdir(dir) != nil {
			return
		}
	}
}

// Close implements objects.Store.
func (s *Store) Close() error {
	s.closed.Store(true)
	return nil
}
