package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/policies/nearest"
)

// LoadConfig reads a file over the defaults. Unknown keys are errors, and
// ${NAME} stands for an environment variable, which must be set.
func LoadConfig(path string, env func(string) (string, bool)) (Config, error) {
	c := DefaultConfig()
	if path == "" {
		return c, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("read configuration: %w", err)
	}
	if data, err = expand(data, env); err == nil {
		err = decodeConfig(data, &c)
	}
	if err != nil {
		return c, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// variable is an environment variable in a configuration, or what stands for a $ that
// begins none.
var variable = regexp.MustCompile(`\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// expand puts environment variables in their places, but for those in comments. $${ is
// ${ as it is.
func expand(data []byte, env func(string) (string, bool)) ([]byte, error) {
	var missing error
	lines := bytes.SplitAfter(data, []byte("\n"))
	for i, line := range lines {
		code := line[:commentAt(line)]
		expanded := variable.ReplaceAllFunc(code, func(m []byte) []byte {
			if bytes.HasPrefix(m, []byte("$$")) {
				return m[1:]
			}
			name := string(variable.FindSubmatch(m)[1])
			v, ok := env(name)
			if !ok {
				missing = errors.Join(missing, fmt.Errorf("line %d: environment variable %s is not set", i+1, name))
			}
			return []byte(v)
		})
		lines[i] = slices.Concat(expanded, line[len(code):])
	}
	return bytes.Join(lines, nil), missing
}

// commentAt is where the comment of a line begins: at a # that is not quoted, at the
// beginning or after a blank.
func commentAt(line []byte) int {
	quote := byte(0)
	for i, b := range line {
		switch {
		case quote != 0:
			if b == quote {
				quote = 0
			}
		case b == '"' || b == '\'':
			quote = b
		case b == '#' && (i == 0 || line[i-1] == ' ' || line[i-1] == '\t'):
			return i
		}
	}
	return len(line)
}

// decodeConfig reads one YAML document into a configuration. Errors name line, key and
// value, and what is allowed.
func decodeConfig(data []byte, c *Config) error {
	var doc, next yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(data))
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil // nothing but comments
	case err != nil:
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := d.Decode(&next); !errors.Is(err, io.EOF) {
		return errors.New("the file contains more than one YAML document (---)")
	}
	if len(doc.Content) == 0 {
		return nil
	}
	c.lines = map[string]int{}
	file := configFile{lines: c.lines}
	file.section(doc.Content[0], reflect.ValueOf(c).Elem(), "")
	return file.err
}

// configFile collects what is wrong with a file, and where its keys are.
type configFile struct {
	lines map[string]int
	err   error
}

func (f *configFile) add(n *yaml.Node, format string, args ...any) {
	f.err = errors.Join(f.err, fmt.Errorf("line %d: "+format, append([]any{n.Line}, args...)...))
}

// section reads keys into the fields of a struct.
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
		f.add(n, "%s must have keys (%s), not %s", where, shortList(keysOf(into.Type())), kindOf(n))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.ShortTag() == "!!merge" {
			f.section(value, into, path)
			continue
		}
		name := key.Value
		if line, ok := seen[name]; ok {
			f.add(key, "%s appears twice, first in line %d", join(path, name), line)
			continue
		}
		seen[name] = key.Line
		f.lines[join(path, name)] = key.Line
		field, ok := fieldOf(into, name)
		if !ok {
			f.unknown(key, into.Type(), path)
			continue
		}
		f.value(value, field, join(path, name))
	}
}

func (f *configFile) unknown(key *yaml.Node, t reflect.Type, path string) {
	known := keysOf(t)
	hint := "known here: " + shortList(known)
	if near := nearest.Word(key.Value, known); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	f.add(key, "unknown key %q; %s", join(path, key.Value), hint)
}

// value reads a value of any type.
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
		f.add(n, "%s is %q; it must be %s", path, n.Value, allowed(into.Type()))
	default:
		f.add(n, "%s must be %s, not %s", path, allowed(into.Type()), kindOf(n))
	}
}

// decode reads a value that is not a section. The library cuts fractions off.
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

// lineOf is the key of a mapping, or the mapping.
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

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// fieldOf is the field of a key.
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

// kindOf says what a node is, in words.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "keys"
	}
	return fmt.Sprintf("%q", n.Value)
}

// allowed says what values of a type are, in words.
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
