package unittest

import (
	"os"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/backend/rules"
)

func load(t *testing.T) (file, groups []byte) {
	t.Helper()
	for name, into := range map[string]*[]byte{"testdata/good.yaml": &file, "testdata/rules.yaml": &groups} {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		*into = data
	}
	return file, groups
}

func run(t *testing.T, file, groups string) ([]Result, error) {
	t.Helper()
	f, err := Parse([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	namespaces, err := rules.ParseFile([]byte(groups))
	if err != nil {
		t.Fatal(err)
	}
	var list []rules.Group
	for _, d := range namespaces[0].Groups {
		list = append(list, d.Group)
	}
	return Run(t.Context(), f, list, parser.NewParser(parser.Options{}))
}

// TestGood checks that the tests of a file pass, as they do with promtool (TestUnitTests in test/e2e compares both).
func TestGood(t *testing.T) {
	file, groups := load(t)
	results, err := run(t, string(file), string(groups))
	text, failed := Summary(results)
	if err != nil || failed != 0 || len(results) != 2 || text != "  ok    everything\n  ok    later\n" {
		t.Errorf("%v\n%s", err, text)
	}
}

// TestFailures changes the good file or its rules, and checks the texts of the failures.
func TestFailures(t *testing.T) {
	file, groups := load(t)
	for _, tt := range []struct {
		old, new string // replaced in the file of tests, or in the rules
		want     string
	}{
		{"value: 2}\n      - expr: job:up:sum", "value: 3}\n      - expr: job:up:sum", "expected: {__name__=\"job:up:double\", job=\"a\", team=\"a\"} 3\n"},
		{"value: 2.0000000000000004", "value: 2.000000000000001", "got:      {__name__=\"job:up:sum\", job=\"a\", team=\"a\"} 2"},
		{"fuzzy_compare: true", "fuzzy_compare: false", "2.0000000000000004"},
		{"severity: page, team: a}\n            exp_annotations: {summary: \"1 is down at eu: 2\"}\n      - eval_time: 9m30s",
			"severity: mail, team: a}\n      - eval_time: 9m30s", "alert Down at 6m:\n"},
		{"{eval_time: 5m, alertname: Down}", "{eval_time: 7m, alertname: Down}", "expected: nothing"},
		{"{eval_time: 6m, alertname: Absent}", "{eval_time: 6m, alertname: Absent, exp_alerts: [{exp_labels: {a: b}}]}", "got:      nothing"},
		{"counter_reset_hint:gauge buckets:[0.03333333333333333]", "counter_reset_hint:gauge buckets:[1]", "latency:rate"},
		{"histogram: '{{schema:0 count:0.03", "histogram: '1 {{schema:0 count:0.03", "is not one histogram"},
		{"labels: '{}', value: 2}", "labels: '{', value: 2}", "expected sample"},
		{"expr: time()", "expr: up[5m]", "the result is a matrix"},
		{"expr: time()", "expr: nosuch()", "unknown function"},
		{"expr: sum by (job) (up)", "expr: up * on (job) up", `rule "job:up:sum" at 0s`},
		{"for: 2m", "for: 3m", "alert Down at 6m:\n"},
		{"group_eval_order: [first, second]", "group_eval_order: [second, first]", ""}, // at 5m, the expectations do not depend on the order
	} {
		inFile, inRules := strings.Replace(string(file), tt.old, tt.new, 1), strings.Replace(string(groups), tt.old, tt.new, 1)
		if inFile == string(file) && inRules == string(groups) {
			t.Fatalf("%q occurs neither in the tests nor in the rules", tt.old)
		}
		results, err := run(t, inFile, inRules)
		text, failed := Summary(results)
		if err != nil || (failed > 0) != (tt.want != "") || !strings.Contains(text, strings.ReplaceAll(tt.want, "\n", "\n        ")) {
			t.Errorf("%q: %v, %d failed, want %q in:\n%s", tt.new, err, failed, tt.want, text)
		}
	}
}

// TestParse checks the errors of files that cannot be run.
func TestParse(t *testing.T) {
	for file, says := range map[string]string{
		"":                                "no tests",
		"tests: []":                       "no tests",
		"tests: [{nam: x}]":               "unknown field nam",
		"test: []":                        "unknown field test",
		"tests: [{start_timestamp: now}]": `start_timestamp is "now"`,
		"tests: [{alert_rule_test: [{eval_time: 1m}]}]":        "alert_rule_test 1 has no alertname",
		"tests: [{interval: fast}]":                            "duration",
		"group_eval_order: [a, b, a]\ntests: [{interval: 1m}]": `the group "a" twice`,
	} {
		if _, err := Parse([]byte(file)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("Parse(%q): %v, want %q", file, err, says)
		}
	}
	f, err := Parse([]byte("tests: [{start_timestamp: 1767225600.5}, {name: x}]"))
	if err != nil || f.Tests[0].StartTimestamp.UnixMilli() != 1767225600500 || f.Tests[0].Name != "test 1" || f.Tests[1].Name != "x" {
		t.Errorf("Parse = %+v, %v", f, err)
	}
	f, err = Parse([]byte("tests: [{input_series: [{series: 'up{', values: '1'}]}]"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), f, nil, parser.NewParser(parser.Options{})); err == nil || !strings.Contains(err.Error(), "input series") {
		t.Errorf("Run with a wrong series: %v", err)
	}
}
