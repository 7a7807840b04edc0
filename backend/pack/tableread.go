package pack

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/palliumhq/pallium/backend/column"
)

// Decoder decodes single blocks of compacted packs: pages from the rows of the
// index, table frames and timestamp columns from ranges of objects. It verifies
// the checksum of each block. It is safe for concurrent use.
type Decoder struct{ zstd *zstd.Decoder }

// NewDecoder returns a new Decoder.
func NewDecoder() (*Decoder, error) {
	d, err := newDecoder()
	return &Decoder{zstd: d}, err
}

func (d *Decoder) inflate(block []byte, kind blockKind, limit int) ([]byte, error) {
	b, err := parseBlock(block, kind)
	if err != nil {
		return nil, err
	}
	raw, err := b.inflate(d.zstd, limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	return raw, nil
}

// Page decodes a page of a compacted pack.
func (d *Decoder) Page(block []byte) (*Page, error) {
	raw, err := d.inflate(block, kindPage, maxPageRaw)
	if err != nil {
		return nil, err
	}
	p, err := decodePage(raw)
	if err != nil {
		return nil, fmt.Errorf("page: %w", err)
	}
	if p.table == nil {
		return nil, fmt.Errorf("page: %w: found a page of a level 0 pack, want one of a compacted pack", ErrCorrupt)
	}
	return &Page{p}, nil
}

// Table decodes the header of a table frame of a day; the table decodes series when
// they are read. The table may refer to the memory of block.
func (d *Decoder) Table(block []byte, day int64) (*column.Table, error) {
	raw, err := d.inflate(block, kindTable, maxFrame)
	if err != nil {
		return nil, err
	}
	t, err := column.Open(raw, day)
	return t, damaged(err)
}

// Times decompresses a timestamp column for column.Table.
func (d *Decoder) Times(block []byte) ([]byte, error) {
	return d.inflate(block, kindTimes, maxFrame)
}

// damaged wraps ErrCorrupt around errors of package column that report
// corruption.
func damaged(err error) error {
	if errors.Is(err, column.ErrCorrupt) {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return err
}

// CheckBlock verifies length and checksum of a block without decoding it.
func CheckBlock(b []byte) error {
	if len(b) < blockOverhead {
		return fmt.Errorf("%w: block has %d bytes, fewer than an empty one", ErrCorrupt, len(b))
	}
	_, err := parseBlock(b, blockKind(b[8]))
	return err
}

// IndexCell is a cell of the index that is stored in a compacted pack.
type IndexCell struct {
	Name  string
	Value []byte
}

// IndexPlace returns the place of the index of section i in a compacted pack:
// all its pages and cells, which are contiguous.
func (r *Reader) IndexPlace(i int) Place {
	s := &r.dir.sections[i]
	p := Place{Offset: s.Offset + s.Length}
	if s.pages > 0 {
		p.Offset = r.dir.pagesOf(s)[0].off
	}
	p.Length = int(s.Offset + s.Length - p.Offset)
	return p
}

// EachIndexPage calls fn for the pages of section i of a compacted pack with
// the metric and the page's block, which is the value of the index cell.
func (r *Reader) EachIndexPage(i int, fn func(metric string, block []byte) error) error {
	for _, p := range r.dir.pagesOf(&r.dir.sections[i]) {
		b, err := r.src.Range(p.off, int(p.length))
		if err != nil {
			return fmt.Errorf("read page at %d: %w", p.off, err)
		}
		if _, err := parseBlock(b, kindPage); err != nil {
			return fmt.Errorf("page at %d: %w", p.off, err)
		}
		if err := fn(p.first, b); err != nil {
			return err
		}
	}
	return nil
}

// IndexCells reads the attached cells of section i of a compacted pack.
func (r *Reader) IndexCells(i int) ([]IndexCell, error) {
	var out []IndexCell
	for _, c := range r.dir.cellsOf(&r.dir.sections[i]) {
		raw, err := r.load(c.place, kindCell, maxFrame)
		if err != nil {
			return nil, fmt.Errorf("index cell %q: %w", c.name, err)
		}
		out = append(out, IndexCell{Name: c.name, Value: raw})
	}
	return out, nil
}

// TableBytes returns the approximate memory use of a decompressed table frame.
func TableBytes(block []byte) int64 {
	if len(block) < blockHeaderLen {
		return 0
	}
	return 2*int64(binary.BigEndian.Uint32(block)) + 512
}
