package programs

import (
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Compact compacts everything that is uploaded.
func (p *Pallium) Compact() {
	p.t.Helper()
	code, body := Do(p.t, http.MethodPost, p.Admin+"/admin/v1/compact?wait=true", p.AdminToken(), "", nil)
	if code != http.StatusOK {
		p.t.Fatalf("compact: %d %s", code, body)
	}
}

// DropUploaded deletes the ingester's local packs that are part of the long-term
// store, as the ingester does an hour after they were compacted, and returns how
// many there were. The process must not run.
func (p *Pallium) DropUploaded() int {
	p.t.Helper()
	return DropUploaded(p.t, p.DataDir)
}

// DropUploaded is what the method of Pallium does, for any ingester's data
// directory.
func DropUploaded(t testing.TB, dataDir string) int {
	t.Helper()
	n := 0
	err := filepath.WalkDir(filepath.Join(dataDir, "ingester", "l0"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".uploaded") {
			return err
		}
		n++
		return os.Remove(strings.TrimSuffix(path, ".uploaded"))
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Offline runs a command that opens the stores itself, with the process's
// configuration, and returns what it printed.
func (p *Pallium) Offline(args ...string) (string, error) {
	out, err := exec.Command(p.binary, append(args, "-config", p.Config, "-data-dir", p.DataDir)...).CombinedOutput()
	return string(out), err
}
