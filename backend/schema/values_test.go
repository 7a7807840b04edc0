package schema

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/metadata"

	"github.com/palliumhq/pallium/backend/series"
)

func someNames() Names {
	return Names{
		Metrics:  []Metric{{Name: "", Series: 1, Pages: 1}, {Name: "http_requests_total", Series: 5000, Pages: 3}, {Name: "http_requests_total_2", Series: 1, Pages: 1}, {Name: "up", Series: 1 << 33, Pages: MaxIndex}},
		Labels:   []Label{{Name: "job", Values: 2, Buckets: []string{"a"}}, {Name: "pod", Values: 90000, Buckets: []string{"a", "ab", "b\x00"}}},
		Metadata: []series.MetricMetadata{{Metric: "up", Metadata: metadata.Metadata{Type: model.MetricTypeGauge, Unit: "bool", Help: "whether"}}, {Metric: "up"}},
	}
}

func TestNames(t *testing.T) {
	c := testCodec(t)
	for _, want := range []Names{{}, someNames()} {
		got, err := c.DecodeNames(want.Encode(c))
		if err != nil {
			t.Fatal(err)
		}
		if len(want.Metrics) > 0 && !reflect.DeepEqual(got, want) {
			t.Errorf("names were decoded as %+v, want %+v", got, want)
		}
		if len(got.Metrics) != len(want.Metrics) || len(got.Labels) != len(want.Labels) {
			t.Errorf("names were decoded as %+v, want %+v", got, want)
		}
	}
}

// TestBuckets adds values in random order and repeatedly, and checks that the buckets have the
// sorted values with their sets of metrics, and at most maxBucket bytes.
func TestBuckets(t *testing.T) {
	const seed = 5
	c := testCodec(t)
	for round := range 12 {
		rng := rand.New(rand.NewPCG(seed, uint64(round)))
		want := map[string]map[int]bool{}
		b := NewValuesBuilder("l")
		for range rng.IntN(4000) * (round%3 + 1) {
			v := fmt.Sprintf("%x", rng.Uint64N(1<<(8*uint(round%4)+4)))
			if round%5 == 4 {
				v += string(randomBytes(rng, 64)) // bytes that zstd cannot compress
			}
			if want[v] == nil {
				want[v] = map[int]bool{}
			}
			for range 1 + rng.IntN(3)*rng.IntN(20) {
				m := rng.IntN(1 << min(1+3*round, 31))
				b.Add(v, m)
				want[v][m] = true
			}
		}
		if b.Len() != len(want) {
			t.Fatalf("seed %d, round %d: %d values, want %d", seed, round, b.Len(), len(want))
		}
		cells, firsts, err := b.Buckets(c)
		if err != nil {
			t.Fatal(err)
		}
		var values []string
		for i, cell := range cells {
			got, err := c.DecodeBucket(cell)
			if err != nil {
				t.Fatalf("seed %d, round %d: %v", seed, round, err)
			}
			if got.Value(0) != firsts[i] || len(cell) > maxBucket {
				t.Fatalf("seed %d, round %d: bucket %d begins with %q, not %q, and has %d bytes", seed, round, i, got.Value(0), firsts[i], len(cell))
			}
			for k := range got.Len() {
				v := got.Value(k)
				values = append(values, v)
				if at, ok := got.Find(v); at != k || !ok {
					t.Fatalf("seed %d, round %d: value %q is found at %d, %v", seed, round, v, at, ok)
				}
				if set := got.Metrics(k); len(set) != len(want[v]) || !slices.IsSorted(set) || slices.ContainsFunc(set, func(m int) bool { return !want[v][m] }) {
					t.Fatalf("seed %d, round %d: value %q has metrics %v, want %v", seed, round, v, set, want[v])
				}
				if _, ok := got.Find(v + "\x00"); ok {
					t.Fatalf("seed %d, round %d: found a value that does not exist", seed, round)
				}
			}
		}
		if len(values) != len(want) || !slices.IsSorted(values) {
			t.Fatalf("seed %d, round %d: %d values in the buckets, want %d in order", seed, round, len(values), len(want))
		}
	}
}

// TestBucketOfLargeSets tests buckets of values with large sets of metrics.
func TestBucketOfLargeSets(t *testing.T) {
	c := testCodec(t)
	rng := rand.New(rand.NewPCG(6, 0))
	b := NewValuesBuilder("l")
	for i := range 2000 {
		for k := range 500 {
			b.Add(fmt.Sprintf("%05d", i), k*2000+rng.IntN(2000))
		}
	}
	cells, _, err := b.Buckets(c)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for i, cell := range cells {
		got, err := c.DecodeBucket(cell)
		if err != nil {
			t.Fatal(err)
		}
		if n += got.Len(); len(cell) > maxBucket {
			t.Errorf("bucket %d has %d bytes", i, len(cell))
		}
	}
	if n != 2000 {
		t.Errorf("%d values, want 2000", n)
	}
	// Sets that compress well are still large when they are decoded.
	regular := NewValuesBuilder("l")
	for i := range 2000 {
		for k := range 500 {
			regular.Add(fmt.Sprintf("%05d", i), i+k)
		}
	}
	if cells, _, err = regular.Buckets(c); err != nil {
		t.Fatal(err)
	}
	for i, cell := range cells {
		r, err := c.open(valueBucket, 1, "label values", cell)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.b) > bucketRaw+2048 {
			t.Errorf("bucket %d has %d bytes uncompressed", i, len(r.b))
		}
	}
	one := NewValuesBuilder("l")
	for i := range 200_000 {
		one.Add("everywhere", i*10_000+rng.IntN(10_000))
	}
	if cells, _, err = one.Buckets(c); err != nil || len(cells) != 1 {
		t.Fatalf("one value is in %d buckets, %v", len(cells), err)
	}
	if _, err := c.DecodeBucket(cells[0]); err != nil {
		t.Error(err)
	}
}

func randomBytes(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// TestRejected decodes invalid payloads with a valid checksum.
func TestRejected(t *testing.T) {
	c := testCodec(t)
	names := func(b []byte) error { _, err := c.DecodeNames(b); return err }
	bucket := func(b []byte) error { _, err := c.DecodeBucket(b); return err }
	summaries := func(b []byte) error { _, err := c.DecodeSummaries(b); return err }
	for _, k := range []struct {
		what   string
		kind   byte
		raw    string
		decode func([]byte) error
		want   error
	}{
		{"more names than bytes", valueNames, "\x7f", names, ErrCorrupt},
		{"no ascent", valueNames, "\x02\x00\x01b\x00\x01a\x01\x01\x01\x01\x00\x00", names, ErrCorrupt},
		{"equal names", valueNames, "\x02\x00\x01b\x01\x00\x01\x01\x01\x01\x00\x00", names, ErrCorrupt},
		{"start shared but written", valueNames, "\x02\x00\x02ba\x00\x02bc\x01\x01\x01\x01\x00\x00", names, ErrCorrupt},
		{"shared start of nothing", valueNames, "\x01\x01\x01a\x01\x01\x00\x00", names, ErrCorrupt},
		{"too many pages", valueNames, "\x01\x00\x01a\x01\x81\x80\x04\x00\x00", names, ErrCorrupt},
		{"trailing byte", valueNames, "\x00\x00\x00\x00", names, ErrCorrupt},
		{"more sets than values", valueBucket, "\x01\x00\x01a\x02\x01\x00\x01\x01\x00", bucket, ErrCorrupt},
		{"set that is not there", valueBucket, "\x01\x00\x01a\x01\x01\x00\x01", bucket, ErrCorrupt},
		{"set that does not ascend", valueBucket, "\x01\x00\x01a\x01\x02\x05\x00\x00", bucket, ErrCorrupt},
		{"ordinal too high", valueBucket, "\x01\x00\x01a\x01\x01\x80\x80\x80\x80\x08\x00", bucket, ErrCorrupt},
		{"ordinals too high together", valueBucket, "\x01\x00\x01a\x01\x02\xff\xff\xff\xff\x07\x01\x00", bucket, ErrCorrupt},
		{"unknown flag", valueSummaries, "\x01\x01\x00\x00\x01\x01l\x04\x00", summaries, ErrNewer},
		{"empty filter", valueSummaries, "\x01\x01\x00\x00\x01\x01l\x02\x01a\x01b\x00", summaries, ErrCorrupt},
		{"end after the day", valueSummaries, "\x01\x01\xff\xb7\x99\x29\x01\x00", summaries, ErrCorrupt},
		{"labels do not ascend", valueSummaries, "\x01\x01\x00\x00\x02\x01l\x00\x00\x01l\x00\x00", summaries, ErrCorrupt},
	} {
		if err := k.decode(c.seal(k.kind, 1, []byte(k.raw))); !errors.Is(err, k.want) {
			t.Errorf("%s: %v, want %v", k.what, err, k.want)
		}
	}
}

// TestSetMemory decodes a set that claims as many metrics as there are bytes left, and is invalid at the
// second one: decoding must not allocate memory for the claimed number.
func TestSetMemory(t *testing.T) {
	c := testCodec(t)
	const size = 16 << 20
	raw := append([]byte("\x01\x00\x01a\x01"), binary.AppendUvarint(nil, size)...)
	cell := c.seal(valueBucket, 1, append(raw, make([]byte, size)...))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := c.DecodeBucket(cell)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, ErrCorrupt) {
		t.Errorf("%v, want %v", err, ErrCorrupt)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 4*size {
		t.Errorf("a cell of %d bytes, %d uncompressed, took %d to reject", len(cell), size, n)
	}
}

// TestExpansion decodes a short value that expands to more bytes of strings than allowed.
func TestExpansion(t *testing.T) {
	c := testCodec(t)
	const long, n = 1 << 20, 300
	s := make([]byte, long)
	raw := append([]byte{0xac, 0x02, 0}, appendText(nil, string(s))...) // 300 strings, 1 MiB and up
	for range n - 1 {
		raw = append(raw, 0x80, 0x80, 0x40, 1, 'x') // shares 1 MiB with the previous string
	}
	if _, err := c.DecodeBucket(c.seal(valueBucket, 1, raw)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("equal strings: %v, want ErrCorrupt", err)
	}
	raw = append([]byte{0xac, 0x02, 0}, appendText(nil, string(s))...)
	for i := range n - 1 {
		raw = append(raw, 0x80, 0x80, 0x40, 2, byte(1+i>>8), byte(i))
		if i%256 != 0 {
			raw = append(raw[:len(raw)-6], 0x81, 0x80, 0x40, 1, byte(i))
		}
	}
	_, err := c.DecodeBucket(c.seal(valueBucket, 1, raw))
	if !errors.Is(err, ErrCorrupt) {
		t.Errorf("too many bytes of strings: %v, want ErrCorrupt", err)
	}
	if want := fmt.Sprintf("take more than %d bytes", maxRaw); err == nil || !contains(err, want) {
		t.Errorf("error %v does not say %q", err, want)
	}
}

// TestFirstsSize checks that the first values of all buckets are never larger than FirstsSize, for values
// of any length, and that no bucket exceeds the limit of a cell.
func TestFirstsSize(t *testing.T) {
	c := testCodec(t)
	rng := rand.New(rand.NewPCG(8, 8))
	for round := range 24 {
		b := NewValuesBuilder("l")
		for i := range rng.IntN(1500) {
			n := rng.IntN(1 + 40<<(rng.IntN(2)*(round%12)))
			v := string(randomBytes(rng, min(n, 1<<20)))
			if round%3 == 0 { // long ones before many short ones
				v = fmt.Sprintf("%03d", i/100) + v
				if i%100 > 0 {
					v += strings.Repeat("z", round)
				}
			}
			b.Add(v, rng.IntN(3))
		}
		cells, firsts, err := b.Buckets(c)
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		for i, cell := range cells {
			size += len(firsts[i]) + 4
			if len(cell) > 2<<20 {
				t.Errorf("round %d: bucket of %d bytes", round, len(cell))
			}
		}
		if est := b.FirstsSize(); size > est {
			t.Errorf("round %d: first values of %d values in %d buckets have %d bytes, estimated were %d", round, b.Len(), len(cells), size, est)
		}
	}
}
