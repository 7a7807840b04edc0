package pebble

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// reserveName is a file that reserves disk space for the next start: to open a store,
	// Pebble writes a few files, and tables with the contents of its log. Without the
	// reserve, a store on a full disk could not be opened, and the data that fills the
	// disk could be neither read nor compacted.
	reserveName = "full-disk-reserve"
	// reserveBytes is the size of a full reserve and of one memtable. The log of Pebble holds
	// more only while memtables wait for a flush.
	reserveBytes = 16 << 20
	// leastReserve is the minimum number of bytes that a start needs, and the smallest
	// reserve on a disk without space for reserveBytes.
	leastReserve = 1 << 20
)

// reserve manages the file that reserves disk space for the next start.
type reserve struct {
	fs   vfs.FS
	path string
	dir  string

	mu          sync.Mutex
	whole       bool // the file has reserveBytes
	released    bool // this start released the reserve: hold reserves the space that is left
	unsupported bool // the file system cannot preallocate space
}

// release deletes the reserve if the disk is nearly full, so that Pebble can use the
// space to open the store. If the disk is full even then, release returns an error:
// Pebble would retry forever.
func (r *reserve) release() error {
	usage, err := r.fs.GetDiskUsage(r.dir)
	if err != nil || usage.AvailBytes >= minFree {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch err := r.fs.Remove(r.path); {
	case err == nil:
		r.released = true
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("delete the reserve file that lets the row store open on a full disk: %w", err)
	}
	usage, err = r.fs.GetDiskUsage(r.dir)
	if err == nil && usage.AvailBytes < leastReserve {
		return fmt.Errorf("disk is full: %d bytes are free in %s, opening the row store needs %d", usage.AvailBytes, r.dir, leastReserve)
	}
	return nil
}

// hold reserves disk space for the next start, or as much as is left if this start
// released the reserve. It does nothing if the disk has too little free space or does not
// report it, if reserveBytes are reserved already, or if the file system cannot preallocate space.
func (r *reserve) hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.whole || r.unsupported {
		return
	}
	usage, err := r.fs.GetDiskUsage(r.dir)
	if err != nil {
		return
	}
	plenty := usage.AvailBytes >= 2*minFree+reserveBytes
	if !plenty && !r.released {
		return
	}
	f, err := r.fs.OpenReadWrite(r.path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return // not needed now, and the next write tries again
	}
	for size := int64(reserveBytes); size >= leastReserve; size /= 2 {
		if err = f.Preallocate(0, size); err == nil {
			r.whole = size == reserveBytes
			break
		}
		if !errors.Is(err, syscall.ENOSPC) {
			break
		}
	}
	r.unsupported = errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS)
	r.released = false
	_ = f.Close() // it has no data
}
