package expand

import (
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// nested returns a text with six nested ranges, more than are allowed in one text: the inner ranges are in a template.
func nested() (files map[string]string, text string) {
	three := strings.Repeat("{{ range 1000 }}", 3) + "x" + strings.Repeat("{{ end }}", 3)
	return map[string]string{"f": `{{ define "three" }}` + three + `{{ end }}`},
		strings.ReplaceAll(three, "x", `{{ template "three" . }}`)
}

// TestNestedRanges checks that the limit of steps ends six nested ranges, and that they are rejected when a configuration is
// loaded.
func TestNestedRanges(t *testing.T) {
	defer goleak.VerifyNone(t)
	files, text := nested()
	f, err := Parse(files)
	if err != nil {
		t.Fatal(err)
	}
	err = Render(f, external(t), Defaults(), nil, []Text{{Name: "field", Text: text}})
	if err == nil || !strings.Contains(err.Error(), "more than 400000 steps") {
		t.Errorf("error %v", err)
	}
	if _, err := Rewrite("field", strings.Repeat("{{ range 1000 }}", 6)+strings.Repeat("{{ end }}", 6)); err == nil {
		t.Error("six nested ranges in one text are accepted")
	}
}

// BenchmarkNestedRanges measures the time until the limit of steps ends six nested ranges.
func BenchmarkNestedRanges(b *testing.B) {
	files, text := nested()
	templates := newTemplates(b, files, Defaults())
	text, err := Rewrite("field", text)
	if err != nil {
		b.Fatal(err)
	}
	data := dataOf(b, 3, 1)
	for b.Loop() {
		templates.Begin(b.Context())
		if _, err := templates.Template().ExecuteTextString(text, data); err == nil {
			b.Fatal("no limit ended the ranges")
		}
	}
}
