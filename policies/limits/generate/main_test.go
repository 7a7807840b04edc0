package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGenerated compares the generated files with the declarations.
func TestGenerated(t *testing.T) {
	for name, text := range map[string]func([]byte) ([]byte, error){sourceFile: source, docFile: document} {
		got, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		want, err := text(got)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is outdated: run `go generate ./policies/limits`", name)
		}
	}
}

// TestDocumentKeepsTheRest checks that only the text between the markers is replaced.
func TestDocumentKeepsTheRest(t *testing.T) {
	const doc = "# Before\n<!-- generated: limits; go generate ./policies/limits -->\noutdated\n<!-- end -->\nbetween\n" +
		"<!-- generated: hints; go generate ./policies/limits -->\n<!-- end -->\nafter\n"
	got, err := document([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	if s := string(got); !strings.HasPrefix(s, "# Before\n<!--") || !strings.Contains(s, "-->\nbetween\n<!--") ||
		!strings.HasSuffix(s, "-->\nafter\n") || strings.Contains(s, "outdated") {
		t.Errorf("got\n%s", s)
	}
	again, err := document(got)
	if err != nil || !bytes.Equal(again, got) {
		t.Errorf("second run: %v\n%s", err, again)
	}
	for _, broken := range []string{"", strings.Replace(doc, "<!-- end -->", "", 2), strings.Replace(doc, "generated: hints", "hints", 1)} {
		if _, err := document([]byte(broken)); err == nil {
			t.Errorf("no error for\n%s", broken)
		}
	}
}
