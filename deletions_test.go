package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDamagedFilesAtStart checks that a process starts although a power loss left files
// empty, and that deleted series stay deleted.
func TestDamagedFilesAtStart(t *testing.T) {
	noLeaks(t)
	cfg := testConfig(t)
	p := start(t, cfg, All, nil)
	key := p.tenant("acme")
	code, text := p.do(http.MethodPost, p.admin+"/admin/v1/tokens", p.token,
		strings.NewReader(`{"name":"delete","tenant":"acme","scopes":["metrics:delete"]}`), "Content-Type", "application/json")
	if code/100 != 2 {
		t.Fatalf("token: %d %s", code, text)
	}
	_, deleter, _ := strings.Cut(text, `"token":"`)
	deleter, _, _ = strings.Cut(deleter, `"`)
	p.write(key)
	if code, text := p.query(key, "up"); code != 200 || !strings.Contains(text, `"42"`) {
		t.Fatalf("before: %d %s", code, text)
	}
	if code, text := p.do(http.MethodPost, p.edge+"/prometheus/api/v1/admin/tsdb/delete_series?match[]=up", deleter, nil); code != 204 {
		t.Fatalf("delete: %d %s", code, text)
	}
	p.stop()
	for _, name := range []string{"deletions.json", "sealed.json"} {
		if err := os.Truncate(filepath.Join(cfg.DataDir, "ingester", name), 0); err != nil {
			t.Fatal(err)
		}
	}
	p = start(t, cfg, All, nil)
	if code, text := p.query(key, "up"); code != 200 || strings.Contains(text, `"42"`) {
		t.Errorf("deleted series after the files were emptied: %d %s", code, text)
	}
	p.write(key)
	for _, step := range []string{"", "flush", "compact"} {
		if step != "" {
			if code, text := p.do(http.MethodPost, p.admin+"/admin/v1/"+step+"?wait=true", p.token, nil); code != 200 {
				t.Fatalf("%s: %d %s", step, code, text)
			}
		}
		if code, text := p.query(key, "up"); code != 200 || strings.Count(text, `"42"`) != 1 {
			t.Errorf("written again, %s: %d %s", step, code, text)
		}
	}
}

// TestCloseDataDir checks that permissions of data directories of older versions are
// removed, and that directories with other files or of another owner are unchanged.
func TestCloseDataDir(t *testing.T) {
	mode := func(path string) os.FileMode {
		t.Helper()
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return st.Mode().Perm()
	}
	for _, test := range []struct {
		name     string
		existing []string // directories end with a slash
		foreign  bool
	}{
		{name: "new"},
		{name: "older version", existing: []string{"ingester/", "rows/", "admin-token", "ring.json", "l0/"}},
		{name: "with other files", existing: []string{"ingester/", "pallium.yaml"}, foreign: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if len(test.existing) > 0 {
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for _, name := range test.existing {
				path := filepath.Join(dir, name)
				var err error
				if strings.HasSuffix(name, "/") {
					err = os.Mkdir(path, 0o755)
				} else {
					err = os.WriteFile(path, nil, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(path, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := closeDataDir(dir); err != nil {
				t.Fatal(err)
			}
			want := os.FileMode(0o700)
			if test.foreign {
				want = 0o755
			}
			if got := mode(dir); got != want {
				t.Errorf("mode of the data directory = %v, want %v", got, want)
			}
			for _, name := range test.existing {
				if got := mode(filepath.Join(dir, name)); strings.HasSuffix(name, "/") && got != 0o700 {
					t.Errorf("mode of %s = %v, want 0700", name, got)
				}
			}
		})
	}
	if os.Geteuid() == 0 {
		other := filepath.Join(t.TempDir(), "volume")
		if err := os.Mkdir(other, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(other, 0o770); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(other, 65532, -1); err != nil {
			t.Fatal(err)
		}
		if err := closeDataDir(other); err != nil || mode(other) != 0o770 {
			t.Errorf("a directory of another owner: %v, %v", mode(other), err)
		}
	}
}

func TestHasFiles(t *testing.T) {
	dir := t.TempDir()
	check := func(what, dir string, want bool) {
		t.Helper()
		if got, err := hasFiles(dir); err != nil || got != want {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	check("absent", filepath.Join(dir, "ingester"), false)
	if err := os.MkdirAll(filepath.Join(dir, "ingester", "l0", "late"), 0o700); err != nil {
		t.Fatal(err)
	}
	check("directories", filepath.Join(dir, "ingester"), false)
	if err := os.WriteFile(filepath.Join(dir, "ingester", "l0", "late", "x.pk"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	check("a pack", filepath.Join(dir, "ingester"), true)
}
