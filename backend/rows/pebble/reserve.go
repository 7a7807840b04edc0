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
	// reserveName is a file that holds room for the next start: to open a store,
	// Pebble writes a few files and what its log has not yet in tables. Without it a
	// store on a full disk could not be opened, and nobody could read, or compact
	// what fills the disk.
	reserveName = "full-disk-reserve"
	// reserveBytes is as much as Pebble may have in its log: one memtable.
	reserveBytes = 16 << 20
	// leastReserve is the least that a start needs, and that is kept for it on a disk
	// without room for more.
	leastReserve = 1 << 20
)

// reserve is the file with room for the next start.
type reserve struct {
	fs   vfs.FS
	path string
	dir  string

	mu       sync.Mutex
	whole    bool // the file has reserveBytes
	released bool // by this start: what is left of it is taken back
	rejected bool // the file system has no means to hold room
}

// release gives the room back to the disk if Pebble may need it now. A disk that
// is full all the same is an error: Pebble would try for ever to write what it
// needs to open.
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
		return fmt.Errorf("release the room that is kept for a start on a full disk: %w", err)
	}
	usage, err = r.fs.GetDiskUsage(r.dir)
	if err == nil && usage.AvailBytes < leastReserve {
		return fmt.Errorf("disk is full: %d bytes are free in %s, to open the row store needs %d", usage.AvailBytes, r.dir, leastReserve)
	}
	return nil
}

// hold takes the room for the next start, or what there is of it when this start
// released it. It does nothing when the disk has too little room, when it does not
// tell, or when all is held.
func (r *reserve) hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.whole || r.rejected {
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
		return // no harm now, and the next write tries again
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
	r.rejected = errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS)
	r.released = false
	_ = f.Close() // it has no data
}
