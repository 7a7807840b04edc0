package schema

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
)

// FuzzRecords decodes arbitrary payloads with a valid checksum, and checks that a decoded value is
// unchanged after it is encoded and decoded again.
func FuzzRecords(f *testing.F) {
	list := records()
	for i, r := range list {
		f.Add(byte(i), r.bytes[2:len(r.bytes)-4])
	}
	f.Fuzz(func(t *testing.T, which byte, payload []byte) {
		r := list[int(which)%len(list)]
		v, err := r.decode(seal(r.bytes[0], r.bytes[1], payload))
		if err != nil {
			return
		}
		p := reflect.New(reflect.TypeOf(v))
		p.Elem().Set(reflect.ValueOf(v))
		encoded := p.MethodByName("Encode").Call(nil)[0].Bytes()
		again, err := r.decode(encoded)
		if err != nil || !reflect.DeepEqual(again, v) {
			t.Fatalf("%s: %+v was encoded and decoded as %+v, %v", r.name, v, again, err)
		}
		if d, ok := v.(Tombstone); ok {
			if matches, err := d.Compile(); err == nil {
				matches(labels.FromStrings("a", "b"))
			}
		}
		if m, ok := v.(Manifest); ok {
			for i := range m.Packs {
				if from, to := m.PartsOf(m.Packs[i].LastMetric); i < from || i >= to {
					t.Fatalf("pack %d is not of its own last metric", i)
				}
			}
		}
	})
}

// FuzzCompressed does the same as FuzzRecords with the uncompressed payloads of names,
// values and summaries.
func FuzzCompressed(f *testing.F) {
	c := testCodec(f)
	kinds := []byte{valueNames, valueBucket, valueSummaries}
	list := compressed(f, c)
	for i, r := range list {
		rd, err := c.open(kinds[i], 1, r.name, r.bytes)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), rd.b)
	}
	f.Fuzz(func(t *testing.T, which byte, raw []byte) {
		i := int(which) % len(list)
		v, err := list[i].decode(c.seal(kinds[i], 1, raw))
		if err != nil {
			return
		}
		switch v := v.(type) {
		case Names:
			again, err := c.DecodeNames(v.Encode(c))
			if err != nil || !reflect.DeepEqual(again, v) {
				t.Fatalf("names %+v were encoded and decoded as %+v, %v", v, again, err)
			}
		case *Bucket:
			for i := range v.Len() {
				if at, ok := v.Find(v.Value(i)); at != i || !ok {
					t.Fatalf("value %d is found at %d", i, at)
				}
				v.Metrics(i)
			}
		case *Summaries:
			ms := []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "c", "5"), labels.MustNewMatcher(labels.MatchRegexp, "a", "b.*")}
			for i := range v.Len() {
				v.MayMatch(i, 0, lastMillis, ms)
			}
		}
	})
}

// FuzzValue decodes arbitrary bytes as each kind of value.
func FuzzValue(f *testing.F) {
	c := testCodec(f)
	list := append(records(), compressed(f, c)...)
	for _, r := range list {
		f.Add(r.bytes)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, r := range list {
			_, _ = r.decode(b)
			if len(b) > 6 {
				_, _ = r.decode(seal(r.bytes[0], 1, bytes.Clone(b[2:len(b)-4])))
			}
		}
	})
}
