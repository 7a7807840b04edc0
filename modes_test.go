package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
)

// adminRequest sends a POST request to the admin API and returns the response body.
func adminRequest(t *testing.T, url, token, body string) string {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	return answer(t, req)
}

func answer(t *testing.T, req *http.Request) string {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		t.Fatalf("%s: %s, %v: %s", req.URL, resp.Status, err, text)
	}
	return string(text)
}

// TestOwnerOnly checks that all files of a process are accessible by the owner only, also in
// a directory of an older version, with samples in the log, in packs, uploaded and compacted.
func TestOwnerOnly(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	for _, d := range []string{data, filepath.Join(data, "ingester"), filepath.Join(data, "rows")} { // with the mode of older versions
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d, 0o755); err != nil { // independent of the umask
			t.Fatal(err)
		}
	}
	c := startIn(t, dir, nil, fields(anywhere)...)
	edge, admin := c.serving()
	token, err := os.ReadFile(filepath.Join(data, "admin-token"))
	if err != nil {
		t.Fatal(err)
	}
	secret := strings.TrimSpace(string(token))
	adminRequest(t, admin+"/admin/v1/tenants", secret, `{"name":"acme"}`)
	var key struct{ Token string }
	text := adminRequest(t, admin+"/admin/v1/tokens", secret, `{"name":"test","tenant":"acme","scopes":["metrics:write"]}`)
	if err := json.Unmarshal([]byte(text), &key); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		write := prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{
			Labels:  []prompb.Label{{Name: "__name__", Value: "up"}},
			Samples: []prompb.Sample{{Timestamp: time.Now().UnixMilli(), Value: 1}},
		}}}
		body, err := write.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequest(http.MethodPost, edge+"/api/v1/push", bytes.NewReader(snappy.Encode(nil, body)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+key.Token)
		answer(t, req)
		adminRequest(t, admin+"/admin/v1/flush?wait=true", secret, "")
		adminRequest(t, admin+"/admin/v1/compact?wait=true", secret, "")
	}
	seen := map[string]int{}
	check := func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil // the process is running and deletes files
		}
		if err != nil {
			return err
		}
		st, err := d.Info()
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if st.Mode().Perm()&0o077 != 0 {
			return fmt.Errorf("%s is %v", path, st.Mode())
		}
		if rel, _ := filepath.Rel(data, path); rel != "." {
			seen[strings.Split(rel, string(filepath.Separator))[0]]++
		}
		return nil
	}
	if err := filepath.WalkDir(data, check); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"admin-token", "key-pepper", "rows", "ingester", "l0", "l1"} {
		if seen[name] == 0 {
			t.Errorf("no files in %s: %v", name, seen)
		}
	}
}
