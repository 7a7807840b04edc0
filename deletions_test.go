package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/test/kit"
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

// TestCleanTombstones checks how a tenant removes a deleted series from the packs: a key that may
// only read is rejected, another tenant's request has no effect, and the removal starts at once
// although the day has not ended. It can be repeated.
func TestCleanTombstones(t *testing.T) {
	noLeaks(t)
	p := start(t, testConfig(t), All, nil)
	keys := map[tenant.ID]string{"acme": p.tenant("acme"), "other": p.tenant("other")}
	deleters := map[tenant.ID]string{}
	for id, key := range keys {
		p.write(key)
		var issued struct{ Token string }
		code, text := p.do(http.MethodPost, p.admin+"/admin/v1/tokens", p.token,
			strings.NewReader(fmt.Sprintf(`{"name":"delete","tenant":%q,"scopes":["metrics:delete"]}`, id)), "Content-Type", "application/json")
		if err := json.Unmarshal([]byte(text), &issued); err != nil || code/100 != 2 {
			t.Fatalf("token: %d %s", code, text)
		}
		deleters[id] = issued.Token
	}
	post := func(key, path string, want int) {
		t.Helper()
		if code, text := p.do(http.MethodPost, p.edge+path, key, nil); code != want || want == 204 && text != "" {
			t.Fatalf("%s: %d %s, want %d", path, code, text, want)
		}
	}
	if code, text := p.do(http.MethodPost, p.admin+"/admin/v1/flush?wait=true", p.token, nil); code != 200 {
		t.Fatalf("flush: %d %s", code, text)
	}
	// packs returns how many packs of a tenant have the series up, and all of them.
	packs := func(id tenant.ID) (with, all int) {
		t.Helper()
		for day := series.Day(time.Now().UnixMilli()) - 1; day <= series.Day(time.Now().UnixMilli()); day++ {
			c, err := p.app.backend.longTerm.Catalog(t.Context(), id, day)
			if err != nil {
				t.Fatal(err)
			}
			for i := range c.L0 {
				all++
				if c.L0[i].Tombstone == 0 {
					with++
				}
			}
			if c.Manifest != nil {
				all++
				with += int(min(c.Manifest.Series, 1))
			}
		}
		return with, all
	}
	const clean = "/api/v1/admin/tsdb/clean_tombstones"
	post(deleters["acme"], "/prometheus/api/v1/admin/tsdb/delete_series?match[]=up", 204)
	if with, _ := packs("acme"); with == 0 {
		t.Fatal("the flush uploaded no pack with the series")
	}
	post(keys["acme"], "/prometheus"+clean, 403)
	post("", "/prometheus"+clean, 401)
	post(deleters["other"], "/prometheus"+clean, 204)
	if with, _ := packs("acme"); with == 0 {
		t.Error("another tenant's request removed the series")
	}
	for _, prefix := range []string{"/prometheus", "/api/prom", "/prometheus"} {
		post(deleters["acme"], prefix+clean, 204)
	}
	kit.Until(t, "the series is gone from the packs", func() bool {
		with, all := packs("acme")
		return with == 0 && all > 0
	})
	if code, text := p.query(keys["acme"], "up"); code != 200 || strings.Contains(text, `"42"`) {
		t.Errorf("deleted series: %d %s", code, text)
	}
	if code, text := p.query(keys["other"], "up"); code != 200 || !strings.Contains(text, `"42"`) {
		t.Errorf("the other tenant's series: %d %s", code, text)
	}
	if with, all := packs("other"); with != 1 || all != 1 {
		t.Errorf("the other tenant has %d packs, %d of them with the series", all, with)
	}
}

// TestCloseDataDir checks that other users lose their permissions for the data directories of older
// versions, and that a data directory with other files or of another owner keeps its mode.
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
			t.Errorf("%s: hasFiles = %v, %v; want %v", what, got, err, want)
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
