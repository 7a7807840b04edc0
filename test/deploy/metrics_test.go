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

	"go.yaml.in/yaml/v3"
)

var metric = regexp.MustCompile(`\bpallium_[a-z0-9_]+`)

// recorded matches the name of a recorded series, level:metric:operations.
var recorded = regexp.MustCompile(`\b[a-z_]+:(pallium_[a-z0-9_]+):[a-z0-9_]+`)

const rulesFile = "deploy/prometheus/pallium.rules.yaml"

// metricsInCode returns the names of all metrics.
func metricsInCode(t *testing.T) map[string]bool {
	t.Helper()
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
	return known
}

// TestMetrics checks that the metrics in rules, dashboards and the documentation for operators exist.
func TestMetrics(t *testing.T) {
	known := metricsInCode(t)
	records := map[string]bool{}
	for _, m := range regexp.MustCompile(`record: (\S+)`).FindAllStringSubmatch(string(read(t, rulesFile)), -1) {
		records[m[1]] = true
		base := recorded.FindStringSubmatch(m[1])
		if base == nil {
			t.Errorf("the name of the recorded series %s does not have the form level:metric:operations", m[1])
		}
	}
	files := []string{rulesFile, "README.md"}
	for _, pattern := range []string{"docs/*.md", "deploy/grafana/*.json"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("no files %s: %v", pattern, err)
		}
		for _, path := range found {
			files = append(files, filepath.Join(filepath.Dir(pattern), filepath.Base(path)))
		}
	}
	for _, file := range files {
		text := recorded.ReplaceAllStringFunc(string(read(t, file)), func(name string) string {
			if !records[name] {
				t.Errorf("%s: no rule records %s", file, name)
			}
			return ""
		})
		for _, name := range metric.FindAllString(text, -1) {
			if !known[name] && !known[strings.TrimSuffix(name, "_bucket")] && !strings.HasSuffix(name, "_") {
				t.Errorf("%s: metric %s does not exist", file, name)
			}
		}
	}
	if len(metric.FindAllString(string(read(t, rulesFile)), -1)) < 20 || len(records) < 5 {
		t.Errorf("%s contains no metrics", rulesFile)
	}
}

const runbooks = "https://github.com/palliumhq/pallium/blob/main/docs/runbooks.md#"

// ruleGroups are the groups of rulesFile.
type ruleGroups struct {
	Groups []struct {
		Name  string
		Rules []struct {
			Alert, Record, Expr string
			Labels, Annotations map[string]string
		}
	}
}

func readRules(t *testing.T) ruleGroups {
	t.Helper()
	var out ruleGroups
	if err := yaml.Unmarshal(read(t, rulesFile), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRunbooks checks that every alert has a section in the runbooks and a link to it, and every
// section an alert.
func TestRunbooks(t *testing.T) {
	var sections, alerts []string
	for _, m := range regexp.MustCompile(`(?m)^### (\w+)$`).FindAllStringSubmatch(string(read(t, "docs/runbooks.md")), -1) {
		sections = append(sections, m[1])
	}
	for _, g := range readRules(t).Groups {
		for _, r := range g.Rules {
			if r.Alert == "" {
				continue
			}
			alerts = append(alerts, r.Alert)
			if got, want := r.Annotations["runbook_url"], runbooks+strings.ToLower(r.Alert); got != want {
				t.Errorf("%s: runbook_url %q, want %q", r.Alert, got, want)
			}
			if r.Annotations["summary"] == "" || !slices.Contains([]string{"critical", "warning", "info", "none"}, r.Labels["severity"]) {
				t.Errorf("%s: summary %q, severity %q", r.Alert, r.Annotations["summary"], r.Labels["severity"])
			}
		}
	}
	slices.Sort(sections)
	slices.Sort(alerts)
	if !slices.Equal(alerts, sections) || len(alerts) < 20 {
		t.Errorf("alerts %v\nsections of docs/runbooks.md %v", alerts, sections)
	}
}

// TestScraped checks that only the group pallium-scraped needs series that Pallium does not write itself.
func TestScraped(t *testing.T) {
	up := regexp.MustCompile(`\bup\b`)
	for _, g := range readRules(t).Groups {
		for _, r := range g.Rules {
			if got := up.MatchString(r.Expr); got != (g.Name == "pallium-scraped") {
				t.Errorf("group %s, alert %s: needs the series up: %v", g.Name, r.Alert, got)
			}
		}
	}
}

// TestBuildContext checks that an image can be built although most of deploy is not in its context:
// the binary contains the rules.
func TestBuildContext(t *testing.T) {
	if !slices.Contains(strings.Split(string(read(t, ".dockerignore")), "\n"), "!"+rulesFile) {
		t.Errorf(".dockerignore excludes %s", rulesFile)
	}
}

func promtool(t *testing.T, args ...string) {
	t.Helper()
	tool := os.Getenv("PROMTOOL")
	if tool == "" {
		t.Fatal("PROMTOOL is not set: run make deploy-check")
	}
	if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

func TestRules(t *testing.T) {
	promtool(t, "check", "rules", "--lint=all", "--lint-fatal", filepath.Join(root, rulesFile))
}

// TestRuleResults checks on which of the series in testdata alerts fire, and what is recorded.
func TestRuleResults(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("files %v: %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { promtool(t, "test", "rules", file) })
	}
	tests, err := os.ReadFile("testdata/recordings.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range readRules(t).Groups {
		for _, r := range g.Rules {
			if r.Record != "" && !strings.Contains(string(tests), r.Record) {
				t.Errorf("testdata/recordings.yaml does not test %s", r.Record)
			}
		}
	}
}
