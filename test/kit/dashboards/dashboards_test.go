package dashboards

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestRead(t *testing.T) {
	dir := t.TempDir()
	text := `{"uid": "u", "schemaVersion": 39, "templating": {"list": [{"name": "v", "allValue": ".*"}]},
		"panels": [{"title": "t", "gridPos": {"x": 1}, "fieldConfig": {"defaults": {"unit": "s"}}, "targets": [{"refId": "A", "expr": "up"}]}]}`
	if err := os.WriteFile(filepath.Join(dir, "a.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	list := Read(t, dir)
	if len(list) != 1 || list[0].File != "a" || list[0].UID != "u" || list[0].SchemaVersion != 39 || list[0].Templating.List[0].AllValue != ".*" {
		t.Fatalf("read %+v", list)
	}
	p := list[0].Panels[0]
	if p.Title != "t" || p.GridPos.X != 1 || p.FieldConfig.Defaults.Unit != "s" || p.Targets[0].RefID != "A" || p.Targets[0].Expr != "up" {
		t.Errorf("panel %+v", p)
	}
}

func TestReplace(t *testing.T) {
	for _, c := range []struct {
		expr, want string
		unknown    []string
	}{
		{"rate(up[$__rate_interval])", "rate(up[1m])", nil},
		{`{a=~"$a",b="${a}"}`, `{a=~".*",b=".*"}`, nil},
		{`{a=~"x$"}`, `{a=~"x$"}`, nil},
		{"$a $b ${c}", ".*  ", []string{"b", "c"}},
	} {
		got, unknown := Replace(c.expr, map[string]string{"__rate_interval": "1m", "a": ".*"})
		if got != c.want || !slices.Equal(unknown, c.unknown) {
			t.Errorf("%s: %q, unknown %v", c.expr, got, unknown)
		}
	}
}
