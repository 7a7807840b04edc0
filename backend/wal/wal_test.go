package wal

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

type text string

func (s text) AppendTo(dst []byte, _ Place) []byte { return append(dst, s...) }
func (text) Appended(Place)                        {}

func appendText(t *testing.T, l *Log, s string) Position {
	t.Helper()
	p, err := l.Append(text(s))
	if err != nil {
		t.Fatalf("append %q: %v", s, err)
	}
	return p
}

func replayText(t *testing.T, dir string) ([]string, Report) {
	t.Helper()
	var got []string
	report, err := Replay(t.Context(), dir, 0, Reader{Record: func(_ Place, rec []byte) error {
		got = append(got, string(rec))
		return nil
	}})
	if err != nil {
		t.Fatalf("replay: %v", err)
	}
	return got, report
}

func open(t *testing.T, dir string, o Options) *Log {
	t.Helper()
	l, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestAppendSyncReplay(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{SegmentBytes: 100})
	var want []string
	for i := range 50 {
		s := fmt.Sprintf("record %d", i)
		if err := l.Sync(appendText(t, l, s)); err != nil {
			t.Fatal(err)
		}
		want = append(want, s)
	}
	got, report := replayText(t, dir)
	if strings.Join(got, ",") != strings.Join(want, ",") {
		t.Errorf("replayed records %v, want %v", got, want)
	}
	if report.Segments < 5 || len(report.Damage) != 0 {
		t.Errorf("report %+v, want 5 or more segments and no damage", report)
	}
}

func TestReopenNeverWritesToAnOldSegment(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	appendText(t, l, "a")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir, Options{})
	if l.Segment() != 2 {
		t.Errorf("segment %d, want 2", l.Segment())
	}
	appendText(t, l, "b")
	if got, _ := replayText(t, dir); strings.Join(got, "") != "ab" {
		t.Errorf("replayed records %v, want ab", got)
	}
	if _, err := l.Append(text("")); err != nil {
		t.Errorf("empty record: %v", err)
	}
}

func TestDamage(t *testing.T) {
	records := []string{"first", strings.Repeat("second ", 100), "third", "fourth"}
	frame := func(i int) int { // offset of record i's frame
		at := headerSize
		for _, r := range records[:i] {
			at += frameHeaderSize + len(r)
		}
		return at
	}
	tests := []struct {
		name   string
		damage func(data []byte) []byte
		want   []int
		torn   bool
		clean  bool
	}{
		{"none", func(d []byte) []byte { return d }, []int{0, 1, 2, 3}, false, true},
		{"flipped bit in the middle", func(d []byte) []byte { d[frame(1)+50] ^= 4; return d }, []int{0, 2, 3}, false, false},
		{"a broken length", func(d []byte) []byte { d[frame(1)+4] = 0xff; return d }, []int{0, 2, 3}, false, false},
		{"a broken magic", func(d []byte) []byte { d[frame(2)] = 0; return d }, []int{0, 1, 3}, false, false},
		{"zeros over two records", func(d []byte) []byte { clear(d[frame(1)+5 : frame(2)+14]); return d }, []int{0, 3}, false, false},
		{"a torn end", func(d []byte) []byte { return d[:len(d)-3] }, []int{0, 1, 2}, true, false},
		{"a torn frame header", func(d []byte) []byte { return d[:frame(3)+7] }, []int{0, 1, 2}, true, false},
		{"only the segment header", func(d []byte) []byte { return d[:headerSize] }, nil, false, true},
		{"a torn segment header", func(d []byte) []byte { return d[:headerSize-1] }, nil, true, false},
		{"a flipped bit in the segment header", func(d []byte) []byte { d[12] ^= 1; return d }, []int{0, 1, 2, 3}, false, false},
		{"a flipped bit in the last record", func(d []byte) []byte { d[len(d)-1] ^= 1; return d }, []int{0, 1, 2}, false, false},
		{"a torn segment magic", func(d []byte) []byte { return d[:3] }, nil, true, false},
		{"a broken segment magic", func(d []byte) []byte { d[0] = 0; return d }, []int{0, 1, 2, 3}, false, false},
		{"an empty file", func([]byte) []byte { return nil }, nil, false, true},
		{"zeros after the end", func(d []byte) []byte { return append(d, make([]byte, 4096)...) }, []int{0, 1, 2, 3}, true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			l := open(t, dir, Options{})
			for _, r := range records {
				appendText(t, l, r)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, segmentName(1))
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, tt.damage(data), 0o644); err != nil {
				t.Fatal(err)
			}
			got, report := replayText(t, dir)
			var want []string
			for _, i := range tt.want {
				want = append(want, records[i])
			}
			if strings.Join(got, "|") != strings.Join(want, "|") {
				t.Errorf("got records %.10q, want %.10q", got, want)
			}
			if clean := len(report.Damage) == 0; clean != tt.clean {
				t.Errorf("damage %v; want none: %v", report.Damage, tt.clean)
			}
			if n := len(report.Damage); n > 0 && report.Damage[n-1].Torn != tt.torn {
				t.Errorf("damage %v; want the last one torn: %v", report.Damage, tt.torn)
			}
		})
	}
}

func TestUnknownSegmentFormatIsRejected(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, segmentName(1)), []byte("PLWAL003xxxx"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := Replay(t.Context(), dir, 0, Reader{Record: func(Place, []byte) error { return nil }})
	if err == nil || !strings.Contains(err.Error(), "PLWAL003") {
		t.Errorf("error %v, want one that names PLWAL003", err)
	}
}

func TestCutAndTruncate(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	appendText(t, l, "old")
	cut, err := l.Cut()
	if err != nil {
		t.Fatal(err)
	}
	p := appendText(t, l, "new")
	if p.Segment != cut.Segment {
		t.Errorf("record is in segment %d, want %d", p.Segment, cut.Segment)
	}
	if err := l.Truncate(cut.Segment); err != nil {
		t.Fatal(err)
	}
	if got, _ := replayText(t, dir); strings.Join(got, "") != "new" {
		t.Errorf("replayed records %v, want new", got)
	}
}

func TestWriteFailureLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	appendText(t, l, "kept")
	// Writes to and truncations of a file opened for reading fail, as on a read-only
	// file system.
	ro, err := os.Open(filepath.Join(dir, segmentName(1)))
	if err != nil {
		t.Fatal(err)
	}
	good := l.file
	l.file = osFile{ro}
	if _, err := l.Append(text("lost")); err == nil {
		t.Fatal("write to a read-only file succeeded")
	}
	if err := good.Close(); err != nil {
		t.Fatal(err)
	}
	p := appendText(t, l, "next") // goes to a new segment
	if p.Segment != 2 {
		t.Errorf("record is in segment %d, want 2", p.Segment)
	}
	if err := l.Sync(p); err != nil {
		t.Fatal(err)
	}
	if got, _ := replayText(t, dir); strings.Join(got, ",") != "kept,next" {
		t.Errorf("replayed records %v, want kept,next", got)
	}
}

func TestConcurrentAppends(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{SegmentBytes: 2000})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 100 {
				p, err := l.Append(text(fmt.Sprintf("%d/%d", g, i)))
				if err == nil {
					err = l.Sync(p)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got, _ := replayText(t, dir)
	if len(got) != 800 {
		t.Fatalf("%d records, want 800", len(got))
	}
	next := map[string]int{}
	for _, r := range got {
		var g string
		var i int
		if _, err := fmt.Sscanf(strings.Replace(r, "/", " ", 1), "%s %d", &g, &i); err != nil {
			t.Fatal(err)
		}
		if next[g] != i {
			t.Fatalf("writer %s: record %d out of order", g, i)
		}
		next[g]++
	}
}

// TestFrameBytesInRecords checks that records with the bytes of whole frames,
// which tenants can write in labels, are never read as frames, even after damage in
// front of them.
func TestFrameBytesInRecords(t *testing.T) {
	forged := sealFrame(append(make([]byte, frameHeaderSize), "forged"...))
	twice := sealFrame(append(make([]byte, frameHeaderSize), forged...))
	records := []string{
		"before", "x" + string(forged) + "y", string(forged), string(twice), frameMagic, frameMark, stuffedMark,
		strings.Repeat(frameMark, 5), stuffedMark[1:], string(forged[1:]), "after",
	}
	dir := t.TempDir()
	l := open(t, dir, Options{})
	for _, r := range records {
		appendText(t, l, r)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got, report := replayText(t, dir); strings.Join(got, "|") != strings.Join(records, "|") || len(report.Damage) != 0 {
		t.Fatalf("got %q, %v", got, report.Damage)
	}
	path := filepath.Join(dir, segmentName(1))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(whole, []byte(frameMagic)); n != len(records) {
		t.Errorf("the frame magic appears %d times, want %d", n, len(records))
	}
	for at := range whole {
		damaged := bytes.Clone(whole)
		damaged[at] ^= 0x55
		r := replay{ctx: t.Context().Err, to: Reader{Record: func(_ Place, rec []byte) error {
			if !slices.Contains(records, string(rec)) {
				t.Errorf("damage at %d: read record %q", at, rec)
			}
			return nil
		}}}
		err := r.segment(1, damaged)
		report := r.report
		if err != nil && at >= len(segmentMagic) {
			t.Errorf("damage at %d: %v", at, err)
		}
		if at >= len(segmentMagic) && report.Records < len(records)-1 {
			t.Errorf("damage at %d lost %d records", at, len(records)-report.Records)
		}
	}
}

func TestNoFrameMagicInHeaders(t *testing.T) {
	// A record whose first bytes complete a magic whose beginning is in the header.
	for _, tail := range []string{"PW\x01", "W\x01", "\x01"} {
		for i := range 5000 {
			frame := sealFrame(fmt.Appendf(append(make([]byte, frameHeaderSize), tail...), "%d", i))
			if bytes.Contains(frame[1:], []byte(frameMagic)) {
				t.Fatalf("record %q %d: the header has a frame magic", tail, i)
			}
			rec, size, ok := readFrame(frame)
			if !ok || size != len(frame) || string(rec) != tail+fmt.Sprint(i) {
				t.Fatalf("record %q %d: read %q", tail, i, rec)
			}
		}
	}
}

func FuzzReplaySegment(f *testing.F) {
	frame := sealFrame(append(make([]byte, frameHeaderSize), "hello"...))
	f.Add(append(header{segment: 1, epoch: 1}.encode(), frame...))
	f.Add(append([]byte(oldSegmentMagic), frame...))
	f.Add([]byte(segmentMagic))
	f.Add(append([]byte("garbage!"), frame...))
	f.Fuzz(func(t *testing.T, data []byte) {
		read := 0
		r := replay{ctx: t.Context().Err, to: Reader{Record: func(_ Place, rec []byte) error {
			read += len(rec) + frameHeaderSize
			if !bytes.Contains(rec, []byte(frameMark)) && !bytes.Contains(data, rec) {
				t.Error("read a record that is not in the segment")
			}
			return nil
		}}}
		if err := r.segment(1, data); err != nil {
			return
		}
		report := r.report
		lost := int64(0)
		for _, d := range report.Damage {
			lost += d.Bytes
		}
		if total := int64(read) + lost; total > int64(len(data)) {
			t.Errorf("%d bytes accounted for of %d", total, len(data))
		}
	})
}
