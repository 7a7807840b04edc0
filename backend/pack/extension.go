package pack

import (
	"encoding/binary"
)

// Keys of a section's extensions. A reader must reject a section with an odd
// key that it does not know.
const (
	extDeletion = 1 // number of the last applied deletion of series
	extTimes    = 3 // places of timestamp columns
	extCells    = 5 // names and places of index cells
)

func (d *directory) appendExtensions(b []byte, s *section) []byte {
	n := 0
	for _, has := range []bool{s.Deletion > 0, s.times > 0, s.cells > 0} {
		if has {
			n++
		}
	}
	b = binary.AppendUvarint(b, uint64(n))
	if s.Deletion > 0 {
		b = binary.AppendUvarint(b, extDeletion)
		b = appendText(b, string(binary.AppendUvarint(nil, s.Deletion)))
	}
	if s.times > 0 {
		var list []byte
		end := s.Offset
		for _, p := range d.timesOf(s) {
			list = appendPlace(list, end, p)
			end = p.end()
		}
		b = appendText(binary.AppendUvarint(b, extTimes), string(list))
	}
	if s.cells > 0 {
		var list []byte
		end := s.Offset
		for _, c := range d.cellsOf(s) {
			list = appendText(list, c.name)
			list = appendPlace(list, end, c.place)
			end = c.end()
		}
		b = appendText(binary.AppendUvarint(b, extCells), string(list))
	}
	return b
}

func (d *directory) decodeExtensions(c *cursor, s *section) {
	s.firstTimes, s.firstCell = len(d.times), len(d.cells)
	n := c.count("extensions of a section")
	before := uint64(0)
	for i := 0; i < n && c.err == nil; i++ {
		key := c.uvarint("key of an extension")
		value := &cursor{b: c.text(len(c.b), "extension")}
		if c.err == nil && i > 0 && key <= before {
			c.fail("extensions of a section are not in ascending order")
		}
		before = key
		switch key {
		case extDeletion:
			s.Deletion = value.uvarint("number of a deletion")
		case extTimes:
			d.decodeTimes(value, s)
		case extCells:
			d.decodeCells(value, s)
		default:
			if key%2 == 1 {
				c.newer("extension %d of the pack", key)
			}
			continue
		}
		if err := value.end("extension"); err != nil && c.err == nil {
			c.err, c.b = err, nil
		}
	}
}

func (d *directory) decodeTimes(c *cursor, s *section) {
	for end := s.Offset; len(c.b) > 0 && c.err == nil; s.times++ {
		p := s.decodePlace(c, end)
		if c.err == nil && p.length < blockOverhead {
			c.fail("timestamp column has %d bytes, fewer than an empty one", p.length)
		}
		d.times = append(d.times, p)
		end = p.end()
	}
}

func (d *directory) decodeCells(c *cursor, s *section) {
	for end := s.Offset; len(c.b) > 0 && c.err == nil; s.cells++ {
		name := string(c.text(maxName, "name of an index cell"))
		p := s.decodePlace(c, end)
		if c.err == nil && p.length < blockOverhead {
			c.fail("index cell has %d bytes, fewer than an empty one", p.length)
		}
		d.cells = append(d.cells, cellInfo{place: p, name: name})
		end = p.end()
	}
}
