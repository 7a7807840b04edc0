package authn

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode"
	"unicode/utf8"
)

// maxJSONDepth is far more than any header, claim set or key set needs.
const maxJSONDepth = 8

var (
	errNotUTF8   = errors.New("not valid UTF-8")
	errNotObject = errors.New("not a JSON object")
	errTooDeep   = errors.New("nested too deeply")
	errTrailing  = errors.New("data after the JSON object")
)

// parseObject decodes one JSON object unambiguously. At every level, it rejects names that are
// equal or differ only in case: decoding {"tenant":"a","Tenant":"b"} into a Go struct would
// silently use b. Numbers are json.Number.
func parseObject(data []byte) (map[string]any, error) {
	if !utf8.Valid(data) {
		return nil, errNotUTF8
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := parseValue(dec, 0)
	if err != nil {
		return nil, err
	}
	obj, ok := v.(map[string]any)
	if !ok {
		return nil, errNotObject
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errTrailing
	}
	return obj, nil
}

func parseValue(dec *json.Decoder, depth int) (any, error) {
	if depth > maxJSONDepth {
		return nil, errTooDeep
	}
	t, err := dec.Token()
	if err != nil {
		return nil, fmt.Errorf("read JSON: %w", err)
	}
	switch t {
	case json.Delim('{'):
		return parseMembers(dec, depth)
	case json.Delim('['):
		return parseElements(dec, depth)
	}
	return t, nil
}

func parseMembers(dec *json.Decoder, depth int) (map[string]any, error) {
	obj := map[string]any{}
	seen := map[string]struct{}{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("read JSON: %w", err)
		}
		name, ok := t.(string)
		if !ok {
			return nil, errNotObject
		}
		folded := foldCase(name)
		if _, dup := seen[folded]; dup {
			return nil, fmt.Errorf("name %q appears twice", name)
		}
		seen[folded] = struct{}{}
		if obj[name], err = parseValue(dec, depth+1); err != nil {
			return nil, err
		}
	}
	_, err := dec.Token() // the closing brace
	return obj, err
}

func parseElements(dec *json.Decoder, depth int) ([]any, error) {
	list := []any{}
	for dec.More() {
		v, err := parseValue(dec, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := dec.Token() // the closing bracket
	return list, err
}

// foldCase maps strings that are equal under Unicode case folding to the same string.
// Lower-casing is not enough: U+017F folds to "s", U+212A to "k".
func foldCase(s string) string {
	out := make([]rune, 0, len(s))
	for _, r := range s {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		out = append(out, least)
	}
	return string(out)
}
