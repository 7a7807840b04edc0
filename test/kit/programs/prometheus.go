package programs

import (
	"os"
	"path/filepath"
	"testing"
)

// Prometheus is a running Prometheus.
type Prometheus struct {
	*Process
	URL string
}

// StartPrometheus runs Prometheus with the configuration (YAML) on the address, in a
// directory of its own.
func StartPrometheus(t testing.TB, addr, config string, flags ...string) *Prometheus {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"--config.file=" + file, "--storage.tsdb.path=" + filepath.Join(dir, "data"),
		"--web.listen-address=" + addr, "--log.level=warn"}, flags...)
	p := &Prometheus{Process: Start(t, Binary(t, "PROMETHEUS"), args...), URL: "http://" + addr}
	p.WaitReady(p.URL + "/-/ready")
	return p
}
