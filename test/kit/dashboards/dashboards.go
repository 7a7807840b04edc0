// Package dashboards reads the Grafana dashboards of deploy/grafana for tests.
package dashboards

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// Dashboard contains the fields of a dashboard that tests check.
type Dashboard struct {
	File string `json:"-"` // without the extension

	UID, Title, Description string
	SchemaVersion           int
	Tags                    []string
	Templating              struct{ List []Variable }
	Panels                  []Panel
}

// Variable is a variable of a dashboard.
type Variable struct {
	Name, Type, AllValue string
	Query                any // a text, or an object of the Prometheus data source
}

// Panel is a panel of a dashboard.
type Panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               Source
	GridPos                  struct{ X, Y, W, H int }
	FieldConfig              struct{ Defaults struct{ Unit string } }
	Targets                  []Target
}

// Target is a query of a panel.
type Target struct {
	RefID, Expr, LegendFormat string
	Datasource                Source
}

// Source is a reference to a data source.
type Source struct{ Type, UID string }

// Read returns the dashboards in a directory, sorted by file.
func Read(t testing.TB, dir string) []Dashboard {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards in %s: %v", dir, err)
	}
	var out []Dashboard
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(file)
		d := Dashboard{File: name[:len(name)-len(".json")]}
		if err := json.Unmarshal(data, &d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		out = append(out, d)
	}
	return out
}

var variable = regexp.MustCompile(`\$\w+|\$\{\w+\}`)

// Replace returns an expression with the values of its variables, and the names of those without a value.
func Replace(expr string, values map[string]string) (replaced string, unknown []string) {
	replaced = variable.ReplaceAllStringFunc(expr, func(v string) string {
		name := v[1:]
		if name[0] == '{' {
			name = name[1 : len(name)-1]
		}
		value, ok := values[name]
		if !ok {
			unknown = append(unknown, name)
		}
		return value
	})
	return replaced, unknown
}
