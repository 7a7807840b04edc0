package tenantconfig

import (
	"fmt"
	"strings"
	"testing"
)

// expensive returns configurations of about a megabyte whose check takes much work.
func expensive() map[string]string {
	routes := func(one string, n int) string {
		return "route:\n  receiver: a\n  routes:\n" + strings.Repeat(one, n) + "receivers: [{name: a}]\n"
	}
	const receiver = "route: {receiver: a}\nreceivers:\n- name: a\n"
	var keys, names, unknown strings.Builder
	for i := range 80_000 {
		fmt.Fprintf(&keys, "k%d: 1, ", i)
	}
	for i := range 990 {
		fmt.Fprintf(&names, "- name: %s%d\n", strings.Repeat("r", 64), i)
	}
	fields100 := ""
	for i := range 100 {
		fields100 += fmt.Sprintf("a%d: ", i)
	}
	for range 1100 {
		fmt.Fprintf(&unknown, "  - {%s}\n", strings.Join(strings.Fields(fields100), " 1, ")+" 1")
	}
	return map[string]string{
		"routes":          routes("  - {matchers: ['a=~\"b|c\"', 'd!=e'], group_by: [a, b], group_wait: 1m, repeat_interval: 2h}\n", 1999),
		"slack":           receiver + "  slack_configs:\n" + strings.Repeat("  - {api_url: 'https://hooks.slack.com/x', channel: '{{ .Status }}'}\n", 2000),
		"undefined names": strings.Replace(routes("  - receiver: "+strings.Repeat("s", 64)+"\n", 1999), "receivers: [{name: a}]\n", "receivers:\n- name: a\n"+names.String(), 1),
		"unknown fields":  receiver + "  slack_configs:\n" + unknown.String(),
		"keys":            receiver + "  webhook_configs: [{url: 'http://x/', payload: {" + keys.String() + "}}]\n",
		"payload": receiver + "  webhook_configs:\n  - url: http://x/\n    payload: " + strings.Repeat("{"+strings.Repeat("k", 100)+": ", 90) +
			"[" + strings.Repeat("{a: b},", 60_000) + "]" + strings.Repeat("}", 90) + "\n",
		"names of labels": "route: {receiver: a, group_by: [" + strings.Repeat("ä, ", 100_000) + "]}\nreceivers: [{name: a}]",
		"matchers":        "route: {receiver: a, routes: [{matchers: ['" + strings.Repeat("a=~b,", 100_000) + "']}]}\nreceivers: [{name: a}]",
		"matcher lines":   "route: {receiver: a, routes: [{matchers: [" + strings.Repeat("a=b,", 100_000) + "]}]}\nreceivers: [{name: a}]",
		"no smarthost":    "route: {receiver: r0}\nreceivers:\n" + strings.ReplaceAll(names.String(), "\n", "\n  webhook_configs: [{url: 'http://x/'}]\n") + "- {name: r0, email_configs: [{to: a@b}]}\n",
		"aliases":         "route: &r {receiver: a, routes: [&a {group_by: [a,b,c,d,e,f,g,h]}" + strings.Repeat(", *a", 200_000) + "]}\nreceivers: [{name: a}]",
	}
}

// BenchmarkCheck measures the cost of checking large configurations.
func BenchmarkCheck(b *testing.B) {
	for name, text := range expensive() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var err error
			for b.Loop() {
				_, err = Check(Document{Config: text}, Options{Limits: Defaults()})
			}
			if err != nil && b.N == 1 {
				b.Logf("%d bytes: %.150s", len(text), err)
			}
		})
	}
}
