package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/palliumhq/pallium/policies/routes"
)

// target is the route of a request and its path to the backend.
type target struct {
	route *boundRoute
	path  string // decoded
	raw   string // percent-encoded; "" if the route is not escaped
	allow string // without a route: the methods that the path supports
}

// escapedPath is a path of an escaped route. prefix is its part before the first parameter; most
// requests are told apart by it.
type escapedPath struct {
	route           *boundRoute
	pattern, prefix string
}

func (r *router) addEscaped(rt *boundRoute) {
	for _, p := range rt.Paths {
		prefix, _, _ := strings.Cut(p, "{")
		r.escaped = append(r.escaped, escapedPath{rt, p, prefix})
	}
}

const maxSegment = 256 // bytes of a namespace or group, as in package rules

// findEscaped returns the route of a request whose path has segments that may contain an encoded slash. It
// compares the path as it was sent: segments that are not parameters must not be encoded. The path to
// the backend is encoded again, so that every name has one form. ok is false if the path is not
// that of an escaped route: then it must be in canonical form (see checkPath).
func (r *router) findEscaped(req *http.Request) (t target, f *rejection, ok bool) {
	sent, _, _ := strings.Cut(req.RequestURI, "?")
	if sent == "" {
		sent = req.URL.EscapedPath()
	}
	for _, e := range r.escaped {
		if !strings.HasPrefix(sent, e.prefix) {
			continue
		}
		values, match := routes.Match(e.pattern, sent)
		if !match {
			continue
		}
		if f := canonicalSegments(values); f != nil {
			return target{}, f, true
		}
		ok = true
		if slices.Contains(e.route.Methods, req.Method) {
			raw := routes.Fill(e.route.Upstream(), values)
			path, err := url.PathUnescape(raw)
			if err != nil {
				return target{}, badRequest("path", brokenEscape), true
			}
			return target{route: e.route, path: path, raw: raw}, nil, true
		}
		if t.allow != "" {
			t.allow += ", "
		}
		t.allow += strings.Join(e.route.Methods, ", ")
	}
	return t, nil, ok
}

const brokenEscape = "the path has an invalid % escape: encode % as %25"

// canonicalSegments checks the names in a path, and replaces each by its canonical encoding. Names
// are decoded exactly once.
func canonicalSegments(values []string) *rejection {
	for i, v := range values {
		name, err := url.PathUnescape(v)
		switch {
		case err != nil:
			return badRequest("path", brokenEscape)
		case name == "":
			return badRequest("path", "the path has an empty namespace or group")
		case len(name) > maxSegment:
			return badRequest("path", "a namespace or group in the path has more than 256 bytes")
		case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
			return badRequest("path", "a namespace or group in the path is not valid UTF-8 or contains control characters")
		case slices.ContainsFunc(strings.Split(name, "/"), func(s string) bool { return s == "." || s == ".." }):
			return badRequest("path", "a namespace or group in the path is . or .., or has it as a part between slashes")
		}
		values[i] = url.PathEscape(name)
	}
	return nil
}
