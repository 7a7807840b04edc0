// Package expand executes the templates of tenants' Alertmanager configurations with limits of time, memory and stack.
// Tenants are not trusted, and the execution of Go templates has no limits. Therefore every text is rewritten when it is
// loaded: each list of nodes begins with a call that counts its steps and its text, each printed value passes through a
// function that counts it, and each call of a template is between two calls that count the depth. Functions of Alertmanager
// and Go whose results or work can be large are replaced by functions that count before they begin. Results are equal to
// those of Alertmanager unless a limit is exceeded.
//
// A few things that Alertmanager accepts are rejected: templates that call themselves, definitions of templates in
// fields, arguments of methods with more than 1 KiB, and templates whose analysis by html/template would take long, because
// it happens at each execution and cannot be interrupted. Two results differ: append returns a copy, as its users expect,
// and in HTML, "${" in a template literal of a script is text, not the beginning of an expression.
package expand

import (
	"context"
	"fmt"
	htmltemplate "html/template"
	"maps"
	"net/url"
	"slices"
	"strings"
	texttemplate "text/template"
	"text/template/parse"
	"time"

	"github.com/prometheus/alertmanager/template"
)

// ownFile is the first character of the names of the texts that define Alertmanager's own templates.
const ownFile = "\x00"

// Files are the rewritten template files of one configuration. They are not changed, and can be shared.
type Files struct {
	trees   []*parse.Tree
	known   map[string]string // position of the first call, by function
	defined []string          // names of the templates that the files define
	costs   map[string]cost
}

// Parse parses the template files of a configuration (content by name) together with Alertmanager's own templates, which
// the files may call and redefine.
func Parse(files map[string]string) (*Files, error) {
	f := &Files{known: map[string]string{}}
	costs := map[string]cost{}
	set := map[string]*parse.Tree{}
	own, err := defaults()
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		if err := f.add(name, own[name], set, costs); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if name == "" || strings.HasPrefix(name, ownFile) {
			return nil, fmt.Errorf("the name %q of a template file is reserved: use another one", name)
		}
		before := maps.Clone(set)
		if err := f.add(name, files[name], set, costs); err != nil {
			return nil, err
		}
		for defined, tree := range set {
			if before[defined] != tree {
				f.defined = append(f.defined, defined)
			}
		}
	}
	slices.Sort(f.defined)
	f.defined = slices.Compact(f.defined)
	for _, name := range slices.Sorted(maps.Keys(set)) {
		f.trees = append(f.trees, set[name])
	}
	if n := len(f.defined); n > maxTemplates {
		return nil, fmt.Errorf("the files define %d templates, the limit is %d: remove some", n, maxTemplates)
	}
	f.costs = costs
	if err := newAnalysis(costs).check(slices.Sorted(maps.Keys(costs))); err != nil {
		return nil, err
	}
	return f, nil
}

// add rewrites and parses a file. Each of its templates replaces an earlier one of the same name, unless it is blank.
func (f *Files) add(name, text string, set map[string]*parse.Tree, costs map[string]cost) error {
	p, err := rewrite(name, text, false)
	if err != nil {
		return err
	}
	for function, line := range p.known {
		if _, ok := f.known[function]; !ok {
			f.known[function] = fmt.Sprintf("%s: line %d", name, line)
		}
	}
	trees := map[string]*parse.Tree{}
	tree := parse.New(name)
	tree.Mode = parse.SkipFuncCheck
	if _, err := tree.Parse(p.text, "", "", trees); err != nil {
		return fmt.Errorf("%s: the rewritten text cannot be parsed: %w", name, err)
	}
	for defined, tree := range trees {
		if set[defined] != nil && parse.IsEmptyTree(tree.Root) || strings.HasPrefix(defined, ownFile) {
			continue
		}
		set[defined] = tree
		c, ok := p.costs[defined]
		if !ok { // the text outside of the definitions of the file
			c = p.costs[""]
		}
		costs[defined] = c
	}
	return nil
}

// defaults returns Alertmanager's own templates. Each is a text that contains its definition.
func defaults() (map[string]string, error) {
	var text *texttemplate.Template
	_, err := template.FromGlobs(nil, func(t *texttemplate.Template, _ *htmltemplate.Template) { text = t })
	if err != nil {
		return nil, fmt.Errorf("read Alertmanager's own templates: %w", err)
	}
	out := map[string]string{}
	for _, t := range text.Templates() {
		if t.Name() != "" {
			out[ownFile+t.Name()] = fmt.Sprintf("{{define %q}}%s{{end}}", t.Name(), t.Root)
		}
	}
	return out, nil
}

// Templates executes templates for one notification attempt after another. It must not be used by several goroutines at
// the same time.
type Templates struct {
	budget   *budget
	template *template.Template
}

// New returns an executor. The functions in `extra` are not limited, and do not replace Alertmanager's functions.
func (f *Files) New(external *url.URL, l Limits, extra map[string]any) (*Templates, error) {
	b := &budget{limits: l, now: time.Now}
	b.begin(context.Background())
	var text *texttemplate.Template
	var html *htmltemplate.Template
	t, err := template.New(func(tt *texttemplate.Template, ht *htmltemplate.Template) {
		text, html = tt.Funcs(extra), ht.Funcs(extra)
	})
	if err != nil {
		return nil, fmt.Errorf("make the templates of Alertmanager: %w", err)
	}
	t.ExternalURL = external
	re := &regexps{known: map[string]compiled{}}
	text.Funcs(functions{budget: b, regexps: re, weigh: plain}.all())
	html.Funcs(functions{budget: b, regexps: re, weigh: escapedHTML, html: true}.all())
	for _, function := range slices.Sorted(maps.Keys(f.known)) {
		if _, ok := extra[function]; !ok && !builtin(function) {
			return nil, fmt.Errorf("%s: the function %s is not defined", f.known[function], function)
		}
	}
	for _, tree := range f.trees {
		if _, err := text.AddParseTree(tree.Name, tree); err != nil {
			return nil, fmt.Errorf("add the template %q: %w", tree.Name, err)
		}
		if _, err := html.AddParseTree(tree.Name, tree); err != nil {
			return nil, fmt.Errorf("add the template %q for HTML: %w", tree.Name, err)
		}
	}
	return &Templates{budget: b, template: t}, nil
}

// Template returns the templates for notifiers of Alertmanager. The texts that they execute must be results of
// Rewrite.
func (t *Templates) Template() *template.Template { return t.template }

// Begin starts a notification attempt, with unused limits.
func (t *Templates) Begin(ctx context.Context) { t.budget.begin(ctx) }

// Elapsed returns the time that the execution of templates has taken since Begin.
func (t *Templates) Elapsed() time.Duration { return t.budget.elapsed }

// Err returns the error of the limit that the attempt has exceeded, or nil.
func (t *Templates) Err() error { return t.budget.err }
