// Package disk has what all files of ours share: small files are replaced so that
// a crash or a power loss at any moment leaves either the old or the new content,
// never an empty or a partial file (the data is synced before the rename, and the
// directory after it); names in directories are brought to disk; and checksums
// are CRC-32C.
//
// Files that are written bit by bit (packs, objects, the write-ahead log) have an
// order of syncs of their own, which is documented there, and use SyncDir, MakeDir
// and the checksums.
package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// TemporarySuffix ends the name of a file that is being written. A crash may
// leave one; the next ReplaceFile of the same path replaces it.
const TemporarySuffix = ".tmp"

// Modes of what is made: readable by the owner only.
const (
	FileMode fs.FileMode = 0o600
	DirMode  fs.FileMode = 0o700
)

// ReplaceFile replaces the content of the file at path, and makes its directory if
// need be. When it returns nil, content and name are on disk. After an error the
// file has its old content, or the new one if only the sync of the directory
// failed. Calls for one path must not overlap.
func ReplaceFile(path string, data []byte) error { return replaceFile(system{}, path, data) }

// ReplaceFileUnsynced is ReplaceFile without the last step: after it a power loss
// may bring the old content back until SyncDir was called for the directory. It is
// for whoever writes many files of one directory.
func ReplaceFileUnsynced(path string, data []byte) error {
	return replaceUnsynced(system{}, path, data)
}

// MakeDir makes a directory and those above it that are missing, readable by the
// owner only, and brings their names to disk.
func MakeDir(dir string) error { return makeDir(system{}, dir) }

// SyncDir brings the names in a directory to disk.
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
	if err := l.stat(dir); err != nil { // a symbolic link to nowhere exists as well
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

// layer is the file system. A test puts faults into it.
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

// system is the file system of the operating system.
type system struct{}

// stat implements layer.
func (system) stat(path string) error {
	_, err := os.Stat(path)
	return err
}

// mkdir implements layer.
func (system) mkdir(dir string) error { return os.Mkdir(dir, DirMode) }

// create implements layer. A file that a crash left is created again: it may have the
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
