// Package waltest has a disk for tests of the write-ahead log: its syncs fail or
// lie when it is told to, and its power can be cut.
package waltest

import (
	"errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/palliumhq/pallium/backend/wal"
)

// ErrSync is what a sync that fails returns.
var ErrSync = errors.New("input/output error")

// Disk is the file system with faults. Content that was not synced is lost when
// the power is cut, and so are the names of files in directories that were not.
// The zero value has no faults.
type Disk struct {
	mu      sync.Mutex
	files   map[string]*file
	named   map[string]bool // paths whose names are on disk
	failing int             // syncs that fail from now on; -1: all
	lying   bool
	syncs   int
}

// FailSyncs makes the next n syncs of a file fail; -1 all, 0 none. What was
// written before a sync that failed is never on disk, as on Linux.
func (d *Disk) FailSyncs(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failing = n
}

// Lie makes syncs of files succeed without an effect.
func (d *Disk) Lie(lying bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lying = lying
}

// Syncs counts the syncs of files that succeeded.
func (d *Disk) Syncs() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.syncs
}

// CutPower brings the files that the disk created to the state in which a power
// loss leaves them at worst. Nothing may write to them any more.
func (d *Disk) CutPower() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs error
	for path, f := range d.files {
		if !d.named[path] {
			errs = errors.Join(errs, os.Remove(path))
			continue
		}
		errs = errors.Join(errs, os.WriteFile(path, f.durable, 0o600))
	}
	d.files, d.named = nil, nil
	return errs
}

// Create implements wal.Disk.
func (d *Disk) Create(path string) (wal.File, error) {
	f, err := wal.OS().Create(path)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.files == nil {
		d.files, d.named = map[string]*file{}, map[string]bool{}
	}
	out := &file{File: f, disk: d, path: path}
	d.files[path] = out
	return out, nil
}

// Remove implements wal.Disk.
func (d *Disk) Remove(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.files, path)
	delete(d.named, path)
	return os.Remove(path)
}

// SyncDir implements wal.Disk.
func (d *Disk) SyncDir(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for path := range d.files {
		if filepath.Dir(path) == filepath.Clean(dir) {
			d.named[path] = true
		}
	}
	return nil
}

// file is a file of the disk. Holes that a failed sync left stay zero.
type file struct {
	wal.File
	disk *Disk
	path string

	written []span // since the last sync, successful or not
	durable []byte
}

type span struct{ from, to int64 }

// WriteAt implements wal.File.
func (f *file) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.written = append(f.written, span{off, off + int64(n)})
	return n, err
}

// Datasync implements wal.File.
func (f *file) Datasync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.failing != 0 {
		f.disk.failing = max(f.disk.failing-1, -1)
		f.written = nil
		return ErrSync
	}
	f.disk.syncs++
	if f.disk.lying {
		return nil
	}
	data, err := os.ReadFile(f.path)
	if err != nil {
		return err
	}
	for _, s := range f.written {
		to := min(s.to, int64(len(data)))
		if s.from >= to {
			continue
		}
		if n := to - int64(len(f.durable)); n > 0 {
			f.durable = append(f.durable, make([]byte, n)...)
		}
		copy(f.durable[s.from:], data[s.from:to])
	}
	f.durable = f.durable[:min(len(f.durable), len(data))]
	f.written = nil
	return nil
}
