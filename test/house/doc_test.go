package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDocComments checks that a doc comment begins with the name that it documents, as in the
// standard library, also for unexported names. A comment usually begins with another name because
// it was not changed when the code was renamed.
func TestDocComments(t *testing.T) {
	top, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	err = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") || d.Name() == "data" || d.Name() == "dist"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, ".pb.go"):
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, data, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for name, doc := range documented(file) {
			checked++
			first, _, _ := strings.Cut(doc.Text(), " ")
			first = strings.TrimRight(strings.TrimSpace(first), ",.:;")
			if first = strings.TrimSuffix(first, "'s"); first != name.Name {
				rel, _ := filepath.Rel(top, path)
				t.Errorf("%s:%d: the comment of %s begins with %q", rel, set.Position(doc.Pos()).Line, name.Name, first)
			}
		}
		return nil
	})
	if err != nil || checked < 1000 {
		t.Fatalf("only %d comments were checked: %v", checked, err)
	}
}

// documented returns the declared names of a file that have a comment of their own. A
// comment on several names is not checked.
func documented(file *ast.File) map[*ast.Ident]*ast.CommentGroup {
	out := map[*ast.Ident]*ast.CommentGroup{}
	add := func(name *ast.Ident, doc *ast.CommentGroup) {
		if doc != nil && doc.Text() != "" && name.Name != "_" {
			out[name] = doc
		}
	}
	for _, decl := range file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			add(d.Name, d.Doc)
		case *ast.GenDecl:
			if d.Lparen.IsValid() || len(d.Specs) != 1 {
				continue
			}
			switch s := d.Specs[0].(type) {
			case *ast.TypeSpec:
				add(s.Name, d.Doc)
			case *ast.ValueSpec:
				if len(s.Names) == 1 {
					add(s.Names[0], d.Doc)
				}
			}
		}
	}
	return out
}
