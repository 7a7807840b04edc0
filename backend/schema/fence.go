package schema

import (
	"encoding/binary"
	"fmt"
)

const (
	versionBytes = 12 // length of a Version in a version cell
	fenceBytes   = 8  // length of the fence number after it
)

// VersionCell is the value of a catalog row's version cell. Every write that publishes,
// replaces or hides a manifest is conditional on it. A day without a manifest may have a
// fence number only.
type VersionCell struct {
	Version Version // of the manifest; zero if there is none
	// Fence is raised before anything of an unpublished attempt is deleted, so that no
	// attempt that started earlier can publish.
	Fence uint64
}

// Encode returns the value of the cell. It is empty for the zero VersionCell, for which the
// row has no cell.
func (c VersionCell) Encode() []byte {
	var b []byte
	if c.Version.Generation > 0 {
		b = append(b, c.Version.Prefix()...)
	}
	if c.Fence > 0 {
		b = binary.BigEndian.AppendUint64(b, c.Fence)
	}
	return b
}

// DecodeVersionCell decodes the value of the cell; an empty value is the zero VersionCell. Each
// VersionCell has exactly one encoding, because conditional writes compare bytes.
func DecodeVersionCell(value []byte) (VersionCell, error) {
	var c VersionCell
	rest := value
	if len(rest) == versionBytes || len(rest) == versionBytes+fenceBytes {
		c.Version = Version{Generation: ^binary.BigEndian.Uint32(rest), Attempt: binary.BigEndian.Uint64(rest[4:])}
		if rest = rest[versionBytes:]; c.Version.Generation == 0 {
			return VersionCell{}, fmt.Errorf("%w: version cell has generation 0", ErrCorrupt)
		}
	}
	switch len(rest) {
	case 0:
		return c, nil
	case fenceBytes:
		if c.Fence = binary.BigEndian.Uint64(rest); c.Fence == 0 {
			return VersionCell{}, fmt.Errorf("%w: version cell has fence number 0", ErrCorrupt)
		}
		return c, nil
	}
	return VersionCell{}, fmt.Errorf("%w: version cell has an invalid length of %d bytes", ErrCorrupt, len(value))
}
