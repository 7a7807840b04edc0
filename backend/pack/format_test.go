package pack

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

var update = flag.Bool("update", false, "write the golden packs again")

// TestGolden reads two packs that an earlier build wrote, and checks that the
// plain one is still written with the same bytes. They depend on this package
// and the chunk encoding alone; the other pack is compressed, and its bytes
// may differ with the version of zstd. If the plain one differs, the format has
// changed: see the rules in docs/format/pack.md before running with -update.
func TestGolden(t *testing.T) {
	parts := smallParts(t)
	for _, plain := range []bool{true, false} {
		name := "small.pk"
		if plain {
			name = "small-plain.pk"
		}
		golden := filepath.Join("testdata", name)
		path := filepath.Join(t.TempDir(), name)
		writeParts(t, path, Options{ID: testID, Source: "ingester-1", plain: plain}, parts)
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(golden, got, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if plain && !bytes.Equal(got, want) {
			t.Errorf("%s: the written bytes differ from the golden file", name)
		}
		r := openPath(t, golden)
		if r.Info().ID != testID || r.Info().Source != "ingester-1" {
			t.Errorf("%s: Info = %+v", name, r.Info())
		}
		checkAll(t, r, parts)
		if err := r.Verify(); err != nil {
			t.Errorf("%s: Verify: %v", name, err)
		}
	}
}

func goldenBytes(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "small.pk"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// useAll reads a pack like a query, verifies it, and returns all errors.
func useAll(r *Reader) error { return errors.Join(readAll(r), r.Verify()) }

// readAll reads a pack like a query.
func readAll(r *Reader) error {
	var errs []error
	for _, s := range r.Info().Sections {
		_, err := r.Metadata(s.Tenant)
		errs = append(errs, err)
		found, err := r.Select(context.Background(), s.Tenant, math.MinInt64, math.MaxInt64)
		errs = append(errs, err)
		for _, f := range found {
			for _, ref := range f.Chunks {
				_, err := r.Chunk(ref)
				errs = append(errs, err)
			}
		}
		_, err = r.LabelNames(context.Background(), s.Tenant, s.MinTime, s.MaxTime, eq("job", "api"))
		errs = append(errs, err)
		_, err = r.LabelValues(context.Background(), s.Tenant, "job", s.MinTime, s.MaxTime)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func openAndUse(b []byte) error {
	r, err := Open(memorySource{b})
	if err != nil {
		return err
	}
	return errors.Join(useAll(r), r.Release())
}

// TestDamage changes a bit of each byte of a pack in turn and truncates it at every
// length: each change must cause an error, and each truncation ErrCorrupt.
func TestDamage(t *testing.T) {
	whole := goldenBytes(t)
	if err := openAndUse(whole); err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 1 << (i % 8)
		if err := openAndUse(b); err == nil {
			t.Errorf("no error with byte %d of %d changed", i, len(whole))
		}
		if err := openAndUse(whole[:i]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("truncated at %d of %d: error %v", i, len(whole), err)
		}
	}
	if err := openAndUse(append(bytes.Clone(whole), whole...)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("two packs in one file: error %v", err)
	}
}

// TestDamageOfBlocks changes a bit of each byte of the blocks in turn: a query,
// which does not verify the file first, must return ErrCorrupt.
func TestDamageOfBlocks(t *testing.T) {
	whole := goldenBytes(t)
	end := int(binary.BigEndian.Uint64(whole[len(whole)-trailerLen:])) // of the blocks
	for i := headerLen; i < end; i++ {
		b := bytes.Clone(whole)
		b[i] ^= 1 << (i % 8)
		r, err := Open(memorySource{b})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(readAll(r), r.Release()); !errors.Is(err, ErrCorrupt) {
			t.Errorf("byte %d of %d changed: error %v", i, len(whole), err)
		}
	}
	for _, payload := range [][]byte{nil, []byte("samples")} {
		block := appendBlock(nil, kindFrame, payload, nil)
		if err := CheckBlock(block); err != nil {
			t.Fatal(err)
		}
		for i := range block {
			b := bytes.Clone(block)
			b[i] ^= 1 << (i % 8)
			if err := CheckBlock(b); !errors.Is(err, ErrCorrupt) {
				t.Errorf("byte %d of a block of %d changed: error %v", i, len(block), err)
			}
		}
	}
}

// reseal returns a pack with a changed directory and a valid trailer.
func reseal(b []byte, change func(dir []byte) []byte) []byte {
	at := int64(binary.BigEndian.Uint64(b[len(b)-trailerLen:]))
	dir := change(bytes.Clone(b[at : len(b)-trailerLen]))
	return appendTrailer(append(bytes.Clone(b[:at]), dir...), at, dir)
}

func TestNewerVersions(t *testing.T) {
	whole := goldenBytes(t)
	set := func(i int, v byte) func([]byte) []byte {
		return func(dir []byte) []byte { dir[i] = v; return dir }
	}
	extend := func(key byte) func([]byte) []byte {
		return func(dir []byte) []byte { return append(dir[:len(dir)-1], 1, key, 2, 'h', 'i') }
	}
	tests := []struct {
		name, want string
		change     func([]byte) []byte
	}{
		{"format", "it was written by a newer version", set(1, 2)},
		{"flags", "it was written by a newer version", set(3, 1)},
		{"unknown mandatory extension", "it was written by a newer version", extend(3)},
		{"extension that may be ignored", "", extend(2)},
	}
	for _, tc := range tests {
		r, err := Open(memorySource{reseal(whole, tc.change)})
		if tc.want == "" {
			if err == nil {
				err = useAll(r)
			}
			if err != nil {
				t.Errorf("%s: error %v", tc.name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) || errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
}

func TestIDs(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var e idEncoder
	modes := map[byte]int{}
	for n := 1; n < 300; n++ {
		for _, top := range []int{0, 1, 2, 40, 300, 65535} {
			ids := make([]uint16, n)
			kind := rnd.IntN(3)
			for i := range ids {
				switch kind {
				case 0:
					ids[i] = uint16(rnd.IntN(top + 1))
				case 1:
					ids[i] = uint16(min(i/7, top))
				default:
					ids[i] = uint16(min(i, top))
				}
			}
			b := e.append(nil, ids)
			modes[b[0]]++
			c := &cursor{b: b}
			got, constant := c.ids(n, uint16(top), "ids")
			if err := c.end("ids"); err != nil {
				t.Fatal(err)
			}
			if got == nil {
				got = slices.Repeat([]uint16{constant}, n)
			}
			if !slices.Equal(got, ids) {
				t.Fatalf("encoding %d: wrote %v, read %v", b[0], ids, got)
			}
		}
	}
	if len(modes) != 4 {
		t.Fatalf("not all encodings were used: %v", modes)
	}
}

// TestNewerParts checks the errors for unknown versions, kinds of references and
// encodings in a page, and for a block of an unknown kind.
func TestNewerParts(t *testing.T) {
	r, err := Open(memorySource{goldenBytes(t)})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := r.load(r.dir.pages[2].place, kindPage, maxPageRaw)
	if err != nil {
		t.Fatal(err)
	}
	n := len(raw) // ends with codecs and encodings (mode, number), and one chunk length of one byte
	for name, change := range map[string]func(b []byte){
		"version":    func(b []byte) { b[0] = 2 },
		"references": func(b []byte) { b[1] = 2 },
		"encoding":   func(b []byte) { b[n-2] = byte(chunkenc.EncXOR2) },
	} {
		b := bytes.Clone(raw)
		change(b)
		_, err := decodePage(b)
		if err == nil || errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "it was written by a newer version") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	table := appendBlock(nil, blockKind(7), raw, nil)
	if _, err := parseBlock(table, kindFrame); err == nil || errors.Is(err, ErrCorrupt) {
		t.Errorf("block of an unknown kind: error %v", err)
	}
}
