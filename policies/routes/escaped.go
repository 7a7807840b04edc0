package routes

import "strings"

// Parameters of routes whose segments are names that a tenant chooses. They are matched in the path
// as it was sent, so that they may contain an encoded slash.
const (
	paramNamespace = "{namespace}"
	paramGroup     = "{group}"
)

// Escaped reports whether the paths of the route are matched in their percent-encoded form.
func (r *Route) Escaped() bool { return strings.Contains(r.Paths[0], paramNamespace) }

// Match returns the percent-encoded values of the parameters in a percent-encoded path, in their order. ok is
// false if the path does not match the pattern; a parameter matches any segment, even an empty one.
func Match(pattern, path string) (values []string, ok bool) {
	want, have := segments(pattern), segments(path)
	if len(want) != len(have) {
		return nil, false
	}
	for i, s := range want {
		switch {
		case isParam(s):
			values = append(values, have[i])
		case s != have[i]:
			return nil, false
		}
	}
	return values, true
}

// Fill returns the pattern with its parameters replaced by percent-encoded values.
func Fill(pattern string, values []string) string {
	list := segments(pattern)
	for i, s := range list {
		if isParam(s) && len(values) > 0 {
			list[i], values = values[0], values[1:]
		}
	}
	return strings.Join(list, "/")
}

func isParam(segment string) bool {
	return segment == param || segment == paramNamespace || segment == paramGroup
}
