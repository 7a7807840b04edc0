package dir

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/backend/disk"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/objects/objecttest"
)

// forms returns paths of directories in different forms, for a working directory with a directory "a"
// and a symbolic link "link" to "linked".
func forms(here string) []string {
	return []string{"data", "./data", "data/", "data/.", "data//", "a/../data", "deep/er/data", "deep/er/data/",
		".", "./", "link", "link/", "link/data/",
		filepath.Join(here, "data"), filepath.Join(here, "data") + "/", here + "/a/../data", here + "/./data/.", here + "/link"}
}

// inDirectory changes to a new working directory for the test.
func inDirectory(t *testing.T) string {
	t.Helper()
	t.Chdir(t.TempDir())
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir("a", 0o755), os.Mkdir("linked", 0o755), os.Symlink("linked", "link")); err != nil {
		t.Fatal(err)
	}
	return here
}

// within fails the test if `call` has not returned after a minute.
func within(t *testing.T, what string, call func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("%s failed: %v", what, err)
		}
	case <-time.After(time.Minute):
		t.Fatalf("%s has not returned after a minute", what)
	}
}

// source writes a file outside the store.
func source(t *testing.T, content string) (string, uint32) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, disk.Checksum([]byte(content))
}

// TestForms checks for each form of a path that all calls return, and that the absolute, clean path is
// the same directory.
func TestForms(t *testing.T) {
	ctx := context.Background()
	for i := range forms("") {
		t.Run("", func(t *testing.T) {
			here := inDirectory(t)
			form := forms(here)[i]
			t.Logf("%q", form)
			s, err := Open(form, "l0", "l1")
			if err != nil {
				t.Fatal(err)
			}
			path, crc := source(t, "content")
			for _, name := range []string{"l0/1/00/x", "l0/1/00/x", "l1/y"} { // the first one twice
				within(t, "put", func() error { _, err := s.Put(ctx, name, path, crc); return err })
			}
			t.Chdir(t.TempDir()) // the store must keep the directory in which it was opened
			if b, err := s.Get(ctx, "l0/1/00/x", 0, 7); err != nil || string(b) != "content" {
				t.Errorf("get: %q, %v", b, err)
			}
			abs := form
			if !filepath.IsAbs(form) {
				abs = filepath.Join(here, form)
			}
			other, err := Open(filepath.Clean(abs), "l0", "l1")
			if err != nil {
				t.Fatal(err)
			}
			var seen []string
			if err := other.List(ctx, "", func(o objects.Object) bool { seen = append(seen, o.Name); return true }); err != nil || strings.Join(seen, " ") != "l0/1/00/x l1/y" {
				t.Errorf("the absolute form has %q, %v", seen, err)
			}
			within(t, "delete", func() error {
				return errors.Join(s.Delete(ctx, "l0/1/00/x"), s.Delete(ctx, "l0/1/00/x"), s.Delete(ctx, "l1/y"))
			})
			if _, err := os.Stat(filepath.Join(abs, "l0")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("an empty directory still exists: %v", err)
			}
			if st, err := os.Stat(abs); err != nil || !st.IsDir() {
				t.Errorf("the root was deleted with its last object: %v", err)
			}
		})
	}
}

// TestContractRelative tests the contract with relative, unclean paths of the root.
func TestContractRelative(t *testing.T) {
	inDirectory(t)
	for _, root := range []string{"data/", "./data", "link"} {
		t.Run(strings.ReplaceAll(root, "/", "_"), func(t *testing.T) {
			objecttest.Run(t, func(t *testing.T) objects.Store {
				if err := errors.Join(os.RemoveAll(root+"/l0"), os.RemoveAll(root+"/l1")); err != nil {
					t.Fatal(err)
				}
				s, err := Open(root, "l0", "l1")
				if err != nil {
					t.Fatal(err)
				}
				return s
			})
		})
	}
}

// TestWalkIsBounded checks that walking up from a path outside the root ends with an error that names
// the root.
func TestWalkIsBounded(t *testing.T) {
	for _, root := range []string{"/nowhere", "data", "./data", "/tmp/", ""} {
		for _, path := range []string{"/tmp/l0/x", "l0/x", "../x", "x", "/", "."} {
			s := &Store{root: root}
			within(t, root+" and "+path, func() error {
				if err := s.syncPath(path); err == nil || !strings.Contains(err.Error(), "not in the object directory "+root) {
					t.Errorf("root %q, path %q: %v", root, path, err)
				}
				return nil
			})
		}
	}
}

// TestLinkedTop checks that a first segment may be a symbolic link, for example to a larger disk: Open
// removes incomplete copies in it, List returns its objects, and deleting its last object keeps the
// link.
func TestLinkedTop(t *testing.T) {
	ctx := context.Background()
	root, disk := t.TempDir(), t.TempDir()
	if err := errors.Join(os.Symlink(disk, filepath.Join(root, "l1")), os.MkdirAll(filepath.Join(disk, "t"), 0o755),
		os.WriteFile(filepath.Join(disk, "t", "half.tmp"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	s, err := Open(root, "l0", "l1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(disk, "t", "half.tmp")); err == nil {
		t.Error("an incomplete copy still exists")
	}
	path, crc := source(t, "content")
	for _, name := range []string{"l1/t/x", "l1/u/y"} {
		within(t, "put", func() error { _, err := s.Put(ctx, name, path, crc); return err })
	}
	list := func(prefix string) string {
		var seen []string
		if err := s.List(ctx, prefix, func(o objects.Object) bool { seen = append(seen, o.Name); return true }); err != nil {
			t.Fatal(err)
		}
		return strings.Join(seen, " ")
	}
	if got := list(""); got != "l1/t/x l1/u/y" {
		t.Errorf("listed %q", got)
	}
	if got := list("l1/u/"); got != "l1/u/y" {
		t.Errorf("listed %q", got)
	}
	for _, name := range []string{"l1/t/x", "l1/u/y"} {
		if err := s.Delete(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := os.Lstat(filepath.Join(root, "l1")); err != nil || st.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link was deleted: %v", err)
	}
}

// TestDanglingRoot checks that a root that is a dangling symbolic link is an error with its path.
func TestDanglingRoot(t *testing.T) {
	root := filepath.Join(t.TempDir(), "data")
	if err := os.Symlink("/nowhere/at/all", root); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(root, "l0"); err == nil || !strings.Contains(err.Error(), root) {
		t.Errorf("Open() = %v, want an error with the path", err)
	}
}
