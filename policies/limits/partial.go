package limits

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// Partial is a document that sets some of the limits: a plan, or a tenant's overrides.
// Every key and value is checked when a Partial is decoded from JSON or YAML and in Set.
// The zero Partial sets nothing. Copies are independent.
type Partial struct {
	values map[string]any // values have the type of the limit's field, but int64 for int
}

// Plan is a named Partial that tenants share.
type Plan struct {
	Name   string
	Limits Partial
}

// Merge applies documents to the defaults in order: the plan, then the tenant's
// overrides. Later documents take precedence.
func Merge(defaults Limits, layers ...Partial) Limits {
	for _, layer := range layers {
		for name, value := range layer.values {
			l, err := find(name)
			if err != nil {
				continue // cannot happen: decoding rejects unknown names
			}
			f := defaults.field(l)
			switch v := value.(type) {
			case float64:
				f.SetFloat(v)
			case Duration:
				f.SetInt(int64(v))
			case int64:
				f.SetInt(v)
			case bool:
				f.SetBool(v)
			case string:
				f.SetString(v)
			}
		}
	}
	return defaults
}

// Set sets one limit from text in the format of the command line.
func (p *Partial) Set(key, value string) error {
	d, err := describe(key)
	if err != nil {
		return err
	}
	v, err := d.parse(value)
	if err != nil {
		return err
	}
	p.change(func(values map[string]any) { values[key] = v })
	return nil
}

// Unset removes a limit from the document, so that the value of the plan or the default
// applies again.
func (p *Partial) Unset(key string) error {
	if _, err := describe(key); err != nil {
		return err
	}
	p.change(func(values map[string]any) { delete(values, key) })
	return nil
}

// change modifies a copy of the values, because copies of a Partial share them.
func (p *Partial) change(f func(map[string]any)) {
	values := maps.Clone(p.values)
	if values == nil {
		values = map[string]any{}
	}
	f(values)
	p.values = values
}

// Keys returns the names of the limits that the document sets, sorted.
func (p Partial) Keys() []string { return slices.Sorted(maps.Keys(p.values)) }

// Get returns the value of a limit as text, and whether the document sets it. The text has one
// line: line breaks of the value are written as \n.
func (p Partial) Get(key string) (string, bool) {
	v, ok := p.values[key]
	if f, isFloat := v.(float64); isFloat {
		return strconv.FormatFloat(f, 'f', -1, 64), ok
	}
	return strings.ReplaceAll(fmt.Sprint(v), "\n", `\n`), ok
}

// parse parses and checks a value.
func (d Description) parse(text string) (any, error) {
	var v any
	var err error
	switch d.Unit {
	case PerSecond, CPUs:
		v, err = strconv.ParseFloat(text, 64)
	case Time:
		v, err = model.ParseDuration(text)
	case Switch:
		switch text {
		case "true":
			v = true
		case "false":
			v = false
		default:
			return nil, d.reject(strconv.Quote(text))
		}
	case LabelName, Queries, Namespaces:
		v = text
	default:
		v, err = strconv.ParseInt(text, 10, 64)
	}
	if err != nil {
		return nil, d.reject(strconv.Quote(text))
	}
	return v, d.check(v)
}

// UnmarshalJSON decodes an object of limits. Numbers must not be written as strings. Durations must
// be, except 0.
func (p *Partial) UnmarshalJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	t, err := dec.Token()
	if err != nil {
		return fmt.Errorf("read limits: %w", err)
	}
	out := Partial{}
	if t == nil { // null
		*p = out
		return nil
	}
	if t != json.Delim('{') {
		return errors.New("limits must be an object of limit names and values")
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return fmt.Errorf("read limits: %w", err)
		}
		var value any
		if err := dec.Decode(&value); err != nil {
			return fmt.Errorf("read limits: %w", err)
		}
		if err := out.add(key.(string), value); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read limits: %w", err)
	}
	*p = out
	return nil
}

// isText reports whether values of the limit are texts.
func (d Description) isText() bool {
	return d.Unit == LabelName || d.Unit == Queries || d.Unit == Namespaces
}

// add sets a limit from a decoded value: a json.Number, a string or a bool.
func (p *Partial) add(key string, value any) error {
	d, err := describe(key)
	if err != nil {
		return err
	}
	if _, twice := p.values[key]; twice {
		return &Error{Key: key, Message: fmt.Sprintf("limit %s appears twice: remove one of the two", key)}
	}
	switch v := value.(type) {
	case json.Number:
		if d.isText() || d.Unit == Time && v != "0" {
			return d.reject(v)
		}
		return p.Set(key, string(v))
	case string:
		if d.Unit != Time && !d.isText() {
			return d.reject(strconv.Quote(v))
		}
		return p.Set(key, v)
	case bool:
		if d.Unit != Switch {
			return d.reject(v)
		}
		return p.Set(key, strconv.FormatBool(v))
	default:
		return d.reject(fmt.Sprint(value))
	}
}

// MarshalJSON encodes the document with sorted keys.
func (p Partial) MarshalJSON() ([]byte, error) {
	if p.values == nil {
		return []byte("{}"), nil
	}
	return json.Marshal(p.values)
}

// UnmarshalYAML decodes a mapping of limits, as in the configuration file.
func (p *Partial) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		*p = Partial{}
		return nil
	}
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: limits must be a mapping of limit names and values", n.Line)
	}
	out := Partial{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		var value any = n.Content[i+1].Value
		if tag := n.Content[i+1].ShortTag(); tag == "!!int" || tag == "!!float" {
			value = json.Number(n.Content[i+1].Value)
		} else if tag == "!!bool" {
			value = strings.EqualFold(n.Content[i+1].Value, "true")
		} else if tag != "!!str" {
			value = tag
		}
		if err := out.add(n.Content[i].Value, value); err != nil {
			return fmt.Errorf("line %d: %w", n.Content[i].Line, err)
		}
	}
	*p = out
	return nil
}

// MarshalYAML encodes the document with sorted keys.
func (p Partial) MarshalYAML() (any, error) {
	if p.values == nil {
		return map[string]any{}, nil
	}
	return p.values, nil
}
