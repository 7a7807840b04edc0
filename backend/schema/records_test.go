package schema

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
)

var update = flag.Bool("update", false, "rewrite the golden values")

func someManifest() Manifest {
	return Manifest{
		Version: Version{Generation: 3, Attempt: 1<<64 - 1}, Day: 20000, Expiry: 1_800_000_000_000, Tombstone: 12, Written: 1_790_000_000_000, Series: 300_000, Samples: 1 << 40,
		Packs: []PackEntry{
			{ID: testID, Object: "l1/a/20000/x.pk", Size: 512 << 20, CRC: 0xdeadbeef, MinTime: 1_728_000_000_000, MaxTime: 1_728_086_399_999, Series: 200_000, Samples: 1 << 39, FirstMetric: "a", LastMetric: "m"},
			{ID: testID, Object: "l1/a/20000/y.pk", Size: 1, CRC: 1, MinTime: 1_728_000_000_000, MaxTime: 1_728_000_000_000, Series: 1, Samples: 1, FirstMetric: "m", LastMetric: "z\xff"},
		},
		Sources: []ulid.ULID{testID, {}},
	}
}

func someTombstone() Tombstone {
	return NewTombstone(7, -5, 1_728_000_000_000, [][]*labels.Matcher{
		{labels.MustNewMatcher(labels.MatchEqual, "__name__", "up"), labels.MustNewMatcher(labels.MatchNotRegexp, "job", "a|b.*")},
		{labels.MustNewMatcher(labels.MatchRegexp, "pod", ".+"), labels.MustNewMatcher(labels.MatchNotEqual, "x", "y")},
	}, 1_790_000_000_000)
}

// record is an uncompressed value of a cell.
type record struct {
	name   string
	value  any
	bytes  []byte
	decode func([]byte) (any, error)
}

func records() []record {
	m, d := someManifest(), someTombstone()
	l := L0Entry{Object: "l0/20000/3/i-x.pk", ObjectSize: 1 << 40, Ingester: "ing-1", Offset: 32, Length: 1 << 30, CRC: 7, MinTime: -1, MaxTime: 5, Series: 9, Samples: 10, Tombstone: 1<<64 - 1, Sealed: 6}
	in := Intent{Since: 1_790_000_000_000, Late: true, Zone: "z1"}
	rc := Receipt{Object: "l0/o", Size: 5, CRC: 0xffffffff, Ingester: "ing-1", Zone: "z1", Windows: []int{0, 3, 11}, Tenants: 100_000, Sealed: 7, Attempt: 1<<63 + 1}
	g := Garbage{Kind: "pack", Name: "l1/o", Tenant: "a", Day: 20000, Version: Version{1, 2}}
	le := Lease{Holder: "compactor-1", Until: 1_790_000_000_000}
	sh := Share{Holder: "ruler-1/0a1b", Number: 1<<64 - 1, Sequence: 3, Until: 1_790_000_000_000}
	as := Aside{Since: 1_790_000_000_000, Zone: "z1", Series: 2, Samples: 3_000_000, Bytes: 1 << 30, Reason: "too many chunks", Dropped: 1_790_000_000_001}
	bf := Backfill{State: BackfillFailed, Start: 1_790_000_000_000, End: 1_790_000_600_000, Done: 1_790_000_060_000, Samples: 12, Failed: 3,
		Error: "too many series", Created: 1_790_001_000_000, Updated: 1_790_001_000_001}
	rg := RuleGroup{YAML: "name: g\nrules: []\n", Written: 1_790_000_000_000}
	am := AlertmanagerConfig{YAML: "alertmanager_config: |\n  route: {receiver: r}\n", Written: 1_790_000_000_000}
	si := Silence{Mesh: "\x03abc", Updated: 1_790_000_000_000, Expires: 1_790_000_600_000}
	no := Notification{Holder: "am-1/0a1b/7", Number: 2, Sequence: 9, Content: 1<<64 - 1, Failures: 1, Flushed: 1_790_000_000_000,
		Expires: 1_790_000_600_000, Entry: "\x03abc"}
	return []record{
		{"alertmanager", am, am.Encode(), func(b []byte) (any, error) { v, err := DecodeAlertmanagerConfig(b); return v, err }},
		{"silence", si, si.Encode(), func(b []byte) (any, error) { v, err := DecodeSilence(b); return v, err }},
		{"notification", no, no.Encode(), func(b []byte) (any, error) { v, err := DecodeNotification(b); return v, err }},
		{"manifest", m, m.Encode(), func(b []byte) (any, error) { v, err := DecodeManifest(b); return v, err }},
		{"l0", l, l.Encode(), func(b []byte) (any, error) { v, err := DecodeL0Entry(b); return v, err }},
		{"intent", in, in.Encode(), func(b []byte) (any, error) { v, err := DecodeIntent(b); return v, err }},
		{"receipt", rc, rc.Encode(), func(b []byte) (any, error) { v, err := DecodeReceipt(b); return v, err }},
		{"tombstone", d, d.Encode(), func(b []byte) (any, error) { v, err := DecodeTombstone(b); return v, err }},
		{"garbage", g, g.Encode(), func(b []byte) (any, error) { v, err := DecodeGarbage(b); return v, err }},
		{"lease", le, le.Encode(), func(b []byte) (any, error) { v, err := DecodeLease(b); return v, err }},
		{"rulegroup", rg, rg.Encode(), func(b []byte) (any, error) { v, err := DecodeRuleGroup(b); return v, err }},
		{"backfill", bf, bf.Encode(), func(b []byte) (any, error) { v, err := DecodeBackfill(b); return v, err }},
		{"share", sh, sh.Encode(), func(b []byte) (any, error) { v, err := DecodeShare(b); return v, err }},
		{"aside", as, as.Encode(), func(b []byte) (any, error) { v, err := DecodeAside(b); return v, err }},
	}
}

// compressed returns values compressed with zstd, whose bytes may depend on its version.
func compressed(t testing.TB, c *Codec) []record {
	t.Helper()
	n := someNames()
	vb := NewValuesBuilder("l")
	for i := range 300 {
		vb.Add(fmt.Sprint("v", i), i%7)
		vb.Add(fmt.Sprint("v", i), 1000)
	}
	buckets, _, err := vb.Buckets(c)
	if err != nil {
		t.Fatal(err)
	}
	sb := NewSummariesBuilder()
	for i := range 3 {
		p := testPage{mint: int64(i), maxt: lastMillis}
		for k := range 100 * i {
			p.series = append(p.series, map[string]string{"a": "b", "c": fmt.Sprint(k)})
		}
		sb.AddPage(len(p.series), p.mint, p.maxt, p.columns)
	}
	decodeBucket := func(b []byte) (any, error) { return c.DecodeBucket(b) }
	decodeSummaries := func(b []byte) (any, error) { return c.DecodeSummaries(b) }
	out := []record{{name: "names", bytes: n.Encode(c), decode: func(b []byte) (any, error) { v, err := c.DecodeNames(b); return v, err }},
		{name: "values", bytes: buckets[0], decode: decodeBucket}, {name: "summaries", bytes: sb.Encode(c), decode: decodeSummaries}}
	for i := range out {
		if out[i].value, err = out[i].decode(out[i].bytes); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// TestGolden decodes values written by an earlier build, and checks that uncompressed values are encoded
// to the same bytes. If they differ, the format has changed: see docs/format/index.md before running
// with -update.
func TestGolden(t *testing.T) {
	c := testCodec(t)
	for i, r := range append(records(), compressed(t, c)...) {
		golden := filepath.Join("testdata", r.name+".hex")
		if *update {
			if err := os.WriteFile(golden, []byte(hex.EncodeToString(r.bytes)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		want, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		if i < len(records()) && !bytes.Equal(r.bytes, want) {
			t.Errorf("%s: encoded bytes have changed: %x", r.name, r.bytes)
		}
		got, err := r.decode(want)
		if err != nil || !reflect.DeepEqual(got, r.value) {
			t.Errorf("%s: decoded as %+v, %v; want %+v", r.name, got, err, r.value)
		}
	}
}

// TestOldReceipt decodes a receipt of version 1, which has no Attempt.
func TestOldReceipt(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "receipt-1.hex"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	want := Receipt{Object: "l0/o", Size: 5, CRC: 0xffffffff, Ingester: "ing-1", Zone: "z1", Windows: []int{0, 3, 11}, Tenants: 100_000, Sealed: 7}
	if got, err := DecodeReceipt(b); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("decoded as %+v, %v; want %+v", got, err, want)
	}
	body := b[2 : len(b)-4]
	for _, payload := range [][]byte{append(bytes.Clone(body), 0), append(bytes.Clone(body), 0, 0, 0, 0, 0, 0, 0, 1), body[:len(body)-1]} {
		if _, err := DecodeReceipt(seal(valueReceipt, 1, payload)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("payload %x: %v", payload, err)
		}
	}
}

// TestDamage changes every byte of every value, truncates and extends the value, and checks that
// decoding always returns ErrCorrupt, not ErrNewer.
func TestDamage(t *testing.T) {
	c := testCodec(t)
	for _, r := range append(records(), compressed(t, c)...) {
		bad := [][]byte{nil, append(bytes.Clone(r.bytes), 0)}
		for i := range r.bytes {
			b := bytes.Clone(r.bytes)
			b[i] ^= 1 << (i % 8)
			bad = append(bad, b, r.bytes[:i])
		}
		for _, b := range bad {
			if _, err := r.decode(b); !errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNewer) {
				t.Fatalf("%s: damaged value %x: %v", r.name, b, err)
			}
		}
		body := r.bytes[2 : len(r.bytes)-4]
		for _, k := range []struct {
			kind, version byte
			payload       []byte
			want          error
		}{{r.bytes[0], r.bytes[1] + 1, body, ErrNewer}, {r.bytes[0], 255, nil, ErrNewer}, {lastValue + 1, 1, body, ErrNewer}, {r.bytes[0], 0, body, ErrCorrupt},
			{r.bytes[0]%lastValue + 1, 1, body, ErrCorrupt}, {0, 1, body, ErrCorrupt}, {r.bytes[0], r.bytes[1], append(bytes.Clone(body), 0), ErrCorrupt},
			{r.bytes[0], r.bytes[1], body[:len(body)-1], ErrCorrupt}} {
			if _, err := r.decode(seal(k.kind, k.version, k.payload)); !errors.Is(err, k.want) {
				t.Errorf("%s: kind %d, version %d: %v, want %v", r.name, k.kind, k.version, err, k.want)
			}
		}
	}
}

// TestRejectedRecords decodes invalid payloads with a valid checksum.
func TestRejectedRecords(t *testing.T) {
	for what, k := range map[string]struct {
		value  []byte
		decode func([]byte) error
	}{
		"late is neither 0 nor 1":   {seal(valueIntent, 1, []byte{0, 2, 0}), func(b []byte) error { _, err := DecodeIntent(b); return err }},
		"window 12":                 {seal(valueReceipt, 1, []byte{0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x20, 0, 0}), func(b []byte) error { _, err := DecodeReceipt(b); return err }},
		"more packs than bytes":     {seal(valueManifest, 1, []byte{1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f}), func(b []byte) error { _, err := DecodeManifest(b); return err }},
		"day beyond the last":       {seal(valueManifest, 1, []byte{1, 0, 0, 0, 0, 0, 0, 0, 1, 0x80, 0x80, 0x80, 0x80, 0x08, 0, 0, 0, 0, 0, 0, 0}), func(b []byte) error { _, err := DecodeManifest(b); return err }},
		"size beyond 63 bits":       {seal(valueL0, 1, []byte{0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}), func(b []byte) error { _, err := DecodeL0Entry(b); return err }},
		"generation beyond 32 bits": {seal(valueManifest, 1, []byte{0x80, 0x80, 0x80, 0x80, 0x10}), func(b []byte) error { _, err := DecodeManifest(b); return err }},
	} {
		if err := k.decode(k.value); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: error %v, want ErrCorrupt", what, err)
		}
	}
}

func TestManifestOrder(t *testing.T) {
	for what, change := range map[string]func(*Manifest){
		"pack ends before it begins":   func(m *Manifest) { m.Packs[0].MaxTime = m.Packs[0].MinTime - 1 },
		"last metric before the first": func(m *Manifest) { m.Packs[1].LastMetric = "l" },
		"metrics overlap":              func(m *Manifest) { m.Packs[0].LastMetric = "n" },
	} {
		m := someManifest()
		change(&m)
		if _, err := DecodeManifest(m.Encode()); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: error %v, want ErrCorrupt", what, err)
		}
	}
}

func TestPartsOf(t *testing.T) {
	m := Manifest{Packs: []PackEntry{{FirstMetric: "b", LastMetric: "d"}, {FirstMetric: "d", LastMetric: "d"}, {FirstMetric: "d", LastMetric: "f"}, {FirstMetric: "h", LastMetric: "h"}}}
	for metric, want := range map[string][]int{"": {}, "a": {}, "b": {0}, "c": {0}, "d": {0, 1, 2}, "e": {2}, "f": {2}, "g": {}, "h": {3}, "i": {}} {
		got := []int{}
		from, to := m.PartsOf(metric)
		for i := from; i < to; i++ {
			got = append(got, i)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("parts of %q are %v, want %v", metric, got, want)
		}
	}
}

// TestManifestSize checks the size of the manifest of a day with 300 packs and typical names.
func TestManifestSize(t *testing.T) {
	m := someManifest()
	m.Packs, m.Sources = nil, make([]ulid.ULID, 300)
	for i := range 300 {
		p := someManifest().Packs[0]
		p.Object = fmt.Sprintf("l1/%s/20000/%s.pk", strings.Repeat("t", 20), testID)
		p.FirstMetric = fmt.Sprintf("container_network_receive_packets_%03d_total", i)
		p.LastMetric = p.FirstMetric + "_sum"
		m.Packs = append(m.Packs, p)
	}
	n := len(m.Encode())
	t.Logf("manifest of 300 packs and as many sources: %d bytes", n)
	if n > 100<<10 {
		t.Errorf("manifest of 300 packs has %d bytes, want at most %d", n, 100<<10)
	}
}

func TestTombstone(t *testing.T) {
	d := someTombstone()
	if d.State != Pending || d.Number != 7 {
		t.Errorf("new deletion is %+v", d)
	}
	matches, err := d.Compile()
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		`up job c`: true, `up job a`: false, `up job bx`: false, `up`: true, `down`: false, `down pod p`: true, `down pod p x y`: false, `up job a pod p x z`: true,
	} {
		f := strings.Fields(text)
		if got := matches(labels.FromStrings(append([]string{"__name__"}, f...)...)); got != want {
			t.Errorf("deletion matches %s: %v", text, got)
		}
	}
	// Empty sets must match no series, rather than all.
	for _, sets := range [][][]Matcher{nil, {}, {nil}, {{}, nil}} {
		d := Tombstone{Sets: sets}
		matches, err := d.Compile()
		if err != nil || matches(labels.FromStrings("a", "b")) || matches(labels.EmptyLabels()) {
			t.Errorf("deletion of %v matches, %v", sets, err)
		}
	}
	d.Sets = [][]Matcher{{{Type: labels.MatchRegexp, Name: "a", Value: "("}}}
	if _, err := d.Compile(); err == nil {
		t.Error("an invalid regular expression compiles")
	}
	d.Sets[0][0].Type = 4
	if _, err := DecodeTombstone(d.Encode()); !errors.Is(err, ErrNewer) {
		t.Errorf("unknown type of a matcher: %v", err)
	}
	d = someTombstone()
	d.State = 2
	if _, err := DecodeTombstone(d.Encode()); !errors.Is(err, ErrNewer) {
		t.Errorf("unknown state: %v", err)
	}
}

// TestWrongLength checks the error of a compressed value whose length is not the one it states.
func TestWrongLength(t *testing.T) {
	c, err := NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	value := c.seal(valueNames, 1, make([]byte, 100))
	payload := value[2 : len(value)-4]
	payload[0]++ // the stated length
	_, err = c.open(valueNames, 1, "names", seal(valueNames, 1, payload))
	if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "decompresses to 100 bytes, not 101") {
		t.Errorf("error %v", err)
	}
}
