package wal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestCutWithoutRecords checks that a cut does not begin another segment if the
// current one has no records; otherwise each failed seal would begin one.
func TestCutWithoutRecords(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	for range 3 {
		if cut, err := l.Cut(); err != nil || cut.Segment != 1 {
			t.Fatalf("Cut = %+v, %v, want segment 1", cut, err)
		}
	}
	appendText(t, l, "old")
	for range 3 {
		if cut, err := l.Cut(); err != nil || cut.Segment != 2 {
			t.Fatalf("Cut = %+v, %v, want segment 2", cut, err)
		}
	}
	if p := appendText(t, l, "new"); p.Segment != 2 {
		t.Errorf("record is in segment %d, want 2", p.Segment)
	}
	if all, err := Segments(dir); err != nil || len(all) != 2 {
		t.Errorf("segments %v, error %v; want two", all, err)
	}
}

// TestBytes checks that Bytes is the total size of the segments, after restarts,
// cuts and Truncate.
func TestBytes(t *testing.T) {
	dir := t.TempDir()
	check := func(l *Log) {
		t.Helper()
		all, err := Segments(dir)
		if err != nil {
			t.Fatal(err)
		}
		var want int64
		for _, s := range all {
			info, err := os.Stat(filepath.Join(dir, segmentName(s)))
			if err != nil {
				t.Fatal(err)
			}
			want += info.Size()
		}
		if got := l.Bytes(); got != want {
			t.Errorf("Bytes = %d, want %d", got, want)
		}
	}
	l := open(t, dir, Options{SegmentBytes: 200})
	check(l)
	for i := range 20 {
		appendText(t, l, fmt.Sprint("a record of some length ", i))
		check(l)
	}
	appended := l.Appended()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir, Options{})
	check(l)
	appendText(t, l, "more")
	cut, err := l.Cut()
	if err == nil {
		check(l)
		err = l.Truncate(cut.Segment)
	}
	if err != nil {
		t.Fatal(err)
	}
	check(l)
	if l.Bytes() != int64(headerSize) || appended < 20*23 || l.Appended() != frameHeaderSize+4 {
		t.Errorf("%d bytes left, %d and %d appended", l.Bytes(), appended, l.Appended())
	}
}

// fullDisk returns a directory, a function that frees space, and one that fills the
// file system and opens a log. If no file system can be mounted, openFull returns a
// log in the state that Open would leave on a full disk.
func fullDisk(t *testing.T) (dir string, room func(), openFull func() *Log) {
	t.Helper()
	dir = t.TempDir()
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m")
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		return dir, func() {}, func() *Log {
			l := open(t, dir, Options{})
			next := l.segment
			if err := errors.Join(l.file.Close(), os.Remove(filepath.Join(dir, segmentName(next)))); err != nil {
				t.Fatal(err)
			}
			l.file, l.segment, l.size, l.failed = nil, next, 0, syscall.ENOSPC
			l.onDisk.Add(-int64(headerSize))
			return l
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	return dir, func() {
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
		}, func() *Log {
			f, err := os.Create(ballast)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for size := 1 << 20; size > 0; {
				if _, err = f.Write(make([]byte, size)); err != nil {
					size /= 2
				}
			}
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("the disk is not full: %v", err)
			}
			return open(t, dir, Options{})
		}
}

// TestOpenOnFullDisk checks that a log opens without free space, can be replayed,
// cut and truncated, and accepts records once there is space.
func TestOpenOnFullDisk(t *testing.T) {
	dir, room, openFull := fullDisk(t)
	l := open(t, dir, Options{})
	appendText(t, l, "old")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openFull()
	if l.file != nil || !isFull(l.failed) {
		t.Fatalf("the disk is not full: %v", l.failed)
	}
	if got, _ := replayText(t, dir); strings.Join(got, ",") != "old" {
		t.Errorf("replayed records %v, want old", got)
	}
	if err := l.SyncAll(); err != nil {
		t.Errorf("sync of nothing: %v", err)
	}
	cut, err := l.Cut()
	if err != nil || cut.Segment != 2 {
		t.Fatalf("Cut = %+v, %v, want segment 2", cut, err)
	}
	room()
	p := appendText(t, l, "new")
	if p.Segment != 2 {
		t.Errorf("record is in segment %d, want 2", p.Segment)
	}
	if err := errors.Join(l.Sync(p), l.Truncate(cut.Segment)); err != nil {
		t.Fatal(err)
	}
	if got, _ := replayText(t, dir); strings.Join(got, ",") != "new" {
		t.Errorf("replayed records %v, want new", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(text("late")); !errors.Is(err, ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
}
