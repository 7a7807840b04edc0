package programs

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

	"github.com/palliumhq/pallium/test/kit"
)

// Bigtable starts Google's Bigtable emulator and returns its address. The emulator is
// stopped when the test ends.
func Bigtable(t testing.TB) string {
	t.Helper()
	address := kit.FreeAddr(t)
	_, port, _ := net.SplitHostPort(address)
	run(t, emulator(t, "BIGTABLE_EMULATOR_BIN", "bigtable-emulator-v1.58.0"), "-host", "127.0.0.1", "-port", port)
	kit.Eventually(t, startTimeout, func() error {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			err = c.Close()
		}
		return err
	})
	return address
}

// GCS starts fake-gcs-server and returns its URL. The server is stopped when the test
// ends.
func GCS(t testing.TB) string {
	t.Helper()
	address := kit.FreeAddr(t)
	_, port, _ := net.SplitHostPort(address)
	run(t, emulator(t, "FAKE_GCS_SERVER_BIN", "fake-gcs-server-v1.56.1"), "-scheme", "http", "-host", "127.0.0.1", "-port", port,
		"-backend", "memory", "-external-url", "http://"+address, "-public-host", address, "-log-level", "error")
	url := "http://" + address
	kit.Eventually(t, startTimeout, func() error {
		resp, err := http.Get(url + "/storage/v1/b?project=p")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	return url
}

// emulator returns the path of an emulator: the value of the environment variable, or
// the path to which the Makefile installs it.
func emulator(t testing.TB, variable, name string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		_, file, _, _ := runtime.Caller(0)
		path = filepath.Join(filepath.Dir(file), "..", "..", "..", ".tools", name)
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
		_ = cmd.Wait() // killed: the error is expected
	})
}
