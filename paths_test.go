package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/authn"
)

// eachPath calls fn for every path below v: every setting whose key names a directory or a
// file.
func eachPath(v reflect.Value, name string, fn func(name string, path reflect.Value)) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			tag, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
			eachPath(v.Field(i), name+"."+tag, fn)
		}
	case reflect.Slice:
		for i := range v.Len() {
			eachPath(v.Index(i), name, fn)
		}
	case reflect.String:
		if strings.HasSuffix(name, "_file") || strings.HasSuffix(name, ".file") || strings.HasSuffix(name, "_dir") {
			fn(name, v)
		}
	}
}

// TestResolve checks that Resolve makes every path of a configuration absolute and clean, and
// leaves empty paths empty.
func TestResolve(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ form, want string }{
		{"data", "data"}, {"./data", "data"}, {"data/", "data"}, {"data/.", "data"}, {"a/../data", "data"}, {"a//data//", "a/data"},
		{".", ""}, {"./", ""}, {"../" + filepath.Base(here), ""},
		{here + "/data", "data"}, {here + "/data/", "data"}, {here + "/a/../data/.", "data"},
	} {
		c := DefaultConfig()
		c.Auth.Issuers = []authn.IssuerConfig{{Keys: authn.KeysConfig{PEM: []authn.PEMKey{{}}}}}
		n := 0
		eachPath(reflect.ValueOf(&c).Elem(), "", func(_ string, p reflect.Value) { n++; p.SetString(tt.form) })
		if n < 17 {
			t.Fatalf("only %d paths found", n)
		}
		if err := c.Resolve(); err != nil {
			t.Fatal(err)
		}
		want := filepath.Join(here, tt.want)
		eachPath(reflect.ValueOf(&c).Elem(), "", func(name string, p reflect.Value) {
			if p.String() != want {
				t.Errorf("%s: %q became %q, want %q", name, tt.form, p, want)
			}
		})
	}
	c := DefaultConfig()
	c.DataDir = ""
	if err := c.Resolve(); err != nil {
		t.Fatal(err)
	}
	eachPath(reflect.ValueOf(&c).Elem(), "", func(name string, p reflect.Value) {
		if p.String() != "" {
			t.Errorf("%s: empty path became %q", name, p)
		}
	})
}
