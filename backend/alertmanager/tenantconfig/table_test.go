package tenantconfig

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/alertmanager/config"
	amcommoncfg "github.com/prometheus/alertmanager/config/common"
)

// walkTypes calls visit for every struct that a configuration can contain, except those in fields whose
// rule forbids them.
func walkTypes(c *checker, t reflect.Type, seen map[reflect.Type]bool, visit func(reflect.Type)) {
	if seen[t] || c.leaves[t] {
		seen[t] = true
		return
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		walkTypes(c, t.Elem(), seen, visit)
	case reflect.Map:
		walkTypes(c, t.Key(), seen, visit)
		walkTypes(c, t.Elem(), seen, visit)
	case reflect.Struct:
		visit(t)
		for _, m := range c.members(t) {
			if m.rule != internal && m.rule != unknown && !forbidden(m.rule) {
				walkTypes(c, m.typ, seen, visit)
			}
		}
	}
}

func types() (*checker, []reflect.Type, map[reflect.Type]bool) {
	c := newChecker(Document{}, Options{}, nil)
	var found []reflect.Type
	seen := map[reflect.Type]bool{}
	walkTypes(c, reflect.TypeFor[config.Config](), seen, func(t reflect.Type) { found = append(found, t) })
	return c, found, seen
}

// TestTable checks that the table has exactly the fields of Alertmanager's configuration. If it fails after an upgrade, decide
// for each new field what it may contain. Does it name a file, a secret of the operator, a proxy or an address? Does
// Alertmanager execute it as a template?
func TestTable(t *testing.T) {
	c, found, seen := types()
	for _, s := range found {
		listed := map[string]bool{}
		for _, names := range c.known[s] {
			for _, name := range strings.Fields(names) {
				if listed[name] {
					t.Errorf("%s.%s is in the table twice", s, name)
				}
				listed[name] = true
			}
		}
		if len(listed) == 0 {
			t.Errorf("%s is not in the table", s)
		}
		for i := range s.NumField() {
			if name := s.Field(i).Name; !listed[name] {
				t.Errorf("%s.%s (%s) is not in the table: decide what it may contain", s, name, s.Field(i).Type)
			} else {
				delete(listed, name)
			}
		}
		for name := range listed {
			t.Errorf("%s.%s is in the table, but does not exist", s, name)
		}
	}
	for s := range c.known {
		if !slices.Contains(found, s) {
			t.Errorf("%s is in the table, but not in the configuration", s)
		}
	}
	for l := range c.leaves {
		if !seen[l] && l.Name() != "Matcher" {
			t.Errorf("%s is a leaf, but not in the configuration", l)
		}
	}
	if len(found) < 40 {
		t.Errorf("only %d structs were found", len(found))
	}
}

// TestRulesOfNames checks that fields with names of files, references and proxies have a rule that forbids them, and that
// secrets do not have the rule of plain values.
func TestRulesOfNames(t *testing.T) {
	c, found, _ := types()
	for _, s := range found {
		for _, m := range c.members(s) {
			forbidden := forbidden(m.rule)
			for _, part := range []string{"_file", "_files", "_ref", "_refs"} {
				if strings.HasSuffix(m.name, part) && !forbidden {
					t.Errorf("%s: %s is allowed", s, m.name)
				}
			}
			if (strings.Contains(m.name, "proxy") || m.name == "files") && !forbidden {
				t.Errorf("%s: %s is allowed", s, m.name)
			}
			if strings.Contains(m.typ.String(), "Secret") && !isSecret(m.rule) && !forbidden {
				t.Errorf("%s: %s is a secret, but has the rule of a plain value", s, m.name)
			}
			if isSecret(m.rule) && !strings.Contains(m.typ.String(), "Secret") {
				t.Errorf("%s: %s is not hidden by Alertmanager, but has the rule of a secret", s, m.name)
			}
			if m.typ.Kind() == reflect.Interface && m.rule != free {
				t.Errorf("%s: %s has any type", s, m.name)
			}
		}
	}
}

// TestUnknownField checks that each of the two passes rejects a field that is not in the table.
func TestUnknownField(t *testing.T) {
	tests := map[reflect.Type]string{
		reflect.TypeFor[config.SlackConfig]():      "Channel",
		reflect.TypeFor[config.Route]():            "GroupWait",
		reflect.TypeFor[config.Receiver]():         "SlackConfigs",
		reflect.TypeFor[config.SlackField]():       "",
		reflect.TypeFor[amcommoncfg.InhibitRule](): "",
	}
	const text = "route: {receiver: a, group_wait: 1s}\nreceivers: [{name: a, slack_configs: [{api_url: 'http://x/', channel: c, " +
		"fields: [{title: a, value: b}]}]}]\ninhibit_rules: [{name: x}]"
	for typ, name := range tests {
		c := newChecker(Document{Config: text}, Options{}, nil)
		columns := maps.Clone(c.known[typ])
		for r, names := range columns {
			columns[r] = strings.Join(slices.DeleteFunc(strings.Fields(names), func(n string) bool { return n == name || name == "" }), " ")
		}
		root, err := parseTree(text, 0)
		if err != nil {
			t.Fatal(err)
		}
		c.known[typ] = columns
		if cfg := c.config(root); cfg != nil {
			t.Errorf("the first pass accepted %s.%s", typ, name)
		}
		cfg, err := config.Load(text)
		if err != nil {
			t.Fatal(err)
		}
		c.problems = problems{}
		v := values{checker: c, seen: map[any]bool{}, sizes: map[any]int{}}
		v.walk(reflect.ValueOf(cfg).Elem(), data, "", "")
		if err := c.problems.err(); err == nil || !strings.Contains(err.Error(), "not supported by this version") {
			t.Errorf("the second pass accepted %s.%s: %v", typ, name, err)
		}
	}
}
