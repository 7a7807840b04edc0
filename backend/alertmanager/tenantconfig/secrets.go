package tenantconfig

import (
	"net/url"
	"reflect"
	"strings"
	"unicode/utf8"

	amcommoncfg "github.com/prometheus/alertmanager/config/common"
	"go.yaml.in/yaml/v3"
)

// secretScheme is the prefix of a reference to a secret: secret://NAME is the whole value of a field that Alertmanager hides
// when it shows a configuration. A reference cannot be confused with a URL, because only http and https are allowed.
const secretScheme = "secret://"

// secretHost is the host of the URLs that replace references while Alertmanager decodes. No host has this name (RFC 2606).
const secretHost = "secret.invalid"

func isSecret(r rule) bool { return r == secret || r == secretText || r == token }

// isReference reports whether a value is a reference to a secret.
func isReference(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && strings.HasPrefix(n.Value, secretScheme)
}

// isURL reports whether secrets of a type are URLs.
func isURL(t reflect.Type) bool {
	return t == typ[amcommoncfg.SecretURL]() || isTemplateURL(t)
}

// isTemplateURL reports whether secrets of a type are URLs that may contain templates. Alertmanager has two such types.
func isTemplateURL(t reflect.Type) bool { return strings.HasSuffix(t.Name(), "SecretTemplateURL") }

// secretNodes checks a secret or a list of secrets. It replaces references by their values if the values are known.
func (c *checker) secretNodes(n *yaml.Node, t reflect.Type, r rule, path string) {
	if t.Kind() == reflect.Slice {
		if n.Kind != yaml.SequenceNode {
			c.problems.add(path, "found %s where a list is expected", kindOf(n))
			return
		}
		for i, item := range n.Content {
			c.secretNodes(item, t.Elem(), r, itemAt(path, i))
		}
		return
	}
	if n.Kind != yaml.ScalarNode || isNull(n) {
		c.problems.add(path, "a single value is expected")
		return
	}
	name, reference := strings.CutPrefix(n.Value, secretScheme)
	switch {
	case reference:
		c.reference(n, name, t, r, path)
	case n.Value == amcommoncfg.SecretToken:
		c.problems.add(path, "the value is %s, which replaces secrets when a configuration is shown: write the secret itself, "+
			"or store it and write %sNAME", amcommoncfg.SecretToken, secretScheme)
	case strings.Contains(n.Value, "{{") && (r == token || t == typ[amcommoncfg.SecretURL]()):
		c.problems.add(path, "this field is not a template: remove {{")
	default:
		c.literal(n, t, r, path)
	}
}

// literal checks a secret whose value is in the configuration itself.
func (c *checker) literal(n *yaml.Node, t reflect.Type, r rule, path string) {
	if isURL(t) {
		if why := badURL(n.Value); why != "" {
			c.problems.add(path, "%s", why)
			return
		}
	}
	c.decodes(n, t, r, path, c.problems.count())
}

// badURL returns the problem of a URL, or "". A template may be the whole URL, or follow the host.
func badURL(s string) string {
	const want = "the value is not a valid URL of http or https"
	if strings.Contains(s, "{{") {
		if strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "{{") {
			return ""
		}
		return want
	}
	if _, err := amcommoncfg.ParseURL(s); err != nil {
		return want
	}
	return ""
}

// reference checks a reference to a secret, and replaces it by the value. If the values of secrets are not given, it replaces
// the reference of a URL by a placeholder, which is replaced back at the end of the check.
func (c *checker) reference(n *yaml.Node, name string, t reflect.Type, r rule, path string) {
	if !validSecretName(name) {
		c.problems.add(path, "%q is not a valid name of a secret: use 1 to 64 of the characters a-z, 0-9, _ and -", short(name))
		return
	}
	c.secrets[name] = true
	n.Tag, n.Style = "!!str", yaml.DoubleQuotedStyle
	if c.resolved == nil {
		if isURL(t) {
			n.Value = "https://" + secretHost + "/" + name
		}
		return
	}
	value, ok := c.resolved[name]
	switch {
	case !ok:
		c.problems.add(path, "the secret %q does not exist", name)
	case value == "" || value == amcommoncfg.SecretToken:
		c.problems.add(path, "the secret %q has no value", name)
	case !utf8.ValidString(value):
		c.problems.add(path, "the value of the secret %q is not valid UTF-8", name)
	case strings.Contains(value, "{{") && r != secret:
		c.problems.add(path, "the value of the secret %q contains {{, which is not allowed in this field", name)
	case isURL(t) && badURL(value) != "":
		c.problems.add(path, "the value of the secret %q is not a valid URL of http or https", name)
	case c.secretBytes(value, path):
		n.Value = value
	}
}

func validSecretName(s string) bool {
	const longest = 64
	return s != "" && len(s) <= longest && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}

// unreplaced returns the name of the secret whose reference a URL has replaced.
func (c *checker) unreplaced(u *url.URL) (name string, ok bool) {
	if u == nil || u.Host != secretHost || c.resolved != nil {
		return "", false
	}
	name = strings.TrimPrefix(u.Path, "/")
	return name, c.secrets[name]
}
