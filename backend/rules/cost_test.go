package rules

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/policies/limits"
)

func defaultChecks() Checks {
	lim := limits.Default()
	return Checks{Parser: parser.NewParser(parser.Options{}), Limits: &lim, Tenant: "team"}
}

// TestLargeYAML checks that a small text with aliases or many values is rejected before decoding, which would take minutes or
// much memory.
func TestLargeYAML(t *testing.T) {
	const expanded = "aliases (*name) are expanded"
	repeat := func(first, format string, n int) string {
		var b strings.Builder
		b.WriteString(first)
		for i := range n {
			fmt.Fprintf(&b, format, i, i+1)
		}
		return b.String()
	}
	for _, c := range []struct{ what, rules, want string }{
		{"long texts", repeat("- {record: &x '"+strings.Repeat("x", 60_000)+"'}\n", "- {record: *x, expr: '%d%d'}\n", 1500), expanded},
		{"long lists", repeat("- {record: &x ["+strings.Repeat("x,", 20_000)+"]}\n", "- {record: *x, expr: '%d%d'}\n", 1500), expanded},
		{"rules", repeat("- &x {record: "+strings.Repeat("x", 1000)+"}\n", "- *x # %d %d\n", 1500), expanded},
		{"merged mappings", repeat("- labels: &x {"+repeat("", "a%d%d: '',", 200)+"}\n", "- labels: {<<: *x} # %d %d\n", 1500), expanded},
		{"texts as keys", repeat("- {record: &x "+strings.Repeat("x", 1000)+"}\n", "- labels: {*x : '%d%d'}\n", 1500), expanded},
		{"doubled lists", repeat("- labels:\n  - &l0 [x]\n", "  - &l%[2]d [*l%[1]d, *l%[1]d]\n", 200), expanded},
		{"many labels", "- labels: {" + repeat("", "a%d%d: '',", 20_000) + "}\n", "line 3: a mapping has more than 256 keys"},
		{"many rules", strings.Repeat("- {}\n", maxRules+1), "the group has 10001 rules, the limit is 10000"},
		{"many values", "- [" + strings.Repeat("[],", 200_000) + "]\n", "values, the limit is 131072"},
		{"repeated keys", "- labels: &x {" + strings.Repeat("'': '',", 250) + "}\n" + strings.Repeat("- labels: {<<: *x}\n", 1500), "mapping key \"\" already defined"},
		{"large text", "- {record: &x a, expr: *x, labels: {a: '" + strings.Repeat("x", 1_000_000) + "'}}\n", ""},
		{"many labels in each rule", strings.Repeat("- labels: {"+repeat("", "a%d%d: '',", 250)+"}\n", 30), ""},
	} {
		_, err := ParseGroup([]byte("name: g\nrules:\n" + c.rules))
		if err == nil && c.want != "" || err != nil && (c.want == "" || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %.300v, want %s", c.what, err, c.want)
		}
		if c.what == "long texts" || c.what == "many labels" {
			_, err := ParseFile([]byte("groups:\n- name: g\n  rules:\n  " + strings.ReplaceAll(c.rules, "\n", "\n  ")))
			if err == nil || !strings.Contains(err.Error(), strings.TrimPrefix(c.want, "line 3: ")) {
				t.Errorf("file with %s: %.300v, want %s", c.what, err, c.want)
			}
		}
	}
}

// TestExpensiveTemplates checks that templates are rejected if their expansion for one alert takes much time or memory.
func TestExpensiveTemplates(t *testing.T) {
	const pattern = "(a|a){1,900}b"
	text := strings.Repeat("a", 40_000)
	for _, tmpl := range []string{
		"{{match `(` $labels.a}}",
		"{{match `" + pattern + "` `" + text + "`}}",
		"{{range query `up`}}{{match `" + pattern + "` `" + text + "`}}{{end}}",
		"{{match `(a|bc){1,300}d` `" + text[:4000] + "`}}",
		strings.Repeat("{{match `(a|bc){1,100}d` `"+text[:500]+"`}}", 20),
		"{{reReplaceAll `a(.*b)?` `x` `" + text[:4000] + "`}}", // takes time proportional to the square of the text
		"{{reReplaceAll `a|a.*b` `x` `" + text[:4000] + "`}}",
		"{{reReplaceAll `a` `" + text[:1000] + "` `" + text[:1000] + "`}}",
		"{{range query `up`}}" + strings.Repeat("{{range .Labels}}{{range $labels}}{{end}}{{end}}", 1000) + "{{end}}",
		"{{$q := query `up`}}" + strings.Repeat("{{range $q}}{{range .Labels}}{{range $labels}}{{end}}{{end}}{{end}}", 1000),
		strings.Repeat("{{range $labels}}{{range $labels}}{{range $labels}}{{end}}{{end}}{{end}}", 10),
		"{{range query `up`}}{{range query `up`}}" + strings.Repeat("{{toUpper `"+text[:100]+"`}}", 10) + "{{end}}{{end}}",
		"{{range query `up`}}" + strings.Repeat("{{.Labels.a}}", 100) + "{{end}}",
		strings.Repeat("{{$labels}}", 20),
		strings.Repeat("{{$labels.a}}", 500),
		strings.Repeat("{{query `up`}}", 5),
		strings.Repeat("{{query `up` | first}}", 100),
		"{{.}}{{.}}{{.}}{{.}}{{.}}{{.}}{{.}}",
		"{{$x := printf `%s%s%s` $labels.a $labels.b $labels.c}}{{$y := printf `%s%s%s` $x $x $x}}{{printf `%s%s` $y $y}}",
	} {
		if _, err := checkTemplate(tmpl); err == nil {
			t.Errorf("accepted: %.100s", tmpl)
		}
	}
}

// TestMixins checks that the templates of widely used rules are accepted, and are cheap enough for thousands of alerts.
func TestMixins(t *testing.T) {
	for _, tmpl := range []string{
		`Pod {{ $labels.namespace }}/{{ $labels.pod }} ({{ $labels.container }}) is in waiting state (reason: "CrashLoopBackOff") on cluster {{ $labels.cluster }}.`,
		`Deployment {{ $labels.namespace }}/{{ $labels.deployment }} has not matched the expected number of replicas for longer than 15 minutes.`,
		`{{ $value | humanizePercentage }} throttling of CPU in namespace {{ $labels.namespace }} for container {{ $labels.container }} in pod {{ $labels.pod }}.`,
		`Filesystem on {{ $labels.device }}, mounted on {{ $labels.mountpoint }}, at {{ $labels.instance }} has only {{ printf "%.2f" $value }}% available space left.`,
		"Host out of memory (instance {{ $labels.instance }})\n  VALUE = {{ $value }}\n  LABELS = {{ $labels }}",
		`{{ index $labels "app.kubernetes.io/name" }} of {{ .Labels.instance }} is {{ .Value }}, see {{ $externalURL }}/x?y={{ $labels.job | urlquery }}`,
		`{{ with query "node_filesystem_avail_bytes{instance='%s'}" }}{{ . | first | value | humanize1024 }}B{{ end }}`,
		`{{ with printf "node_load1{instance=%q}" $labels.instance | query }}{{ . | first | value | printf "%.1f" }}{{ end }}`,
		`{{ range query "topk(5, up)" }}{{ .Labels.instance }}/{{ .Labels.job }}: {{ .Value | humanizeDuration }}, {{ end }}`,
		`{{ reReplaceAll "(.*):.*" "$1" $labels.instance }} {{ reReplaceAll "(.+?)(:\\d+)?$" "$1" $labels.instance }} {{ reReplaceAll "https?://([^/]+).*" "$1" $labels.url }}`,
		`{{ if eq $labels.severity "critical" }}page{{ else if match "^(dev|test)-.*" $labels.cluster }}none{{ else }}ticket{{ end }}`,
		`{{ $labels.instance | title }} since {{ $value | humanizeTimestamp }} {{ (query "up" | first).Labels.job }} {{ stripPort $labels.instance }} {{ $labels.a | toUpper }}`,
	} {
		c, err := checkTemplate(tmpl)
		if err != nil || c.bytes > 8000 || c.steps > 25_000 {
			t.Errorf("%s: %+v, %v", tmpl, c, err)
		}
	}
	for _, file := range []string{"../../deploy/prometheus/pallium.rules.yaml", "unittest/testdata/rules.yaml"} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		namespaces, err := ParseFile(data)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range namespaces[0].Groups {
			for i := range g.Rules {
				if bytes, steps := Cost(g.Labels, &g.Rules[i]); bytes > 6000 || steps > 5000 {
					t.Errorf("%s, %s: %d bytes, %d steps", file, g.Rules[i].Alert, bytes, steps)
				}
			}
		}
	}
}

// TestCost checks the parts of a rule on which its cost depends.
func TestCost(t *testing.T) {
	alert := func(annotations ...string) *rulefmt.Rule {
		r := &rulefmt.Rule{Alert: "A", Expr: "up", Annotations: map[string]string{}, Labels: map[string]string{"l": "v"}}
		for i, a := range annotations {
			r.Annotations[fmt.Sprint("a", i)] = a
		}
		return r
	}
	group := map[string]string{"l": strings.Repeat("x", 100), "m": strings.Repeat("x", 100)}
	for _, c := range []struct {
		what         string
		group        map[string]string
		rule         *rulefmt.Rule
		bytes, steps [2]int64 // minimum and maximum
	}{
		{"recording rule", group, &rulefmt.Rule{Record: "a", Labels: map[string]string{"a": "{{ range 1 }}{{ end }}"}}, [2]int64{}, [2]int64{}},
		{"without annotations", nil, alert(), [2]int64{2, 2}, [2]int64{200, 400}},
		{"labels of the group", group, alert(), [2]int64{103, 103}, [2]int64{400, 800}},
		{"value of a label", nil, alert("{{ $labels.a }}"), [2]int64{132, 132}, [2]int64{500, 1000}},
		{"two annotations", nil, alert("{{ $labels.a }}", "{{ $labels.a }}"), [2]int64{262, 262}, [2]int64{800, 1500}},
		{"results of a query", nil, alert("{{ range query `a` }}{{ .Value }}{{ end }}"), [2]int64{2404, 2404}, [2]int64{4000, 6000}},
		{"rejected template", nil, alert("{{ range 1 }}{{ end }}"), [2]int64{1 << 30, 1 << 31}, [2]int64{1 << 30, 1 << 31}},
	} {
		bytes, steps := Cost(c.group, c.rule)
		if bytes < c.bytes[0] || bytes > c.bytes[1] || steps < c.steps[0] || steps > c.steps[1] {
			t.Errorf("%s: %d bytes and %d steps, want %v and %v", c.what, bytes, steps, c.bytes, c.steps)
		}
	}
}

// TestMinInterval checks that the interval of a group, also the default one, is not shorter than the limit.
func TestMinInterval(t *testing.T) {
	for text, want := range map[string]string{
		"":               "field interval is missing: the limit min_rule_interval is 5m, and the default interval is 1m",
		"interval: 0s":   "field interval is missing",
		"interval: 1m":   "min_rule_interval is 5m, and the interval is 1m",
		"interval: 5m":   "",
		"interval: soon": "not a valid duration",
	} {
		c := defaultChecks()
		c.Limits.MinRuleInterval = limits.Default().MinRuleInterval * 60
		d, err := ParseGroup([]byte("name: g\nrules: [{record: r, expr: vector(1)}]\n" + text))
		if err != nil {
			t.Fatal(err)
		}
		err = Check(d, c)
		if err == nil && want != "" || err != nil && (want == "" || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}
