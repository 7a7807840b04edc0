package index

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/schema"
)

// A compacted pack has a copy of its index cells, so that the index can be rebuilt from
// packs. The name of a cell in a pack is its kind, followed by the variable parts of the
// row key and the qualifier.

// Kinds of cells, as the first byte of their names in a pack.
const (
	cellNames     = 'n'
	cellValues    = 'v' // bucket as uvarint, label
	cellSummaries = 'h' // metric

	// cellGeneration is in the pack only. It identifies the generation of the pack and
	// its part, so that a manifest can be recovered.
	cellGeneration = 'g'
)

// placeOf returns the row key and the qualifier for an index cell of a pack.
func placeOf(c *pack.IndexCell, t tenant.ID, day int64, v schema.Version, part int) (key, qualifier string) {
	switch c.Name[0] {
	case cellNames:
		return schema.NamesKey(t, day), schema.NamesQualifier(v, part)
	case cellSummaries:
		return schema.PagesKey(t, c.Name[1:], day), schema.SummariesQualifier(v, part)
	default:
		bucket, n := binary.Uvarint([]byte(c.Name[1:]))
		return schema.ValuesKey(t, c.Name[1+n:], day), schema.ValuesQualifier(v, part, int(bucket))
	}
}

// checkCell returns an error if a cell of a pack is of an unknown kind or malformed.
func checkCell(c *pack.IndexCell) error {
	if c.Name == "" {
		return fmt.Errorf("index cell without a name: %w", pack.ErrCorrupt)
	}
	switch c.Name[0] {
	case cellNames, cellSummaries, cellGeneration:
		return nil
	case cellValues:
		if _, n := binary.Uvarint([]byte(c.Name[1:])); n <= 0 {
			return fmt.Errorf("index cell %q: %w", c.Name, pack.ErrCorrupt)
		}
		return nil
	}
	return fmt.Errorf("index cell %q is of an unknown kind: written by a newer version of Pallium", c.Name)
}

// Identity identifies the generation of a compacted pack and its part.
type Identity struct {
	Version schema.Version
	Part    int
	Last    bool // no part follows
}

// Cell returns the pack cell that stores the identity.
func (i Identity) Cell() (pack.IndexCell, error) {
	value, err := json.Marshal(i)
	return pack.IndexCell{Name: string(rune(cellGeneration)), Value: value}, err
}

// IdentityOf returns the identity of a compacted pack from its index cells.
func IdentityOf(cells []pack.IndexCell) (Identity, error) {
	var i Identity
	for _, c := range cells {
		if c.Name == string(rune(cellGeneration)) {
			return i, json.Unmarshal(c.Value, &i)
		}
	}
	return i, fmt.Errorf("%w: the compacted pack lacks the cell with its generation", pack.ErrCorrupt)
}

// CellsOf calls set for every index cell in a compacted pack.
func CellsOf(r *pack.Reader, t tenant.ID, day int64, v schema.Version, part int, set func(key, qualifier string, value []byte)) error {
	number, metric := 0, ""
	first := true
	err := r.EachIndexPage(0, func(m string, block []byte) error {
		if first || m != metric {
			number, metric, first = 0, m, false
		}
		set(schema.PagesKey(t, m, day), schema.PageQualifier(v, part, number), block)
		number++
		return nil
	})
	if err != nil {
		return err
	}
	cells, err := r.IndexCells(0)
	if err != nil {
		return err
	}
	for i := range cells {
		c := &cells[i]
		if err := checkCell(c); err != nil {
			return err
		}
		if c.Name[0] == cellGeneration {
			continue
		}
		key, qualifier := placeOf(c, t, day, v, part)
		set(key, qualifier, c.Value)
	}
	return nil
}
