// Package house checks the repository against its own rules, such as which package
// imports which, how many packages one may import, how long a file may be, and that
// every package has tests. The linter checks the layers of packages, and the length and
// complexity of functions.
package house

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	module = "github.com/palliumhq/pallium"
	root   = "../.."

	maxImports = 20      // number of the project's packages that a package may import; package main may import more
	maxLines   = 400     // of a file that is written by hand and not a test
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

// own returns the project's packages that a package imports, by their short names.
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
		t.Fatalf("go list returned only %d packages", len(list))
	}
	return list
}

// TestImports checks that the diagram of imports in docs/architecture.md matches the
// code. UPDATE=1 updates the diagram.
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
		t.Fatalf("the diagram in docs/architecture.md does not match the imports of the code; check that the new imports are intended, and run UPDATE=1 go test ./test/house\n%s", different(got, drawing))
	}
	if err := os.WriteFile(path, []byte(before+begin+drawing+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// different returns the lines that only one of two texts has.
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

// TestNumberOfImports checks how many packages each package imports: one that imports too many
// should be divided.
func TestNumberOfImports(t *testing.T) {
	for _, p := range packages(t) {
		if n := len(p.own()); n > maxImports && p.name() != "main" {
			t.Errorf("%s imports %d packages of the project, at most %d are allowed", p.name(), n, maxImports)
		}
	}
}

// TestPackagesHaveTests checks that every package with code has tests.
func TestPackagesHaveTests(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && len(p.TestGoFiles)+len(p.XTestGoFiles) == 0 {
			t.Errorf("%s has no tests", p.name())
		}
	}
}

// TestFileLength checks that no file is too long to be read at once.
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

// TestFilesAreReplaced checks that files are created in few packages, each with its
// own order of syncs. All other packages must replace files with package disk, so that
// after a power loss a file has either the old or the new content.
func TestFilesAreReplaced(t *testing.T) {
	makers := map[string]string{
		"backend/disk":               "replaces small files",
		"backend/wal":                "segments of the log",
		"backend/wal/waltest":        "a disk for tests",
		"backend/pack":               "packs",
		"backend/objects/dir":        "objects",
		"backend/objects/objecttest": "a contract, for tests",
		"policies/limits/generate":   "the documentation",
		"main":                       "the lock of a data directory, which is empty",
	}
	calls := regexp.MustCompile(`\bos\.(WriteFile|Rename|Create|CreateTemp|OpenFile)\(`)
	for _, p := range packages(t) {
		found := false
		for _, f := range p.GoFiles {
			text, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			if call := calls.Find(text); call != nil {
				if found = true; makers[p.name()] == "" && !strings.HasPrefix(p.name(), "test/") {
					t.Errorf("%s/%s calls %s...): use package disk", p.name(), f, call)
				}
			}
		}
		if makers[p.name()] != "" && !found {
			t.Errorf("%s no longer creates files: remove it from the list", p.name())
		}
	}
}

// TestNoBinaries checks that no build output is committed, since it would stay in the
// history permanently. It checks all files that .gitignore does not match.
func TestNoBinaries(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, ".gitignore"))
	if err != nil {
		t.Fatal(err)
	}
	ignored := strings.Fields(string(text))
	n := 0
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted during the test
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if name == ".git" || slices.ContainsFunc(ignored, func(pattern string) bool { return ignores(pattern, name) }) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		if n++; !d.IsDir() && st.Size() > maxBytes {
			t.Errorf("%s has %d bytes, at most %d are allowed: is it in .gitignore?", name, st.Size(), maxBytes)
		}
		return nil
	})
	if err != nil || n < 500 {
		t.Errorf("only %d files were checked: %v", n, err)
	}
}

// ignores reports whether a line of .gitignore matches a file: a pattern with a
// leading slash is a path from the root, any other matches in every folder.
func ignores(pattern, name string) bool {
	if rooted, ok := strings.CutPrefix(pattern, "/"); ok {
		return name == strings.TrimSuffix(rooted, "/")
	}
	ok, err := filepath.Match(pattern, filepath.Base(name))
	return ok && err == nil
}

// generated reports whether a file is marked as generated; see go help generate.
func generated(text []byte) bool {
	return bytes.HasPrefix(text, []byte("// Code generated ")) || bytes.Contains(text, []byte("\n// Code generated "))
}
