package schema

import (
	"encoding/binary"
	"fmt"
)

const (
	versionBytes = 12 // of a Version in a version cell
	fenceBytes   = 8  // of a fence number behind it
)

// VersionCell is the value of a catalog row's version cell, which every write
// that publishes, replaces or hides a manifest compares. A day without a manifest
// may have a fence number alone.
type VersionCell struct {
	Version Version // of the manifest; zero: there is none
	// Fence is raised before anything of an unpublished attempt is deleted, so that
	// no attempt that began before can publish.
	Fence uint64
}

// Encode makes the value of the cell; empty when there is nothing to say, and
// then the row has no such cell.
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

// DecodeVersionCell reads the value of the cell; nothing is the zero value. There
// is one encoding of every value, since conditional writes compare bytes.
func DecodeVersionCell(value []byte) (VersionCell, error) {
	var c VersionCell
	rest := value
	if len(rest) == versionBytes || len(rest) == versionBytes+fenceBytes {
		c.Version = Version{Generation: ^binary.BigEndian.Uint32(rest), Attempt: binary.BigEndian.Uint64(rest[4:])}
		if rest = rest[versionBytes:]; c.Version.Generation == 0 {
			return VersionCell{}, fmt.Errorf("%w: version cell has the generation 0", ErrCorrupt)
		}
	}
	switch len(rest) {
	case 0:
		return c, nil
	case fenceBytes:
		if c.Fence = binary.BigEndian.Uint64(rest); c.Fence == 0 {
			return VersionCell{}, fmt.Errorf("%w: version cell has the fence number 0", ErrCorrupt)
		}
		return c, nil
	}
	return VersionCell{}, fmt.Errorf("%w: version cell has %d bytes", ErrCorrupt, len(value))
}
