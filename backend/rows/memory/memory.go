// Package memory is the row store in the memory of the process, for tests and
// measurements: Pebble's adapter over a file system that is gone with it.
package memory

import (
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/palliumhq/pallium/backend/rows/pebble"
)

// Open opens an empty store.
func Open() (*pebble.Store, error) {
	return pebble.Open("rows", pebble.Options{FS: vfs.NewMem(), CacheBytes: 1 << 20})
}
