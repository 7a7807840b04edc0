package pebble

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// minFree is the number of bytes that must be free on the disk for a write to start.
// Other writers may fill the disk to the last byte, but Pebble must not run out of space:
// a failed write of its log makes the store unusable until a restart.
const minFree = 16 << 20

// commit writes a batch and syncs it.
func (s *Store) commit(b *pebble.Batch) error {
	if err := s.space(); err != nil {
		return err
	}
	s.reserve.hold() // the disk may have been too full before
	return b.Commit(pebble.Sync)
}

// space returns an error if the disk is nearly full. If the file system does not report
// its free space, space returns nil.
func (s *Store) space() error {
	if usage, err := s.fs.GetDiskUsage(s.dir); err == nil && usage.AvailBytes < minFree {
		return fmt.Errorf("disk is full: %d bytes are free in %s, a write needs %d", usage.AvailBytes, s.dir, minFree)
	}
	return nil
}
