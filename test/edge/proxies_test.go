// Package edge tests the edge of the real binary behind real proxies.
package edge

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// program returns the path of a proxy. Debian installs them in /usr/sbin, which is not
// in every PATH.
func program(t *testing.T, name, debian string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	path := "/usr/sbin/" + name
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is missing: install it (Debian: apt-get install %s)", name, debian)
	}
	return path
}

// nginx starts nginx in front of the edge, with proxy_pass as in its documentation,
// which uses HTTP/1.0 to the edge. `more` is added to the location block.
func nginx(t *testing.T, edge, more string) (base string) {
	dir, addr := t.TempDir(), kit.FreeAddr(t)
	user := ""
	if os.Getuid() == 0 {
		user = "user root;"
	}
	config := fmt.Sprintf(`%s daemon off; master_process off; pid %[2]s/pid; error_log %[2]s/error.log;
events {}
http {
  access_log off; client_body_temp_path %[2]s/body; proxy_temp_path %[2]s/proxy; fastcgi_temp_path %[2]s/f; uwsgi_temp_path %[2]s/u; scgi_temp_path %[2]s/s;
  server { listen %[3]s; location / { proxy_pass %[4]s; %[5]s } }
}`, user, dir, addr, edge, more)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p := programs.Start(t, program(t, "nginx", "nginx-light"), "-p", dir, "-c", file)
	p.WaitReady("http://" + addr + "/ready")
	return "http://" + addr
}

// haproxy starts HAProxy in front of the edge, with a health check over HTTP/1.0, and
// returns when the check has succeeded.
func haproxy(t *testing.T, edge string) (base string) {
	dir, addr := t.TempDir(), kit.FreeAddr(t)
	socket := filepath.Join(dir, "stats")
	config := fmt.Sprintf(`global
  stats socket %s
defaults
  mode http
  timeout connect 10s
  timeout client 120s
  timeout server 120s
frontend front
  bind %s
  default_backend pallium
backend pallium
  option httpchk GET /ready
  server a %s check inter 200ms
`, socket, addr, strings.TrimPrefix(edge, "http://"))
	file := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p := programs.Start(t, program(t, "haproxy", "haproxy"), "-db", "-f", file)
	kit.Eventually(t, time.Minute, func() error {
		c, err := net.Dial("unix", socket)
		if err != nil {
			return fmt.Errorf("%w; output: %s", err, p.Log())
		}
		defer c.Close()
		if _, err := io.WriteString(c, "show stat\n"); err != nil {
			return err
		}
		stat, err := io.ReadAll(c)
		if err != nil {
			return err
		}
		if !strings.Contains(string(stat), "L7OK") {
			return fmt.Errorf("the health check did not succeed: %s", stat)
		}
		return nil
	})
	return "http://" + addr
}

const pushed = 2000 // number of series

func push(t *testing.T, base, token string, name string, at time.Time) int {
	t.Helper()
	msg := &prompb.WriteRequest{}
	for i := range pushed {
		msg.Timeseries = append(msg.Timeseries, prompb.TimeSeries{
			Labels:  []prompb.Label{{Name: "__name__", Value: name}, {Name: "series", Value: fmt.Sprintf("%06d%s", i, strings.Repeat("x", 50))}},
			Samples: []prompb.Sample{{Timestamp: at.UnixMilli(), Value: float64(i)}},
		})
	}
	data, err := msg.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPost, base+"/api/v1/push", bytes.NewReader(snappy.Encode(nil, data)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("Content-Encoding", "snappy")
	return programs.Send(t, req).Code
}

// TestThroughProxies checks that writes and reads work through proxies in their default
// configurations and through nginx with HTTP/1.1, and that a large response is complete.
func TestThroughProxies(t *testing.T) {
	p := programs.StartPallium(t, "")
	token := p.Tenant("team")
	for name, start := range map[string]func() string{
		"nginx":          func() string { return nginx(t, p.Edge, "") },
		"nginx_HTTP_1_1": func() string { return nginx(t, p.Edge, `proxy_http_version 1.1; proxy_set_header Connection "";`) },
		"haproxy":        func() string { return haproxy(t, p.Edge) },
	} {
		t.Run(name, func(t *testing.T) {
			base := start()
			if code, body := programs.Do(t, http.MethodGet, base+"/ready", "", "", nil); code != http.StatusOK {
				t.Fatalf("/ready: %d %s", code, body)
			}
			now := time.Now()
			if code := push(t, base, token, name, now); code/100 != 2 {
				t.Fatalf("push: %d", code)
			}
			var got struct{ Result []json.RawMessage }
			data := programs.Query(t, base+"/prometheus", token, "query", url.Values{"query": {name}, "time": {fmt.Sprint(now.Unix() + 1)}})
			if err := json.Unmarshal(data, &got); err != nil || len(got.Result) != pushed {
				t.Errorf("%d series of %d: %v", len(got.Result), pushed, err)
			}
			if code, _ := programs.Do(t, http.MethodGet, base+"/prometheus/api/v1/query?query=up", "", "", nil); code != http.StatusUnauthorized {
				t.Errorf("without a credential: %d", code)
			}
		})
	}
}
