package tenantconfig

import (
	"reflect"

	"github.com/prometheus/alertmanager/config"
	amcommoncfg "github.com/prometheus/alertmanager/config/common"
	commoncfg "github.com/prometheus/common/config"
)

// A short text can become a large configuration: it contains the value of a secret once for each reference, every integration
// has its own HTTP client with inherited settings, and routes inherit from their parents. The limits in this file bound the
// resulting sizes.

const (
	// maxSecretBytes is the maximum total length of the values of secrets. A value counts once for each reference.
	maxSecretBytes = 4 << 20
	// maxClientBytes is the maximum total size of the HTTP and TLS settings of all integrations, including inherited
	// settings. Each value counts valueBytes in addition to its length.
	maxClientBytes = 16 << 20
	valueBytes     = 16
	// maxNames is the maximum number of label names in a list, because each alert is compared with all of them.
	maxNames = 256
)

// secretBytes adds the length of a secret at one reference. It returns false if the total exceeds the limit.
func (c *checker) secretBytes(value, path string) bool {
	c.resolvedBytes += len(value)
	if c.resolvedBytes > maxSecretBytes {
		c.problems.add(path, "the values of all secrets have more than %d bytes together, where each value counts once for each reference to "+
			"it: "+
			"use fewer references or shorter values", maxSecretBytes)
		return false
	}
	return true
}

// client adds the size of the settings of a client if x is a pointer to them. It is called once for each integration with the
// settings, also if several inherit the same global settings.
func (v *values) client(x any, path string) {
	switch x.(type) {
	case *commoncfg.HTTPClientConfig, *commoncfg.TLSConfig:
	default:
		return
	}
	size, ok := v.sizes[x]
	if !ok {
		size = sizeOf(reflect.ValueOf(x))
		v.sizes[x] = size
	}
	before := v.clients
	v.clients += size
	if before <= maxClientBytes && v.clients > maxClientBytes {
		v.problems.add(path, "the settings of HTTP clients and TLS of all integrations have more than %d bytes together, with those that they "+
			"inherit from global: use fewer or shorter certificates and headers, or set them in fewer places", maxClientBytes)
	}
}

// sizeOf returns the length of all texts in a value, and valueBytes for each value that is set.
func sizeOf(x reflect.Value) int {
	if !x.IsValid() || x.IsZero() {
		return 0
	}
	n := valueBytes
	switch x.Kind() {
	case reflect.String:
		n += x.Len()
	case reflect.Pointer, reflect.Interface:
		n += sizeOf(x.Elem())
	case reflect.Struct:
		for i := range x.NumField() {
			n += sizeOf(x.Field(i))
		}
	case reflect.Slice:
		for i := range x.Len() {
			n += sizeOf(x.Index(i))
		}
	case reflect.Map:
		for k, e := range x.Seq2() {
			n += sizeOf(k) + sizeOf(e)
		}
	}
	return n
}

// amounts contains sums over routes and inhibition rules.
type amounts struct {
	*checker
	matchers int
	labels   int
}

// amounts checks the sums of a decoded configuration.
func (c *checker) amounts(cfg *config.Config) {
	a := amounts{checker: c}
	a.route(cfg.Route, "route", 0, 0)
	for i := range cfg.InhibitRules {
		r := &cfg.InhibitRules[i]
		n, _ := matchersOf(r.SourceMatch, r.SourceMatchRE, r.SourceMatchers)
		m, _ := matchersOf(r.TargetMatch, r.TargetMatchRE, r.TargetMatchers)
		a.addMatchers(n+m, itemAt("inhibit_rules", i))
	}
}

// route adds a route and its child routes. bytes and labels are the sums of the route's parents, which count for the route as
// well: the key of an alert group contains the matchers of all of them, and a route with labels copies theirs.
func (a *amounts) route(r *config.Route, path string, bytes, labels int) {
	n, own := matchersOf(r.Match, r.MatchRE, r.Matchers)
	a.addMatchers(n, path)
	bytes += own
	if most := a.options.Limits.MatcherBytes; most > 0 && bytes > most {
		a.problems.add(path, "the matchers of the route and its parents have %d bytes together, the limit is %d: use shorter ones",
			bytes, most)
		return
	}
	if len(r.Labels) > 0 {
		before := a.labels
		labels += len(r.Labels)
		a.labels += labels
		if most := a.options.Limits.RouteLabels; most > 0 && before <= most && a.labels > most {
			a.problems.add(join(path, "labels"), "the routes have more than %d labels together, with those that they inherit: use fewer", most)
		}
	}
	for i, inner := range r.Routes {
		a.route(inner, itemAt(path+".routes", i), bytes, labels)
	}
}

func (a *amounts) addMatchers(n int, path string) {
	before := a.matchers
	a.matchers += n
	if most := a.options.Limits.Matchers; most > 0 && before <= most && a.matchers > most {
		a.problems.add(path, "the routes and inhibition rules have more than %d matchers together: use fewer", most)
	}
}

// matchersOf returns the number of matchers and the length of their texts.
func matchersOf(equal map[string]string, regexps amcommoncfg.MatchRegexps, list amcommoncfg.Matchers) (n, bytes int) {
	const operator = len(`="",`)
	for name, value := range equal {
		bytes += len(name) + len(value) + operator
	}
	for name, value := range regexps {
		bytes += len(name) + len(value.String()) + operator
	}
	for _, m := range list {
		bytes += len(m.Name) + len(m.Value) + operator
	}
	return len(equal) + len(regexps) + len(list), bytes
}
