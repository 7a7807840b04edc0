package rules

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/policies/limits"
)

func testChecks() Checks {
	lim := limits.Default()
	lim.MaxRulesPerGroup = 5
	lim.MaxRegexInstructions = 2000
	lim.MaxQueryLength = 1000
	return Checks{Parser: parser.NewParser(parser.Options{}), Limits: &lim, Tenant: "team"}
}

func duration(d time.Duration) *model.Duration { return new(model.Duration(d)) }

// TestRoundTrip checks that a group has the same values after it is encoded and parsed.
func TestRoundTrip(t *testing.T) {
	expressions := []string{
		"up", "\nsum(\n  up\n)\n", "  up", "up \n", "a\n\n  b", "up # comment\n", "\t\nup", "1", "\"x\"", "\r\nup", "up\n\n", "\n\n up\n  > 1\n",
		"up == 'x'  \n", "é", "- up", ": x", "{a=\"b\"}", "x\u2028y\n", "\ufeffup\nx",
	}
	words := []string{"1", "01", "1.0", "1e3", "0x1f", "true", "no", "on", "null", "~", "", "2001-01-01", "1_000", ".inf", "- a", "a: b", "#", "\n", " a ",
		"é/ö", "{{ $value }}", "=", "<<", "y", "12:30:45", "!!str x", "&a", "*a", "\x7f", "\u0085"}
	groups := []Group{
		{RuleGroup: rulefmt.RuleGroup{Name: "g", Rules: []rulefmt.Rule{{Record: "a:b", Expr: "up"}}}},
		{RuleGroup: rulefmt.RuleGroup{Name: "g", QueryOffset: duration(0), Rules: []rulefmt.Rule{{Record: "a", Expr: "up"}}}, EvaluationDelay: duration(0)},
		{RuleGroup: rulefmt.RuleGroup{Name: "g", Interval: model.Duration(90 * time.Minute), QueryOffset: duration(1500 * time.Millisecond), Limit: 7,
			Labels: map[string]string{"team": "1", "x": ""},
			Rules: []rulefmt.Rule{{Alert: "A b", Expr: "up", For: model.Duration(time.Hour), KeepFiringFor: model.Duration(14 * 24 * time.Hour),
				Labels: map[string]string{"severity": "yes"}, Annotations: map[string]string{"s": "a\n  b\n"}}}},
			EvaluationDelay: duration(time.Minute), AlignEvaluationTimeOnInterval: true, SourceTenants: []string{"team", "01"}},
	}
	for _, e := range expressions {
		groups = append(groups, Group{RuleGroup: rulefmt.RuleGroup{Name: "g", Rules: []rulefmt.Rule{{Record: "a", Expr: e}}}})
	}
	for _, w := range words {
		groups = append(groups, Group{RuleGroup: rulefmt.RuleGroup{Name: w, Labels: map[string]string{w: w},
			Rules: []rulefmt.Rule{{Alert: w, Expr: w, Labels: map[string]string{w: w}, Annotations: map[string]string{w: w}}}}})
	}
	for i := range groups {
		data, err := Encode(&groups[i])
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseGroup(data)
		if err != nil || !reflect.DeepEqual(back.Group, groups[i]) {
			t.Errorf("%+v was encoded as\n%s\nand parsed as %+v, %v", groups[i], data, back, err)
		}
	}
}

// TestListing checks that a listing can be decoded, for names and expressions of all kinds.
func TestListing(t *testing.T) {
	var l Listing
	if got := string(l.Bytes()); got != "{}\n" {
		t.Errorf("no groups: %q", got)
	}
	want := map[string][]Group{}
	for _, n := range []string{" ", "- a", "...", "1", "? b", "a/b", "a: b # c", strings.Repeat("k", MaxName), "true", "{}", "|", "ä: ö", "~", "\u2028"} {
		for _, e := range []string{"1", "null", "up\n", "sum(\n  up\n\n  > 1\n)\n", "\n up\n", "up\n\n", "\tup\nx", "a \nb"} {
			g := Group{RuleGroup: rulefmt.RuleGroup{Name: e, Rules: []rulefmt.Rule{{Record: e, Expr: e}, {Alert: e, Expr: e, Annotations: map[string]string{e: e}}}}}
			want[n] = append(want[n], g)
			text, err := Encode(&g)
			if err == nil {
				err = l.Add(n, string(text))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	var got map[string][]Group
	if err := Strict(l.Bytes(), &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s\nwas parsed as %+v, %v", l.Bytes(), got, err)
	}
}

// TestNames checks which names of namespaces and groups are valid.
func TestNames(t *testing.T) {
	for _, name := range []string{"a", "a/b", "a b", "100%", "%2F", "ä/ö", "a;b", "a?b", "a#b", "+", "...", "a..b/c", strings.Repeat("a", MaxName)} {
		if err := CheckName("namespace", name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for name, want := range map[string]string{"": "empty", ".": "contains . or ..", "..": "contains . or ..", "../..": "contains . or ..", "a/./b": "contains . or ..", "a\x00": "control", "a\n": "control", "\x7f": "control",
		"\u0085": "control", "\xff": "UTF-8", strings.Repeat("a", MaxName+1): "257 bytes"} {
		if err := CheckName("namespace", name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
	}
}

// TestOffset checks that an offset of zero is distinguished from a missing offset.
func TestOffset(t *testing.T) {
	for text, want := range map[string]string{"": "0s false", "query_offset: 0s": "0s true", "evaluation_delay: 1m": "1m0s true", "query_offset: 2m": "2m0s true"} {
		d, err := ParseGroup([]byte("name: g\n" + text))
		if err != nil {
			t.Fatal(err)
		}
		offset, ok := d.Offset()
		if got := offset.String() + map[bool]string{true: " true", false: " false"}[ok]; got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// TestParseFile checks that files in the formats of promtool and mimirtool are parsed.
func TestParseFile(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", ""},
		{"groups: []", ": "},
		{"groups:\n- name: a\n  rules: [{record: r, expr: up}]\n- name: b", ": a b"},
		{"namespace: n/1\ngroups:\n- name: a", "n/1: a"},
		{"namespace: n\ngroups:\n- name: a\n---\nnamespace: m\ngroups:\n- name: a\n---\nnamespace: n\ngroups:\n- name: b", "n: a b, m: a"},
		{"groups:\n- name: a\n- name: a", `group "a" appears twice`},
		{"namespace: n\ngroups:\n- name: a\n---\nnamespace: n\ngroups:\n- name: a", `group "a" appears twice`},
		{"groups:\n- name: a\n  rule: []", "line 3: unknown field rule"},
		{"groups:\n- name: a\n---\nx: y", "unknown field x"},
		{"name: a", "unknown field name"},
		{"groups: 1", "found the number `1` where a list is expected"},
		{"groups:\n- name: [", "YAML: line"},
	} {
		namespaces, err := ParseFile([]byte(tt.text))
		var parts []string
		for _, n := range namespaces {
			var names []string
			for i := range n.Groups {
				names = append(names, n.Groups[i].Name)
				if n.Groups[i].Namespace != n.Name {
					t.Errorf("%q: a group has namespace %q", tt.text, n.Groups[i].Namespace)
				}
			}
			parts = append(parts, n.Name+": "+strings.Join(names, " "))
		}
		if got := strings.Join(parts, ", "); err == nil && got != tt.want || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %q, %v, want %q", tt.text, got, err, tt.want)
		}
	}
}

// TestBadGroups checks the error of every group in testdata/bad.txt. A case is its YAML between the
// lines "-- name --" and "->"; the lines after that are the complete text of the error, or "ok".
func TestBadGroups(t *testing.T) {
	const file = "testdata/bad.txt"
	script, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	n := 0
	for _, part := range strings.Split("\n"+string(script), "\n-- ")[1:] {
		name, rest, _ := strings.Cut(part, " --\n")
		text, want, ok := strings.Cut(rest, "->\n")
		if !ok {
			t.Fatalf("%s has no line ->", name)
		}
		n++
		got := "ok"
		if err := verdict([]byte(text)); err != nil {
			got = strings.TrimSpace(err.Error())
		}
		if want = strings.TrimSpace(want); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
		out.WriteString("-- " + name + " --\n" + text + "->\n" + got + "\n\n")
	}
	if n < 60 {
		t.Errorf("only %d cases", n)
	}
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, bytes.TrimRight(out.Bytes(), "\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func verdict(data []byte) error {
	d, err := ParseGroup(data)
	if err == nil {
		err = Check(d, testChecks())
	}
	return err
}

// badTemplates returns n annotations that cannot be parsed.
func badTemplates(n int) string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("a%d: '{{'", i))
	}
	return strings.Join(out, ", ")
}

// TestSizes checks limits and many problems with texts that are too large for testdata.
func TestSizes(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"group":      {"name: " + strings.Repeat("a", MaxGroupBytes), "the group has 1048582 bytes of YAML, the limit is 1048576"},
		"expression": {"name: g\nrules: [{record: a, expr: '" + strings.Repeat("a", 1001) + "'}]", "limit max_query_length of 1000 bytes exceeded"},
		"template": {"name: g\nrules: [{alert: a, expr: up, annotations: {x: '" + strings.Repeat("a", maxTemplate+1) + "'}}]",
			`annotation "x": the template has 65537 bytes, the limit is 65536`},
		"many problems": {"name: g\nrules:\n" + strings.Repeat("- {alert: a, expr: up, annotations: {"+badTemplates(12)+"}}\n", 5), "and 10 more"},
		"doubled text": {"name: g\nrules: [{alert: a, expr: up, annotations: {x: '{{ $x := \"aaaaaaaaaaaaaaaa\" }}" +
			strings.Repeat("{{ $x = print $x $x }}", 40) + "'}}]", "can become longer than the limit of 32768 bytes"},
		"long output": {"name: g\nrules: [{alert: a, expr: up, annotations: {x: '{{ $x := printf \"%100d%100d%100d%100d%100d\" 1 1 1 1 1 }}" +
			strings.Repeat("{{ $x }}", 100) + "'}}]", "the expanded template can become longer than the limit of 32768 bytes"},
		"long output of a range": {"name: g\nrules: [{alert: a, expr: up, annotations: {x: '{{ range query \"up\" }}" +
			strings.Repeat("{{ printf \"%100d\" 1 }}", 2) + "{{ end }}'}}]", "the expanded template can become longer than the limit of 32768 bytes"},
		"long output of a rule": {"name: g\nrules: [{alert: a, expr: up, annotations: {a: &x '" + strings.Repeat("a", 30_000) +
			"', b: *x, c: *x, d: *x, e: *x}}]", "the expanded labels and annotations of one alert can become longer than the limit of 131072 bytes"},
	} {
		if err := verdict([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %.300v", name, err)
		}
	}
}

// FuzzParseGroup checks that an accepted group has the same values after it is encoded and parsed
// again.
func FuzzParseGroup(f *testing.F) {
	script, _ := os.ReadFile("testdata/bad.txt")
	for _, part := range strings.Split("\n"+string(script), "\n-- ")[1:] {
		_, rest, _ := strings.Cut(part, " --\n")
		text, _, _ := strings.Cut(rest, "->\n")
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := ParseGroup(data)
		if err != nil || Check(d, testChecks()) != nil {
			return
		}
		text, err := Encode(&d.Group)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseGroup(text)
		if err == nil {
			err = Check(again, testChecks())
		}
		if err != nil || !reflect.DeepEqual(normal(again.Group), normal(d.Group)) {
			t.Fatalf("%+v was encoded as\n%s\nand parsed as %+v, %v", d.Group, text, again, err)
		}
	})
}

// normal returns a group without the difference between empty and absent maps and lists.
func normal(g Group) Group {
	if len(g.Labels) == 0 {
		g.Labels = nil
	}
	if len(g.SourceTenants) == 0 {
		g.SourceTenants = nil
	}
	for i := range g.Rules {
		if len(g.Rules[i].Labels) == 0 {
			g.Rules[i].Labels = nil
		}
		if len(g.Rules[i].Annotations) == 0 {
			g.Rules[i].Annotations = nil
		}
	}
	return g
}

// FuzzParseFile checks that groups of a file can be encoded.
func FuzzParseFile(f *testing.F) {
	f.Add([]byte("namespace: n\ngroups:\n- name: a\n  rules: [{record: r, expr: up}]\n---\ngroups: [{name: b}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		namespaces, err := ParseFile(data)
		if err != nil {
			return
		}
		for _, n := range namespaces {
			for i := range n.Groups {
				if _, err := Encode(&n.Groups[i].Group); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}
