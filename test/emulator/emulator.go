// Package emulator runs the emulators of Google's stores as processes of their
// own, for tests that use the real adapters.
package emulator

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/ports"
)

// startTimeout is generous: test machines are busy.
const startTimeout = time.Minute

// Bigtable starts Google's Bigtable emulator and returns its address. It ends
// with the test.
func Bigtable(t testing.TB) string {
	t.Helper()
	port := freePort(t)
	run(t, binary(t, "BIGTABLE_EMULATOR_BIN", "bigtable-emulator-v1.58.0"), "-host", "127.0.0.1", "-port", port)
	address := "127.0.0.1:" + port
	wait(t, "bigtable emulator", func() error {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			err = c.Close()
		}
		return err
	})
	return address
}

// GCS starts fake-gcs-server and returns its URL. It ends with the test.
func GCS(t testing.TB) string {
	t.Helper()
	port := freePort(t)
	address := "127.0.0.1:" + port
	run(t, binary(t, "FAKE_GCS_SERVER_BIN", "fake-gcs-server-v1.56.1"), "-scheme", "http", "-host", "127.0.0.1", "-port", port,
		"-backend", "memory", "-external-url", "http://"+address, "-public-host", address, "-log-level", "error")
	url := "http://" + address
	wait(t, "fake-gcs-server", func() error {
		resp, err := http.Get(url + "/storage/v1/b?project=p")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	return url
}

// binary finds an emulator: where the variable says, or where the Makefile puts
// it.
func binary(t testing.TB, variable, name string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		_, file, _, _ := runtime.Caller(0)
		path = filepath.Join(filepath.Dir(file), "..", "..", ".tools", name)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is missing: run `make tools`, or set %s", path, variable)
	}
	return path
}

func run(t testing.TB, path string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "BIGTABLE_EMULATOR_HOST=", "STORAGE_EMULATOR_HOST=")
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
	})
}

func freePort(t testing.TB) string {
	t.Helper()
	port, err := ports.Free()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func wait(t testing.TB, what string, try func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(startTimeout); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	t.Fatalf("%s did not start: %v", what, err)
}
