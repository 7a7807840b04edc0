package tenantconfig

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/alertmanager/matcher/compat"
	"github.com/prometheus/alertmanager/pkg/labels"
	"github.com/prometheus/common/promslog"
	"go.yaml.in/yaml/v3"

	"github.com/palliumhq/pallium/backend/regexsize"
)

// TestAmounts checks the limits of configurations that become large although their text is short.
func TestAmounts(t *testing.T) {
	slack := func(n int) string {
		return "route: {receiver: a}\nreceivers:\n- name: a\n  slack_configs:\n" + strings.Repeat("  - {api_url: 'http://x/', channel: c}\n", n)
	}
	httpConfig := func(inner string) string { return "global: {http_config: {" + inner + "}}\n" }
	labels := func(from, n int) string {
		var out strings.Builder
		for i := range n {
			fmt.Fprintf(&out, "l%d: x, ", from+i)
		}
		return "labels: {" + out.String() + "}"
	}
	const (
		end        = "}\nreceivers: [{name: a}]"
		clients    = "the settings of HTTP clients and TLS of all integrations have more than 16777216 bytes together"
		references = "\n  webhook_configs: [{url: 'http://x/', http_config: {http_headers: {X: {secrets: ["
	)
	secrets := map[string]string{"s": strings.Repeat("x", 16<<10)}
	many := func(s string, n int) string { return strings.Repeat(s+", ", n) }
	for name, tt := range map[string]struct{ config, want string }{
		"client settings": {httpConfig("tls_config: {ca: '"+strings.Repeat("x", 8000)+"'}") + slack(1900), ""},
		"inherited certificates": {httpConfig("tls_config: {ca: '"+strings.Repeat("x", 9000)+"'}") + slack(1900),
			"http_config: " + clients},
		"inherited headers": {httpConfig("http_headers: {X: {secrets: ["+many("x", 600)+"]}}") + slack(1900), clients},
		"inherited OAuth2": {httpConfig("oauth2: {client_id: a, client_secret: b, token_url: 'http://x', tls_config: {ca: '"+strings.Repeat("x", 9000)+"'}}") +
			slack(1900), clients},
		"certificates of mail": {"global: {smtp_smarthost: 'x:25', smtp_from: a, smtp_tls_config: {ca: '" + strings.Repeat("x", 9000) + "'}}\n" +
			"route: {receiver: a}\nreceivers:\n- name: a\n  email_configs:\n" + strings.Repeat("  - {to: b}\n", 1900), clients},
		"references": {"route: {receiver: a}\nreceivers:\n- name: a" + references + many("secret://s", 256) + "]}}}}]", ""},
		"many references": {"route: {receiver: a}\nreceivers:\n- name: a" + references + many("secret://s", 257) + "]}}}}]",
			"http_headers.X.secrets[256]: the values of all secrets have more than 4194304 bytes together"},
		"names":            {"route: {receiver: a, group_by: [" + many("n", 257) + "]" + end, "route.group_by: the list has 257 names of labels, the limit is 256"},
		"names in rules":   {"route: {receiver: a" + end + "\ninhibit_rules: [{equal: [" + many("n", 257) + "]}]", "inhibit_rules[0].equal: the list has 257"},
		"inherited labels": {"route: {receiver: a, " + labels(0, 100) + ", routes: [" + many("{"+labels(100, 1)+"}", 98) + "]" + end, ""},
		"many inherited labels": {"route: {receiver: a, " + labels(0, 100) + ", routes: [" + many("{"+labels(100, 1)+"}", 99) + "]" + end,
			"route.routes[98].labels: the routes have more than 10000 labels together"},
		"matchers": {"route: {receiver: a, routes: [" + many("{matchers: ['"+strings.Repeat("a=b,", 99)+"a=b']}", 100) + "]" + end, ""},
		"many matchers": {"route: {receiver: a, routes: [" + many("{matchers: ['"+strings.Repeat("a=b,", 99)+"a=b']}", 100) + "{match: {a: b}}]" + end,
			"route.routes[100]: the routes and inhibition rules have more than 10000 matchers together"},
		"many matchers of rules": {"route: {receiver: a" + end + "\ninhibit_rules: [" +
			many("{source_matchers: ['"+strings.Repeat("a=b,", 99)+"a=b'], target_matchers: [a=b], target_match_re: {a: b}}", 100) + "]",
			"inhibit_rules[98]: the routes and inhibition rules have more than 10000 matchers together"},
		"matchers of parents": {"route: {receiver: a, routes: [{matchers: ['a=" + strings.Repeat("b", 9000) + "'], routes: [{match: {a: " +
			strings.Repeat("b", 9000) + "}}]}]" + end, "route.routes[0].routes[0]: the matchers of the route and its parents have 18010 bytes together"},
		"time ranges": {"route: {receiver: a" + end + "\ntime_intervals: [{name: x, time_intervals: [" + many("{location: UTC}", 2001) + "]}]",
			"time_intervals[0].time_intervals[2000]: there are more than 2000 items of time intervals"},
		"time interval twice": {"route: {receiver: a, routes: [{mute_time_intervals: [x, x]}]" + end + "\ntime_intervals: [{name: x}]",
			`route.routes[0].mute_time_intervals[1]: the time interval "x" is in the list twice`},
	} {
		c, err := Check(Document{Config: tt.config}, Options{Limits: Defaults()})
		if err == nil {
			_, err = c.Resolve(secrets)
		}
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %.400v, want %q", name, err, tt.want)
		}
	}
}

// TestFirstBad checks that the receiver with an error is found with few decoding attempts, because each attempt also decodes
// the global settings.
func TestFirstBad(t *testing.T) {
	for _, bad := range []int{0, 1, 499, 999, 1000} {
		attempts := 0
		i, err := firstBad(make([]*yaml.Node, 1000), func(some []*yaml.Node) error {
			attempts++
			if len(some) > bad {
				return errors.New("bad")
			}
			return nil
		})
		if i != bad || (err == nil) != (bad == 1000) || attempts > 10 {
			t.Errorf("%d, %v after %d attempts, want %d", i, err, attempts, bad)
		}
	}
}

// FuzzMatchers checks that every regular expression is counted before it is compiled: the parsers must find the same patterns
// in a line whose operators were replaced.
func FuzzMatchers(f *testing.F) {
	for _, line := range []string{`a=~"x{900}"`, `{a=~"\u0078{900}",b!~y{900}}`, `a="\,",b=~"x{900}"`, `a=~"\"x{900}",b=c`, `"a=~b"=~"x{900}"`,
		`a=\"b=~x{900}`, `a=~=~x{900}`, "a=~'x{900}'", "a=~`x{900}`"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		for name, parser := range map[string]compat.ParseMatchers{
			"UTF-8": compat.UTF8MatchersParser(promslog.NewNopLogger()), "classic": compat.ClassicMatchersParser(promslog.NewNopLogger()),
		} {
			c := newChecker(Document{}, Options{Limits: Limits{Instructions: 1000}}, nil)
			found, err := c.parse(parser, line, "", nil)
			if err != nil || c.problems.count() > 0 {
				continue
			}
			size := 0
			for _, m := range found {
				if m.Type == labels.MatchRegexp || m.Type == labels.MatchNotRegexp {
					n, err := regexsize.Pattern(m.Value, 100_000)
					if err != nil {
						t.Fatalf("%s: %q: %v", name, line, err)
					}
					size += n
				}
			}
			if size > c.instructions+len(line) {
				t.Fatalf("%s: the regular expressions of %q have %d instructions, and %d were counted", name, line, size, c.instructions)
			}
		}
	})
}
