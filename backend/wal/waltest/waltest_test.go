package waltest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestDisk checks that after a power loss exactly the content that was synced
// without a fault exists, and a name only if its directory was synced. If the disk
// kept more, tests that use it would not find missing syncs.
func TestDisk(t *testing.T) {
	for _, test := range []struct {
		name    string
		prepare func(*Disk)
		fails   bool
		named   bool
		want    string // concatenation of "kept", synced without a fault, and "more"
	}{
		{name: "synced", prepare: func(*Disk) {}, named: true, want: "keptmore"},
		{name: "failed once", prepare: func(d *Disk) { d.FailSyncs(1) }, fails: true, named: true, want: "kept"},
		{name: "always failing", prepare: func(d *Disk) { d.FailSyncs(-1) }, fails: true, named: true, want: "kept"},
		{name: "lying", prepare: func(d *Disk) { d.Lie(true) }, named: true, want: "kept"},
		{name: "directory not synced", prepare: func(*Disk) {}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, path := &Disk{}, filepath.Join(t.TempDir(), "f")
			f, err := d.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			write := func(text string, off int64) error {
				if _, err := f.WriteAt([]byte(text), off); err != nil {
					t.Fatal(err)
				}
				return f.Datasync()
			}
			if err := write("kept", 0); err != nil {
				t.Fatal(err)
			}
			if test.named {
				if err := d.SyncDir(filepath.Dir(path)); err != nil {
					t.Fatal(err)
				}
			}
			test.prepare(d)
			if err := write("more", 4); (err != nil) != test.fails {
				t.Errorf("sync: %v", err)
			}
			d.FailSyncs(0)
			if _, err := f.WriteAt([]byte("!"), 8); err != nil { // never synced
				t.Fatal(err)
			}
			if err := errors.Join(f.Close(), d.CutPower()); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if errors.Is(err, os.ErrNotExist) != !test.named || string(got) != test.want {
				t.Errorf("content after the power loss = %q, %v, want %q", got, err, test.want)
			}
		})
	}
}
