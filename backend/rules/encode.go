package rules

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"go.yaml.in/yaml/v3"
)

// Encode returns a group as YAML, without its namespace. ParseGroup of the result returns the same
// group.
func Encode(g *Group) ([]byte, error) { return yaml.Marshal(groupNode(g)) }

// Listing is a YAML mapping of namespaces to lists of groups. It is built from the YAML of groups
// without parsing it, so that it can contain groups of newer versions.
type Listing struct {
	out       bytes.Buffer
	namespace string
}

// Add adds a group that Encode returned. Groups must be added sorted by namespace.
func (l *Listing) Add(namespace, group string) error {
	if l.out.Len() == 0 || namespace != l.namespace {
		l.namespace = namespace
		key, err := yaml.Marshal(textNode(namespace))
		if err != nil {
			return err
		}
		l.out.Write(bytes.TrimRight(key, "\n"))
		l.out.WriteString(":\n")
	}
	prefix := "    - "
	for line := range strings.Lines(group) {
		if line != "\n" {
			l.out.WriteString(prefix)
		}
		l.out.WriteString(line)
		prefix = "      "
	}
	return nil
}

// Bytes returns the YAML. It is {} if there are no groups.
func (l *Listing) Bytes() []byte {
	if l.out.Len() == 0 {
		return []byte("{}\n")
	}
	return l.out.Bytes()
}

// The nodes are built here, because yaml.Marshal encodes some multi-line strings to text that cannot
// be decoded.

func groupNode(g *Group) *yaml.Node {
	m := mapping{Kind: yaml.MappingNode}
	m.add("name", textNode(g.Name))
	m.duration("interval", g.Interval)
	m.optional("query_offset", g.QueryOffset)
	m.optional("evaluation_delay", g.EvaluationDelay)
	if g.Limit != 0 {
		m.add("limit", &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.Itoa(g.Limit)})
	}
	if g.AlignEvaluationTimeOnInterval {
		m.add("align_evaluation_time_on_interval", &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: "true"})
	}
	if len(g.SourceTenants) > 0 {
		list := &yaml.Node{Kind: yaml.SequenceNode}
		for _, t := range g.SourceTenants {
			list.Content = append(list.Content, textNode(t))
		}
		m.add("source_tenants", list)
	}
	m.texts("labels", g.Labels)
	list := &yaml.Node{Kind: yaml.SequenceNode}
	for i := range g.Rules {
		list.Content = append(list.Content, ruleNode(&g.Rules[i]))
	}
	m.add("rules", list)
	return (*yaml.Node)(&m)
}

func ruleNode(r *rulefmt.Rule) *yaml.Node {
	m := mapping{Kind: yaml.MappingNode}
	m.text("record", r.Record)
	m.text("alert", r.Alert)
	m.add("expr", textNode(r.Expr))
	m.duration("for", r.For)
	m.duration("keep_firing_for", r.KeepFiringFor)
	m.texts("labels", r.Labels)
	m.texts("annotations", r.Annotations)
	return (*yaml.Node)(&m)
}

// mapping is a YAML mapping that is being built.
type mapping yaml.Node

func (m *mapping) add(key string, value *yaml.Node) {
	m.Content = append(m.Content, textNode(key), value)
}

func (m *mapping) text(key, value string) {
	if value != "" {
		m.add(key, textNode(value))
	}
}

func (m *mapping) duration(key string, d model.Duration) {
	if d != 0 {
		m.add(key, textNode(d.String()))
	}
}

func (m *mapping) optional(key string, d *model.Duration) {
	if d != nil {
		m.add(key, textNode(d.String()))
	}
}

func (m *mapping) texts(key string, values map[string]string) {
	if len(values) == 0 {
		return
	}
	inner := mapping{Kind: yaml.MappingNode}
	for _, name := range sorted(values) {
		inner.add(name, textNode(values[name]))
	}
	m.add(key, (*yaml.Node)(&inner))
}

// textNode returns the node of a string. A string of several lines becomes a block if every YAML
// library decodes the block to the same string; other strings are in one line.
func textNode(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	switch {
	case fragile(s):
		n.Style = yaml.DoubleQuotedStyle
	case strings.Contains(s, "\n"):
		n.Style = yaml.LiteralStyle
	}
	return n
}

// fragile reports whether a string must be quoted: because it has white space at the beginning or at
// the end of a line, or characters that some YAML libraries do not accept in blocks.
func fragile(s string) bool {
	if s == "" || s == "<<" { // << is a merge key in YAML 1.1
		return true
	}
	if strings.ContainsFunc(s, func(r rune) bool {
		return r != '\n' && (r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 || r == 0xfeff)
	}) {
		return true
	}
	return strings.Contains(s, "\n") && (strings.ContainsAny(s[:1], " \n") || strings.Contains(s, " \n") || s[len(s)-1] == ' ' ||
		strings.HasSuffix(s, "\n\n"))
}
