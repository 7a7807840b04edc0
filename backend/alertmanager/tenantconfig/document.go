package tenantconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Document is a configuration as users of Mimir and Cortex send and receive it.
type Document struct {
	Templates map[string]string // texts of template files by name
	Config    string            // configuration of Alertmanager
}

// The fields of a document.
const (
	templateFiles      = "template_files"
	alertmanagerConfig = "alertmanager_config"
)

// maxTemplateName is the maximum length of the name of a template file, in bytes.
const maxTemplateName = 255

// ParseDocument decodes a document: YAML with the fields template_files and alertmanager_config.
func ParseDocument(data []byte) (Document, error) {
	d := Document{Templates: map[string]string{}}
	root, err := single(data)
	if err != nil {
		return d, err
	}
	const want = "the body must be YAML with the fields " + templateFiles + " (names and texts of templates) and " + alertmanagerConfig
	if root == nil || root.Kind != yaml.MappingNode {
		return d, errors.New(want)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		if seen[key.Value] {
			return d, fmt.Errorf("line %d: the field %q appears twice", key.Line, short(key.Value))
		}
		seen[key.Value] = true
		switch key.Value {
		case templateFiles:
			if err := d.addTemplates(value); err != nil {
				return d, err
			}
		case alertmanagerConfig:
			if d.Config, err = text(value); err != nil {
				return d, fmt.Errorf("%s: %w", alertmanagerConfig, err)
			}
		default:
			return d, fmt.Errorf("line %d: unknown field %q: %s", key.Line, short(key.Value), want)
		}
	}
	return d, nil
}

func (d Document) addTemplates(n *yaml.Node) error {
	if isNull(n) {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("%s: line %d: found %s where a mapping of names to texts is expected", templateFiles, n.Line, kindOf(n))
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, err := text(n.Content[i])
		if err != nil {
			return fmt.Errorf("%s: name of a template file: %w", templateFiles, err)
		}
		if _, ok := d.Templates[name]; ok {
			return fmt.Errorf("%s: line %d: the name %q appears twice", templateFiles, n.Content[i].Line, short(name))
		}
		if d.Templates[name], err = text(n.Content[i+1]); err != nil {
			return fmt.Errorf("%s[%q]: %w", templateFiles, short(name), err)
		}
	}
	return nil
}

// text returns the value of a scalar.
func text(n *yaml.Node) (string, error) {
	switch {
	case isNull(n):
		return "", nil
	case n.Kind != yaml.ScalarNode:
		return "", fmt.Errorf("line %d: found %s where a text is expected", n.Line, kindOf(n))
	case n.Style&yaml.TaggedStyle != 0:
		return "", fmt.Errorf("line %d: found the YAML tag %s: remove it", n.Line, short(n.Tag))
	}
	return n.Value, nil
}

// YAML encodes the document, whose texts must be UTF-8. ParseDocument decodes the result to an equal document.
func (d Document) YAML() []byte {
	names := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, name := range slices.Sorted(maps.Keys(d.Templates)) {
		names.Content = append(names.Content, stringNode(name), stringNode(d.Templates[name]))
	}
	root := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: []*yaml.Node{
		stringNode(templateFiles), names, stringNode(alertmanagerConfig), stringNode(d.Config),
	}}
	data, err := yaml.Marshal(root)
	if err != nil { // cannot happen: the document consists of strings only
		return nil
	}
	return data
}

// stringNode returns the node of a string. A text of several lines becomes a literal block if the YAML library decodes it to
// the same text, which is not the case for some white space.
func stringNode(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	n.Style = yaml.DoubleQuotedStyle
	if strings.Contains(s, "\n") {
		block := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s, Style: yaml.LiteralStyle}
		var back string
		if data, err := yaml.Marshal(block); err == nil && yaml.Unmarshal(data, &back) == nil && back == s {
			n.Style = yaml.LiteralStyle
		}
	}
	return n
}

// single returns the root of the only YAML document, or nil if the data contain none.
func single(data []byte) (*yaml.Node, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("the YAML is not valid UTF-8")
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, errors.New("YAML: " + strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, errors.New("the text contains more than one YAML document: send one")
	}
	if len(doc.Content) == 0 || isNull(doc.Content[0]) {
		return nil, nil
	}
	return doc.Content[0], nil
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// kindOf describes the kind of a node in the words of users.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias (*" + short(n.Value) + ")"
	}
	if isNull(n) {
		return "no value"
	}
	return fmt.Sprintf("the value %q", short(n.Value))
}

// short returns the beginning of a text, to be quoted in an error.
func short(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// files checks the names and sizes of the template files.
func (c *checker) files() {
	l := c.options.Limits
	if n := len(c.document.Templates); l.Templates > 0 && n > l.Templates {
		c.problems.add(templateFiles, "there are %d template files, the limit is %d: use fewer", n, l.Templates)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(c.document.Templates)) {
		text, at := c.document.Templates[name], fmt.Sprintf("%s[%q]", templateFiles, short(name))
		if why := badTemplateName(name); why != "" {
			c.problems.add(at, "%s", why)
			continue
		}
		if l.TemplateBytes > 0 && len(text) > l.TemplateBytes {
			c.problems.add(at, "the template file has %d bytes, the limit is %d: divide it or remove parts", len(text), l.TemplateBytes)
		}
	}
}

// badTemplateName returns the problem of the name of a template file, or "".
func badTemplateName(name string) string {
	switch {
	case name == "":
		return "a template file needs a name"
	case len(name) > maxTemplateName:
		return fmt.Sprintf("the name has %d bytes, the limit is %d", len(name), maxTemplateName)
	case strings.ContainsAny(name, "/\\\x00") || name == "." || name == ".." || path.Base(name) != name:
		return "the name of a template file must not contain a path: use " + fmt.Sprintf("%q", path.Base(strings.ReplaceAll(name, "\\", "/")))
	case strings.ContainsAny(name, "*?["):
		return "the name of a template file must not contain the characters *?["
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError }):
		return "the name of a template file must not contain control characters"
	}
	return ""
}
