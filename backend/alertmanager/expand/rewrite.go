package expand

import (
	"fmt"
	"slices"
	"strings"
	"text/template/parse"
)

// Rewrite returns the text of a field of a configuration with the calls that limit its execution. name is the name of the
// field, for errors. A field must not define templates: they could replace templates of files, which have been checked.
func Rewrite(name, text string) (string, error) {
	p, err := rewrite(name, text, true)
	if err != nil {
		return "", err
	}
	return p.text, nil
}

// program is a rewritten text.
type program struct {
	text  string
	known map[string]int  // line of the first call, by function
	costs map[string]cost // cost by name of the template; the text itself has the name ""
}

func rewrite(name, text string, field bool) (program, error) {
	if len(text) > maxText {
		return program{}, fmt.Errorf("%s: the text has %d bytes, the limit is %d: shorten it", name, len(text), maxText)
	}
	if n := strings.Count(text, "{{"); n > maxActions {
		return program{}, fmt.Errorf("%s: the text has %d actions, the limit is %d: remove some", name, n, maxActions)
	}
	const root = "\x00" // tenants cannot define a template with this name: see checkName
	set := map[string]*parse.Tree{}
	tree := parse.New(root)
	tree.Mode = parse.SkipFuncCheck
	tree, err := tree.Parse(text, "", "", set)
	if err != nil {
		return program{}, fmt.Errorf("%s: %s", name, strings.TrimPrefix(err.Error(), "template: "+root+":"))
	}
	w := &writer{name: name, source: text, field: field, program: program{known: map[string]int{}, costs: map[string]cost{}}}
	if set[root] != tree {
		w.checkName(tree.Root, root)
	}
	delete(set, root)
	w.tree("", tree.Root)
	if field && len(set) > 0 {
		w.fail(tree.Root, "a field must not define templates: move define and block into a template file")
	}
	names := make([]string, 0, len(set))
	for defined := range set {
		names = append(names, defined)
	}
	slices.Sort(names)
	for _, defined := range names {
		w.checkName(set[defined].Root, defined)
		w.open(fmt.Sprintf("define %q", defined))
		w.tree(defined, set[defined].Root)
		w.open("end")
	}
	w.text = w.out.String()
	return w.program, w.err
}

// writer prints the tree of a text with the inserted calls. It records the first error.
type writer struct {
	program
	name, source string
	field        bool
	out          *output
	nodes        int // nodes of the current list, without those of nested lists
	depth        int // number of branches and parentheses around the current node
	ranges       int
	calls        int
	cost         *cost // cost of the current template
	err          error
}

func (w *writer) fail(n parse.Node, format string, args ...any) {
	if w.err == nil {
		pos := min(int(n.Position()), len(w.source))
		line := 1 + strings.Count(w.source[:pos], "\n")
		w.err = fmt.Errorf("%s: line %d: %s", w.name, line, fmt.Sprintf(format, args...))
	}
}

// checkName rejects names of templates that this package uses.
func (w *writer) checkName(n parse.Node, name string) {
	if name == "" || strings.HasPrefix(name, "\x00") {
		w.fail(n, "the name %q of a template is reserved: use another one", name)
	}
}
