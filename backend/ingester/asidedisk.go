package ingester

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/palliumhq/pallium/backend/disk"
)

// asideDisk writes and removes the files of series set aside. Tests implement it to
// inject faults.
type asideDisk interface {
	// Write creates or replaces a file. When it returns nil, the content is durable,
	// and the file's name will be after Sync. After an error the file has its old or
	// its new content.
	Write(path string, data []byte) error
	// Sync makes the entries of directories durable.
	Sync(dirs []string) error
	// Remove deletes a file. When it returns nil, the deletion is durable. A missing
	// file is not an error.
	Remove(path string) error
}

// osDisk is the asideDisk of the file system.
type osDisk struct{}

// Write implements asideDisk.
func (osDisk) Write(path string, data []byte) error { return disk.ReplaceFileUnsynced(path, data) }

// Sync implements asideDisk. A directory that does not exist is skipped.
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
