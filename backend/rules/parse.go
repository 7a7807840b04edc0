package rules

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"go.yaml.in/yaml/v3"
)

// MaxGroupBytes is the greatest size of a group as YAML.
const MaxGroupBytes = 1 << 20

// InvalidError is an error of a tenant's rules or of their names. Its text is for the tenant.
type InvalidError struct{ text string }

func (e *InvalidError) Error() string { return e.text }

func invalid(format string, args ...any) error {
	return &InvalidError{text: fmt.Sprintf(format, args...)}
}

// Document is a parsed group with the positions of its fields, for Check.
type Document struct {
	Group
	node rulefmt.RuleGroupNode
}

// ParseGroup parses one group as YAML. Unknown and repeated fields are errors, and so is a second
// document. It does not check the values, see Check.
func ParseGroup(data []byte) (*Document, error) {
	if len(data) > MaxGroupBytes {
		return nil, invalid("the group has %d bytes of YAML, the limit is %d: divide it into several groups", len(data), MaxGroupBytes)
	}
	root, err := single(data)
	if err != nil {
		return nil, err
	}
	if root == nil {
		return nil, invalid("the YAML is empty: it must be one group, with the fields name and rules")
	}
	if hasKey(root, "groups") {
		return nil, invalid("the YAML is a file with several groups: send each group in a request of its own, with the fields name and rules " +
			"(pallium rules load does)")
	}
	if err := checkScalars(root); err != nil {
		return nil, err
	}
	var d Document
	if err := Strict(data, &d.Group); err != nil {
		return nil, err
	}
	if err := root.Decode(&d.node); err != nil {
		return nil, yamlError(err)
	}
	return &d, nil
}

// Stored parses a group that Encode returned, and sets its namespace.
func Stored(namespace string, data []byte) (*Document, error) {
	d, err := ParseGroup(data)
	if err != nil {
		return nil, err
	}
	d.Namespace = namespace
	return d, nil
}

// single returns the root of the only document, or nil if there is none.
func single(data []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	err := dec.Decode(&doc)
	switch {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, yamlError(err)
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, invalid("the file contains more than one YAML document: send each group in a request of its own")
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, nil
	}
	return root, nil
}

// Strict decodes one document, without unknown fields.
func Strict(data []byte, into any) error {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil {
		return yamlError(err)
	}
	return nil
}

// yamlError returns the error of the YAML library without the names of Go types.
func yamlError(err error) error {
	var list *yaml.TypeError
	if !errors.As(err, &list) {
		return invalid("YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	problems := make([]string, 0, len(list.Errors))
	for _, p := range list.Errors {
		problems = append(problems, plain(p))
	}
	return invalid("YAML: %s", strings.Join(problems, "; "))
}

// plain rewords one problem of a yaml.TypeError, which names types of Go.
func plain(problem string) string {
	if before, _, ok := strings.Cut(problem, " not found in type "); ok {
		return strings.Replace(before, "field ", "unknown field ", 1)
	}
	before, kind, ok := strings.Cut(problem, " into ")
	if !ok {
		return problem
	}
	want := "a mapping"
	switch {
	case kind == "string":
		want = "a text"
	case kind == "int":
		want = "a whole number"
	case kind == "bool":
		want = "true or false"
	case strings.HasPrefix(kind, "[]"):
		want = "a list"
	case kind == "model.Duration":
		want = "a duration"
	}
	return strings.Replace(before, "cannot unmarshal ", "found ", 1) + " where " + want + " is expected"
}

// checkScalars checks values for which the errors of the YAML library have no line, and those that it
// changes without an error.
func checkScalars(root *yaml.Node) error {
	var problems []string
	check := func(key, value *yaml.Node) {
		if value.Kind != yaml.ScalarNode || value.Tag == "!!null" {
			return
		}
		switch key.Value {
		case "interval", "query_offset", "evaluation_delay", "for", "keep_firing_for":
			if _, err := model.ParseDuration(value.Value); err != nil {
				problems = append(problems, fmt.Sprintf("line %d: field %s: %v: use a duration such as 30s or 1h30m", value.Line, key.Value, err))
			}
		case "limit":
			if value.Tag == "!!float" {
				problems = append(problems, fmt.Sprintf("line %d: field limit is %s: it must be a whole number", value.Line, value.Value))
			}
		}
	}
	fields(root, func(key, value *yaml.Node) {
		check(key, value)
		if key.Value == "rules" {
			for _, rule := range value.Content {
				fields(rule, check)
			}
		}
	})
	if len(problems) > 0 {
		return invalid("%s", strings.Join(problems, "\n"))
	}
	return nil
}

// fields calls visit for the fields of a mapping.
func fields(n *yaml.Node, visit func(key, value *yaml.Node)) {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		visit(n.Content[i], n.Content[i+1])
	}
}

func hasKey(n *yaml.Node, key string) (found bool) {
	fields(n, func(k, _ *yaml.Node) { found = found || k.Value == key })
	return found
}

// fileDocument is a document of a file: of promtool and Prometheus without namespace, of mimirtool
// and cortextool with one.
type fileDocument struct {
	Namespace string  `yaml:"namespace"`
	Groups    []Group `yaml:"groups"`
}

// ParseFile parses a file of rules in the format of Prometheus (groups) or of mimirtool and
// cortextool (namespace and groups, in one or several documents). Unknown fields are errors, and so
// is a group that appears twice in a namespace. It does not check the values, see Check.
func ParseFile(data []byte) ([]Namespace, error) {
	var out []Namespace
	places := map[string]int{}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	for {
		var d fileDocument
		err := dec.Decode(&d)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, yamlError(err)
		}
		at, ok := places[d.Namespace]
		if !ok {
			at = len(out)
			places[d.Namespace] = at
			out = append(out, Namespace{Name: d.Namespace})
		}
		if out[at].Groups, err = add(out[at].Groups, d); err != nil {
			return nil, err
		}
	}
}

// add appends the groups of a document.
func add(groups []Group, d fileDocument) ([]Group, error) {
	for i := range d.Groups {
		for j := range groups {
			if groups[j].Name == d.Groups[i].Name {
				return nil, invalid("group %q appears twice in one namespace: rename one of them", d.Groups[i].Name)
			}
		}
		d.Groups[i].Namespace = d.Namespace
		groups = append(groups, d.Groups[i])
	}
	return groups, nil
}

// ParseListing parses a listing of the configuration API, and returns the groups sorted by namespace
// and name. It ignores fields that it does not know, which a newer server may have.
func ParseListing(data []byte) ([]Group, error) {
	var all map[string][]Group
	if err := yaml.Unmarshal(data, &all); err != nil {
		return nil, yamlError(err)
	}
	var out []Group
	for namespace, groups := range all {
		for i := range groups {
			groups[i].Namespace = namespace
		}
		out = append(out, groups...)
	}
	Sort(out)
	return out, nil
}

// Unchecked returns a group as a Document without positions, for Check.
func Unchecked(g Group) *Document { return &Document{Group: g} }
