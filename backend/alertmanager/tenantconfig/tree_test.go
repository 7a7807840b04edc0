package tenantconfig

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	yamlv2 "gopkg.in/yaml.v2"
)

// encoded decodes a text with Alertmanager's YAML library twice: unchanged (was), and after parsing it with parseTree and
// encoding the tree (is). ok is false if one of the libraries does not accept the text.
func encoded(t *testing.T, text string) (was, is any, ok bool) {
	root, err := parseTree(text, 0)
	if err != nil {
		return nil, nil, false
	}
	if err := yamlv2.Unmarshal([]byte(text), &was); err != nil {
		return nil, nil, false // the libraries do not accept exactly the same texts
	}
	root.Style = yaml.FlowStyle
	data, err := yaml.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := yamlv2.Unmarshal(data, &is); err != nil {
		t.Fatalf("%q was encoded as %q: %v", text, data, err)
	}
	return was, is, true
}

// TestTree checks that Alertmanager decodes the same values from the encoded tree as from the user's text.
func TestTree(t *testing.T) {
	for _, value := range []string{"yes", "No", "on", "0o17", "017", "1_000", "12:30", "190:20:30", "0x1F", "1e3", ".inf", "-.INF", ".nan", "~", "null", "", "-0", "+1",
		"a", "a b", "'yes'", "\"\\x41\\u00e9\\n\"", "|\n  x\n   y\n\n", ">-\n  x\n  y\n\n  z", "2001-01-01", "2001-12-14 21:59:43.10 -5", "http://x/?a=b#c", "=",
		"{a: , b: null, 1: x}", "[a, [b], {c: d}]", "\"a: b\"", "'# x'", "é", "'null'", "'1'", "a\n  b\n\n  c", "\"\\ttab\"", "'it''s'", "\"\\u2028\"", "*a", "[&b x, *b]"} {
		text := "k: &a v\nx: " + value + "\n"
		was, is, ok := encoded(t, text)
		if !ok {
			t.Errorf("%q was not compared", text)
		}
		if !reflect.DeepEqual(was, is) && !strings.Contains(fmt.Sprint(was), "NaN") {
			t.Errorf("%q is %#v, want %#v", text, is, was)
		}
	}
}

// FuzzTree checks the same as TestTree for arbitrary texts.
func FuzzTree(f *testing.F) {
	for _, c := range script(f, "testdata/good.txt") {
		f.Add(c.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "<<") || strings.Contains(text, "!") {
			return // the libraries merge fields differently, and parseTree rejects tags
		}
		was, is, ok := encoded(t, text)
		if ok && fmt.Sprint(was) != fmt.Sprint(is) {
			t.Fatalf("%q is %#v, want %#v", text, is, was)
		}
	})
}
