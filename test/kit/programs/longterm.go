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

// Compact compacts all uploaded data.
func (p *Pallium) Compact() {
	p.t.Helper()
	code, body := Do(p.t, http.MethodPost, p.Admin+"/admin/v1/compact?wait=true", p.AdminToken(), "", nil)
	if code != http.StatusOK {
		p.t.Fatalf("compact: %d %s", code, body)
	}
}

// DropUploaded deletes the ingester's local packs that are in the long-term store, as
// the ingester does one hour after their compaction, and returns their number. The
// process must not be running.
func (p *Pallium) DropUploaded() int {
	p.t.Helper()
	return DropUploaded(p.t, p.DataDir)
}

// DropUploaded is Pallium.DropUploaded for any ingester's data directory.
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
// configuration, and returns its output.
func (p *Pallium) Offline(args ...string) (string, error) {
	out, err := exec.Command(p.binary, append(args, "-config", p.Config, "-data-dir", p.DataDir)...).CombinedOutput()
	return string(out), err
}
