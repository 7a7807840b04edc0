// Package waltest provides a wal.Disk for tests: its syncs can be made to fail or
// to succeed without an effect, and its power can be cut.
package waltest

import (
	"errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/palliumhq/pallium/backend/wal"
)

// ErrSync is the error of failing syncs.
var ErrSync = errors.New("input/output error")

// Disk is a wal.Disk with injected faults. When the power is cut, content that was
// not synced is lost, and so are the names of files in directories that were not
// synced. The zero value has no faults.
type Disk struct {
	mu      sync.Mutex
	files   map[string]*file
	named   map[string]bool // paths whose names are durable
	failing int             // number of next syncs that fail; -1: all
	lying   bool
	syncs   int
}

// FailSyncs makes the next n syncs of files fail; -1: all, 0: none. Content written
// before a failed sync never becomes durable, as on Linux.
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

// Syncs returns the number of successful syncs of files.
func (d *Disk) Syncs() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.syncs
}

// CutPower brings the created files into the worst state that a power loss can
// leave. They must not be written to afterwards.
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

// file is a file of a Disk. Content lost by a failed sync is replaced by zeros.
type file struct {
	wal.File
	disk *Disk
	path string

	written []span // written since the last sync, successful or not
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
