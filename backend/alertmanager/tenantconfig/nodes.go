package tenantconfig

import (
	"encoding/hex"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/alertmanager/config"
	amcommoncfg "github.com/prometheus/alertmanager/config/common"
	"github.com/prometheus/alertmanager/pkg/labels"
	"github.com/prometheus/alertmanager/timeinterval"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"github.com/palliumhq/pallium/policies/nearest"
)

// checker checks one configuration in two passes. The first pass walks the YAML along the types of the configuration. Its
// errors have paths of the user's text. It limits expensive values before Alertmanager decodes them, and replaces values that
// Alertmanager's decoder does not accept, or whose meaning depends on global settings of the process (references to secrets,
// matchers, label names). The second pass walks the decoded configuration, with defaults and inherited values. It guarantees
// that no forbidden field is set, whatever the source of its value is.
type checker struct {
	document Document
	options  Options
	known    map[reflect.Type]columns
	leaves   map[reflect.Type]bool
	shapes   map[reflect.Type][]member // cached results of members
	mappings map[reflect.Type]mapping  // cached results of flat
	problems problems
	warnings problems

	resolved map[string]string // values of secrets, or nil
	secrets  map[string]bool   // names of the secrets that are used

	matchers     map[string]labels.Matchers // by path
	names        map[string]string          // label names, by the aliases that replace them while Alertmanager decodes
	count        map[string]int             // numbers of the values whose number is limited
	depth        int                        // depth of the current route
	instructions int                        // total size of the regular expressions so far

	resolvedBytes int // total length of the values of secrets so far
}

// mapping checks a mapping against a struct.
func (c *checker) mapping(n *yaml.Node, t reflect.Type, path string) {
	named, rest := c.flat(t)
	kept := n.Content[:0:0]
	fields(n, func(k, v *yaml.Node) {
		m, ok := named[k.Value]
		if !ok && rest != nil {
			m, ok = member{name: k.Value, rule: rest.rule, typ: rest.typ.Elem()}, true
		}
		at := join(path, short(k.Value))
		switch {
		case !ok:
			c.problems.add(at, "unknown field%s", c.suggestion(k.Value, named))
		case isNull(v): // treated as missing, because Alertmanager's decoder does not accept null in all fields
		case forbidden(m.rule):
			if !isEmpty(v, m.typ) {
				c.problems.add(at, "%s", refusal(m.rule, m.name, isSecret(named[inline(m.name)].rule)))
			}
		default:
			if c.node(v, m.typ, m.rule, at) {
				kept = append(kept, k, v)
			}
		}
	})
	n.Content = kept
}

// suggestion returns a hint for an unknown field name, such as a similar known name.
func (c *checker) suggestion(name string, named map[string]member) string {
	if c.problems.count() >= maxProblems {
		return "" // further problems are only counted
	}
	known := slices.Sorted(maps.Keys(named))
	return c.near(name, known, ": remove it; the known fields are "+strings.Join(known, ", "), ": ")
}

// near returns the question whether a similar known word was meant, or the hint if there is none. It does not search among
// very many words, or if further problems are only counted, because comparing takes time.
func (c *checker) near(word string, known []string, hint, before string) string {
	const many = 200
	if c.problems.count() >= maxProblems || len(known) > many {
		return hint
	}
	if near := nearest.Word(word, known); near != "" {
		return before + "did you mean " + short(near) + "?"
	}
	return hint
}

// node checks a value against a type. It returns false if the value must not be decoded, because it is set later.
func (c *checker) node(n *yaml.Node, t reflect.Type, r rule, path string) bool {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	before := c.problems.count()
	switch {
	case !isSecret(r) && isReference(n):
		c.problems.add(path, "this field cannot be a secret: %sNAME is allowed in fields that Alertmanager hides, such as passwords, "+
			"tokens and URLs of webhooks", secretScheme)
	case t == typ[amcommoncfg.Matchers]():
		c.matcherLines(n, path)
		return false
	case isSecret(r):
		c.secretNodes(n, t, r, path)
	case r == names || r == nameValues:
		c.nameNodes(n, path)
	case t.Kind() == reflect.Interface: // a value of any type
	case c.leaves[t]:
		if t == typ[amcommoncfg.Regexp]() {
			c.regex(n.Value, path)
		}
		c.decodes(n, t, r, path, before)
	case t.Kind() == reflect.Struct:
		c.structure(n, t, path, before)
	case t.Kind() == reflect.Slice:
		c.list(n, t, r, path)
	case t.Kind() == reflect.Map:
		c.entries(n, t, r, path, before)
	default:
		c.scalar(n, t, r, path, before)
	}
	return true
}

// entries checks the entries of a map.
func (c *checker) entries(n *yaml.Node, t reflect.Type, r rule, path string, before int) {
	if n.Kind != yaml.MappingNode {
		c.problems.add(path, "found %s where a mapping is expected", kindOf(n))
		return
	}
	fields(n, func(k, v *yaml.Node) { c.node(v, t.Elem(), r, keyAt(path, k.Value)) })
	c.decodes(n, t, r, path, before)
}

// structure checks the mapping of a struct, and that Alertmanager can decode it.
func (c *checker) structure(n *yaml.Node, t reflect.Type, path string, before int) {
	if n.Kind == yaml.ScalarNode && t.Name() == "JiraFieldConfig" {
		return // the short form, which is only the template
	}
	if n.Kind != yaml.MappingNode {
		c.problems.add(path, "found %s where a mapping is expected", kindOf(n))
		return
	}
	if t == typ[config.Route]() {
		c.depth++
		defer func() { c.depth-- }()
	}
	if !c.counted(t, path) {
		return
	}
	c.mapping(n, t, path)
	switch t {
	case typ[config.Config](), typ[config.GlobalConfig]():
		return // their fields were checked one by one
	case typ[config.Receiver]():
		n = &yaml.Node{Kind: yaml.MappingNode, Tag: n.Tag, Content: slices.Concat(pair(n, "name"), pair(n, "labels"))}
	case typ[config.Route]():
		n = without(n, "routes")
	}
	c.decodes(n, t, data, path, before)
}

// pair returns the key and the value of a field of a mapping, or nil if there is no such field.
func pair(n *yaml.Node, name string) []*yaml.Node {
	if v := field(n, name); v != nil {
		return []*yaml.Node{{Kind: yaml.ScalarNode, Tag: "!!str", Value: name}, v}
	}
	return nil
}

// counted counts a value of a type whose number is limited. It returns false if the limit is exceeded.
func (c *checker) counted(t reflect.Type, path string) bool {
	l := c.options.Limits
	var what string
	var most int
	switch {
	case t == typ[config.Receiver]():
		what, most = "receivers", l.Receivers
	case t == typ[config.Route]():
		what, most = "routes", l.Routes
		if l.RouteDepth > 0 && c.depth > l.RouteDepth {
			c.problems.add(path, "routes are nested more than %d levels deep: use fewer levels", l.RouteDepth)
			return false
		}
	case t == typ[amcommoncfg.InhibitRule]():
		what, most = "inhibit rules", l.InhibitRules
	case t == typ[config.TimeInterval](), t == typ[config.MuteTimeInterval]():
		what, most = "time intervals", l.TimeIntervals
	case t == typ[timeinterval.TimeInterval]():
		what, most = "items of time intervals", l.TimeRanges
	case isIntegration(t):
		what, most = "integrations of receivers", l.Integrations
	default:
		return true
	}
	c.count[what]++
	if most > 0 && c.count[what] == most+1 {
		c.problems.add(path, "there are more than %d %s: use fewer", most, what)
	}
	return most <= 0 || c.count[what] <= most
}

// isIntegration reports whether a struct configures an integration of a receiver.
func isIntegration(t reflect.Type) bool {
	f, ok := t.FieldByName("NotifierConfig")
	return ok && f.Anonymous
}

func (c *checker) list(n *yaml.Node, t reflect.Type, r rule, path string) {
	if n.Kind != yaml.SequenceNode {
		c.problems.add(path, "found %s where a list is expected", kindOf(n))
		return
	}
	for i, item := range n.Content {
		at := itemAt(path, i)
		if isNull(item) {
			c.problems.add(at, "the item has no value: remove it")
			continue
		}
		if c.count["routes"] > c.options.Limits.Routes && c.options.Limits.Routes > 0 {
			return
		}
		c.node(item, t.Elem(), r, at)
	}
}

func (c *checker) scalar(n *yaml.Node, t reflect.Type, r rule, path string, before int) {
	if n.Kind != yaml.ScalarNode {
		c.problems.add(path, "found %s where a single value is expected", kindOf(n))
		return
	}
	switch {
	case r == templates:
		c.templateName(n.Value, path)
	case r == data && strings.Contains(n.Value, "{{"):
		c.problems.add(path, "this field is not a template: remove {{")
	default:
		c.decodes(n, t, r, path, before)
	}
}

func (c *checker) templateName(name, path string) {
	if _, ok := c.document.Templates[name]; ok {
		return
	}
	hint := c.near(name, slices.Sorted(maps.Keys(c.document.Templates)), "add it to "+templateFiles, "")
	c.problems.add(path, "there is no template file %q; patterns and paths are not allowed, because files of the server are not read: %s",
		short(name), hint)
}

// nameNodes replaces label names that are only valid as UTF-8 names by aliases while Alertmanager decodes, because the names
// that its decoder accepts depend on a global setting of the process.
func (c *checker) nameNodes(n *yaml.Node, path string) {
	if n.Kind == yaml.ScalarNode {
		c.problems.add(path, "found %s where a list or mapping of names of labels is expected", kindOf(n))
		return
	}
	if n.Kind == yaml.SequenceNode && len(n.Content) > maxNames {
		c.problems.add(path, "the list has %d names of labels, the limit is %d: use fewer", len(n.Content), maxNames)
		return
	}
	step := 1
	if n.Kind == yaml.MappingNode {
		step = 2
		fields(n, func(k, v *yaml.Node) {
			if v.Kind != yaml.ScalarNode || isNull(v) {
				c.problems.add(path+"."+short(k.Value), "found %s where a text is expected", kindOf(v))
			}
		})
	}
	for i := 0; i < len(n.Content); i += step {
		item := n.Content[i]
		at := path
		if step == 1 {
			at = itemAt(path, i)
		}
		switch {
		case item.Kind != yaml.ScalarNode || isNull(item):
			c.problems.add(at, "found %s where the name of a label is expected", kindOf(item))
		case step == 1 && item.Value == "..." || model.LegacyValidation.IsValidLabelName(item.Value):
		case !model.UTF8Validation.IsValidLabelName(item.Value):
			c.problems.add(at, "%q is not a valid name of a label", short(item.Value))
		default:
			c.replaceName(item)
		}
	}
}

// aliasPrefix is the prefix of the aliases that replace label names while Alertmanager decodes.
const aliasPrefix = "pallium_utf8_"

func (c *checker) replaceName(n *yaml.Node) {
	alias := aliasPrefix + hex.EncodeToString([]byte(n.Value))
	c.names[alias] = n.Value
	n.Value, n.Tag, n.Style = alias, "!!str", yaml.DoubleQuotedStyle
}

// realNames returns a text with aliases replaced by the label names.
func (c *checker) realNames(s string) string {
	quote := `"` + aliasPrefix
	for at := strings.Index(s, quote); at >= 0; at = strings.Index(s, quote) {
		alias, after, ok := strings.Cut(s[at+1:], `"`)
		if !ok {
			return s
		}
		s = s[:at] + strconv.Quote(short(c.names[alias])) + after
	}
	return s
}

// name returns the label name for an alias, and other names unchanged.
func (c *checker) name(s string) string {
	if was, ok := c.names[s]; ok {
		return was
	}
	return s
}
