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
// where escape writes 00 as 00 FF. So keys sort as (row, family, qualifier,
// newest first), and a row's cells stand together. Keys that begin with 00 00
// are the adapter's own; no row key escapes to that.
const (
	escByte  = 0x00
	escZero  = 0xff
	escEnd   = 0x01
	timeSize = 8
)

// firstRow is below every row's key and above the adapter's own keys.
var firstRow = []byte{0x00, 0x02}

// formatKey holds the version of this layout.
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

// rowPrefix is what the keys of all cells of a row begin with.
func rowPrefix(row string) []byte {
	b := make([]byte, 0, len(row)+32)
	return append(appendEscaped(b, row), escByte, escEnd)
}

func familyPrefix(row []byte, f rows.Family) []byte {
	return append(bytes.Clone(row), f[0])
}

// columnPrefix is what the keys of all versions of a cell begin with.
func columnPrefix(row []byte, f rows.Family, qualifier string) []byte {
	return append(appendEscaped(familyPrefix(row, f), qualifier), escByte, escEnd)
}

func cellKey(row []byte, f rows.Family, qualifier string, ms int64) []byte {
	return binary.BigEndian.AppendUint64(columnPrefix(row, f, qualifier), ^uint64(ms))
}

// prefixEnd is the first key behind all that begin with p. p holds a byte below
// FF or consists of at most a row key's length of FF, which one more is above.
func prefixEnd(p []byte) []byte {
	if end := rows.PrefixEnd(string(p)); end != "" {
		return []byte(end)
	}
	return tableEnd()
}

// tableEnd is behind every possible key.
func tableEnd() []byte { return bytes.Repeat([]byte{0xff}, rows.MaxKeyLength+1) }

// bounds are the keys of all cells of the rows in r.
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

// splitRow cuts a key behind its row part, terminator included.
func splitRow(key []byte) (row, rest []byte, err error) {
	n := terminated(key)
	if n < 0 {
		return nil, nil, errKey
	}
	return key[:n], key[n:], nil
}

// decodeCell reads what stands behind the row part.
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

// terminated is the length of the escaped string that b begins with, its
// terminator included, or -1.
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
