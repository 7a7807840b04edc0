package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain runs pallium itself in processes that tests start, see startIn.
func TestMain(m *testing.M) {
	if os.Getenv("PALLIUM_TEST_PROCESS") != "" {
		main()
	}
	os.Exit(m.Run())
}

// TestCommandLine checks commands that end without serving.
func TestCommandLine(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "pallium.yaml")
	if err := os.WriteFile(bad, []byte("listne: :1"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(t.TempDir(), "good.yaml")
	if err := os.WriteFile(good, []byte("limits: {retention: 7d}\nupstream: {urls: ['http://mimir:password@backend']}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args   string
		code   int
		stdout string
		stderr string
	}{
		{"version", 0, "pallium ", ""},
		{"help", 0, "Usage: pallium", ""},
		{"nothing", 2, "", `unknown command "pallium nothing"`},
		{"-h", 0, "Servers:", ""},
		{"all -h", 0, "-admin-listen", ""},
		{"gateway -h", 0, "pallium gateway", ""},
		{"-nothing", 2, "", "-nothing"},
		{"all extra", 2, "", `unexpected argument "extra"`},
		{"-config /none", 2, "", "read configuration"},
		{"-config " + bad, 2, "", "listne"},
		{"-data-dir /dev/null/data", 1, "", "data_dir: stat /dev/null/data: not a directory"},
		{"-data-dir /proc/pallium", 1, "", "data_dir: mkdir /proc/pallium: "},
		{"gateway -data-dir " + t.TempDir(), 1, "", "upstream.urls is empty"},
		{"config", 2, "", "config check FILE"},
		{"config check", 2, "", "FILE is missing"},
		{"config check " + bad, 2, "", "listne"},
		{"config check " + good, 0, "is valid", ""},
		{"config check -config " + good, 0, "is valid", ""},
		{"config check " + good + " extra", 2, "", `unexpected argument "extra"`},
		{"config show extra", 2, "", `unexpected argument "extra"`},
		{"config show", 0, "admin_listen: 127.0.0.1:9010", ""},
		{"config show -config " + good, 0, "- http://mimir:xxxxx@backend", ""},
		{"config show -config " + good, 0, "retention: 1w", ""},
		{"config show -config /none", 2, "", "read configuration"},
		{"help", 0, "  ingester       stores recent samples", ""},
		{"backend -target=none", 2, "", "choose from alertmanager, compactor, distributor, ingester, querier, query-frontend, ruler, or all"},
		{"tenant", 2, "", ""},
		{"token -h", 0, "token rotate ID", ""},
		{"help migrate", 0, "migrate status", ""},
		{"migrate -h", 0, "migrate status", ""},
		{"help verify", 0, "-rebuild-index", ""},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := runCommand(strings.Fields(tt.args), strings.NewReader(""), &stdout, &stderr)
			if code != tt.code || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("%d\nstdout: %s\nstderr: %s\nwant %d, %q, %q", code, &stdout, &stderr, tt.code, tt.stdout, tt.stderr)
			}
		})
	}
}

func TestLogger(t *testing.T) {
	for _, tt := range []struct {
		log  Log
		want string // of a debug line
	}{
		{Log{Level: "debug", Format: "text"}, "level=DEBUG msg=hello"},
		{Log{Level: "debug", Format: "json"}, `"msg":"hello"`},
		{Log{Level: "info", Format: "text"}, ""},
	} {
		var buf bytes.Buffer
		newLogger(tt.log, &buf).Debug("hello")
		if got := buf.String(); (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
			t.Errorf("the log with %+v is %q", tt.log, got)
		}
	}
}

// TestRedacted checks that no password in a list of URLs is shown, also in invalid URLs.
func TestRedacted(t *testing.T) {
	for text, want := range map[string]string{
		"http://mimir:8080":               "http://mimir:8080",
		"http://user:secret@mimir:8080/a": "http://user:xxxxx@mimir:8080/a",
		"http://user:sec%ret@mimir:8080":  "xxxxx@mimir:8080",
		"http://user:sec@ret%@mimir":      "xxxxx@mimir",
		"user:secret@mimir":               "xxxxx@mimir",
		"mimir:8080":                      "mimir:8080",
	} {
		cfg := DefaultConfig()
		cfg.Upstream.URLs = []string{text}
		var out bytes.Buffer
		if err := show(&cfg, &out); err != nil || !strings.Contains(out.String(), "- "+want+"\n") {
			t.Errorf("%s: %v, want %s in\n%s", text, err, want, &out)
		}
	}
}
