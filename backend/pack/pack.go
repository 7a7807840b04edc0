// Package pack reads and writes pack files: immutable files with the chunks of
// many series of many tenants, and the label tables that find them.
//
// An ingester seals its windows into packs of level 0 and serves them from its
// disk; the long-term store keeps the same format. docs/format/pack.md
// specifies the format byte by byte. A pack is self-describing: the file alone
// tells which tenants, days and series it holds.
package pack

import (
	"errors"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/authn/tenant"
)

// Suffix ends the name of every pack file; TemporarySuffix is appended to it
// until the file is complete.
const (
	Suffix          = ".pk"
	TemporarySuffix = ".tmp"
)

const (
	magic        = "TSPACK01"
	trailerMagic = "10KCAPST"
	format       = 1
	headerLen    = 32
	trailerLen   = 32
)

// Limits of the format. Writers never exceed them and readers reject larger
// values, so that a corrupt length cannot make a reader allocate more than a
// valid one does.
const (
	maxPageSeries  = 2048      // series in a page
	maxPageCells   = 1 << 20   // series times label columns of a page
	maxPageChunks  = 1 << 20   // chunks in a page
	maxPageFrames  = 1 << 16   // frames that a page points into
	maxPageRaw     = 16 << 20  // bytes of a page before compression
	maxDictionary  = 32 << 20  // bytes of a page's label names and values, expanded
	maxMetadataRaw = 64 << 20  // bytes of a section's metadata before compression
	maxFrame       = 512 << 20 // bytes in a frame
	maxChunkCount  = 1<<16 - 1 // samples in a chunk: Prometheus' chunk header counts in 16 bits
	maxName        = 1 << 24   // bytes of one label name or value, as in Prometheus
	maxDay         = 1 << 31   // exclusive
)

// Chunk codecs. Codecs 1 to 5 belong to package column.
const (
	codecXOR       = 0 // Prometheus' XOR bytes verbatim
	codecHistogram = 6 // Prometheus' native histogram bytes verbatim
)

// ErrCorrupt is wrapped by every error that reports a damaged or truncated
// file, or a file that is not a pack.
var ErrCorrupt = errors.New("pack is damaged")

// ErrClosed is returned by readers and sources after they were closed.
var ErrClosed = errors.New("pack is closed")

// Options configure a new pack.
type Options struct {
	ID     ulid.ULID // identifies the pack; never reused
	Level  uint8     // 0 = sealed by an ingester, 1 = compacted
	Source string    // ID of the ingester that wrote it, or "compactor"

	// Deletions returns the number of the tenant's last deletion of series
	// (tombstone) that was applied to the written samples. If nil, none was
	// applied for any tenant.
	Deletions func(tenant.ID) uint64

	// Encoder compresses blocks; several writers may share one. If nil, the
	// writer creates its own.
	Encoder *Encoder

	plain bool // do not compress blocks: for a golden file that does not depend on the version of zstd
}

// Info describes a pack.
type Info struct {
	ID       ulid.ULID
	Level    uint8
	Source   string
	Size     int64 // of the file, in bytes
	Sections []SectionInfo
}

// SectionInfo describes the section of one tenant and UTC day in a pack.
type SectionInfo struct {
	Tenant           tenant.ID
	Day              int64  // series.Day of all its samples
	Offset, Length   int64  // in bytes, within the file
	CRC              uint32 // CRC-32C of those bytes
	MinTime, MaxTime int64  // Unix milliseconds, inclusive
	Series, Chunks   int
	Samples          int64
	Deletion         uint64 // number of the tenant's last deletion of series that was applied
}

// Overlaps reports whether the section may contain samples in [mint, maxt].
func (s *SectionInfo) Overlaps(mint, maxt int64) bool { return s.MinTime <= maxt && s.MaxTime >= mint }

// codecOf returns the codec that stores chunks of the encoding verbatim.
func codecOf(e chunkenc.Encoding) (codec uint8, ok bool) {
	switch e {
	case chunkenc.EncXOR:
		return codecXOR, true
	case chunkenc.EncHistogram, chunkenc.EncFloatHistogram:
		return codecHistogram, true
	}
	return 0, false
}
