package tenantconfig

import (
	"errors"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// decodes checks that Alertmanager can decode a value. It does nothing if the value already has problems.
func (c *checker) decodes(n *yaml.Node, t reflect.Type, r rule, path string, before int) {
	if c.problems.count() > before {
		return
	}
	err := decode(n, t)
	switch {
	case err == nil:
	case isSecret(r):
		c.problems.add(path, "the value is not a valid URL of http or https") // the problem does not quote the value, which may be a secret
	default:
		c.problems.add(path, "%s", c.realNames(readable(err)))
	}
}

// decode decodes a value into a new value of type t.
func decode(n *yaml.Node, t reflect.Type) (err error) {
	defer func() {
		if r := recover(); r != nil { // Alertmanager's decoders expect that some fields are set
			err = errors.New("the combination of fields is not supported: a field that another one needs is missing")
		}
	}()
	return n.Decode(reflect.New(t).Interface())
}

// readable returns the text of an error of the YAML libraries without names of Go types and without line numbers, which do not
// refer to the user's text.
func readable(err error) string {
	text := err.Error()
	text = strings.TrimPrefix(text, "yaml: ")
	text = strings.TrimPrefix(text, "unmarshal errors:\n")
	var out []string
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "line "); ok {
			if _, after, ok := strings.Cut(rest, ": "); ok {
				line = after
			}
		}
		if before, kind, ok := cutLast(line, " into "); ok && strings.HasPrefix(line, "cannot unmarshal ") {
			found := strings.TrimPrefix(before, "cannot unmarshal ")
			if i := strings.Index(found, "`"); i >= 0 {
				found = "the value " + found[i:]
			}
			found = strings.NewReplacer("!!seq", "a list", "!!map", "a mapping").Replace(found)
			line = "found " + found + " where " + expected(kind) + " is expected"
		}
		line = strings.TrimSuffix(line, " either inline or in a file")
		if before, after, ok := strings.Cut(line, "one of "); ok && before == "" { // the alternatives with files are not allowed
			if name, rest, ok := strings.Cut(after, " or "); ok && strings.HasPrefix(rest, name+"_file ") {
				line = name + strings.TrimPrefix(rest, name+"_file")
			}
		}
		if line != "" {
			out = append(out, line)
		}
	}
	return strings.Join(out, "; ")
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// expected describes a Go type in the words of users.
func expected(kind string) string {
	switch {
	case strings.Contains(kind, "Duration") || strings.HasSuffix(kind, "duration"):
		return "a duration such as 30s"
	case strings.HasPrefix(kind, "[]"):
		return "a list"
	case strings.HasPrefix(kind, "map"):
		return "a mapping"
	case strings.HasPrefix(kind, "int") || strings.HasPrefix(kind, "uint"):
		return "a whole number"
	case kind == "bool":
		return "true or false"
	case kind == "string":
		return "a text"
	}
	return "another kind of value"
}
