package ingester

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/palliumhq/pallium/backend/disk"
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
func (osDisk) Write(path string, data []byte) error { return disk.ReplaceFileUnsynced(path, data) }

// Sync implements asideDisk. A directory that somebody removed has no names.
func (osDisk) Sync(dirs []string) error {
	for _, dir := range dirs {
		if err := disk.SyncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
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
