package schema

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// TestVersionCell checks the exact bytes of the cell. Those without a fence number are the cells of
// versions before 2026-12.
func TestVersionCell(t *testing.T) {
	v := Version{Generation: 3, Attempt: 0x0102030405060708}
	prefix := "\xff\xff\xff\xfc\x01\x02\x03\x04\x05\x06\x07\x08"
	number := "\x00\x00\x00\x00\x00\x00\x01\x02"
	for _, c := range []struct {
		name  string
		bytes string
		want  VersionCell
	}{
		{"nothing", "", VersionCell{}},
		{"version", prefix, VersionCell{Version: v}},
		{"version and fence", prefix + number, VersionCell{Version: v, Fence: 0x102}},
		{"fence", number, VersionCell{Fence: 0x102}},
	} {
		got, err := DecodeVersionCell([]byte(c.bytes))
		if err != nil || got != c.want || string(c.want.Encode()) != c.bytes {
			t.Errorf("%s: %+v, %v; encoded %q", c.name, got, err, c.want.Encode())
		}
	}
	for _, bad := range []string{"x", prefix[:11], prefix + "x", prefix + number + "x", strings.Repeat("\x00", 8), prefix + strings.Repeat("\x00", 8), strings.Repeat("\xff", 12)} {
		if c, err := DecodeVersionCell([]byte(bad)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q was decoded as %+v, %v; want an error", bad, c, err)
		}
	}
}

// FuzzVersionCell decodes arbitrary bytes, and checks that every valid cell has only one encoding.
func FuzzVersionCell(f *testing.F) {
	for _, c := range []VersionCell{{}, {Fence: 7}, {Version: Version{Generation: 1, Attempt: 9}}, {Version: Version{Generation: 1 << 31, Attempt: 9}, Fence: 1 << 63}} {
		f.Add(c.Encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := DecodeVersionCell(b); err == nil && !bytes.Equal(c.Encode(), b) {
			t.Fatalf("%q was decoded as %+v, which is encoded as %q", b, c, c.Encode())
		}
	})
}
