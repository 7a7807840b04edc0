package command

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"testing"
)

// TestProxy checks that a credential is not sent in clear text to a proxy that the environment
// sets. The environment is read once per process, so the test runs in a process of its own.
func TestProxy(t *testing.T) {
	if os.Getenv("PALLIUM_TEST_PROXY") == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProxy$")
		cmd.Env = append(os.Environ(), "PALLIUM_TEST_PROXY=1", "http_proxy=http://127.0.0.1:1", "https_proxy=http://127.0.0.1:1", "no_proxy=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	for url, want := range map[string]bool{"http://pallium.example:9010/": false, "https://pallium.example:9010/": true} {
		got, err := proxyOf(httptest.NewRequest(http.MethodGet, url, nil))
		if err != nil || (got != nil) != want {
			t.Errorf("%s: proxy %v, %v", url, got, err)
		}
	}
}
