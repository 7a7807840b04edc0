package pack

import "github.com/palliumhq/pallium/backend/series"

// Bounds of what a tenant may send, derived from the format's limits above and
// from those of the index. The distributor and the ingester reject or drop what
// is beyond them, so whatever they accept can be sealed, uploaded and compacted.
// docs/format/bounds.md has the derivations.
const (
	// MaxDay is the last day of a section.
	MaxDay = maxDay - 1

	// MaxSeriesLabels is how many labels a series may have.
	MaxSeriesLabels = 1 << 14

	// MaxSeriesLabelBytes is how many bytes the names and values of a series'
	// labels may have, the metric name among them. A page is cut at the same size,
	// so none has more, and each is a cell of the index that a row store takes.
	MaxSeriesLabelBytes = targetDictionary

	// MaxMetadataText is the length in bytes of a help text or unit; longer ones
	// are cut.
	MaxMetadataText = 16 << 10

	// MaxTenantMetadata is how many bytes the metadata of a tenant may have, as
	// MetadataSize counts them. A section has no more than all of it.
	MaxTenantMetadata = maxMetadataRaw / 2
)

// metadataOverhead is more than the four lengths of an entry take.
const metadataOverhead = 16

// MetadataSize is the size in bytes of an entry of metadata.
func MetadataSize(m *series.MetricMetadata) int {
	return len(m.Metric) + len(m.Type) + len(m.Unit) + len(m.Help) + metadataOverhead
}

// What follows does not compile when a bound no longer fits the limit that it is
// derived from.
const (
	_ = uint64(MaxDay - series.MaxTime/series.DayMillis)
	_ = uint64(maxPageCells - MaxSeriesLabels)
	_ = uint64(targetCells - MaxSeriesLabels)
	_ = uint64(maxName - MaxSeriesLabelBytes)
	_ = uint64(maxDictionary - targetDictionary)
	_ = uint64(maxFrame - 64*series.MaxChunkBytes)
	_ = uint64(maxChunkCount - series.MaxChunkSamples)

	// The chunks of a series in the section of a day: what the door lets begin, twice
	// over since a crash between a seal and its record brings back what was sealed;
	// and out-of-order floats, which are encoded by 128 when nothing else is there.
	_ = uint64(maxPageChunks - windowsOfDay*(2*series.MaxWindowChunks+int(series.WindowMillis)/128))
)

const windowsOfDay = int(series.DayMillis / series.WindowMillis)
