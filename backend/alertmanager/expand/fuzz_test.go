package expand

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/alertmanager/template"
)

// FuzzRewrite checks that a rewritten text can be parsed, that its execution stays within its limits, and that its result
// is equal to that of the original text unless a limit was exceeded.
func FuzzRewrite(f *testing.F) {
	for _, text := range equalTexts() {
		f.Add(text)
	}
	for _, a := range attacks() {
		f.Add(a.text)
	}
	plain, _ := unmodified(f, nil)
	files, err := Parse(nil)
	if err != nil {
		f.Fatal(err)
	}
	bounded, err := files.New(external(f), Limits{Steps: 20_000, Bytes: 64 << 10, Depth: 10, Time: time.Minute}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		rewritten, err := Rewrite("field", text)
		if err != nil {
			return
		}
		if _, err := rewrite("field", strings.ReplaceAll(rewritten, "_bound_", "bound"), true); err != nil && !strings.Contains(err.Error(), "the limit is") {
			t.Fatalf("%q was rewritten as %q: %v", text, rewritten, err)
		}
		for kind, execute := range map[string]func(*template.Template, string) (string, error){
			"text": func(tt *template.Template, s string) (string, error) { return tt.ExecuteTextString(s, dataOf(t, 2, 1)) },
			"html": func(tt *template.Template, s string) (string, error) { return tt.ExecuteHTMLString(s, dataOf(t, 2, 1)) },
		} {
			bounded.Begin(context.Background())
			got, gotErr := execute(bounded.Template(), rewritten)
			if bounded.Err() != nil || differs(text, kind) || strings.Contains(got, "0xc0") {
				continue
			}
			want, wantErr := execute(plain, text)
			if (wantErr == nil) != (gotErr == nil) || wantErr == nil && got != want {
				t.Fatalf("%s of %q, rewritten as %q\ngot  %q, %v\nwant %q, %v", kind, text, rewritten, got, gotErr, want, wantErr)
			}
		}
	})
}

// differs reports whether the result of a text may differ from Alertmanager's: because it depends on the clock, because
// Alertmanager's append changes other lists, because "${" is text in scripts, or because in HTML a blank text executes
// another template.
func differs(text, kind string) bool {
	return strings.Contains(text, "now") || strings.Contains(text, "since") || strings.Count(text, "append") > 1 ||
		kind == "html" && (strings.Contains(text, "${") || !strings.Contains(text, "{{") && strings.TrimSpace(text) == "")
}
