package wal

import (
	"os"

	"github.com/palliumhq/pallium/backend/disk"
)

// Disk is the part of a file system that the log writes to. Replay reads the files
// directly. Package waltest implements it to inject faults.
type Disk interface {
	// Create creates a file that does not exist, with access only for its owner.
	Create(path string) (File, error)
	// Remove removes a file. The file may reappear after a crash until SyncDir.
	Remove(path string) error
	// SyncDir makes the entries of a directory durable.
	SyncDir(dir string) error
}

// File is a segment that is being written.
type File interface {
	WriteAt(p []byte, off int64) (int, error)
	Truncate(size int64) error
	// Datasync makes the content and the length of the file durable. After an error,
	// content written since the last success may be lost even if a later call
	// succeeds: Linux marks pages that it could not write as clean.
	Datasync() error
	Close() error
}

// OS returns the Disk of the operating system.
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
