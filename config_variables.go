package main

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// variables are the environment variables in a configuration file. Before the file is parsed, each
// ${NAME} is replaced by a mark that has no meaning in YAML, and after that each mark by the value.
// So a ${NAME} in a comment is ignored. A value cannot add keys to the file, whatever characters it
// contains; only a list in square brackets is parsed. Errors show the name of a variable, not its
// value, which may be secret.
type variables struct {
	env    func(string) (string, bool)
	names  []string              // by the number in the mark; empty for an escaped ${
	origin map[*yaml.Node]string // by expanded node: its text in the file
}

func newVariables(env func(string) (string, bool)) *variables {
	return &variables{env: env, origin: map[*yaml.Node]string{}}
}

// The characters of a mark are Unicode's for private use, so they are not expected in files.
var (
	variable = regexp.MustCompile(`\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)
	mark     = regexp.MustCompile("\uE000([0-9]+)\uE001")
)

// hide replaces variables by marks.
func (v *variables) hide(data []byte) []byte {
	return variable.ReplaceAllFunc(data, func(m []byte) []byte {
		v.names = append(v.names, string(variable.FindSubmatch(m)[1]))
		return fmt.Appendf(nil, "\uE000%d\uE001", len(v.names)-1)
	})
}

// replaced returns a text with its marks replaced.
func (v *variables) replaced(text string, value func(name string) string) string {
	return mark.ReplaceAllStringFunc(text, func(m string) string {
		i, err := strconv.Atoi(mark.FindStringSubmatch(m)[1])
		switch {
		case err != nil || i >= len(v.names):
			return m
		case v.names[i] == "":
			return "${"
		}
		return value(v.names[i])
	})
}

// named returns a text as it is in the file, with the names of variables.
func (v *variables) named(text string) string {
	return v.replaced(text, func(name string) string { return "${" + name + "}" })
}

// expand replaces the marks in all keys and values by the values of the variables. The error
// names all variables that are not set.
func (v *variables) expand(n *yaml.Node) error {
	var missing error
	if n.Kind == yaml.ScalarNode && mark.MatchString(n.Value) {
		v.origin[n] = v.named(n.Value)
		alone := mark.FindString(n.Value) == n.Value
		n.Value = v.replaced(n.Value, func(name string) string {
			value, ok := v.env(name)
			if !ok {
				missing = errors.Join(missing, fmt.Errorf("line %d: environment variable %s is not set", n.Line, name))
			}
			return value
		})
		if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0 {
			n.Tag = "" // a number is a number again
			if alone && strings.HasPrefix(n.Value, "[") {
				missing = errors.Join(missing, v.list(n))
			}
		}
	}
	for _, c := range n.Content {
		missing = errors.Join(missing, v.expand(c))
	}
	return missing
}

// list replaces a scalar whose text is a YAML list by that list.
func (v *variables) list(n *yaml.Node) error {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(n.Value), &doc); err != nil || len(doc.Content) != 1 || doc.Content[0].Kind != yaml.SequenceNode {
		return fmt.Errorf("line %d: the value of %s begins with [ but is not a list", n.Line, v.origin[n])
	}
	list := doc.Content[0]
	for _, item := range list.Content {
		item.Line = n.Line
		v.origin[item] = v.origin[n]
	}
	list.Line = n.Line
	*n = *list
	return nil
}

// shown returns the text of a scalar for an error: with the names of variables, and without
// the password of a URL.
func (v *variables) shown(n *yaml.Node) string {
	text, ok := v.origin[n]
	if !ok {
		text = n.Value
	}
	return redacted(text)
}

// syntaxError returns an error of the YAML library with variables as they are in the file, and always with a
// line.
func (v *variables) syntaxError(err error) error {
	text := v.named(strings.TrimPrefix(err.Error(), "yaml: "))
	if !strings.HasPrefix(text, "line ") {
		text = "line 1: " + text // the library omits it
	}
	return errors.New(text)
}
