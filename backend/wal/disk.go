package wal

import (
	"os"
	"syscall"

	"github.com/palliumhq/pallium/backend/disk"
)

// Disk is the part of a file system that the log writes through. Replay reads
// the files directly. Tests put faults into it (package waltest).
type Disk interface {
	// Create creates a file that does not exist, for writing by its owner only.
	Create(path string) (File, error)
	// Remove removes a file. Its name may come back after a crash until SyncDir.
	Remove(path string) error
	// SyncDir brings the names in a directory to disk.
	SyncDir(dir string) error
}

// File is a segment that is being written.
type File interface {
	WriteAt(p []byte, off int64) (int, error)
	Truncate(size int64) error
	// Datasync brings the content and the length of the file to disk. After an error
	// the content written since the last success may be lost, and a later success
	// says nothing about it: Linux marks the pages that it could not write as clean.
	Datasync() error
	Close() error
}

// OS returns the file system of the operating system.
func OS() Disk { return osDisk{} }

type osDisk struct{}

// Create implements Disk.
func (osDisk) Create(path string) (File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Remove implements Disk.
func (osDisk) Remove(path string) error { return os.Remove(path) }

// SyncDir implements Disk.
func (osDisk) SyncDir(dir string) error { return disk.SyncDir(dir) }

type osFile struct{ *os.File }

// Datasync implements File with fdatasync: the file's length is written with its
// data, its times are not, which saves a journal commit on most file systems.
func (f osFile) Datasync() error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if err != syscall.EINTR {
			return err
		}
	}
}
