// Package pack reads and writes pack files: immutable files with the chunks of
// many series of many tenants, and the label tables that find them.
//
// An ingester seals its windows into packs of level 0 and serves them from its
// disk; the long-term store keeps the same format. docs/format/pack.md has the
// format byte by byte. A pack describes itself: whoever has the file needs
// nothing else to know whose samples it holds.
package pack

import (
	"errors"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/authn/tenant"
)

// Suffix is how the name of every pack file ends; TemporarySuffix is added to
// it until the file is complete.
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

// The format's limits. A writer keeps them and a reader rejects what is beyond,
// so that a damaged length costs no more memory than a valid one.
const (
	maxPageSeries  = 2048      // series of a page
	maxPageCells   = 1 << 20   // series times label columns of a page
	maxPageChunks  = 1 << 20   // chunks of a page
	maxPageFrames  = 1 << 16   // frames that a page points into
	maxPageRaw     = 16 << 20  // bytes of a page before compression
	maxDictionary  = 32 << 20  // bytes of a page's label names and values, expanded
	maxMetadataRaw = 64 << 20  // bytes of a section's metadata before compression
	maxFrame       = 512 << 20 // bytes of a frame
	maxChunkCount  = 1<<16 - 1 // samples of a chunk: its own header counts in 16 bits
	maxName        = 1 << 24   // bytes of one label name or value, as in Prometheus
	maxDay         = 1 << 31   // exclusive
)

// Codecs of chunks. Codecs 1 to 5 are those of package column.
const (
	codecXOR       = 0 // Prometheus' XOR bytes verbatim
	codecHistogram = 6 // Prometheus' native histogram bytes verbatim
)

// ErrCorrupt is in every error that says that a file's bytes are damaged, cut
// short or not a pack at all.
var ErrCorrupt = errors.New("pack is damaged")

// ErrClosed is returned for a reader or source that was closed.
var ErrClosed = errors.New("pack is closed")

// Options of a new pack.
type Options struct {
	ID     ulid.ULID // names the pack for ever
	Level  uint8     // 0 = sealed by an ingester, 1 = compacted
	Source string    // who wrote it: the ingester's ID

	// Deletions tells the number of a tenant's last deletion of series that was
	// applied to what is written; nil: none was, for any.
	Deletions func(tenant.ID) uint64

	// Encoder compresses; several writers may share one. nil: one of its own.
	Encoder *Encoder

	plain bool // leave blocks uncompressed, for a golden file that outlives zstd versions
}

// Info describes a pack.
type Info struct {
	ID       ulid.ULID
	Level    uint8
	Source   string
	Size     int64 // of the file in bytes
	Sections []SectionInfo
}

// SectionInfo describes what a pack holds of one tenant and UTC day.
type SectionInfo struct {
	Tenant           tenant.ID
	Day              int64  // series.Day of all its samples
	Offset, Length   int64  // its bytes in the file
	CRC              uint32 // CRC-32C of those bytes
	MinTime, MaxTime int64  // Unix milliseconds, inclusive
	Series, Chunks   int
	Samples          int64
	Deletion         uint64 // number of the tenant's last deletion that was applied to them
}

// Overlaps reports whether the section may hold a sample in [mint, maxt].
func (s *SectionInfo) Overlaps(mint, maxt int64) bool { return s.MinTime <= maxt && s.MaxTime >= mint }

// codecOf returns the codec that keeps an encoding verbatim.
func codecOf(e chunkenc.Encoding) (codec uint8, ok bool) {
	switch e {
	case chunkenc.EncXOR:
		return codecXOR, true
	case chunkenc.EncHistogram, chunkenc.EncFloatHistogram:
		return codecHistogram, true
	}
	return 0, false
}
