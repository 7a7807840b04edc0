package pebble

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"

	"github.com/palliumhq/pallium/backend/rows"
)

// A cell's key is
//
//	escape(row key) 00 01  family  escape(qualifier) 00 01  ^timestamp:8
//
// where escape replaces 00 by 00 FF. So keys sort by row, family and qualifier, the newest
// version first, and the cells of a row are adjacent. Keys that begin with 00 00 are the
// adapter's own: no escaped row key begins with these bytes.
const (
	escByte  = 0x00
	escZero  = 0xff
	escEnd   = 0x01
	timeSize = 8
)

// firstRow sorts before the keys of all rows and after the adapter's own keys.
var firstRow = []byte{0x00, 0x02}

// formatKey is the key of the layout version.
var formatKey = []byte{0x00, 0x00, 'f'}

var errKey = errors.New("damaged key in the row store")

func appendEscaped(b []byte, s string) []byte {
	for {
		i := strings.IndexByte(s, escByte)
		if i < 0 {
			return append(b, s...)
		}
		b = append(b, s[:i]...)
		b = append(b, escByte, escZero)
		s = s[i+1:]
	}
}

// rowPrefix returns the prefix of the keys of all cells of a row.
func rowPrefix(row string) []byte {
	b := make([]byte, 0, len(row)+32)
	return append(appendEscaped(b, row), escByte, escEnd)
}

func familyPrefix(row []byte, f rows.Family) []byte {
	return append(bytes.Clone(row), f[0])
}

// columnPrefix returns the prefix of the keys of all versions of a cell.
func columnPrefix(row []byte, f rows.Family, qualifier string) []byte {
	return append(appendEscaped(familyPrefix(row, f), qualifier), escByte, escEnd)
}

func cellKey(row []byte, f rows.Family, qualifier string, ms int64) []byte {
	return binary.BigEndian.AppendUint64(columnPrefix(row, f, qualifier), ^uint64(ms))
}

// prefixEnd returns the first key after all keys that begin with p. A prefix without a
// byte below FF is at most as long as a row key, so tableEnd sorts after it.
func prefixEnd(p []byte) []byte {
	if end := rows.PrefixEnd(string(p)); end != "" {
		return []byte(end)
	}
	return tableEnd()
}

// tableEnd returns a key that sorts after all possible keys.
func tableEnd() []byte { return bytes.Repeat([]byte{0xff}, rows.MaxKeyLength+1) }

// bounds returns the bounds of the keys of all cells of the rows in r.
func bounds(r rows.Range) (lower, upper []byte) {
	lower, upper = appendEscaped(nil, r.Start), tableEnd()
	if bytes.Compare(lower, firstRow) < 0 {
		lower = firstRow
	}
	if r.End != "" {
		upper = appendEscaped(nil, r.End)
	}
	return lower, upper
}

// splitRow splits a key after its row part, which includes the terminator.
func splitRow(key []byte) (row, rest []byte, err error) {
	n := terminated(key)
	if n < 0 {
		return nil, nil, errKey
	}
	return key[:n], key[n:], nil
}

// decodeCell decodes the part of a key after the row part. ms is in Unix milliseconds.
func decodeCell(rest []byte) (f rows.Family, qualifier string, ms int64, err error) {
	if len(rest) < 1+2+timeSize {
		return "", "", 0, errKey
	}
	f = rows.System
	if rest[0] == rows.Data[0] {
		f = rows.Data
	} else if rest[0] != rows.System[0] {
		return "", "", 0, errKey
	}
	rest = rest[1:]
	n := terminated(rest)
	if n < 0 || len(rest)-n != timeSize {
		return "", "", 0, errKey
	}
	ms = int64(^binary.BigEndian.Uint64(rest[n:]))
	if ms < 0 {
		return "", "", 0, errKey
	}
	return f, unescape(rest[:n]), ms, nil
}

// terminated returns the length of the escaped string at the start of b, including its
// terminator, or -1.
func terminated(b []byte) int {
	for i := 0; ; {
		j := bytes.IndexByte(b[i:], escByte)
		if j < 0 || i+j+1 >= len(b) {
			return -1
		}
		i += j + 2
		switch b[i-1] {
		case escEnd:
			return i
		case escZero:
		default:
			return -1
		}
	}
}

// unescape undoes appendEscaped on a terminated string.
func unescape(b []byte) string {
	b = b[:len(b)-2]
	if bytes.IndexByte(b, escByte) < 0 {
		return string(b)
	}
	return string(bytes.ReplaceAll(b, []byte{escByte, escZero}, []byte{escByte}))
}
