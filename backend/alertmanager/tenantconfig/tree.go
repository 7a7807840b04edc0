package tenantconfig

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxDepth is the maximum depth of nested values. Alertmanager decodes nested values by recursion, and each nested struct again
// for every struct around it.
const maxDepth = 100

// maxExpansion is the maximum factor by which a configuration may grow when its aliases are replaced. Each value counts
// nodeBytes in addition to its length.
const (
	maxExpansion = 4
	nodeBytes    = 16
	minExpanded  = 256 << 10 // bytes that are always allowed
)

// maxKeys is the maximum number of keys of a mapping, because the YAML library takes time proportional to its square.
const maxKeys = 256

// parseTree decodes the configuration as a tree of values. It replaces aliases and merge keys (<<) by the values to which they
// refer, so that Alertmanager decodes exactly the values that are checked. `most` is the maximum size of the text in bytes.
func parseTree(text string, most int) (*yaml.Node, error) {
	if most > 0 && len(text) > most {
		return nil, fmt.Errorf("%s: the configuration has %d bytes, the limit is %d: make it smaller", alertmanagerConfig, len(text), most)
	}
	root, err := single([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", alertmanagerConfig, err)
	}
	if root == nil {
		return nil, errors.New(alertmanagerConfig + ": the configuration is empty: it needs at least the fields route and receivers")
	}
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s: found %s where a mapping with the fields route and receivers is expected", alertmanagerConfig, kindOf(root))
	}
	e := expander{left: max(minExpanded, maxExpansion*len(text))}
	tree, err := e.expand(root, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", alertmanagerConfig, err)
	}
	return tree, nil
}

// expander copies a tree without aliases.
type expander struct {
	left int // number of bytes that may still be added to the copy
}

func (e *expander) expand(n *yaml.Node, depth int) (*yaml.Node, error) {
	if n.Kind == yaml.AliasNode {
		return e.expand(n.Alias, depth+1)
	}
	e.left -= len(n.Value) + nodeBytes
	switch {
	case depth > maxDepth:
		return nil, fmt.Errorf("line %d: values are nested more than %d levels deep: use fewer levels", n.Line, maxDepth)
	case e.left < 0:
		return nil, errors.New("the YAML is too large after its aliases (*name) are replaced, or has very many values: use fewer")
	case n.Style&yaml.TaggedStyle != 0:
		return nil, fmt.Errorf("line %d: found the YAML tag %s: remove it", n.Line, short(n.Tag))
	}
	out := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Value: n.Value, Line: n.Line, Column: n.Column}
	if isNull(n) {
		out.Value = "null"
	}
	if n.Kind == yaml.ScalarNode && !isWord(n) {
		out.Style = yaml.DoubleQuotedStyle // the only style in which every text can be encoded
	}
	if n.Kind == yaml.MappingNode {
		return out, e.mapping(out, n, depth)
	}
	for _, c := range n.Content {
		child, err := e.expand(c, depth+1)
		if err != nil {
			return nil, err
		}
		out.Content = append(out.Content, child)
	}
	return out, nil
}

// isWord reports whether a value is a word or a number without quotes, for example yes or 0o17. Such values are left unquoted,
// because their meaning depends on the YAML version of Alertmanager's decoder.
func isWord(n *yaml.Node) bool {
	const longest = 64
	return n.Style == 0 && len(n.Value) <= longest && strings.IndexFunc(n.Value, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_.:+-~", r)
	}) < 0
}

// mapping adds the fields of n to out, and then the fields of merged mappings that n does not have.
func (e *expander) mapping(out, n *yaml.Node, depth int) error {
	if len(n.Content) > 2*maxKeys {
		return fmt.Errorf("line %d: the mapping has %d fields, the limit is %d: use fewer", n.Line, len(n.Content)/2, maxKeys)
	}
	own := make(map[string]*yaml.Node, len(n.Content)/2)
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, err := e.expand(n.Content[i], depth+1)
		if err != nil {
			return err
		}
		if key.Kind != yaml.ScalarNode {
			return fmt.Errorf("line %d: found %s where the name of a field is expected", key.Line, kindOf(key))
		}
		value, err := e.expand(n.Content[i+1], depth+1)
		if err != nil {
			return err
		}
		if key.Tag == "!!merge" {
			merged = append(merged, value)
			continue
		}
		if first, ok := own[key.Value]; ok {
			return fmt.Errorf("line %d: the field %q is already set in line %d: remove one of them", key.Line, short(key.Value), first.Line)
		}
		own[key.Value] = value
		out.Content = append(out.Content, key, value)
	}
	for _, m := range merged {
		if err := merge(out, m, own); err != nil {
			return err
		}
	}
	if len(own) > maxKeys {
		return fmt.Errorf("line %d: the mapping has %d fields with those that are merged, the limit is %d: use fewer", n.Line, len(own), maxKeys)
	}
	return nil
}

// merge adds the fields of a mapping, or of a list of mappings, that are not in `own`. It returns an error for a field in both
// that Alertmanager's decoder would combine instead of preferring one.
func merge(out, from *yaml.Node, own map[string]*yaml.Node) error {
	switch from.Kind {
	case yaml.SequenceNode:
		for _, m := range from.Content {
			if m.Kind != yaml.MappingNode {
				return fmt.Errorf("line %d: found %s where a mapping to merge (<<) is expected", m.Line, kindOf(m))
			}
			if err := merge(out, m, own); err != nil {
				return err
			}
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(from.Content); i += 2 {
			key, value := from.Content[i], from.Content[i+1]
			first, ok := own[key.Value]
			if ok && (first.Kind == yaml.MappingNode || strings.HasSuffix(key.Value, "matchers")) {
				return fmt.Errorf("line %d: the field %q is in the merged mapping (<<) of line %d, too, and Alertmanager would combine both: "+
					"write all of it here, and remove it from the merged mapping", first.Line, short(key.Value), key.Line)
			}
			if !ok {
				own[key.Value] = value
				out.Content = append(out.Content, key, value)
			}
		}
	default:
		return fmt.Errorf("line %d: found %s where a mapping to merge (<<) is expected", from.Line, kindOf(from))
	}
	return nil
}

// fields calls visit for the fields of a mapping.
func fields(n *yaml.Node, visit func(key, value *yaml.Node)) {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		visit(n.Content[i], n.Content[i+1])
	}
}

// field returns the value of a field of a mapping, or nil.
func field(n *yaml.Node, name string) (found *yaml.Node) {
	fields(n, func(k, v *yaml.Node) {
		if k.Value == name {
			found = v
		}
	})
	return found
}

// without returns a mapping without the named fields.
func without(n *yaml.Node, names ...string) *yaml.Node {
	out := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Line: n.Line}
	fields(n, func(k, v *yaml.Node) {
		if !slices.Contains(names, k.Value) {
			out.Content = append(out.Content, k, v)
		}
	})
	return out
}

// isEmpty reports whether a value is null, or is the zero value of type t, so that setting it has no effect.
func isEmpty(n *yaml.Node, t reflect.Type) bool {
	switch {
	case n.Kind == yaml.MappingNode || n.Kind == yaml.SequenceNode:
		return len(n.Content) == 0
	case n.Value == "" || isNull(n):
		return true
	}
	return t.Kind() == reflect.Bool && slices.Contains([]string{"false", "no", "off", "n"}, strings.ToLower(n.Value))
}
