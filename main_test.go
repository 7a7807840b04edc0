package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/backend/app"
)

// TestMain is pallium itself in a process that a test starts.
func TestMain(m *testing.M) {
	if os.Getenv("PALLIUM_TEST_PROCESS") != "" {
		main()
	}
	os.Exit(m.Run())
}

// TestCommandLine has what ends before anything is served.
func TestCommandLine(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "pallium.yaml")
	if err := os.WriteFile(bad, []byte("listne: :1"), 0o600); err != nil {
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
		{"nothing", 2, "", `there is no command "nothing"`},
		{"-h", 0, "", "-data-dir"},
		{"all -h", 0, "", "-admin-listen"},
		{"gateway -h", 0, "", "pallium gateway"},
		{"-nothing", 2, "", "-nothing"},
		{"all extra", 2, "", `argument "extra" is not understood`},
		{"-config /none", 2, "", "read configuration"},
		{"-config " + bad, 2, "", "listne"},
		{"-data-dir /dev/null/data", 1, "", "data_dir: stat /dev/null/data: not a directory"},
		{"-data-dir /proc/pallium", 1, "", "data_dir: mkdir /proc/pallium: "},
		{"gateway -data-dir " + t.TempDir(), 1, "", "upstream.urls is empty"},
		{"tenant", 2, "", ""},
		{"token -h", 0, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(strings.Fields(tt.args), &stdout, &stderr)
			if code != tt.code || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("%d\nstdout: %s\nstderr: %s\nwant %d, %q, %q", code, &stdout, &stderr, tt.code, tt.stdout, tt.stderr)
			}
		})
	}
}

func TestLogger(t *testing.T) {
	for _, tt := range []struct {
		log  app.Log
		want string // of a debug line
	}{
		{app.Log{Level: "debug", Format: "text"}, "level=DEBUG msg=hello"},
		{app.Log{Level: "debug", Format: "json"}, `"msg":"hello"`},
		{app.Log{Level: "info", Format: "text"}, ""},
	} {
		var buf bytes.Buffer
		newLogger(tt.log, &buf).Debug("hello")
		if got := buf.String(); (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%+v: %q", tt.log, got)
		}
	}
}
