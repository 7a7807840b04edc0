package wal

// Record is what Append writes: the caller builds it in place.
type Record interface {
	// AppendTo appends the record to dst. The record goes to the given place.
	AppendTo(dst []byte, at Place) []byte
	// Appended is called once the record is in the segment, and not at all if
	// it could not be written.
	Appended(at Place)
}

// Position is the place of an appended record, to be given to Sync.
type Position struct {
	Segment int
	seq     uint64
}

// Place is where a record goes.
type Place struct {
	Segment int
	Epoch   int // the first segment of the epoch, which names it
}
