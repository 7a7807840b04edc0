package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/remotewrite"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

func TestCodec(t *testing.T) {
	for _, size := range []int{0, 10, compressAbove, 1 << 20} {
		for _, fill := range []byte{0, 'x'} {
			in := &PushRequest{Tenant: "t", Write: bytes.Repeat([]byte{fill}, size)}
			b, err := Codec{}.Marshal(in)
			if err != nil {
				t.Fatal(err)
			}
			if size == 1<<20 && len(b) > size/10 {
				t.Errorf("%d equal bytes are encoded to %d bytes", size, len(b))
			}
			var out PushRequest
			if err := (Codec{}).Unmarshal(b, &out); err != nil || out.Tenant != "t" || !bytes.Equal(out.Write, in.Write) {
				t.Errorf("size %d: %v", size, err)
			}
		}
	}
	if _, err := (Codec{}).Marshal("text"); err == nil {
		t.Error("a string was encoded, want an error")
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "kind": {7}, "not snappy": {compressed, 0xff, 0xff, 0xff, 0xff, 0xff},
		"bomb":  append([]byte{compressed}, 0xff, 0xff, 0xff, 0x3f, 0),
		"cut":   {plain, 10, 200},
		"large": append([]byte{compressed}, snappy.Encode(nil, make([]byte, 100))[:3]...),
	} {
		var out PushRequest
		if err := (Codec{}).Unmarshal(bad, &out); err == nil {
			t.Errorf("%s: decoded to %v", name, out)
		}
	}
}

// TestOtherVersions checks that messages of older and newer versions can be decoded, that unknown
// fields are ignored, and that the encoding does not change.
func TestOtherVersions(t *testing.T) {
	rejection := Rejection{Entry: 3, Reason: "r", Message: "m"}
	old, oldResponse := PushRequest{Tenant: "t", Write: []byte("w")}, PushResponse{Exemplars: 7, Rejections: []Rejection{rejection}}
	request, response := old, oldResponse
	request.Established, response.Created = true, []uint32{0, 3, 300}
	future := "\xfa\x3f\x02hi" // field 1023
	for _, tt := range []struct {
		name  string
		bytes string
		want  message
	}{
		{"request of an older version", "\x0a\x01t\x12\x01w", &old},
		{"request", "\x0a\x01t\x12\x01w\x18\x01", &request},
		{"request of a newer version", "\x0a\x01t\x12\x01w\x18\x01" + future, &request},
		{"response of an older version", "\x08\x07\x12\x08\x08\x03\x22\x01r\x2a\x01m", &oldResponse},
		{"response with counts of older versions", "\x08\x07\x12\x0a\x08\x03\x10\x02\x22\x01r\x2a\x01m", &oldResponse},
		{"response", "\x08\x07\x12\x08\x08\x03\x22\x01r\x2a\x01m\x1a\x04\x00\x03\xac\x02", &response},
		{"response of a newer version", "\x08\x07\x12\x08\x08\x03\x22\x01r\x2a\x01m\x1a\x04\x00\x03\xac\x02" + future, &response},
		{"response, not packed", "\x08\x07\x12\x08\x08\x03\x22\x01r\x2a\x01m\x18\x00\x18\x03\x18\xac\x02", &response},
	} {
		got := message(&PushRequest{})
		if _, ok := tt.want.(*PushResponse); ok {
			got = &PushResponse{}
		}
		if err := (Codec{}).Unmarshal([]byte("\x00"+tt.bytes), got); err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, %v", tt.name, got, err)
		}
		if strings.Contains(tt.name, "newer") || strings.Contains(tt.name, "counts") || strings.Contains(tt.name, "packed") {
			continue
		}
		if data, err := (Codec{}).Marshal(tt.want); err != nil || string(data) != "\x00"+tt.bytes {
			t.Errorf("%s: encoded as %x, %v", tt.name, data, err)
		}
	}
	for _, bad := range []string{"\x1a\x04\x00\x03", "\x1a\x01\xff", "\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "\x18", "\x19\x00"} {
		var got PushResponse
		if err := (Codec{}).Unmarshal([]byte("\x00"+bad), &got); err == nil {
			t.Errorf("decoding %x = %+v, want an error", bad, got)
		}
	}
}

func TestLabels(t *testing.T) {
	var b labels.ScratchBuilder
	for _, ls := range []labels.Labels{{}, labels.FromStrings("a", "b"), labels.FromStrings("__name__", "up", "z", strings.Repeat("ü", 1000))} {
		got, err := DecodeLabels(AppendLabels(nil, ls), &b)
		if err != nil || !labels.Equal(got, ls) {
			t.Errorf("%s: %s, %v", ls, got, err)
		}
	}
	for _, bad := range []string{"\x01", "\x01a", "\x01a\x05b", "\x01b\x01x\x01a\x01x", "\x01a\x01x\x01a\x01x", "\x01a\x00", "\x00\x01a"} {
		if got, err := DecodeLabels([]byte(bad), &b); err == nil {
			t.Errorf("DecodeLabels(%q) = %s, want an error", bad, got)
		}
	}
}

// TestBody checks that bodies with subsets of a batch can be decoded as remote write.
func TestBody(t *testing.T) {
	b := &series.Batch{}
	for i := range 10 {
		ls := labels.FromStrings("__name__", "up", "i", strings.Repeat("v", i*40))
		b.Entries = append(b.Entries, series.Entry{Labels: ls, Hash: ls.Hash(), Samples: []series.Sample{{T: int64(i), V: float64(-i)}}})
	}
	e, err := EncodeEntries(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, positions := range [][]int32{nil, {}, {0}, {9}, {3, 4, 8}} {
		var req remotewrite.Request
		if err := req.Unmarshal(remotewrite.V1, e.Body(positions, false), nil); err != nil {
			t.Fatal(err)
		}
		want := positions
		if want == nil {
			want = []int32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
		}
		if len(req.Batch.Entries) != len(want) {
			t.Fatalf("%v: %d entries", positions, len(req.Batch.Entries))
		}
		for i, p := range want {
			got, w := req.Batch.Entries[i], b.Entries[p]
			if !labels.Equal(got.Labels, w.Labels.WithoutEmpty()) || got.Samples[0] != w.Samples[0] {
				t.Errorf("entry %d = %s %v", p, got.Labels, got.Samples)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	mine := errors.New("full")
	exceeded := limits.MaxQuerySeries.ExceededAt(1, 2).With(" here")
	for _, tt := range []struct {
		in   error
		want error
	}{
		{nil, nil}, {exceeded, nil}, {fmt.Errorf("x: %w", context.Canceled), context.Canceled},
		{context.DeadlineExceeded, context.DeadlineExceeded}, {fmt.Errorf("y: %w", mine), ErrUnavailable},
	} {
		got := Error(Status(tt.in, mine))
		if errors.Is(tt.in, exceeded) {
			var e *limits.Exceeded
			if !errors.As(got, &e) || *e != *exceeded {
				t.Errorf("%v was received as %v", tt.in, got)
			}
			continue
		}
		if !errors.Is(got, tt.want) || (got == nil) != (tt.in == nil) || (got != nil && got.Error() != tt.in.Error()) {
			t.Errorf("%v was received as %v", tt.in, got)
		}
	}
	if got := Error(Status(errors.New("other"), mine)); errors.Is(got, ErrUnavailable) || got.Error() != "other" {
		t.Errorf("another error became %v", got)
	}
}

func FuzzLabels(f *testing.F) {
	f.Add(AppendLabels(nil, labels.FromStrings("a", "b", "c", "d")))
	f.Fuzz(func(t *testing.T, data []byte) {
		var b labels.ScratchBuilder
		ls, err := DecodeLabels(data, &b)
		if err != nil {
			return
		}
		again, err := DecodeLabels(AppendLabels(nil, ls), &b)
		if err != nil || !labels.Equal(again, ls) {
			t.Errorf("%s became %s, %v", ls, again, err)
		}
	})
}

func FuzzCodec(f *testing.F) {
	b, _ := Codec{}.Marshal(&SelectResponse{Series: []Series{{Labels: []byte("x"), Chunks: []Chunk{{Samples: 1, Data: make([]byte, 2000)}}}}})
	f.Add(b)
	b, _ = Codec{}.Marshal(&PushResponse{Created: []uint32{0, 1, 1 << 31}, Rejections: []Rejection{{Entry: 2, Places: []uint32{1, 300}, Reason: "r"}}, Repeats: []Repeats{{Entry: 1, Same: 2, Different: 3}}})
	f.Add(b)
	b, _ = Codec{}.Marshal(&PushRequest{Tenant: "t", Write: []byte("w"), Established: true})
	f.Add(b)
	f.Fuzz(func(_ *testing.T, data []byte) {
		for _, m := range []any{&PushRequest{}, &PushResponse{}, &SelectRequest{}, &SelectResponse{}, &LabelsResponse{}, &ExemplarsResponse{}, &DeleteRequest{}} {
			_ = Codec{}.Unmarshal(data, m)
		}
	})
}
