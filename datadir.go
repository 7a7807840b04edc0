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

// closeDataDir makes the data directory if need be, and what an older version made
// in it readable by its owner only. A directory of another owner stays as it is,
// such as the root of a volume whose group may write to it, and one with files of
// others, which may be meant for all. What is below is closed by its own mode.
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

// ownDirs and ownFiles are the names that a data directory has of its own, in this
// and earlier versions.
func ownDirs() []string { return []string{"ingester", "l0", "l1", "rows", "scratch", "scratch-verify"} }

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

// hasFiles reports whether there is a file below dir.
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
