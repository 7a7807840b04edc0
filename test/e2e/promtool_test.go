package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/kit/programs"
)

// promtool runs the tool against Prometheus and Pallium, and compares the outputs;
// then it pushes metrics with the tool.
func (s *system) promtool(t *testing.T, w window) {
	dir := t.TempDir()
	for _, tenant := range s.tenants {
		config := filepath.Join(dir, tenant.user+".yml")
		if err := os.WriteFile(config, fmt.Appendf(nil, "authorization: {credentials: %s}\n", tenant.key), 0o600); err != nil {
			t.Fatal(err)
		}
		run := func(args ...string) (string, error) {
			out, err := exec.Command(programs.Binary(t, "PROMTOOL"), args...).CombinedOutput()
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			slices.Sort(lines)
			return strings.Join(lines, "\n"), err
		}
		start, end := "--start="+w.start.Format(time.RFC3339), "--end="+w.end.Format(time.RFC3339)
		for _, c := range []struct {
			command, after []string
		}{
			{[]string{"query", "instant", "--time=" + w.end.Format(time.RFC3339)}, []string{`{job="app"}`}},
			{[]string{"query", "instant", "-o", "json", "--time=" + w.end.Format(time.RFC3339)}, []string{`rate(app_requests_total[5s])`}},
			{[]string{"query", "range", start, end, "--step=1s"}, []string{`rate(app_requests_total[5s])`}},
			{[]string{"query", "series", `--match={job="node"}`, start, end}, nil},
			{[]string{"query", "labels", start, end}, []string{"job"}},
		} {
			want, err := run(slices.Concat(c.command, []string{s.prom.URL}, c.after)...)
			if err != nil {
				t.Fatalf("%v: %v: %s", c.command, err, want)
			}
			got, err := run(slices.Concat(c.command, []string{"--http.config.file=" + config, tenant.base}, c.after)...)
			if err != nil || got != want {
				t.Errorf("%s: promtool %v: %v: %.1000s\nwant %.1000s", tenant.name, c.command, err, got, want)
			}
		}
		for _, check := range []string{"healthy", "ready"} {
			if out, err := run("check", check, "--url="+s.pallium.Edge, "--http.config.file="+config); err != nil {
				t.Errorf("promtool check %s: %v: %s", check, err, out)
			}
		}
		s.promtoolPush(t, tenant, config, run)
	}
}

// promtoolPush lets promtool push metrics to a tenant of its own, since the other
// tenants must stay equal to Prometheus. (For protocol 2.0 promtool sends a 1.0 body
// labeled as 2.0, which no receiver can decode.)
func (s *system) promtoolPush(t *testing.T, tenant client, config string, run func(...string) (string, error)) {
	id := "pushed-" + tenant.user
	key := s.pallium.Tenant(id)
	if err := os.WriteFile(config, fmt.Appendf(nil, "authorization: {credentials: %s}\n", key), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "metrics.prom")
	text := "# HELP pushed_total Pushed.\n# TYPE pushed_total counter\npushed_total{code=\"200\"} 42\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run("push", "metrics", "--http.config.file="+config, "--label=job=batch", s.pallium.Edge, file); err != nil {
		t.Fatalf("promtool push metrics: %v: %s", err, out)
	}
	out, err := run("query", "instant", "--http.config.file="+config, s.pallium.Edge+"/prometheus", `pushed_total{job="batch",code="200"} == 42`)
	if err != nil || !strings.Contains(out, "=> 42 @") {
		t.Errorf("a query of the pushed metrics returned %q %v", out, err)
	}
}

// TestUnitTests checks that promtool and Pallium agree on a file of unit tests of rules, and on the same tests with other input.
func TestUnitTests(t *testing.T) {
	dir := t.TempDir()
	var texts []string
	for _, name := range []string{"rules.yaml", "good.yaml"} {
		data, err := os.ReadFile(filepath.Join("..", "..", "backend", "rules", "unittest", "testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(data))
	}
	changed := strings.Replace(texts[1], "1x3 0x4 1x10", "1x20", 1)
	if changed == texts[1] {
		t.Fatal("good.yaml has no series with the values to be changed")
	}
	for name, text := range map[string]string{"rules.yaml": texts[0], "good.yaml": texts[1], "bad.yaml": changed} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]int{"good.yaml": 0, "bad.yaml": 1} {
		for _, command := range [][]string{{"PROMTOOL", "test", "rules"}, {"PALLIUM", "rules", "test"}} {
			cmd := exec.Command(programs.Binary(t, command[0]), append(command[1:], filepath.Join(dir, name))...)
			out, err := cmd.CombinedOutput()
			if got := cmd.ProcessState.ExitCode(); got != want {
				t.Errorf("%v %s: exit %d, want %d: %v\n%s", command, name, got, want, err, out)
			}
		}
	}
}
