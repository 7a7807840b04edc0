package rules

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// single returns the root of the only document, or nil if there is none.
func single(data []byte) (*yaml.Node, error) {
	roots, err := documents(data, 2)
	switch {
	case err != nil:
		return nil, err
	case len(roots) > 1:
		return nil, invalid("the file contains more than one YAML document: send each group in a request of its own")
	case len(roots) == 0 || isNull(roots[0]):
		return nil, nil
	}
	return roots[0], nil
}

// documents returns the roots of at most `most` documents.
func documents(data []byte, most int) ([]*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var roots []*yaml.Node
	for len(roots) < most {
		var doc yaml.Node
		err := dec.Decode(&doc)
		switch {
		case errors.Is(err, io.EOF):
			return roots, nil
		case err != nil:
			return nil, yamlError(err)
		}
		roots = append(roots, doc.Content[0])
	}
	return roots, nil
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// maxKeys is the maximum number of keys of a mapping, because the YAML library takes time proportional to its square.
const maxKeys = 256

// checkSize returns an error if documents have more than `most` bytes after all aliases are expanded, or too many values.
// Without this check, decoding a small text could take much time and memory.
func checkSize(most int, roots ...*yaml.Node) error {
	x := expansion{anchors: map[*yaml.Node]int{}, most: most}
	sum := 0
	for _, root := range roots {
		sum += x.size(root)
	}
	const bytes = 8 // for each value, at least
	switch {
	case x.wide > 0:
		return invalid("line %d: a mapping has more than %d keys: use fewer", x.wide, maxKeys)
	case len(x.twice) > 0:
		return invalid("YAML: %s", strings.Join(shortened(x.twice), "; "))
	case sum > most && x.aliases:
		return invalid("the YAML has more than %d bytes after its aliases (*name) are expanded: use fewer aliases", most)
	case x.nodes > most/bytes:
		return invalid("the YAML has %d values, the limit is %d: divide it", x.nodes, most/bytes)
	}
	return nil
}

// expansion computes the size of nodes with their aliases expanded.
type expansion struct {
	anchors map[*yaml.Node]int // computed sizes of anchors
	most    int                // sizes above it are not computed exactly
	nodes   int                // number of nodes, without expansion of aliases
	wide    int                // line of a mapping with too many keys
	aliases bool
	twice   []string // repeated keys, because the library would report each pair of them, at each decoding
}

// size returns the total number of bytes of a node's values, including nested ones, plus one for each value.
func (x *expansion) size(n *yaml.Node) int {
	if n.Kind == yaml.AliasNode {
		x.aliases = true
		n = n.Alias
	}
	if known, ok := x.anchors[n]; ok {
		return known
	}
	if n.Anchor != "" {
		x.anchors[n] = x.most + 1 // used for an alias inside of its own anchor
	}
	if n.Kind == yaml.MappingNode {
		x.keys(n)
	}
	x.nodes++
	sum := len(n.Value) + 1
	for _, c := range n.Content {
		sum = min(sum+x.size(c), x.most+1)
	}
	if n.Anchor != "" {
		x.anchors[n] = sum
	}
	return sum
}

// keys checks the keys of a mapping.
func (x *expansion) keys(n *yaml.Node) {
	if len(n.Content) > 2*maxKeys {
		x.wide = n.Line
		return
	}
	type key struct {
		kind  yaml.Kind
		value string
	}
	lines := make(map[key]int, len(n.Content)/2)
	fields(n, func(k, _ *yaml.Node) {
		line, ok := lines[key{k.Kind, k.Value}]
		if ok {
			x.twice = append(x.twice, fmt.Sprintf("line %d: mapping key %q already defined at line %d", k.Line, k.Value, line))
			return
		}
		lines[key{k.Kind, k.Value}] = k.Line
	})
}

// Strict decodes one document. Unknown fields are errors.
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

// plain rewords one problem of a yaml.TypeError, because it contains names of Go types and YAML tags.
func plain(problem string) string {
	if before, _, ok := strings.Cut(problem, " not found in type "); ok {
		return strings.Replace(before, "field ", "unknown field ", 1)
	}
	at := strings.LastIndex(problem, " into ") // the last one, because the value may contain " into "
	before, found, ok := strings.Cut(problem[:max(at, 0)], "cannot unmarshal ")
	if !ok {
		return problem
	}
	kind := problem[at+len(" into "):]
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
	tag, value, _ := strings.Cut(found, " ")
	return before + "found " + strings.TrimSpace(kindOf(tag)+" "+value) + " where " + want + " is expected"
}

// kindOf describes a YAML tag in the words of users.
func kindOf(tag string) string {
	switch tag {
	case "!!seq":
		return "a list"
	case "!!map":
		return "a mapping"
	case "!!str":
		return "the text"
	case "!!int", "!!float":
		return "the number"
	case "!!bool":
		return "the value"
	case "!!null":
		return "no value"
	}
	return "the value"
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
