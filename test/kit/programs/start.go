package programs

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/kit"
)

// StartPalliumIn is StartPallium with the data directory of the caller, which need not exist.
func StartPalliumIn(t testing.TB, dataDir, config string) *Pallium {
	t.Helper()
	p := &Pallium{t: t, binary: Binary(t, "PALLIUM"), DataDir: dataDir, Config: filepath.Join(t.TempDir(), "pallium.yaml")}
	if err := os.WriteFile(p.Config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	edge, admin := kit.FreeAddr(t), kit.FreeAddr(t)
	p.Edge, p.Admin = "http://"+edge, "http://"+admin
	p.args = []string{"all", "-config", p.Config, "-data-dir", p.DataDir, "-listen", edge, "-admin-listen", admin}
	p.Restart()
	return p
}

// RunPallium runs the binary until it ends, with env added to the environment, and
// returns its exit code and output. A process that is still running after the timeout
// is killed; its exit code is -1.
func RunPallium(t testing.TB, timeout time.Duration, env []string, args ...string) (code int, output string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, Binary(t, "PALLIUM"), args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatalf("run pallium: %v", err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// StartPalliumDefault runs Pallium in a directory of its own with the default,
// relative data directory.
func StartPalliumDefault(t testing.TB, config string) *Pallium {
	t.Helper()
	dir := t.TempDir()
	p := &Pallium{t: t, binary: Binary(t, "PALLIUM"), dir: dir, DataDir: filepath.Join(dir, "data"),
		Config: filepath.Join(dir, "pallium.yaml")}
	if err := os.WriteFile(p.Config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	edge, admin := kit.FreeAddr(t), kit.FreeAddr(t)
	p.Edge, p.Admin = "http://"+edge, "http://"+admin
	p.args = []string{"all", "-config", "pallium.yaml", "-listen", edge, "-admin-listen", admin}
	p.Restart()
	return p
}
