package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"reflect"
	"strings"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/policies/nearest"
)

// LoadConfig reads a configuration file over the defaults; an empty path means only the
// defaults. Unknown keys are errors. ${NAME} in a key or value is replaced by an environment
// variable, which must be set; $${ is ${.
func LoadConfig(path string, env func(string) (string, bool)) (Config, error) {
	c := DefaultConfig()
	if path == "" {
		return c, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("read configuration: %w", err)
	}
	if err := decodeConfig(data, env, &c); err != nil {
		return c, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// decodeConfig decodes one YAML document into a configuration. An error contains the line, the
// key, the value, and the allowed values, as far as they are known.
func decodeConfig(data []byte, env func(string) (string, bool), c *Config) error {
	var doc, next yaml.Node
	vars := newVariables(env)
	d := yaml.NewDecoder(bytes.NewReader(vars.hide(data)))
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil // only comments
	case err != nil:
		return vars.syntaxError(err)
	}
	if err := d.Decode(&next); !errors.Is(err, io.EOF) {
		return errors.New("the file contains more than one YAML document (---)")
	}
	if len(doc.Content) == 0 {
		return nil
	}
	if err := vars.expand(&doc); err != nil {
		return err
	}
	c.lines = map[string]int{}
	file := configFile{lines: c.lines, vars: vars, inside: map[*yaml.Node]bool{}}
	file.section(doc.Content[0], reflect.ValueOf(c).Elem(), "")
	return file.err
}

// configFile collects the errors in a file and the lines of its keys.
type configFile struct {
	lines  map[string]int
	vars   *variables
	inside map[*yaml.Node]bool // sections that are being decoded, to find aliases to them
	err    error
}

func (f *configFile) add(n *yaml.Node, format string, args ...any) {
	f.err = errors.Join(f.err, fmt.Errorf("line %d: "+format, append([]any{n.Line}, args...)...))
}

// section decodes keys into the fields of a struct.
func (f *configFile) section(n *yaml.Node, into reflect.Value, path string) {
	n = target(n)
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		where := path
		if where == "" {
			where = "the configuration"
		}
		f.add(n, "%s must have keys (%s), not %s", where, shortList(keysOf(into.Type())), f.kindOf(n))
		return
	}
	if f.inside[n] {
		f.add(n, "%s contains itself through an alias (*)", path)
		return
	}
	f.inside[n] = true
	defer delete(f.inside, n)
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.ShortTag() == "!!merge" {
			f.section(value, into, path)
			continue
		}
		name := key.Value
		if line, ok := seen[name]; ok {
			f.add(key, "%s appears twice, first in line %d", joined(path, name), line)
			continue
		}
		seen[name] = key.Line
		f.lines[joined(path, name)] = key.Line
		field, ok := fieldOf(into, name)
		if !ok {
			f.unknown(key, into.Type(), path)
			continue
		}
		f.value(value, field, joined(path, name))
	}
}

// removedKeys returns the keys of earlier versions, each with what replaces it.
func removedKeys() map[string]string {
	return map[string]string{
		"querier.experimental_functions": "use the limit promql_experimental_functions, of one tenant " +
			"(pallium limits set TENANT promql_experimental_functions=true), of a plan, or of all tenants (limits in this file); " +
			"see also the other limits promql_* in docs/limits.md",
	}
}

func (f *configFile) unknown(key *yaml.Node, t reflect.Type, path string) {
	if instead, ok := removedKeys()[joined(path, key.Value)]; ok {
		f.add(key, "%s was removed: %s", joined(path, key.Value), instead)
		return
	}
	known := keysOf(t)
	hint := "allowed here: " + shortList(known)
	if near := nearest.Word(key.Value, known); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	f.add(key, "unknown key %q; %s", joined(path, f.vars.shown(key)), hint)
}

// value decodes a value of any type.
func (f *configFile) value(n *yaml.Node, into reflect.Value, path string) {
	n = target(n)
	_, own := into.Addr().Interface().(yaml.Unmarshaler)
	switch {
	case into.Kind() == reflect.Struct && !own:
		f.section(n, into, path)
		return
	case into.Kind() == reflect.Slice && into.Type().Elem().Kind() == reflect.Struct && n.Kind == yaml.SequenceNode:
		list := reflect.MakeSlice(into.Type(), len(n.Content), len(n.Content))
		for i, item := range n.Content {
			f.section(item, list.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
		into.Set(list)
		return
	}
	err := decode(n, into)
	var limit *limits.Error
	switch {
	case err == nil:
	case errors.As(err, &limit):
		f.add(lineOf(n, limit.Key), "%s: %s", path, limit.Message)
	case n.Kind == yaml.ScalarNode:
		f.add(n, "%s is %q; it must be %s", path, f.vars.shown(n), allowed(into.Type()))
	case n.Kind == yaml.SequenceNode && into.Kind() == reflect.Slice:
		f.add(n, "%s: the items must be %s", path, allowed(into.Type().Elem()))
	default:
		f.add(n, "%s must be %s, not %s", path, allowed(into.Type()), f.kindOf(n))
	}
}

// decode decodes a value that is not a section. It rejects fractions, which the library
// would truncate.
func decode(n *yaml.Node, into reflect.Value) error {
	if n.ShortTag() == "!!float" && into.CanInt() {
		var v float64
		if err := n.Decode(&v); err != nil || v != math.Trunc(v) {
			return errFraction
		}
	}
	return n.Decode(into.Addr().Interface())
}

var errFraction = errors.New("it has a fraction")

// lineOf returns the node of a key of a mapping, or the mapping if it has no such key. Its
// line is used in errors.
func lineOf(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Kind == yaml.MappingNode && n.Content[i].Value == key {
			return n.Content[i]
		}
	}
	return n
}

func target(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

func joined(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// fieldOf returns the field of a key.
func fieldOf(of reflect.Value, key string) (reflect.Value, bool) {
	for i := range of.NumField() {
		if yamlKey(of.Type().Field(i)) == key {
			return of.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func yamlKey(f reflect.StructField) string {
	key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return key
}

func keysOf(t reflect.Type) []string {
	var out []string
	for i := range t.NumField() {
		if key := yamlKey(t.Field(i)); key != "" && key != "-" {
			out = append(out, key)
		}
	}
	return out
}

func shortList(keys []string) string {
	const most = 8
	if len(keys) > most {
		return strings.Join(keys[:most], ", ") + ", ..."
	}
	return strings.Join(keys, ", ")
}

// kindOf returns a description of the kind of a node.
func (f *configFile) kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "keys"
	}
	return fmt.Sprintf("%q", f.vars.shown(n))
}

// allowed returns a description of the valid values of a type.
func allowed(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[model.Duration](), t == reflect.TypeFor[*model.Duration]():
		return "a duration such as 30s, 5m or 1h30m"
	case t == reflect.TypeFor[limits.Partial]():
		return "limits with their values; 'pallium limits describe' lists them"
	}
	switch t.Kind() {
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list, such as [a, b]"
	case reflect.Struct:
		return "keys"
	}
	return "text"
}
