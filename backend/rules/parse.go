package rules

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/prometheus/prometheus/model/rulefmt"
	"go.yaml.in/yaml/v3"
)

// MaxGroupBytes is the maximum size of a group as YAML, in bytes.
const MaxGroupBytes = 1 << 20

// InvalidError is an error of a tenant's rules or of their names. The tenant sees its text.
type InvalidError struct{ text string }

func (e *InvalidError) Error() string { return e.text }

func invalid(format string, args ...any) error {
	return &InvalidError{text: fmt.Sprintf(format, args...)}
}

// Document is a parsed group with the positions of its fields, for Check.
type Document struct {
	Group
	node     rulefmt.RuleGroupNode
	problems []problem // values that could not be read; they are zero in Group
}

// maxRules is the maximum number of rules of a group, independent of the limits of the tenant. It bounds the memory for
// decoding a group.
const maxRules = 10_000

// rulesIn returns the number of rules of a group.
func rulesIn(root *yaml.Node) (n int) {
	fields(root, func(key, value *yaml.Node) {
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		if key.Value == "rules" {
			n = max(n, len(value.Content))
		}
	})
	return n
}

// ParseGroup parses one group as YAML. Unknown and repeated fields and a second document are errors.
// Invalid values are reported by Check.
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
	if err := checkSize(MaxGroupBytes, root); err != nil {
		return nil, err
	}
	if n := rulesIn(root); n > maxRules {
		return nil, invalid("the group has %d rules, the limit is %d: divide it into several groups", n, maxRules)
	}
	if hasKey(root, "groups") {
		return nil, invalid("the YAML is a file with several groups: send each group in a request of its own, with the fields name and rules " +
			"(pallium rules load does)")
	}
	var d Document
	repair := newRepair(data)
	d.problems = repair.group(root)
	if err := Strict(repair.data, &d.Group); err != nil {
		return nil, joined(d.problems, err)
	}
	if err := root.Decode(&d.node); err != nil {
		return nil, joined(d.problems, yamlError(err))
	}
	return &d, nil
}

// Stored parses a group that Encode returned, and sets its namespace.
func Stored(namespace string, data []byte) (*Document, error) {
	d, err := ParseGroup(data)
	if err != nil {
		return nil, err
	}
	if len(d.problems) > 0 {
		return nil, joined(d.problems, nil)
	}
	d.Namespace = namespace
	return d, nil
}

// fileDocument is a YAML document of a file. Files of promtool and Prometheus have no namespace, files
// of mimirtool and cortextool have one.
type fileDocument struct {
	Namespace string  `yaml:"namespace"`
	Groups    []Group `yaml:"groups"`
}

// MaxFileBytes is the maximum size of a file of rules.
const MaxFileBytes = 64 << 20

const maxDocuments = 100_000 // maximum number of YAML documents in a file

// ParseFile parses a file of rules in the format of Prometheus (groups) or of mimirtool and
// cortextool (namespace and groups, in one or several documents). Unknown fields and groups that
// appear twice in a namespace are errors. The result is empty if the file has no documents. Invalid values are reported by
// Check.
func ParseFile(data []byte) ([]Namespace, error) {
	if len(data) > MaxFileBytes {
		return nil, invalid("the file has %d bytes, the limit is %d: divide it into several files", len(data), MaxFileBytes)
	}
	roots, err := documents(data, maxDocuments)
	if err != nil {
		return nil, err
	}
	if len(roots) == maxDocuments {
		return nil, invalid("the file has %d YAML documents or more: divide it into several files", maxDocuments)
	}
	if err := checkSize(MaxFileBytes, roots...); err != nil {
		return nil, err
	}
	var out []Namespace
	repair := newRepair(data)
	var problems [][][]problem // by document and group
	for _, root := range roots {
		var of [][]problem
		for _, g := range groupsOf(root) {
			of = append(of, repair.group(g))
		}
		problems = append(problems, of)
	}
	places := map[string]int{}
	dec := yaml.NewDecoder(bytes.NewReader(repair.data))
	dec.KnownFields(true)
	for i, root := range roots {
		var d fileDocument
		if err := dec.Decode(&d); err != nil {
			return nil, joined(slices.Concat(slices.Concat(problems...)...), yamlError(err))
		}
		if isNull(root) {
			continue
		}
		at, ok := places[d.Namespace]
		if !ok {
			at = len(out)
			places[d.Namespace] = at
			out = append(out, Namespace{Name: d.Namespace})
		}
		if out[at].Groups, err = add(out[at].Groups, d, groupsOf(root), problems[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// groupsOf returns the nodes of the groups of a document of a file.
func groupsOf(root *yaml.Node) (groups []*yaml.Node) {
	fields(root, func(key, value *yaml.Node) {
		if key.Value == "groups" && value.Kind == yaml.SequenceNode {
			groups = value.Content
		}
	})
	return groups
}

// add appends the groups of a document. nodes and problems contain the nodes and the problems of its groups.
func add(groups []*Document, d fileDocument, nodes []*yaml.Node, problems [][]problem) ([]*Document, error) {
	for i := range d.Groups {
		for _, g := range groups {
			if g.Name == d.Groups[i].Name {
				return nil, invalid("group %q appears twice in one namespace: rename one of them", g.Name)
			}
		}
		doc := &Document{Group: d.Groups[i]}
		doc.Namespace = d.Namespace
		if len(nodes) == len(d.Groups) { // otherwise the list is an alias, and the positions are unknown
			if err := nodes[i].Decode(&doc.node); err != nil {
				return nil, yamlError(err)
			}
			doc.problems = problems[i]
		}
		groups = append(groups, doc)
	}
	return groups, nil
}

// ParseListing parses a listing of the configuration API, and returns the groups sorted by namespace
// and name. It ignores unknown fields, which a newer server may send.
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
