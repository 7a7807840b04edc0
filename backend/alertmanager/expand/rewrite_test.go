package expand

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestRejectedTexts checks the texts that Rewrite rejects, and their errors.
func TestRejectedTexts(t *testing.T) {
	nested := func(open, end string, n int) string { return strings.Repeat(open, n) + strings.Repeat(end, n) }
	for name, c := range map[string]struct{ text, want string }{
		"not closed":                  {"a\n{{ if", "field: 2: unclosed action"},
		"a call of step":              {"\n\n{{ _bound_step 1 1 }}", "field: line 3: the function _bound_step is not defined"},
		"a call of leave in an if":    {"{{ if _bound_leave }}{{ end }}", "_bound_leave is not defined"},
		"a call of leave in a chain":  {"{{ (_bound_leave).X }}", "_bound_leave is not defined"},
		"a call of leave as argument": {"{{ print _bound_leave }}", "_bound_leave is not defined"},
		"an escaper of html/template": {"{{ . | _html_template_htmlescaper }}", "_html_template_htmlescaper is not defined"},
		"a definition":                {"{{ define \"x\" }}{{ end }}", "must not define templates"},
		"a block":                     {"{{ block \"x\" . }}{{ end }}", "must not define templates"},
		"a definition of the text":    {"{{ define \"\" }}x{{ end }}", "must not define templates"},
		"a call of the text":          {"{{ template \"\" . }}", "is reserved"},
		"a call of the root":          {"{{ template \"\\x00\" . }}", "is reserved"},
		"a large text":                {strings.Repeat("x", maxText+1), "the limit is 262144"},
		"many actions":                {strings.Repeat("{{.}}", maxActions+1), "the limit is 10000"},
		"many calls":                  {strings.Repeat("{{template \"x\"}}", maxCalls+1), "the limit is 200"},
		"nested ranges":               {nested("{{range .}}", "{{end}}", 6), "ranges are nested more than 5 levels"},
		"nested branches":             {nested("{{if .}}", "{{end}}", 300), "nested more than 200 levels"},
		"nested parentheses":          {"{{" + nested("(", ")", 1)[:1] + nested("(", ")", 300)[1:300] + "." + strings.Repeat(")", 300) + "}}", "nested more than 200 levels"},
		"very many parentheses":       {"{{" + strings.Repeat("(", 20000) + "." + strings.Repeat(")", 20000) + "}}", "max expression depth"},
		"a chain of else":             {"{{if .}}" + strings.Repeat("{{else if .}}", 300) + "{{end}}", "nested more than 200 levels"},
		"a long argument of a method": {"{{ .Values.Join \"" + strings.Repeat("x", 2000) + "\" }}", "the limit is 1024"},
	} {
		if out, err := Rewrite("field", c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %.80q, error %v, want %q", name, out, err, c.want)
		}
	}
}

// TestRejectedFiles checks the files that Parse rejects.
func TestRejectedFiles(t *testing.T) {
	define := func(name, body string) string { return fmt.Sprintf("{{ define %q }}%s{{ end }}", name, body) }
	chain := ""
	for i := range 30 {
		chain += define(fmt.Sprint("c", i), fmt.Sprintf("{{ template \"c%d\" }}", i+1))
	}
	fails := define("f14", "<a {{ if . }}href='{{ end }}") // html/template analyzes each of them twice, which is 16,000 analyses in total
	for i := range 14 {
		fails += define(fmt.Sprint("f", i), fmt.Sprintf("{{ template \"f%d\" }}", i+1))
	}
	many := ""
	for i := range 1100 {
		many += define(fmt.Sprint("c", i), "")
	}
	for name, c := range map[string]struct{ text, want string }{
		"a template that calls itself":   {define("a", "{{ template \"a\" . }}"), "template \"a\" calls itself ([\"a\" \"a\"])"},
		"templates that call each other": {define("a", "{{ template \"b\" . }}") + define("b", "{{ range . }}{{ template \"a\" . }}{{ end }}"), "calls itself ([\"a\" \"b\" \"a\"])"},
		"a circle through a default":     {define("__subject", "{{ template \"slack.default.title\" . }}"), "calls itself"},
		"a file that calls itself":       {"{{ template \"f\" }}", "calls itself"},
		"a block that calls itself":      {"{{ block \"b\" . }}{{ template \"b\" . }}{{ end }}", "calls itself"},
		"an empty name":                  {define("", "x"), "is reserved"},
		"a name of the root":             {define("\x00", "x"), "is reserved"},
		"white space":                    {define("w", strings.Repeat(" ", 65)), "65 bytes of white space"},
		"defined twice":                  {define("a", "x") + define("a", "y"), "multiple definition"},
		"a long chain":                   {chain, "calls of templates are nested more than 20 levels deep"},
		"a chain that fails as HTML":     {fails, "too complicated"},
		"many templates":                 {many, "1000"},
		"an analysis without end": {define("a", "<script>`${`{{ template \"b\" }}") + define("b", strings.Repeat("{{ range 2 }}", 5)+strings.Repeat("<a href='{{.}}'>", 500)+strings.Repeat("{{ end }}", 5)) +
			define("c", strings.Repeat("{{ template \"b\" }}", 50)), "too complicated"},
	} {
		if _, err := Parse(map[string]string{"f": c.text}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %.300v, want %q", name, err, c.want)
		}
	}
	for _, name := range []string{"", "\x00f"} {
		if _, err := Parse(map[string]string{name: "x"}); err == nil || !strings.Contains(err.Error(), "is reserved") {
			t.Errorf("a file named %q: error %v", name, err)
		}
	}
	f, err := Parse(map[string]string{"f": "x\n{{ nothing . }}"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = f.New(external(t), Defaults(), nil); err == nil || err.Error() != "f: line 2: the function nothing is not defined" {
		t.Errorf("an unknown function: error %v", err)
	}
}

// TestTemplateLiterals checks that rewritten texts do not contain "${". For each "${" in a template literal of a script,
// html/template would analyze a called template again, and a template that calls itself forever.
func TestTemplateLiterals(t *testing.T) {
	for _, text := range []string{"<script>`${`", "$${{ . }}${${ {{- . }}", "{{ if . }}${{ end }}{"} {
		rewritten, err := Rewrite("field", text)
		if plain := strings.ReplaceAll(rewritten, "${{", "$ {{"); err != nil || strings.Contains(plain, "${") {
			t.Errorf("%q was rewritten as %q, %v", text, rewritten, err)
		}
	}
}

// TestTime checks the limit of time, and that only a part of each pause between executions counts.
func TestTime(t *testing.T) {
	l := limitless()
	l.Time = time.Second
	templates := newTemplates(t, nil, l)
	now := time.Unix(0, 0)
	templates.budget.now = func() time.Time { now = now.Add(time.Millisecond); return now }
	text, err := Rewrite("field", "{{ range 1000000000 }}{{ end }}")
	if err != nil {
		t.Fatal(err)
	}
	data := dataOf(t, 1, 0)
	if _, err := templates.Template().ExecuteTextString(text, data); err == nil || !strings.Contains(err.Error(), "take longer than 1s") {
		t.Errorf("error %v, want that of the time", err)
	}
	templates.Begin(context.Background())
	short, err := Rewrite("field", "{{ range 1000 }}{{ end }}")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		now = now.Add(time.Minute) // the duration of a request
		if _, err := templates.Template().ExecuteTextString(short, data); err != nil {
			t.Error(err)
		}
	}
}

// TestCancelled checks that an execution ends when its context is canceled.
func TestCancelled(t *testing.T) {
	templates := newTemplates(t, nil, limitless())
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("the receiver was removed")
	cancel(reason)
	templates.Begin(ctx)
	text, err := Rewrite("field", "{{ range 1000000000 }}{{ end }}")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := templates.Template().ExecuteTextString(text, dataOf(t, 1, 0)); !errors.Is(err, reason) || !errors.Is(templates.Err(), reason) {
		t.Errorf("error %v, and of the limit %v", err, templates.Err())
	}
}

// TestDepth checks the limit of nested calls, and that calls that have ended do not count.
func TestDepth(t *testing.T) {
	files := map[string]string{"f": `{{ define "a" }}{{ template "b" }}{{ end }}{{ define "b" }}{{ template "c" }}{{ end }}{{ define "c" }}c{{ end }}`}
	text, err := Rewrite("field", `{{ range 10 }}{{ template "a" }}{{ end }}`)
	if err != nil {
		t.Fatal(err)
	}
	for depth, want := range map[int]bool{2: false, 3: true} {
		l := limitless()
		l.Depth = depth
		got, err := newTemplates(t, files, l).Template().ExecuteTextString(text, dataOf(t, 1, 0))
		if (err == nil) != want || want && got != strings.Repeat("c", 10) {
			t.Errorf("depth %d: %q, %v", depth, got, err)
		}
	}
}
