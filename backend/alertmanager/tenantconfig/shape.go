package tenantconfig

import (
	"reflect"
	"strconv"
	"strings"
)

// member is one field of a struct of the configuration.
type member struct {
	index int
	name  string // name in YAML; empty if the field cannot be set in YAML
	rule  rule
	typ   reflect.Type
	rest  bool // whether the field is a map for all names that are not names of other fields
}

// mapping is the result of flat.
type mapping struct {
	named map[string]member
	rest  *member
}

// members returns the fields of a struct. An inlined embedded struct is one member without a name.
func (c *checker) members(t reflect.Type) []member {
	if known, ok := c.shapes[t]; ok {
		return known
	}
	rules := map[string]rule{}
	for r, names := range c.known[t] {
		for _, name := range strings.Fields(names) {
			rules[name] = r
		}
	}
	out := make([]member, 0, t.NumField())
	for i := range t.NumField() {
		f := t.Field(i)
		m := member{index: i, rule: rules[f.Name], typ: f.Type}
		if !f.IsExported() {
			m.rule = internal
		}
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case name == "-" || m.rule == internal:
			m.rule = internal
		case strings.Contains(options, "inline"):
			m.rest = f.Type.Kind() == reflect.Map
		case name != "":
			m.name = name
		default:
			m.name = strings.ToLower(f.Name)
		}
		out = append(out, m)
	}
	c.shapes[t] = out
	return out
}

// flat returns the fields of a mapping by name, and the member for all other names, or nil.
func (c *checker) flat(t reflect.Type) (named map[string]member, rest *member) {
	if known, ok := c.mappings[t]; ok {
		return known.named, known.rest
	}
	named = map[string]member{}
	for _, m := range c.members(t) {
		switch {
		case m.rule == internal:
		case m.rest:
			rest = &m
		case m.name == "":
			inner, _ := c.flat(m.typ)
			for name, sub := range inner {
				named[name] = sub
			}
		default:
			named[m.name] = m
		}
	}
	c.mappings[t] = mapping{named, rest}
	return named, rest
}

// maxPath is the length in bytes above which paths are not extended, so that the paths of deep values cost little.
const maxPath = 1000

// join returns the path of a field.
func join(path, name string) string {
	switch {
	case name == "" || len(path) > maxPath:
		return path
	case path == "":
		return name
	}
	return path + "." + name
}

// keyAt returns the path of an entry of a map.
func keyAt(path, name string) string {
	if len(path) > maxPath {
		return path
	}
	return path + "[" + strconv.Quote(short(name)) + "]"
}

// itemAt returns the path of an item of a list.
func itemAt(path string, i int) string {
	if len(path) > maxPath {
		return path
	}
	return path + "[" + strconv.Itoa(i) + "]"
}

// refusal returns the reason for which a field with a rule must not be set, and what to do instead, or "" if it may be set.
// `hidden` reports whether the field for the value itself is a secret.
func refusal(r rule, name string, hidden bool) string {
	orSecret := ""
	if hidden {
		orSecret = ", or store it as a secret of your own and write " + secretScheme + "NAME there"
	}
	switch r {
	case unknown:
		return "this field is not supported by this version: remove it"
	case file:
		return "the field would read a file of the server, which is not allowed: put the value into the field " + inline(name) + orSecret
	case ref:
		return "the field names a secret of the server's secret manager, which is not allowed: put the value into the field " +
			inline(name) + orSecret
	case proxy:
		return "proxies are not allowed, because they hide the address of a receiver: remove the field, connections are made directly"
	case operator:
		return "this is a setting of the server, which only its operator can change: remove it"
	case profile:
		return "the field would use credentials of the server: remove it, and set access_key and secret_key"
	case awsClient:
		return "the client of the AWS SDK does not check addresses, which is not allowed: remove the field"
	}
	return ""
}

// forbidden reports whether a field with a rule must not be set.
func forbidden(r rule) bool { return refusal(r, "", false) != "" }

// inline returns the name of the field for the value to which a field such as password_file refers.
func inline(name string) string {
	if name == "files" {
		return "secrets"
	}
	return strings.TrimSuffix(strings.TrimSuffix(name, "_file"), "_ref")
}
