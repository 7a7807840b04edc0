package ingester

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/palliumhq/pallium/backend/disk"
)

// TestActiveDamaged checks that a file with any content does not prevent the start.
func TestActiveDamaged(t *testing.T) {
	b := atWindowStart(t)
	b.push("a", b.some("m", 20)...)
	if err := b.ing.Flush(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(b.dir, activeFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		b.kill()
		if n := b.ing.SeriesCount("a"); n != 0 {
			t.Errorf("%s: %d active series, want 0", what, n)
		}
	}
	for _, n := range []int{0, 3, 8, 11, 12, len(good) / 2, len(good) - 1} {
		check(fmt.Sprint("cut at ", n), good[:n])
	}
	for i := 0; i < len(good); i += 7 {
		bad := slices.Clone(good)
		bad[i] ^= 4
		check(fmt.Sprint("bit of byte ", i), bad)
	}
	check("foreign", []byte("PLACTIV2 of a later version"))
	check("longer", append(slices.Clone(good), 0))
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	b.kill()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	b.kill()
	if n := b.ing.SeriesCount("a"); n != 20 {
		t.Errorf("undamaged: %d active series, want 20", n)
	}
}

// sealedActive returns a file with the given body, the magic and a correct
// checksum.
func sealedActive(body []byte) []byte {
	b := append([]byte(activeMagic), body...)
	return binary.BigEndian.AppendUint32(b, disk.Checksum(b))
}

func someLists() []activeList {
	return []activeList{
		{tenant: "a", bytes: 700, series: []activeEntry{{hash: 0}, {hash: 5, seconds: 1800}, {hash: 5}, {hash: 1<<64 - 1, seconds: 17}},
			reserved: []activeEntry{{hash: 3, seconds: 1800, holds: true}, {hash: 1 << 63}}},
		{tenant: "b", reserved: []activeEntry{{hash: 9, seconds: 1}}},
	}
}

// TestActiveFile checks encoding and decoding, and that a million series need less
// than ten megabytes.
func TestActiveFile(t *testing.T) {
	for _, want := range [][]activeList{nil, someLists()} {
		saved, got, err := decodeActive(encodeActive(-5, want))
		if err != nil || saved != -5 || !reflect.DeepEqual(got, want) {
			t.Errorf("decodeActive = %d, %+v, %v", saved, got, err)
		}
	}
	l := activeList{tenant: "a"}
	for i := range 1_000_000 {
		h := uint64(i) * 0x9e3779b97f4a7c15
		l.series = append(l.series, activeEntry{hash: h, seconds: uint32(i % 1800)})
	}
	l.sort()
	if n := len(encodeActive(1_700_000_000_000, []activeList{l})); n > 10_000_000 {
		t.Errorf("a million series take %d bytes, want at most 10,000,000", n)
	}
}

// FuzzActive decodes arbitrary bytes: the result must be an error, or lists that
// are the same after they are encoded and decoded again.
func FuzzActive(f *testing.F) {
	for _, lists := range [][]activeList{nil, someLists()} {
		b := encodeActive(1_700_000_000_000, lists)
		f.Add(b[8 : len(b)-4])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, _, err := decodeActive(body); err == nil {
			t.Fatal("a file without its magic was read")
		}
		// The magic and the checksum are correct, because otherwise hardly any input
		// would be decoded.
		saved, lists, err := decodeActive(sealedActive(body))
		if err != nil {
			if !errors.Is(err, errActive) {
				t.Fatalf("error %v, want errActive", err)
			}
			return
		}
		again, same, err := decodeActive(encodeActive(saved, lists))
		if err != nil || again != saved || !reflect.DeepEqual(same, lists) {
			t.Fatalf("error %v: %+v became %+v", err, lists, same)
		}
	})
}
