package pebble

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// minFree is how many bytes must be free on the disk for a write to begin. What
// else writes to the disk may fill it to the last byte; Pebble must not meet
// that: a write of its log that fails breaks the store until a restart.
const minFree = 16 << 20

// commit writes a batch to the disk.
func (s *Store) commit(b *pebble.Batch) error {
	if err := s.space(); err != nil {
		return err
	}
	s.reserve.hold() // the disk may have been too full for it before
	return b.Commit(pebble.Sync)
}

// space is an error when the disk is nearly full. A file system that does not
// tell counts as empty.
func (s *Store) space() error {
	if usage, err := s.fs.GetDiskUsage(s.dir); err == nil && usage.AvailBytes < minFree {
		return fmt.Errorf("disk is full: %d bytes are free in %s, a write needs %d", usage.AvailBytes, s.dir, minFree)
	}
	return nil
}
