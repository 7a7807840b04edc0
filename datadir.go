package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/palliumhq/pallium/backend/disk"
)

// closeDataDir creates the data directory if needed, and removes the permissions of group
// and others that older versions gave to it and its subdirectories. It does not change a
// directory of another owner, for example the root of a volume that is writable by group,
// nor a data directory that contains other files, which may be shared on purpose. Its own
// subdirectories are closed in any case.
func closeDataDir(dir string) error {
	if err := disk.MakeDir(dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	foreign := false
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), disk.TemporarySuffix)
		switch {
		case slices.Contains(ownDirs(), name) && e.IsDir():
			if err := closeDir(filepath.Join(dir, name)); err != nil {
				return err
			}
		case !slices.Contains(ownFiles(), name):
			foreign = true
		}
	}
	if foreign {
		return nil
	}
	return closeDir(dir)
}

// ownDirs returns the names of Pallium's own subdirectories of a data directory, of this
// and earlier versions.
func ownDirs() []string { return []string{"ingester", "l0", "l1", "rows", "scratch", "scratch-verify"} }

// ownFiles returns the names of files that may be in a data directory: Pallium's own, and
// what the file system creates.
func ownFiles() []string { return []string{"admin-token", "key-pepper", "ring.json", "lost+found"} }

func closeDir(dir string) error {
	st, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	owner, ok := st.Sys().(*syscall.Stat_t)
	if !st.IsDir() || st.Mode().Perm()&^disk.DirMode == 0 || !ok || int(owner.Uid) != os.Geteuid() {
		return nil
	}
	return os.Chmod(dir, disk.DirMode)
}

// hasFiles reports whether dir or a directory below it contains a file.
func hasFiles(dir string) (bool, error) {
	found := false
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = true
			return fs.SkipAll
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return found, err
}
