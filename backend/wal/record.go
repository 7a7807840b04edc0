package wal

// Record is a record to be appended; it is encoded directly into the log's buffer.
type Record interface {
	// AppendTo appends the record to dst. `at` is the place of the record in the log.
	AppendTo(dst []byte, at Place) []byte
	// Appended is called after the record was written, and not called if writing
	// failed.
	Appended(at Place)
}

// Position identifies an appended record for Sync.
type Position struct {
	Segment int
	seq     uint64
}

// Place is the segment of a record and the epoch of that segment.
type Place struct {
	Segment int
	Epoch   int // number of the first segment of the epoch
}
