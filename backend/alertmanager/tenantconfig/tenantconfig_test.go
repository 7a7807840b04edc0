package tenantconfig

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/matcher/compat"
)

const minimal = "route: {receiver: a}\nreceivers: [{name: a}]\n"

// TestSizes checks limits with texts that are too large for testdata.
func TestSizes(t *testing.T) {
	deep := func(n int) string {
		return "route: {receiver: a, " + strings.Repeat("routes: [{", n) + strings.Repeat("}]", n) + "}\nreceivers: [{name: a}]"
	}
	unlimited := Defaults()
	unlimited.RouteDepth, unlimited.Routes = 0, 0
	many := map[string]string{}
	for i := range 101 {
		many[fmt.Sprintf("%d.tmpl", i)] = ""
	}
	for name, tt := range map[string]struct {
		document Document
		limits   Limits
		want     string
	}{
		"bytes":         {Document{Config: minimal + strings.Repeat("#", 1<<20)}, Defaults(), "the limit is 1048576"},
		"deep routes":   {Document{Config: deep(2000)}, unlimited, "values are nested more than 100 levels deep"},
		"deeper routes": {Document{Config: deep(10_000)}, unlimited, "exceeded max depth"},
		"deep lists":    {Document{Config: "a: " + strings.Repeat("[", 9000) + strings.Repeat("]", 9000)}, Limits{}, "values are nested more than 100 levels deep"},
		"deeper lists":  {Document{Config: "a: " + strings.Repeat("[", 90_000)}, Limits{}, "YAML"},
		"block lists":   {Document{Config: "a:\n" + strings.Repeat("- ", 9000) + "b"}, Limits{}, "values are nested more than 100 levels deep"},
		"deep payload":  {Document{Config: "route: {receiver: a}\nreceivers: [{name: a, webhook_configs: [{url: 'http://x/', payload: " + strings.Repeat("{a: ", 97) + strings.Repeat("}", 97) + "}]}]"}, Limits{}, "nested"},
		"many values":   {Document{Config: "a: [" + strings.Repeat("a,", 100_000) + "]"}, Limits{}, "very many values"},
		"templates":     {Document{Config: minimal, Templates: many}, Defaults(), "there are 101 template files, the limit is 100"},
		"template":      {Document{Config: minimal, Templates: map[string]string{"a": strings.Repeat("a", 256<<10+1)}}, Defaults(), "has 262145 bytes, the limit is 262144"},
		"long name":     {Document{Config: minimal, Templates: map[string]string{strings.Repeat("a", 256): ""}}, Limits{}, "the name has 256 bytes, the limit is 255"},
		"path":          {Document{Config: minimal, Templates: map[string]string{"../../etc/passwd": ""}}, Limits{}, `must not contain a path: use "passwd"`},
		"windows path":  {Document{Config: minimal, Templates: map[string]string{`..\a`: ""}}, Limits{}, `must not contain a path: use "a"`},
		"parent":        {Document{Config: minimal, Templates: map[string]string{`..`: ""}}, Limits{}, `must not contain a path`},
		"no name":       {Document{Config: minimal, Templates: map[string]string{"": ""}}, Limits{}, `needs a name`},
		"pattern":       {Document{Config: minimal, Templates: map[string]string{"*.tmpl": ""}}, Limits{}, `must not contain the characters`},
		"control":       {Document{Config: minimal, Templates: map[string]string{"a\nb": ""}}, Limits{}, `control characters`},
		"invalid UTF-8": {Document{Config: minimal + "# \xff"}, Limits{}, "not valid UTF-8"},
	} {
		o := scriptOptions()
		o.Limits = tt.limits
		if _, err := Check(tt.document, o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %.300v", name, err)
		}
	}
}

// TestProblems checks that an error lists at most 20 problems, each of limited length.
func TestProblems(t *testing.T) {
	_, err := Check(Document{Config: minimal + strings.Repeat("x", 1000) + ": 1\n" +
		"global: {" + strings.Repeat("a", 50) + ": 1}\ntime_intervals: [" + strings.Repeat("{x: 1}, ", 30) + "]"}, Options{})
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != maxProblems+1 || lines[maxProblems] != "and 12 more problems" {
		t.Errorf("%d lines, the last is %q", len(lines), lines[len(lines)-1])
	}
	if len(err.Error()) > (maxProblems+1)*(maxProblemBytes+200) {
		t.Errorf("the error has %d bytes", len(err.Error()))
	}
}

func TestParseDocument(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "the body must be YAML with the fields template_files",
		"null":                               "the body must be YAML",
		"[a]":                                "the body must be YAML",
		"alertmanager_config: [a]":           "alertmanager_config: line 1: found a list where a text is expected",
		"alertmanager_config: {route: {}}":   "found a mapping where a text is expected",
		"alertmanager_config: !!binary YQ==": "found the YAML tag !!binary",
		"alertmanager_config: a\nalertmanager_config: b": `line 2: the field "alertmanager_config" appears twice`,
		"template_files: {a: b, a: c}":                   `the name "a" appears twice`,
		"template_files: {a: [b]}":                       `template_files["a"]: line 1: found a list where a text is expected`,
		"template_files: {[a]: b}":                       `name of a template file: line 1: found a list`,
		"template_files: [a]":                            `template_files: line 1: found a list where a mapping`,
		"template_files: {a: &x b, c: *x}":               "found an alias (*x) where a text is expected",
		"alertmanager_configs: a":                        `line 1: unknown field "alertmanager_configs"`,
		"a: b\n---\nc: d":                                "more than one YAML document",
		"\xff":                                           "not valid UTF-8",
	} {
		if _, err := ParseDocument([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	d, err := ParseDocument([]byte("template_files:\n  a.tmpl: |-\n    {{ define \"a\" }}\n    x{{ end }}\n  b.tmpl: 5\nalertmanager_config: |\n  route:\n    receiver: a\n"))
	want := Document{Templates: map[string]string{"a.tmpl": "{{ define \"a\" }}\nx{{ end }}", "b.tmpl": "5"}, Config: "route:\n  receiver: a\n"}
	if err != nil || !reflect.DeepEqual(d, want) {
		t.Errorf("%+v, %v", d, err)
	}
	const encoded = "template_files:\n    \"a.tmpl\": |-\n        {{ define \"a\" }}\n        x{{ end }}\n    \"b.tmpl\": \"5\"\n" +
		"\"alertmanager_config\": |\n    route:\n      receiver: a\n"
	if got := strings.ReplaceAll(string(d.YAML()), "\"template_files\"", "template_files"); got != encoded {
		t.Errorf("%s", got)
	}
}

// TestDocumentTexts checks that texts do not change when a document is encoded and decoded.
func TestDocumentTexts(t *testing.T) {
	for _, s := range []string{"", "a", "a\n", "\na\n", "a\n\n", "  a\nb", "a \nb", "\ta\n", "a\r\nb\r\n", "a\u2028b\n", "\u0085", "# a\n", "- a", "yes", "null", "~",
		"{{ x }}", "'a'\n\"b\"", "\ufeffa\n", "\x00\x01\n", "a: b\n  c", "é🙂\n", "...\n---\n", "|\n", "a\n \n  \n"} {
		d := Document{Templates: map[string]string{s: s, "b": s}, Config: s}
		back, err := ParseDocument(d.YAML())
		if err != nil || !reflect.DeepEqual(back, d) {
			t.Errorf("%q was encoded as\n%s\nand decoded as %+v, %v", s, d.YAML(), back, err)
		}
	}
}

func TestResolve(t *testing.T) {
	const text = `
global: {smtp_smarthost: 'mail.example.com:25', smtp_from: a@b.c, smtp_auth_username: u, smtp_auth_password: secret://mail}
route: {receiver: a}
receivers:
- name: a
  slack_configs: [{api_url: secret://hook, channel: c}, {api_url: secret://hook, channel: d}]
  webhook_configs: [{url: secret://hook}]
  opsgenie_configs: [{api_key: secret://key}]
  email_configs: [{to: x@y.z}]
`
	c, err := Check(Document{Config: text}, scriptOptions())
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.Secrets, " "); got != "hook key mail" {
		t.Errorf("secrets are %s", got)
	}
	values := map[string]string{"hook": "https://hidden.example.com/x", "key": "hidden", "mail": "hid{{den", "unused": ""}
	cfg, err := c.Resolve(values)
	if err != nil {
		t.Fatal(err)
	}
	r := cfg.Receivers[0]
	for got, want := range map[string]string{
		r.SlackConfigs[1].APIURL.String():                     values["hook"],
		string(r.WebhookConfigs[0].URL):                       values["hook"],
		string(r.OpsGenieConfigs[0].APIKey):                   "hidden",
		string(r.EmailConfigs[0].AuthPassword):                "hid{{den",
		c.Config.Receivers[0].SlackConfigs[0].APIURL.String(): "secret://hook",
		string(c.Config.Receivers[0].WebhookConfigs[0].URL):   "secret://hook",
		r.SlackConfigs[0].Title:                               `<{{ template "slack.default.title" . }}>`,
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if strings.Contains(cfg.String(), "hid") {
		t.Errorf("a secret is shown: %s", cfg)
	}
	for name, tt := range map[string]struct{ secret, value, want string }{
		"missing":     {"key", "-", `the configuration uses the secret "key", which does not exist`},
		"no URL":      {"hook", "hidden", `receivers[0].slack_configs[0].api_url: the value of the secret "hook" is not a valid URL of http or https`},
		"file":        {"hook", "file:///hidden", `is not a valid URL`},
		"broken URL":  {"hook", "https://hidden\x7f", `is not a valid URL`},
		"template":    {"hook", "https://hidden/{{ .Status }}", `contains {{`},
		"executed":    {"key", "hidden{{ .Status }}", `opsgenie_configs[0].api_key: the value of the secret "key" contains {{`},
		"empty":       {"mail", "", `the secret "mail" has no value`},
		"binary":      {"mail", "hidden\xff", `the value of the secret "mail" is not valid UTF-8`},
		"placeholder": {"hook", "<secret>", `the secret "hook" has no value`},
	} {
		changed := map[string]string{"hook": values["hook"], "key": values["key"], "mail": values["mail"], tt.secret: tt.value}
		if tt.value == "-" {
			delete(changed, tt.secret)
		}
		_, err := c.Resolve(changed)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFallback(t *testing.T) {
	f := Fallback()
	checked, err := Check(f.document, Options{Limits: Defaults()})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := unhidden(f.Config), unhidden(checked.Config); got != want {
		t.Errorf("the fallback differs from its text: %s", difference(got, want))
	}
	if cfg, err := f.Resolve(nil); err != nil || cfg.Route.Receiver != "none" {
		t.Errorf("%v, %v", cfg, err)
	}
}

// TestMatchers checks which parser is used for matchers, independent of the global setting of the process.
func TestMatchers(t *testing.T) {
	if compat.IsValidLabelName("ä") {
		t.Fatal("the process uses the UTF-8 parser, so the test checks nothing")
	}
	for matcher, want := range map[string]string{
		`ä=b`:              `ä="b"`,
		`a=b c`:            `a="b c"`,
		`a="\u0062"`:       `a="\\u0062"`,
		`a=~"x|y"`:         `a=~"x|y"`,
		`a!~"x|y"`:         `a!~"x|y"`,
		`"a=~b"=~"c=~\"d"`: `"a=~b"=~"c=~\"d"`,
	} {
		c, err := Check(Document{Config: "route: {receiver: a, routes: [{matchers: ['" + matcher + "']}]}\nreceivers: [{name: a}]"},
			Options{Limits: Defaults()})
		if err != nil {
			t.Errorf("%s: %v", matcher, err)
			continue
		}
		if got := c.Config.Route.Routes[0].Matchers[0].String(); got != want {
			t.Errorf("%s: %s, want %s", matcher, got, want)
		}
	}
}

func FuzzParseDocument(f *testing.F) {
	f.Add([]byte("template_files: {a.tmpl: x}\nalertmanager_config: |\n  route: {receiver: a}\n"))
	f.Add([]byte("template_files:\n  a: >\n    x\n\n   y\nalertmanager_config: &a !x 'b'"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := ParseDocument(data)
		if err != nil {
			return
		}
		back, err := ParseDocument(d.YAML())
		if err != nil || !reflect.DeepEqual(back, d) {
			t.Fatalf("%q was encoded as %q and decoded as %+v, %v", d, d.YAML(), back, err)
		}
	})
}

// FuzzCheck checks that Check does not panic, and that configurations that it accepts have no forbidden field. It determines
// forbidden fields by their names instead of the table.
func FuzzCheck(f *testing.F) {
	for _, file := range []string{"testdata/good.txt", "testdata/bad.txt"} {
		for _, c := range script(f, file) {
			f.Add(c.text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Check(scriptDocument(text), scriptOptions())
		if err != nil {
			return
		}
		if found := open(reflect.ValueOf(c.Config).Elem(), "", "config"); found != "" {
			t.Fatalf("%s is set", found)
		}
		values := map[string]string{}
		for _, name := range c.Secrets {
			values[name] = "https://example.com/" + name
		}
		cfg, err := c.Resolve(values)
		if err != nil {
			return // for example, the names of two secrets in fields of which only one may be set
		}
		if found := open(reflect.ValueOf(cfg).Elem(), "", "config"); found != "" {
			t.Fatalf("%s is set after secrets are resolved", found)
		}
	})
}

// open returns the path of a field that is set but that a tenant must not set according to its Go name, or "".
func open(x reflect.Value, name, path string) string {
	forbidden := strings.HasSuffix(name, "File") || strings.HasSuffix(name, "Files") || strings.HasSuffix(name, "Ref") ||
		strings.HasPrefix(name, "Proxy") && name != "ProxyConfig" || name == "NoProxy" || name == "Profile" || name == "UseAWSHTTPClient" ||
		name == "EventRecorder" || name == "TracingConfig"
	if forbidden && !x.IsZero() {
		return path
	}
	switch x.Kind() {
	case reflect.Pointer:
		if !x.IsNil() && !strings.HasPrefix(x.Type().Elem().PkgPath(), "regexp") && x.Type().Elem().PkgPath() != "time" {
			return open(x.Elem(), "", path)
		}
	case reflect.Struct:
		for i := range x.NumField() {
			if f := x.Type().Field(i); f.IsExported() {
				if found := open(x.Field(i), f.Name, path+"."+f.Name); found != "" {
					return found
				}
			}
		}
	case reflect.Slice:
		for i := range x.Len() {
			if found := open(x.Index(i), "", fmt.Sprintf("%s[%d]", path, i)); found != "" {
				return found
			}
		}
	case reflect.Map:
		for _, k := range x.MapKeys() {
			if found := open(x.MapIndex(k), "", fmt.Sprintf("%s[%v]", path, k)); found != "" {
				return found
			}
		}
	}
	return ""
}

// TestOpen checks that open, which FuzzCheck uses, finds forbidden fields.
func TestOpen(t *testing.T) {
	n := 0
	for _, c := range script(t, "testdata/bad.txt") {
		if !strings.Contains(c.want, "not allowed: put") && !strings.Contains(c.want, "proxies") {
			continue
		}
		cfg, err := config.Load(c.text)
		if err != nil {
			continue
		}
		n++
		if open(reflect.ValueOf(cfg).Elem(), "", "config") == "" {
			t.Errorf("%s: no forbidden field was found", c.name)
		}
	}
	if n < 40 {
		t.Errorf("only %d configurations were checked", n)
	}
}
