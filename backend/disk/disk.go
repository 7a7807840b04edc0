// Package disk has the functions that all of Pallium's files share. Small files are
// replaced such that a crash or a power loss at any time leaves either the old or
// the new content, never an empty or a partial file: the data is synced before the
// rename, and the directory after it. Directory entries are synced, and checksums
// are CRC-32C.
//
// Files that are written incrementally (packs, objects, the write-ahead log) have
// their own order of syncs, documented in their packages. They use SyncDir, MakeDir
// and the checksums of this package.
package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// TemporarySuffix is the suffix of a file that is being written. A crash may leave
// such a file; the next ReplaceFile of the same path replaces it.
const TemporarySuffix = ".tmp"

// Modes of new files and directories: only the owner has access.
const (
	FileMode fs.FileMode = 0o600
	DirMode  fs.FileMode = 0o700
)

// ReplaceFile replaces the content of the file at path, and creates its directory
// if needed. When it returns nil, content and name are durable. After an error the
// file has its old content, or the new content if only the sync of the directory
// failed. Calls for the same path must not overlap.
func ReplaceFile(path string, data []byte) error { return replaceFile(system{}, path, data) }

// ReplaceFileUnsynced is ReplaceFile without the last step: a power loss may
// restore the old content until SyncDir is called for the directory. Callers that
// write many files in one directory use it.
func ReplaceFileUnsynced(path string, data []byte) error {
	return replaceUnsynced(system{}, path, data)
}

// MakeDir creates a directory and its missing parents, accessible only by the
// owner, and makes their names durable.
func MakeDir(dir string) error { return makeDir(system{}, dir) }

// SyncDir makes the entries of a directory durable.
func SyncDir(dir string) error { return system{}.syncDir(dir) }

func replaceFile(l layer, path string, data []byte) error {
	if err := replaceUnsynced(l, path, data); err != nil {
		return err
	}
	return l.syncDir(filepath.Dir(path))
}

func replaceUnsynced(l layer, path string, data []byte) error {
	if err := makeDir(l, filepath.Dir(path)); err != nil {
		return err
	}
	tmp := path + TemporarySuffix
	if err := writeSynced(l, tmp, data); err != nil {
		return errors.Join(err, removeIfThere(l, tmp))
	}
	if err := l.rename(tmp, path); err != nil {
		return errors.Join(err, removeIfThere(l, tmp))
	}
	return nil
}

func writeSynced(l layer, path string, data []byte) error {
	f, err := l.create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func makeDir(l layer, dir string) error {
	err := l.stat(dir)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	above := filepath.Dir(dir)
	if err := makeDir(l, above); err != nil {
		return err
	}
	if err := l.mkdir(dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := l.stat(dir); err != nil { // a symbolic link without a target exists too
		return err
	}
	return l.syncDir(above)
}

func removeIfThere(l layer, path string) error {
	if err := l.remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// layer is the file system. Tests implement it to inject faults.
type layer interface {
	stat(path string) error
	mkdir(dir string) error
	create(path string) (file, error)
	rename(from, to string) error
	remove(path string) error
	syncDir(dir string) error
}

// file is an open file of a layer.
type file interface {
	Write(data []byte) (int, error)
	Sync() error
	Close() error
}

// system is the layer of the operating system.
type system struct{}

// stat implements layer.
func (system) stat(path string) error {
	_, err := os.Stat(path)
	return err
}

// mkdir implements layer.
func (system) mkdir(dir string) error { return os.Mkdir(dir, DirMode) }

// create implements layer. It removes a file that a crash left, which may have the
// mode of an older version.
func (system) create(path string) (file, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, FileMode)
}

// rename implements layer.
func (system) rename(from, to string) error { return os.Rename(from, to) }

// remove implements layer.
func (system) remove(path string) error { return os.Remove(path) }

// syncDir implements layer.
func (system) syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
