package wal

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestDatasyncAsksTheKernel checks that Datasync of the real file system returns the
// result of the operating system: its error for a device that cannot be synced.
func TestDatasyncAsksTheKernel(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := (osFile{null}).Datasync(); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("sync of %s: %v, want %v", os.DevNull, err, syscall.EINVAL)
	}
	f, err := OS().Create(filepath.Join(t.TempDir(), "segment"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Datasync(); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := f.Datasync(); err == nil {
		t.Error("a closed file was synced")
	}
}

// TestSegmentsAreOwnerOnly checks that only the user of the process can read the
// segments, which have the samples of tenants.
func TestSegmentsAreOwnerOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "wal")
	l, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	appendText(t, l, "x")
	if _, err := l.Cut(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, SegmentPath(dir, 1): 0o600, SegmentPath(dir, 2): 0o600} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", path, st.Mode(), err, want)
		}
	}
}
