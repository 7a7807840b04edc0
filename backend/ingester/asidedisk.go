package ingester

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// asideDisk writes and removes the files of series set aside. A test puts faults
// into it.
type asideDisk interface {
	// Write makes or replaces a file: when it returns nil, the file is on disk, and
	// its name is after Sync; after an error the file is as before or as it should be.
	Write(path string, data []byte) error
	// Sync brings the names in directories to disk.
	Sync(dirs []string) error
	// Remove deletes a file; when it returns nil, the file stays away. That there
	// was none is no error.
	Remove(path string) error
}

// osDisk is the file system.
type osDisk struct{}

// Write implements asideDisk.
func (osDisk) Write(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	tmp := path + ".tmp"
	err := writeSynced(tmp, data)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, removeIfThere(tmp))
	}
	return nil
}

// Sync implements asideDisk. A directory that somebody removed has no names.
func (osDisk) Sync(dirs []string) error {
	for _, dir := range dirs {
		if err := syncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Remove implements asideDisk.
func (osDisk) Remove(path string) error {
	if err := removeIfThere(path); err != nil {
		return err
	}
	return osDisk{}.Sync([]string{filepath.Dir(path)})
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
