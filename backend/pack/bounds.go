package pack

import "github.com/palliumhq/pallium/backend/series"

// Bounds of the data that a tenant may send, derived from the limits of the pack
// format and of the index. The distributor and the ingester reject or drop data
// beyond them, so that all accepted data can be sealed, uploaded and compacted.
// docs/format/bounds.md has the derivations.
const (
	// MaxDay is the last day that a section can have.
	MaxDay = maxDay - 1

	// MaxSeriesLabels is the maximum number of labels of a series.
	MaxSeriesLabels = 1 << 14

	// MaxSeriesLabelBytes is the maximum total length of a series' label names
	// and values, including the metric name. Pages are cut at the same size, so
	// that every page fits a cell of the row store.
	MaxSeriesLabelBytes = targetDictionary

	// MaxMetadataText is the maximum length in bytes of a help text or unit;
	// longer ones are truncated.
	MaxMetadataText = 16 << 10

	// MaxTenantMetadata is the maximum size in bytes of a tenant's metadata, as
	// counted by MetadataSize. The metadata of a section is a subset of it.
	MaxTenantMetadata = maxMetadataRaw / 2
)

// metadataOverhead is an upper bound of the size of an entry's four length
// prefixes.
const metadataOverhead = 16

// MetadataSize returns the maximum encoded size in bytes of a metadata entry.
func MetadataSize(m *series.MetricMetadata) int {
	return len(m.Metric) + len(m.Type) + len(m.Unit) + len(m.Help) + metadataOverhead
}

// These constants fail to compile when a bound exceeds the limit from which it
// is derived.
const (
	_ = uint64(MaxDay - series.MaxTime/series.DayMillis)
	_ = uint64(maxPageCells - MaxSeriesLabels)
	_ = uint64(targetCells - MaxSeriesLabels)
	_ = uint64(maxName - MaxSeriesLabelBytes)
	_ = uint64(maxDictionary - targetDictionary)
	_ = uint64(maxFrame - 64*series.MaxChunkBytes)
	_ = uint64(maxChunkCount - series.MaxChunkSamples)

	// Chunks of a series in one day's section: twice the chunks that push
	// admission allows, because a crash between a seal and its record seals
	// the same samples again; and chunks of 128 out-of-order floats, which
	// are not limited for a series that has only floats.
	_ = uint64(maxPageChunks - windowsOfDay*(2*series.MaxWindowChunks+int(series.WindowMillis)/128))
)

const windowsOfDay = int(series.DayMillis / series.WindowMillis)
