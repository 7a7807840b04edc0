package deploy

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var metric = regexp.MustCompile(`\bpallium_[a-z0-9_]+`)

// TestMetrics: alerts and the docs of operations name metrics that there are.
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
		t.Fatalf("%d metrics in the code: %v", len(known), err)
	}
	for _, file := range []string{"deploy/prometheus/pallium.rules.yaml", "docs/google-cloud.md", "docs/kubernetes.md"} {
		found := metric.FindAllString(string(read(t, file)), -1)
		for _, name := range found {
			if !known[name] && !known[strings.TrimSuffix(name, "_bucket")] {
				t.Errorf("%s: there is no metric %s", file, name)
			}
		}
		if len(found) == 0 && file != "docs/kubernetes.md" {
			t.Errorf("%s names no metric", file)
		}
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
