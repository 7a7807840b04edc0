package frontend

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/tsdb/encoding"

	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/series"
)

// entry is a value of the cache: the answer of a part of a query for a range of steps, and the
// versions of the data that it depends on.
type entry struct {
	key       string
	ingesters []series.IngesterVersion
	recent    bool // it depends on samples at or after the ingesters' bound
	store     series.StoreVersion
	stored    time.Time       // to the millisecond
	steps     split.Range     // of the points; Unix milliseconds, inclusive
	cost      evaluation.Cost // compared with the limits when the answer is used again
	notes     []evaluation.Note
	points    promql.Matrix
}

// entryFormat is the first byte of an encoded entry.
const entryFormat = 2

// errEntry is returned for a value that is not an entry of the key.
var errEntry = errors.New("value of the results cache is damaged, or of another key or format")

// encode returns the entry as bytes, compressed.
func (e *entry) encode(step int64) []byte {
	b := encoding.Encbuf{}
	b.PutUvarintStr(e.key)
	b.PutUvarint(len(e.ingesters))
	for _, v := range e.ingesters {
		b.PutUvarintStr(v.Instance)
		b.PutBE64(v.Epoch)
		b.PutUvarint64(v.Changes)
		b.PutUvarint64(v.Recent)
	}
	b.PutByte(boolByte(e.recent))
	b.B = append(b.B, e.store.Deletions[:]...)
	b.PutUvarint(len(e.store.Days))
	for _, d := range e.store.Days {
		b.PutVarint64(d.Day)
		b.B = append(b.B, d.Digest[:]...)
	}
	b.PutVarint64(e.stored.UnixMilli())
	b.PutVarint64(e.steps.Start)
	b.PutVarint64(e.steps.End)
	b.PutVarint64(e.cost.Series)
	b.PutVarint64(e.cost.Samples)
	b.PutVarint64(e.cost.Read)
	b.PutUvarint(len(e.notes))
	for _, n := range e.notes {
		b.PutUvarintStr(n.Raw)
		b.PutUvarintStr(n.Placed)
		b.PutByte(boolByte(n.Info))
	}
	b.PutUvarint(len(e.points))
	for i := range e.points {
		evaluation.AppendSeries(&b, &e.points[i], e.steps.Start, step)
	}
	out := make([]byte, 1+snappy.MaxEncodedLen(b.Len()))
	out[0] = entryFormat
	return slices.Clone(out[:1+len(snappy.Encode(out[1:], b.Get()))]) // without spare capacity, which would stay in a cache in memory
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// decodedBytes estimates the memory that decoding a value needs.
func decodedBytes(value []byte) int64 {
	if len(value) == 0 {
		return 0
	}
	n, err := snappy.DecodedLen(value[1:])
	if err != nil {
		return 0
	}
	return 4 * int64(n) // the decompressed bytes, and the points with their slices
}

// decodeEntry decodes the entry of a key. It returns errEntry if the value is not an entry of that key.
func decodeEntry(key string, value []byte, step int64) (*entry, error) {
	if len(value) == 0 || value[0] != entryFormat {
		return nil, errEntry
	}
	raw, err := snappy.Decode(nil, value[1:])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errEntry, err)
	}
	d := encoding.Decbuf{B: raw}
	e := &entry{key: d.UvarintStr()}
	if e.key != key {
		return nil, errEntry
	}
	for n := d.Uvarint(); n > 0 && d.Err() == nil; n-- {
		e.ingesters = append(e.ingesters, series.IngesterVersion{Instance: d.UvarintStr(), Epoch: d.Be64(),
			Changes: d.Uvarint64(), Recent: d.Uvarint64()})
	}
	e.recent = d.Byte() == 1
	copy(e.store.Deletions[:], evaluation.Take(&d, len(e.store.Deletions)))
	for n := d.Uvarint(); n > 0 && d.Err() == nil; n-- {
		day := series.DayVersion{Day: d.Varint64()}
		copy(day.Digest[:], evaluation.Take(&d, len(day.Digest)))
		e.store.Days = append(e.store.Days, day)
	}
	e.stored = time.UnixMilli(d.Varint64())
	e.steps = split.Range{Start: d.Varint64(), End: d.Varint64()}
	e.cost = evaluation.Cost{Series: d.Varint64(), Samples: d.Varint64(), Read: d.Varint64()}
	for n := d.Uvarint(); n > 0 && d.Err() == nil; n-- {
		e.notes = append(e.notes, evaluation.Note{Raw: d.UvarintStr(), Placed: d.UvarintStr(), Info: d.Byte() == 1})
	}
	b := labels.NewScratchBuilder(16)
	for n := d.Uvarint(); n > 0 && d.Err() == nil; n-- {
		e.points = append(e.points, evaluation.ReadSeries(&d, &b, e.steps.Start, step))
	}
	if d.Err() != nil || d.Len() != 0 {
		return nil, errEntry
	}
	return e, nil
}
