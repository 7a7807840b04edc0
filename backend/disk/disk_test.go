package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

var errPower = errors.New("power loss")

// inode is a file: its content, and the part of it that is durable.
type inode struct{ data, synced string }

// powerDisk is a file system whose calls fail from a given step on or, if once is
// set, only at that step. It tracks which names and bytes are durable.
type powerDisk struct {
	step, failAt int
	once         bool

	names   map[string]*inode // directories are nil
	durable map[string]*inode
}

func newPowerDisk(failAt int, once bool) *powerDisk {
	d := &powerDisk{failAt: failAt, once: once, names: map[string]*inode{"/d": nil}}
	d.durable = maps.Clone(d.names)
	return d
}

func (d *powerDisk) fails() error {
	d.step++
	if d.step == d.failAt || d.step > d.failAt && d.failAt > 0 && !d.once {
		return errPower
	}
	return nil
}

func (d *powerDisk) stat(path string) error {
	if _, ok := d.names[path]; !ok && path != "/" {
		return fs.ErrNotExist
	}
	return nil
}

func (d *powerDisk) mkdir(dir string) error {
	if err := d.fails(); err != nil {
		return err
	}
	d.names[dir] = nil
	return nil
}

func (d *powerDisk) create(path string) (file, error) {
	if err := d.fails(); err != nil {
		return nil, err
	}
	d.names[path] = &inode{}
	return &powerFile{d, d.names[path]}, nil
}

func (d *powerDisk) rename(from, to string) error {
	if err := d.fails(); err != nil {
		return err
	}
	d.names[to] = d.names[from]
	delete(d.names, from)
	return nil
}

func (d *powerDisk) remove(path string) error {
	if err := d.fails(); err != nil {
		return err
	}
	delete(d.names, path)
	return nil
}

func (d *powerDisk) syncDir(dir string) error {
	if err := d.fails(); err != nil {
		return err
	}
	for path := range d.durable {
		if _, ok := d.names[path]; !ok && filepath.Dir(path) == dir {
			delete(d.durable, path)
		}
	}
	for path, n := range d.names {
		if filepath.Dir(path) == dir {
			d.durable[path] = n
		}
	}
	return nil
}

// after returns the possible contents of the file at path after a power loss: its
// name may or may not be durable, and only its synced bytes are certain. "absent"
// means no file.
func (d *powerDisk) after(path string) []string {
	var out []string
	for _, names := range []map[string]*inode{d.names, d.durable} {
		n, ok := names[path]
		for dir := filepath.Dir(path); ok && dir != "/"; dir = filepath.Dir(dir) {
			_, ok = names[dir]
		}
		if !ok {
			out = append(out, "absent")
			continue
		}
		out = append(out, n.synced)
	}
	return out
}

type powerFile struct {
	d *powerDisk
	n *inode
}

func (f *powerFile) Write(data []byte) (int, error) {
	if err := f.d.fails(); err != nil {
		f.n.data += string(data[:len(data)/2])
		return len(data) / 2, err
	}
	f.n.data += string(data)
	return len(data), nil
}

func (f *powerFile) Sync() error {
	if err := f.d.fails(); err != nil {
		return err
	}
	f.n.synced = f.n.data
	return nil
}

func (f *powerFile) Close() error { return f.d.fails() }

// TestPowerLoss checks that after a power loss at any step a file has its old or
// its new content, and the new one if ReplaceFile returned nil.
func TestPowerLoss(t *testing.T) {
	for _, path := range []string{"/d/file", "/d/new/below/file"} {
		for failAt := 1; ; failAt++ {
			d := newPowerDisk(0, false)
			old := "absent"
			if path == "/d/file" {
				old = "old"
				if err := replaceFile(d, path, []byte(old)); err != nil {
					t.Fatal(err)
				}
			}
			d.step, d.failAt = 0, failAt
			err := replaceFile(d, path, []byte("new"))
			for _, got := range d.after(path) {
				if got != "new" && (got != old || err == nil) {
					t.Errorf("%s, power loss at step %d, error %v: the file is %q", path, failAt, err, got)
				}
			}
			if err == nil {
				break
			}
		}
	}
}

// TestFailedStep checks a single failed step: an error is returned, the file has
// its old content or, if only its name could not be synced, the new one, no
// temporary file is left, and the next call succeeds.
func TestFailedStep(t *testing.T) {
	const path = "/d/file"
	for failAt := 1; ; failAt++ {
		d := newPowerDisk(0, true)
		if err := replaceFile(d, path, []byte("old")); err != nil {
			t.Fatal(err)
		}
		d.step, d.failAt = 0, failAt
		err := replaceFile(d, path, []byte("new"))
		if d.step < failAt {
			break
		}
		if !errors.Is(err, errPower) {
			t.Errorf("step %d failed: error = %v", failAt, err)
		}
		if got := d.names[path].data; got != "old" && got != "new" {
			t.Errorf("step %d failed: the file is %q", failAt, got)
		}
		if _, ok := d.names[path+TemporarySuffix]; ok {
			t.Errorf("step %d failed: the temporary file is left", failAt)
		}
		if err := replaceFile(d, path, []byte("next")); err != nil || d.after(path)[1] != "next" {
			t.Errorf("after the failure of step %d: error %v, the file is %q", failAt, err, d.after(path))
		}
	}
}

func TestReplaceFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	path := filepath.Join(dir, "file")
	if err := MakeDir(dir); err != nil {
		t.Fatal(err)
	}
	// A temporary file that an older version left, with its mode.
	if err := os.WriteFile(path+TemporarySuffix, []byte("a longer text of a crash"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, replace := range []func(string, []byte) error{ReplaceFile, ReplaceFileUnsynced} {
		for i := range 3 {
			want := fmt.Sprint("content ", i)
			if err := replace(path, []byte(want)); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != want {
				t.Errorf("content = %q, %v, want %q", got, err, want)
			}
		}
	}
	// Only the owner has access. The modes are numbers, because the constants may be wrong.
	modes := map[string]fs.FileMode{dir: 0o700, filepath.Dir(dir): 0o700, path: 0o600}
	for _, p := range slices.Sorted(maps.Keys(modes)) {
		if st, err := os.Stat(p); err != nil || st.Mode().Perm() != modes[p] {
			t.Errorf("mode of %s = %v, %v, want %v", p, st.Mode(), err, modes[p])
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%d entries, %v, want only the file", len(entries), err)
	}
}

// TestSyncsAskTheKernel checks that syncs of the real file system return the result
// of the operating system: its error for a device that cannot be synced.
func TestSyncsAskTheKernel(t *testing.T) {
	if err := SyncDir(os.DevNull); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("sync of %s: %v, want %v", os.DevNull, err, syscall.EINVAL)
	}
	f, err := system{}.create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, ok := f.(*os.File); !ok { // the Sync of an os.File calls the operating system
		t.Errorf("a file of the operating system is a %T", f)
	}
}

// TestDirectoryIsAFile checks that a file in place of a directory, and a directory
// in place of the temporary file, are errors, and that the existing file is
// unchanged.
func TestDirectoryIsAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := ReplaceFile(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := ReplaceFile(filepath.Join(path, "below"), nil); err == nil {
		t.Error("ReplaceFile below a file succeeded")
	}
	if err := os.Mkdir(path+TemporarySuffix, DirMode); err != nil {
		t.Fatal(err)
	}
	if err := ReplaceFile(filepath.Join(path+TemporarySuffix, "x", "y"), []byte("1")); err != nil {
		t.Fatal(err)
	}
	if err := ReplaceFile(path, []byte("new")); err == nil {
		t.Error("no error although the temporary name is a directory with content")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "old" {
		t.Errorf("the file is %q, %v", got, err)
	}
}
