package tenantconfig

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
)

// scriptOptions returns the options of the scripts in testdata. A template that calls the function bad is invalid.
func scriptOptions() Options {
	l := Defaults()
	l.Receivers, l.Integrations, l.Routes, l.RouteDepth, l.InhibitRules, l.TimeIntervals, l.Instructions = 5, 5, 10, 4, 5, 5, 2000
	return Options{Limits: l, Rewrite: func(_, text string) (string, error) {
		if strings.Contains(text, "bad") {
			return "", errors.New(`function "bad" not defined`)
		}
		return "<" + text + ">", nil
	}}
}

func scriptDocument(text string) Document {
	return Document{Config: text, Templates: map[string]string{"a.tmpl": `{{ define "a" }}x{{ end }}`}}
}

// scriptCase is a configuration between the lines "-- name --" and "->"; the lines after that are the result.
type scriptCase struct{ name, text, want string }

func script(t testing.TB, file string) []scriptCase {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []scriptCase
	for _, part := range strings.Split("\n"+string(data), "\n-- ")[1:] {
		name, rest, _ := strings.Cut(part, " --\n")
		text, want, ok := strings.Cut(rest, "->\n")
		if !ok {
			t.Fatalf("%s: %s has no line ->", file, name)
		}
		out = append(out, scriptCase{name, text, strings.TrimSpace(want)})
	}
	return out
}

// run compares the results of the cases of a file with the expected ones. If UPDATE is set, it writes the results to the file.
func run(t *testing.T, file string, least int, result func(text string) string) {
	t.Helper()
	cases := script(t, file)
	var out bytes.Buffer
	for _, c := range cases {
		got := strings.TrimSpace(result(c.text))
		if got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got, c.want)
		}
		out.WriteString("-- " + c.name + " --\n" + c.text + "->\n" + got + "\n\n")
	}
	if len(cases) < least {
		t.Errorf("%s has only %d cases", file, len(cases))
	}
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, append(bytes.TrimSpace(out.Bytes()), '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBad checks the errors of the invalid configurations in testdata/bad.txt.
func TestBad(t *testing.T) {
	run(t, "testdata/bad.txt", 100, func(text string) string {
		if _, err := Check(scriptDocument(text), scriptOptions()); err != nil {
			return err.Error()
		}
		return "ok"
	})
}
