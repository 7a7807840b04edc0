package tenantconfig

import (
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/alertmanager/config"
	amcommoncfg "github.com/prometheus/alertmanager/config/common"
	commoncfg "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
)

// values is the second pass: it walks the decoded configuration, and changes it in place.
type values struct {
	*checker
	seen map[any]bool // visited pointers, because receivers share pointers of the global settings

	sizes   map[any]int // sizes of the settings of clients, by pointer
	clients int         // size of the settings of all clients so far
}

// walk checks a value. name is the YAML name of its field.
func (v *values) walk(x reflect.Value, r rule, path, name string) {
	if forbidden(r) {
		if !x.IsZero() {
			v.problems.add(path, "%s", refusal(r, name, false))
		}
		return
	}
	switch {
	case isSecret(r) && isURL(x.Type()):
		v.secretURL(x, r, path)
	case x.Type() == reflect.TypeFor[amcommoncfg.Matchers]():
		x.Set(reflect.ValueOf(amcommoncfg.Matchers(v.matchers[path])))
	case v.leaves[x.Type()]:
		v.leaf(x, path)
	default:
		v.parts(x, r, path, name)
	}
}

// parts checks the parts of a value.
func (v *values) parts(x reflect.Value, r rule, path, name string) {
	switch x.Kind() {
	case reflect.Pointer:
		if x.IsNil() {
			return
		}
		v.client(x.Interface(), path)
		if v.seen[x.Interface()] {
			return
		}
		v.seen[x.Interface()] = true
		v.walk(x.Elem(), r, path, name)
	case reflect.Struct:
		v.structure(x, path)
	case reflect.Slice:
		for i := range x.Len() {
			v.walk(x.Index(i), r, itemAt(path, i), name)
		}
	case reflect.Map:
		v.entries(x, r, path, name)
	case reflect.Interface:
		if !x.IsNil() {
			v.walkAny(x, r, path)
		}
	case reflect.String:
		v.text(x, r, path)
	default:
		if !isPlain(x.Kind()) {
			v.problems.add(path, "%s", refusal(unknown, name, false))
		}
	}
}

// isPlain reports whether a kind is a number or bool.
func isPlain(k reflect.Kind) bool { return k >= reflect.Bool && k <= reflect.Float64 }

func (v *values) structure(x reflect.Value, path string) {
	t := x.Type()
	if _, ok := v.known[t]; !ok {
		if !x.IsZero() {
			v.problems.add(path, "%s", refusal(unknown, "", false))
		}
		return
	}
	v.special(x.Addr().Interface(), path)
	for _, m := range v.members(t) {
		if m.rule == internal {
			continue
		}
		v.walk(x.Field(m.index), m.rule, join(path, m.name), m.name)
	}
}

// entries checks the values and keys of a map.
func (v *values) entries(x reflect.Value, r rule, path, name string) {
	for _, k := range sortedKeys(x) {
		at := keyAt(path, v.name(fmt.Sprint(k.Interface())))
		inner := r
		switch r {
		case textKeys:
			inner = textRule
		case freeFields:
			inner = free
		}
		value := reflect.New(x.Type().Elem()).Elem()
		value.Set(x.MapIndex(k))
		v.walk(value, inner, at, name)
		key := v.key(k, r, at)
		if key != k {
			x.SetMapIndex(k, reflect.Value{})
		}
		x.SetMapIndex(key, value)
	}
}

// sortedKeys returns the keys of a map in the order of their texts.
func sortedKeys(x reflect.Value) []reflect.Value {
	keys := x.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int {
		return strings.Compare(fmt.Sprint(a.Interface()), fmt.Sprint(b.Interface()))
	})
	return keys
}

// key checks a key of a map, and returns it with its label name or its text to execute.
func (v *values) key(k reflect.Value, r rule, path string) reflect.Value {
	text := k
	if k.Kind() == reflect.Interface {
		text = k.Elem()
	}
	if text.Kind() != reflect.String {
		return k
	}
	was := text.String()
	is := was
	switch {
	case r == nameValues:
		is = v.name(was)
	case !strings.Contains(was, "{{"):
	case r == free || r == textKeys:
		is = v.rewrite(path, was)
	default:
		v.problems.add(path, "the name is not a template: remove {{")
	}
	if is == was {
		return k
	}
	return reflect.ValueOf(is).Convert(text.Type())
}

// walkAny checks a value of any type: strings, numbers, lists and maps, as decoded from YAML.
func (v *values) walkAny(x reflect.Value, r rule, path string) {
	inner := reflect.New(x.Elem().Type()).Elem()
	inner.Set(x.Elem())
	v.walk(inner, r, path, "")
	x.Set(inner)
}

// text checks and rewrites a string.
func (v *values) text(x reflect.Value, r rule, path string) {
	s := x.String()
	switch r {
	case names:
		x.SetString(v.name(s))
		return
	case secret:
		return
	}
	if !strings.Contains(s, "{{") {
		return
	}
	switch r {
	case textRule, free, secretText, textKeys:
		x.SetString(v.rewrite(path, s))
	case nameValues:
		v.problems.add(path, "templates in the labels of routes are not supported: remove {{")
	default:
		v.problems.add(path, "this field is not a template: remove {{")
	}
}

// rewrite returns the text to execute instead of the text of a field.
func (c *checker) rewrite(path, text string) string {
	if c.options.Rewrite == nil {
		return text
	}
	rewritten, err := c.options.Rewrite(path, text)
	if err != nil {
		c.problems.add(path, "template: %s", err)
		return text
	}
	return rewritten
}

// secretURL checks a secret URL. If the URL has replaced a reference, it restores the reference.
func (v *values) secretURL(x reflect.Value, r rule, path string) {
	if x.Kind() == reflect.String {
		u, err := url.Parse(x.String())
		if name, ok := v.unreplaced(u); err == nil && ok {
			x.SetString(secretScheme + name)
			return
		}
		v.text(x, r, path)
		return
	}
	s := x.Addr().Interface().(*amcommoncfg.SecretURL)
	if name, ok := v.unreplaced(s.URL); ok {
		s.URL = &url.URL{Scheme: strings.TrimSuffix(secretScheme, "://"), Host: name}
		return
	}
	v.url(s.URL, path)
}

// leaf checks a value of a type with a decoder of its own.
func (v *values) leaf(x reflect.Value, path string) {
	switch l := x.Interface().(type) {
	case amcommoncfg.URL:
		v.url(l.URL, path)
	case config.HostPort:
		if l != (config.HostPort{}) && (l.Host == "" || l.Port == "" || strings.ContainsAny(l.Host+l.Port, "\r\n\t /?#@")) {
			v.problems.add(path, "%q is not a host and a port: write host:port", short(l.String()))
		}
	}
}

func (v *values) url(u *url.URL, path string) {
	switch {
	case u == nil:
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		v.problems.add(path, "the value is not a valid URL of http or https")
	case strings.Contains(u.String(), "{{"):
		v.problems.add(path, "this field is not a template: remove {{")
	}
}

// special checks conditions that cannot be expressed by rules of single fields, before templates are rewritten.
func (v *values) special(x any, path string) {
	switch s := x.(type) {
	case *commoncfg.OAuth2:
		if _, err := amcommoncfg.ParseURL(s.TokenURL); err != nil {
			v.problems.add(join(path, "token_url"), "the value is not a valid URL of http or https")
		}
	case *config.SNSConfig:
		v.sns(s, path)
	case *config.EmailConfig:
		// If this header is missing, the notifier adds it with a text that would not be rewritten.
		if _, ok := s.Headers["Subject"]; !ok {
			headers := map[string]string{"Subject": config.DefaultEmailSubject}
			maps.Copy(headers, s.Headers)
			s.Headers = headers
		}
	case *config.Route:
		v.route(s, path)
	}
}

// sns checks that notifications are signed with the tenant's credentials. Without keys, the AWS SDK would use credentials from
// the environment, files, or the machine's metadata service.
func (v *values) sns(s *config.SNSConfig, path string) {
	at := join(path, "sigv4")
	if s.Sigv4.AccessKey == "" || s.Sigv4.SecretKey == "" {
		v.problems.add(at, "access_key and secret_key are required, because the server has no credentials for notifications of its tenants")
	}
	if !regexp.MustCompile(`^[a-z0-9-]{1,32}$`).MatchString(s.Sigv4.Region) {
		v.problems.add(join(at, "region"), "the name of a region of AWS is required, such as eu-central-1")
	}
	if s.APIUrl != "" && (strings.HasPrefix(s.APIUrl, "{{") || badURL(s.APIUrl) != "") {
		v.problems.add(join(path, "api_url"), "the value must begin with http:// or https:// and a host")
	}
}

// route checks the intervals of a route, and restores its label names.
func (v *values) route(r *config.Route, path string) {
	for i, name := range r.GroupBy {
		r.GroupBy[i] = model.LabelName(v.name(string(name)))
	}
	l := v.options.Limits
	least := func(d *model.Duration, name string, least time.Duration) {
		if d != nil && time.Duration(*d) < least {
			v.problems.add(join(path, name), "%s is shorter than %s, the shortest allowed: use a longer interval", *d, model.Duration(least))
		}
	}
	least(r.GroupInterval, "group_interval", l.GroupInterval)
	least(r.RepeatInterval, "repeat_interval", l.RepeatInterval)
	if d := r.RepeatInterval; d != nil && l.Retention > 0 && time.Duration(*d) > l.Retention {
		v.warnings.add(join(path, "repeat_interval"), "%s is longer than the retention of the notification log: notifications are repeated "+
			"after %s", *d, model.Duration(l.Retention))
	}
}
