package rules

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// problem is a value of a group that cannot be read.
type problem struct {
	rule  int    // index of the rule; -1 for the group itself
	field string // name of the field
	text  string // with the line and the field
}

// joined returns problems and another error, or nil, as one error.
func joined(problems []problem, err error) error {
	texts := make([]string, 0, len(problems)+1)
	for _, p := range problems {
		texts = append(texts, p.text)
	}
	texts = shortened(texts)
	if err != nil {
		texts = append(texts, err.Error())
	}
	return invalid("%s", strings.Join(texts, "\n"))
}

// repair replaces values that the YAML library reports without a line, or changes without an error. After such a value, the
// library would not report other problems of the group.
type repair struct {
	data   []byte
	lines  []int // offsets at which lines begin
	copied bool  // whether data is a copy of the caller's data
}

func newRepair(data []byte) *repair {
	r := &repair{data: data, lines: []int{0}}
	for i, c := range data {
		if c == '\n' {
			r.lines = append(r.lines, i+1)
		}
	}
	return r
}

// group replaces the values of a group that cannot be read, in the node and in the text, and returns them as problems.
func (r *repair) group(root *yaml.Node) []problem {
	var problems []problem
	rule := -1
	check := func(key, value *yaml.Node) {
		target := value
		if value.Kind == yaml.AliasNode {
			target = value.Alias
		}
		text := checkScalar(key, target)
		if text == "" {
			return
		}
		problems = append(problems, problem{rule, key.Value, fmt.Sprintf("line %d: field %s%s", value.Line, key.Value, text)})
		r.replace(value)
	}
	fields(root, func(key, value *yaml.Node) {
		check(key, value)
		if key.Value != "rules" {
			return
		}
		for i, n := range value.Content {
			rule = i
			fields(n, check)
		}
		rule = -1
	})
	return problems
}

// checkScalar returns the problem of the value of a field of a group or a rule, or "".
func checkScalar(key, value *yaml.Node) string {
	if value.Kind != yaml.ScalarNode || value.Tag == "!!null" {
		return ""
	}
	switch key.Value {
	case "interval", "query_offset", "evaluation_delay", "for", "keep_firing_for":
		if _, err := model.ParseDuration(value.Value); err != nil {
			return fmt.Sprintf(": %v: use a duration such as 30s or 1h30m", err)
		}
	case "limit":
		switch {
		case value.Tag != "!!float":
		case strings.Trim(value.Value, "0123456789") == "":
			return fmt.Sprintf(" is %s: it must be below 2^63", value.Value)
		default:
			return fmt.Sprintf(" is %s: it must be a whole number", value.Value)
		}
	}
	return ""
}

// replace sets a scalar or an alias to 0. It does not change the text if the value is not literally in it; then the YAML library
// reports the value as well.
func (r *repair) replace(n *yaml.Node) {
	old := n.Value
	if n.Kind == yaml.AliasNode {
		old = "*" + old
	}
	n.Kind, n.Alias, n.Value, n.Style, n.Tag = yaml.ScalarNode, nil, "0", 0, "!!int"
	if n.Line < 1 || n.Line > len(r.lines) {
		return
	}
	at := r.lines[n.Line-1]
	for range n.Column - 1 {
		_, size := utf8.DecodeRune(r.data[at:])
		at += size
	}
	for _, quote := range []string{"", "'", `"`} {
		if text := quote + old + quote; text != "" && bytes.HasPrefix(r.data[at:], []byte(text)) {
			if !r.copied {
				r.data, r.copied = slices.Clone(r.data), true
			}
			copy(r.data[at:], "0"+strings.Repeat(" ", len(text)-1))
			return
		}
	}
}
