package deploy

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var metric = regexp.MustCompile(`\bpallium_[a-z0-9_]+`)

// TestMetrics checks that the metrics in alerts and in the documentation for operators exist.
func TestMetrics(t *testing.T) {
	known := map[string]bool{}
	literal := regexp.MustCompile(`"(pallium_[a-z0-9_]+)"`)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != root {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		for _, m := range literal.FindAllSubmatch(text, -1) {
			known[string(m[1])] = true
		}
		return err
	})
	if err != nil || len(known) < 20 {
		t.Fatalf("only %d metrics in the code: %v", len(known), err)
	}
	docs, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	files := []string{"deploy/prometheus/pallium.rules.yaml", "README.md"}
	for _, path := range docs {
		files = append(files, filepath.Join("docs", filepath.Base(path)))
	}
	for _, file := range files {
		for _, name := range metric.FindAllString(string(read(t, file)), -1) {
			if !known[name] && !known[strings.TrimSuffix(name, "_bucket")] && !strings.HasSuffix(name, "_") {
				t.Errorf("%s: metric %s does not exist", file, name)
			}
		}
	}
	if len(metric.FindAllString(string(read(t, files[0])), -1)) < 20 {
		t.Errorf("%s contains no metrics", files[0])
	}
}

// TestRunbooks checks that every alert has a section in the runbooks, and every
// section an alert.
func TestRunbooks(t *testing.T) {
	names := func(file, pattern string) []string {
		var out []string
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(read(t, file)), -1) {
			out = append(out, m[1])
		}
		slices.Sort(out)
		return out
	}
	alerts, sections := names("deploy/prometheus/pallium.rules.yaml", `- alert: (\w+)`), names("docs/runbooks.md", `(?m)^### (\w+)$`)
	if !slices.Equal(alerts, sections) || len(alerts) < 20 {
		t.Errorf("alerts %v\nsections of docs/runbooks.md %v", alerts, sections)
	}
}

func TestRules(t *testing.T) {
	tool := os.Getenv("PROMTOOL")
	if tool == "" {
		t.Fatal("PROMTOOL is not set: run make deploy-check")
	}
	out, err := exec.Command(tool, "check", "rules", "--lint=all", "--lint-fatal", filepath.Join(root, "deploy/prometheus/pallium.rules.yaml")).CombinedOutput()
	if err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// TestAlerts checks on which of the series in testdata/alerts.yaml alerts fire.
func TestAlerts(t *testing.T) {
	tool := os.Getenv("PROMTOOL")
	if tool == "" {
		t.Fatal("PROMTOOL is not set: run make deploy-check")
	}
	out, err := exec.Command(tool, "test", "rules", "testdata/alerts.yaml").CombinedOutput()
	if err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}
