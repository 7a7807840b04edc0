package tenantconfig

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/alertmanager/config"
	commoncfg "github.com/prometheus/common/config"
)

// TestGood checks the warnings and secrets of the configurations in testdata/good.txt, that templates
// are rewritten, and that secrets are resolved.
func TestGood(t *testing.T) {
	covered := map[string]bool{}
	run(t, "testdata/good.txt", 25, func(text string) string {
		c, err := Check(scriptDocument(text), scriptOptions())
		if err != nil {
			return "error: " + err.Error()
		}
		out := "ok\n"
		if len(c.Secrets) > 0 {
			out += "secrets: " + strings.Join(c.Secrets, " ") + "\n"
		}
		for _, w := range c.Warnings {
			out += "warning: " + w + "\n"
		}
		integrations(c.Config, covered)
		eachString(reflect.ValueOf(c.Config).Elem(), "", func(path, s string) {
			if strings.Contains(s, "{{") && !strings.HasPrefix(s, "<") && !strings.Contains(path, "HTTPConfig") {
				out += fmt.Sprintf("not rewritten: %s: %s\n", path, s)
			}
		})
		out += resolved(c)
		return out
	})
	for i := range reflect.TypeFor[config.Receiver]().NumField() {
		if f := reflect.TypeFor[config.Receiver]().Field(i); strings.HasSuffix(f.Name, "Configs") && !covered[f.Name] {
			t.Errorf("testdata/good.txt has no configuration with %s", f.Name)
		}
	}
}

// resolved returns the problems of the configuration with resolved secrets.
func resolved(c *Checked) (out string) {
	values := map[string]string{}
	for _, name := range c.Secrets {
		values[name] = "https://hidden.example.com/" + name
	}
	cfg, err := c.Resolve(values)
	if err != nil {
		return "not resolved: " + err.Error() + "\n"
	}
	found := map[string]bool{}
	eachString(reflect.ValueOf(cfg).Elem(), "", func(path, s string) {
		if strings.Contains(s, secretScheme) || strings.Contains(s, secretHost) {
			out += fmt.Sprintf("not resolved: %s: %s\n", path, s)
		}
		for name, value := range values {
			found[name] = found[name] || s == value || path != "" && strings.HasSuffix(value, "/"+name) && strings.HasSuffix(s, value[len("https://hidden.example.com"):])
		}
	})
	for name := range values {
		if !found[name] {
			out += "the value of " + name + " is missing in the configuration\n"
		}
	}
	if strings.Contains(cfg.String(), "hidden") {
		out += "the secret is shown\n"
	}
	return out
}

func integrations(cfg *config.Config, covered map[string]bool) {
	for _, r := range cfg.Receivers {
		x := reflect.ValueOf(r)
		for i := range x.NumField() {
			if x.Field(i).Kind() == reflect.Slice && x.Field(i).Len() > 0 {
				covered[x.Type().Field(i).Name] = true
			}
		}
	}
}

// eachString calls visit for all strings in a value.
func eachString(x reflect.Value, path string, visit func(path, s string)) {
	switch x.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !x.IsNil() {
			eachString(x.Elem(), path, visit)
		}
	case reflect.Struct:
		for i := range x.NumField() {
			if x.Type().Field(i).IsExported() {
				eachString(x.Field(i), path+"."+x.Type().Field(i).Name, visit)
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range x.Len() {
			eachString(x.Index(i), path, visit)
		}
	case reflect.Map:
		for _, k := range x.MapKeys() {
			eachString(k, path, visit)
			eachString(x.MapIndex(k), path, visit)
		}
	case reflect.String:
		visit(path, x.String())
	}
}

// TestSame checks that Check decodes configurations to the same result as Alertmanager itself.
func TestSame(t *testing.T) {
	n := 0
	for _, c := range script(t, "testdata/good.txt") {
		checked, err := Check(scriptDocument(c.text), Options{Limits: Defaults()})
		if err != nil || len(checked.Secrets) > 0 {
			continue
		}
		want, err := config.Load(strings.ReplaceAll(c.text, "proxy_url: '', ", "")) // this field is shown, but has no effect
		if err != nil && strings.Contains(c.text, "größe") {
			continue // the label names that Alertmanager accepts depend on a global setting of the process
		}
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		for _, r := range want.Receivers {
			for _, e := range r.EmailConfigs {
				if e.Headers["Subject"] == "" {
					e.Headers["Subject"] = config.DefaultEmailSubject
				}
			}
		}
		if got, want := unhidden(checked.Config), unhidden(want); got != want {
			t.Errorf("%s: %s", c.name, difference(got, want))
		}
		n++
	}
	if n < 12 {
		t.Errorf("only %d configurations were compared", n)
	}
}

// unhidden returns the text of a configuration followed by all its strings, including secrets.
func unhidden(cfg *config.Config) string {
	out := cfg.String()
	var secrets []string
	eachString(reflect.ValueOf(cfg).Elem(), "", func(path, s string) {
		if !strings.Contains(path, "Details") && !strings.Contains(path, "Fields") && !strings.Contains(path, "Payload") {
			secrets = append(secrets, path+"="+s)
		}
	})
	if commoncfg.MarshalSecretValue {
		panic("secrets are shown")
	}
	slices.Sort(secrets) // map entries have no order
	return out + strings.Join(secrets, "\n")
}

// difference returns the first lines that differ.
func difference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d is %q, want %q", i+1, g[i], w[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(g), len(w))
}
