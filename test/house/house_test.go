// Package house holds the repository to its own rules: who imports whom, how wide a
// package may reach, how long a file may be, and that every package has tests. The
// linter holds it to the floors, and to the length and complexity of functions.
package house

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	module = "github.com/palliumhq/pallium"
	root   = "../.."

	maxImports = 20      // of the project's packages; only package main has more
	maxLines   = 400     // of a file that is written by hand and is no test
	maxBytes   = 1 << 20 // of a file in the repository
)

type listed struct {
	ImportPath                                string
	Dir                                       string
	GoFiles                                   []string
	Imports                                   []string
	TestGoFiles, XTestGoFiles, IgnoredGoFiles []string
}

func (p *listed) name() string {
	if p.ImportPath == module {
		return "main"
	}
	return strings.TrimPrefix(p.ImportPath, module+"/")
}

// own are the project's packages that a package imports, by their short names.
func (p *listed) own() []string {
	var out []string
	for _, i := range p.Imports {
		if name, ok := strings.CutPrefix(i, module+"/"); ok {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Dir,GoFiles,Imports,TestGoFiles,XTestGoFiles,IgnoredGoFiles", "./...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var list []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	if len(list) < 50 {
		t.Fatalf("go list knows of %d packages", len(list))
	}
	return list
}

// TestImports: the drawing of the house in docs/architecture.md is what the code is.
// UPDATE=1 draws it again.
func TestImports(t *testing.T) {
	const begin, end = "<!-- imports: begin -->\n```\n", "```\n<!-- imports: end -->\n"
	var b strings.Builder
	for _, p := range packages(t) {
		if own := p.own(); len(p.GoFiles) > 0 {
			fmt.Fprintf(&b, "%s: %s\n", p.name(), strings.Join(own, " "))
		}
	}
	drawing := strings.ReplaceAll(b.String(), ": \n", ":\n")
	path := filepath.Join(root, "docs", "architecture.md")
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(doc), begin)
	got, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("docs/architecture.md has no %q and %q", begin, end)
	}
	if got == drawing {
		return
	}
	if os.Getenv("UPDATE") == "" {
		t.Fatalf("docs/architecture.md draws other imports than the code has; look whether that is right, and run UPDATE=1 go test ./test/house\n%s", different(got, drawing))
	}
	if err := os.WriteFile(path, []byte(before+begin+drawing+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// different lists the lines that only one of two texts has.
func different(doc, code string) string {
	a, b := strings.Split(doc, "\n"), strings.Split(code, "\n")
	var out []string
	for _, l := range a {
		if !slices.Contains(b, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}

// TestReach: a package that imports too many others is several packages.
func TestReach(t *testing.T) {
	for _, p := range packages(t) {
		if n := len(p.own()); n > maxImports && p.name() != "main" {
			t.Errorf("%s imports %d packages of the project, at most %d are allowed", p.name(), n, maxImports)
		}
	}
}

// TestTested: every package with code has tests.
func TestTested(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && len(p.TestGoFiles)+len(p.XTestGoFiles) == 0 {
			t.Errorf("%s has no tests", p.name())
		}
	}
}

// TestFileLength: a file can be read in one sitting.
func TestFileLength(t *testing.T) {
	for _, p := range packages(t) {
		for _, f := range append(p.GoFiles, p.IgnoredGoFiles...) {
			text, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(text, []byte("\n")); n > maxLines && !generated(text) && !strings.HasSuffix(f, "_test.go") {
				t.Errorf("%s/%s has %d lines, at most %d are allowed", p.name(), f, n, maxLines)
			}
		}
	}
}

// TestNoBinaries: what is built is not in the repository, where it would stay for ever.
func TestNoBinaries(t *testing.T) {
	if _, err := os.Stat(filepath.Join(root, ".git")); err != nil {
		t.Skip("this is no checkout")
	}
	cmd := exec.CommandContext(t.Context(), "git", "ls-files", "-z")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		st, err := os.Stat(filepath.Join(root, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted, and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		if st.Size() > maxBytes {
			t.Errorf("%s has %d bytes, at most %d are allowed: is it in .gitignore?", name, st.Size(), maxBytes)
		}
	}
}

// generated reports whether a file says that it is; see go help generate.
func generated(text []byte) bool {
	return bytes.HasPrefix(text, []byte("// Code generated ")) || bytes.Contains(text, []byte("\n// Code generated "))
}
