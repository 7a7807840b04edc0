package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/palliumhq/pallium/backend/wal"
	"github.com/palliumhq/pallium/backend/wal/waltest"
)

// noted is a record that stores its place.
type noted struct {
	text string
	at   wal.Place
}

func (n *noted) AppendTo(dst []byte, _ wal.Place) []byte { return append(dst, n.text...) }
func (n *noted) Appended(at wal.Place)                   { n.at = at }

// bench is a log on a disk with injected faults.
type bench struct {
	t    *testing.T
	dir  string
	disk *waltest.Disk
	log  *wal.Log
}

func newBench(t *testing.T, o wal.Options) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), disk: &waltest.Disk{}}
	o.Disk = b.disk
	var err error
	if b.log, err = wal.Open(b.dir, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.log.Close() })
	return b
}

func (b *bench) append(text string) (wal.Position, wal.Place) {
	b.t.Helper()
	rec := &noted{text: text}
	p, err := b.log.Append(rec)
	if err != nil {
		b.t.Fatalf("append %q: %v", text, err)
	}
	return p, rec.at
}

// cutPower simulates a power loss, and returns the result of a replay.
func (b *bench) cutPower() ([]string, wal.Report) {
	b.t.Helper()
	if err := b.disk.CutPower(); err != nil {
		b.t.Fatal(err)
	}
	return b.replay()
}

func (b *bench) replay() (got []string, report wal.Report) {
	b.t.Helper()
	report, err := wal.Replay(b.t.Context(), b.dir, 0, wal.Reader{Record: func(_ wal.Place, rec []byte) error {
		got = append(got, string(rec))
		return nil
	}})
	if err != nil {
		b.t.Fatal(err)
	}
	return got, report
}

// TestSyncIsDurable checks that records survive a power loss after Sync, SyncAll,
// Cut, Split or Close returned nil.
func TestSyncIsDurable(t *testing.T) {
	for name, sync := range map[string]func(*bench, wal.Position) error{
		"Sync":    func(b *bench, p wal.Position) error { return b.log.Sync(p) },
		"SyncAll": func(b *bench, _ wal.Position) error { return b.log.SyncAll() },
		"Cut":     func(b *bench, _ wal.Position) error { _, err := b.log.Cut(); return err },
		"Split":   func(b *bench, _ wal.Position) error { _, err := b.log.Split(); return err },
		"Close":   func(b *bench, _ wal.Position) error { return b.log.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, wal.Options{})
			b.append("first")
			p, _ := b.append("second")
			if err := sync(b, p); err != nil {
				t.Fatal(err)
			}
			if got, _ := b.cutPower(); !slices.Equal(got, []string{"first", "second"}) {
				t.Errorf("records after the power loss: %q, want first, second", got)
			}
		})
	}
}

// TestFailedSync checks that Sync always returns an error for a record whose first
// sync failed, whatever is synced later, and that all other records are durable.
func TestFailedSync(t *testing.T) {
	b := newBench(t, wal.Options{})
	good, _ := b.append("good")
	if err := b.log.Sync(good); err != nil {
		t.Fatal(err)
	}
	lost, first := b.append("lost")
	alsoLost, _ := b.append("lost, too")
	b.disk.FailSyncs(1)
	if err := b.log.Sync(alsoLost); !errors.Is(err, waltest.ErrSync) {
		t.Fatalf("failed sync: %v", err)
	}
	next, at := b.append("next")
	if at.Segment == first.Segment || at.Epoch == first.Epoch {
		t.Errorf("the log continues at %+v after %+v failed", at, first)
	}
	if err := b.log.Sync(next); err != nil {
		t.Fatal(err)
	}
	for _, p := range []wal.Position{lost, alsoLost} {
		if err := b.log.Sync(p); !errors.Is(err, waltest.ErrSync) {
			t.Errorf("sync of a lost record after a later one: %v", err)
		}
	}
	for _, p := range []wal.Position{good, next} {
		if err := b.log.Sync(p); err != nil {
			t.Errorf("sync of a record on disk: %v", err)
		}
	}
	got, report := b.cutPower()
	if !slices.Equal(got, []string{"good", "next"}) {
		t.Errorf("records after the power loss: %q, want good, next", got)
	}
	for _, d := range report.Damage {
		if !d.Torn {
			t.Errorf("no acknowledged record is missing, but damage is reported: %v", d)
		}
	}
}

// TestManyFailedSyncs checks that Sync returns an error for lost records also with
// more failures than maxLost.
func TestManyFailedSyncs(t *testing.T) {
	b := newBench(t, wal.Options{})
	var lost []wal.Position
	for i := range 200 {
		p, _ := b.append(fmt.Sprint("lost ", i))
		b.disk.FailSyncs(1)
		if err := b.log.Sync(p); err == nil {
			t.Fatal("Sync returned no error although the sync failed")
		}
		lost = append(lost, p)
		ok, _ := b.append(fmt.Sprint("kept ", i))
		if err := b.log.Sync(ok); err != nil {
			t.Fatal(err)
		}
	}
	for i, p := range lost {
		if err := b.log.Sync(p); err == nil {
			t.Errorf("no error for the lost record %d", i)
		}
	}
	if got, _ := b.cutPower(); len(got) != 200 {
		t.Errorf("%d records are left, want 200", len(got))
	}
}

// TestDiskThatAlwaysFails checks that every Sync fails, and that records appended
// later are durable once the disk works again.
func TestDiskThatAlwaysFails(t *testing.T) {
	b := newBench(t, wal.Options{})
	b.disk.FailSyncs(-1)
	for i := range 5 {
		p, _ := b.append(fmt.Sprint("lost ", i))
		if err := b.log.Sync(p); err == nil {
			t.Fatal("Sync returned no error although the sync failed")
		}
	}
	if _, err := b.log.Cut(); err != nil {
		t.Fatalf("cut: %v", err)
	}
	b.disk.FailSyncs(0)
	p, _ := b.append("kept")
	if err := b.log.Sync(p); err != nil {
		t.Fatal(err)
	}
	if got, _ := b.cutPower(); !slices.Equal(got, []string{"kept"}) {
		t.Errorf("records after the power loss: %q, want kept", got)
	}
}

// TestDiskThatLies checks that records lost by a disk whose syncs have no effect
// are reported as damage, and that the records before them are replayed.
func TestDiskThatLies(t *testing.T) {
	b := newBench(t, wal.Options{})
	b.append("first")
	if err := b.log.SyncAll(); err != nil {
		t.Fatal(err)
	}
	b.disk.Lie(true)
	b.append("lost")
	if _, err := b.log.Split(); err != nil {
		t.Fatal(err)
	}
	b.disk.Lie(false)
	p, _ := b.append("last")
	if err := b.log.Sync(p); err != nil {
		t.Fatal(err)
	}
	got, report := b.cutPower()
	// The record after the lie is in the same segment as the header, which was
	// written while the disk lied.
	if len(got) == 0 || got[0] != "first" {
		t.Errorf("records after the power loss: %q, want first at the beginning", got)
	}
	if len(report.Damage) == 0 || report.Damage[0].Torn {
		t.Errorf("damage %v, want the lost records first, not as a torn end", report.Damage)
	}
}

// TestMissingRecords checks that a segment that is missing, or shorter than when it was
// closed, is damage and not a torn end, and so is a torn end that was durable once.
func TestMissingRecords(t *testing.T) {
	tests := []struct {
		name   string
		change func(path string, data []byte) error
		want   []string
	}{
		{"cut at a record", func(path string, data []byte) error {
			return os.WriteFile(path, data[:bytes.Index(data, []byte("b2"))-13], 0o600)
		},
			[]string{"a1", "b1", "c1"}},
		{"cut within a record", func(path string, data []byte) error { return os.WriteFile(path, data[:len(data)-1], 0o600) },
			[]string{"a1", "b1", "c1"}},
		{"zeros at the end", func(path string, data []byte) error {
			clear(data[bytes.Index(data, []byte("b2"))-13:])
			return os.WriteFile(path, data, 0o600)
		}, []string{"a1", "b1", "c1"}},
		{"removed", func(path string, _ []byte) error { return os.Remove(path) }, []string{"a1", "c1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, wal.Options{})
			b.append("a1")
			split(t, b)
			b.append("b1")
			b.append("b2")
			split(t, b)
			b.append("c1")
			if err := b.log.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(b.dir, "00000002.wal")
			data, err := os.ReadFile(path)
			if err == nil {
				err = tt.change(path, data)
			}
			if err != nil {
				t.Fatal(err)
			}
			got, report := b.replay()
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if len(report.Damage) != 1 || report.Damage[0].Torn || report.Damage[0].Segment != 2 {
				t.Errorf("damage = %v, want one in segment 2, not torn", report.Damage)
			}
		})
	}
}

// TestCrashedEndIsTorn checks that the end of a segment after a crash is torn, also
// if later segments follow.
func TestCrashedEndIsTorn(t *testing.T) {
	b := newBench(t, wal.Options{})
	b.append("a")
	path := filepath.Join(b.dir, "00000001.wal")
	data, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, data[:len(data)-1], 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	next, err := wal.Open(b.dir, wal.Options{})
	if err == nil {
		_, err = next.Append(&noted{text: "b"})
	}
	if err == nil {
		err = next.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, report := b.replay(); !slices.Equal(got, []string{"b"}) || len(report.Damage) != 1 || !report.Damage[0].Torn {
		t.Errorf("got %q, damage %v; want b, and a torn end", got, report.Damage)
	}
}

func split(t *testing.T, b *bench) {
	t.Helper()
	if _, err := b.log.Split(); err != nil {
		t.Fatal(err)
	}
}

// TestEpochs checks that full segments and Split stay in their epoch, that Cut and
// Open begin a new one, and that a replay has the same places.
func TestEpochs(t *testing.T) {
	b := newBench(t, wal.Options{SegmentBytes: 60})
	var want []wal.Place
	add := func() {
		t.Helper()
		_, at := b.append("0123456789")
		want = append(want, at)
	}
	cut := func() {
		t.Helper()
		n, err := b.log.Cut()
		if err != nil {
			t.Fatal(err)
		}
		add()
		if at := want[len(want)-1]; at != n || at.Epoch != at.Segment {
			t.Errorf("cut returned %+v, the next record is at %+v", n, at)
		}
	}
	for range 5 {
		add()
	}
	if at := want[len(want)-1]; at.Epoch != 1 || at.Segment < 3 {
		t.Errorf("full segments: %+v", at)
	}
	split(t, b)
	add()
	if at := want[len(want)-1]; at.Epoch != 1 {
		t.Errorf("after Split: %+v", at)
	}
	cut()
	split(t, b)
	cut() // after an empty segment of the old epoch
	if err := b.log.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if b.log, err = wal.Open(b.dir, wal.Options{}); err != nil {
		t.Fatal(err)
	}
	add()
	if at := want[len(want)-1]; at.Epoch != at.Segment {
		t.Errorf("after a restart: %+v", at)
	}
	var got []wal.Place
	if _, err := wal.Replay(t.Context(), b.dir, 0, wal.Reader{Record: func(at wal.Place, _ []byte) error {
		got = append(got, at)
		return nil
	}}); err != nil || !slices.Equal(got, want) {
		t.Errorf("replayed %+v, %v; written %+v", got, err, want)
	}
}
