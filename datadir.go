package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/palliumhq/pallium/backend/disk"
)

// closeDataDir creates the data directory if needed, and removes the permissions of group and
// others that older versions gave to it and its subdirectories. It does not change a directory of
// another owner, for example the root of a volume that is writable by group, nor a data directory
// that contains other files, which may be shared on purpose. Even then, Pallium's own
// subdirectories in it are changed.
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
func ownFiles() []string {
	return []string{"admin-token", "key-pepper", "ring.json", ingesterLock, "lost+found"}
}

// ingesterLock is the file in the data directory that the process with the ingester keeps locked.
// It is not in the ingester's own directory, because files there mean that the ingester has data;
// see joinRing.
const ingesterLock = "ingester.lock"

// lockIngester keeps other processes from opening the ingester of this process's data directory:
// two processes would write to one log, and each would delete files that the other needs. The
// kernel releases the lock when the process ends, also after a crash. The lock of the embedded row
// store is not enough: an ingester of a cluster has no row store in its directory.
func (p *process) lockIngester() error {
	if !p.targets[TargetIngester] {
		return nil
	}
	path := filepath.Join(p.cfg.DataDir, ingesterLock)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, disk.FileMode)
	if err != nil {
		return fmt.Errorf("lock the data directory: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = fmt.Errorf("data directory %s is in use by another pallium process with an ingester; "+
			"stop it, or give this one another -data-dir", p.cfg.DataDir)
	} else if err != nil {
		err = fmt.Errorf("lock %s: %w", path, err)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	p.onClose("lock of the data directory", f.Close)
	return nil
}

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

// hasFiles reports whether dir or a directory below it contains a file. A missing dir contains none.
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
