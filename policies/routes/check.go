package routes

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// Check returns an error if the table is invalid: if columns are missing or contradict
// each other, or if two routes match the same path.
func Check(table []Route) error {
	names, paths := map[string]bool{}, []methodPath{}
	for i := range table {
		r := &table[i]
		if err := checkRoute(r); err != nil {
			return err
		}
		if names[r.Name] {
			return fmt.Errorf("route name %s appears twice in the route table", r.Name)
		}
		names[r.Name] = true
		for _, p := range r.Paths {
			for _, other := range paths {
				if other.conflicts(r.Methods, p) {
					return fmt.Errorf("routes %s and %s overlap", other.path, p)
				}
			}
			paths = append(paths, methodPath{r.Methods, p})
		}
	}
	return nil
}

// methodPath is a path of a route with the route's methods.
type methodPath struct {
	methods []string
	path    string
}

// conflicts reports whether a request can match both paths. Two routes may have the same path if they
// have no common method.
func (m methodPath) conflicts(methods []string, path string) bool {
	if m.path == path && !slices.ContainsFunc(methods, func(s string) bool { return slices.Contains(m.methods, s) }) {
		return false
	}
	return overlap(m.path, path)
}

func checkRoute(r *Route) error {
	if r.Name == "" || len(r.Methods) == 0 || len(r.Paths) == 0 {
		return fmt.Errorf("route %q with paths %q must have a name, a method and a path", r.Name, r.Paths)
	}
	for _, p := range r.Paths {
		if err := checkPath(p, r.Paths[0]); err != nil {
			return fmt.Errorf("route %s: path %q %w", r.Name, p, err)
		}
	}
	if (r.Scope == "") != (r.Kind == Open) {
		return errors.New("route " + r.Name + ": open routes must not have a scope, all other routes must have one")
	}
	if r.Scope != "" && !r.Scope.Valid() {
		return fmt.Errorf("route %s: %q is not a scope", r.Name, r.Scope)
	}
	if !fits(r) {
		return fmt.Errorf("route %s: its kind, cost (%s) and handler contradict each other", r.Name, r.Cost)
	}
	if r.By == Prometheus && !strings.HasPrefix(r.Upstream(), PrometheusAPI+"/") {
		return fmt.Errorf("route %s: the paths of Prometheus' own API begin with %s", r.Name, PrometheusAPI)
	}
	return nil
}

// param is a parameter that a path may contain; it is one segment. Paths with it are matched decoded, see
// Escaped for the others.
const param = "{name}"

// checkPath checks one path of a route against its first path.
func checkPath(path, first string) error {
	if !strings.HasPrefix(path, "/") || strings.Contains(path, "*") {
		return errors.New("is not an exact path")
	}
	for _, s := range segments(path) {
		if !isParam(s) && strings.ContainsAny(s, "{}") {
			return errors.New("has a parameter other than " + param + ", " + paramNamespace + " and " + paramGroup)
		}
	}
	for _, p := range []string{param, paramNamespace, paramGroup} {
		if n := strings.Count(path, p); n > 1 || n != strings.Count(first, p) {
			return errors.New("must contain " + p + " once if the first path of the route contains it, and not otherwise")
		}
	}
	name, namespace, group := strings.Contains(path, param), strings.Index(path, paramNamespace), strings.Index(path, paramGroup)
	if name && namespace >= 0 || group >= 0 && (namespace < 0 || group < namespace) {
		return errors.New("must contain " + param + " alone, and " + paramGroup + " only after " + paramNamespace)
	}
	return nil
}

// fits reports whether kind, cost and handler of a route are consistent.
func fits(r *Route) bool {
	switch r.Kind {
	case Open:
		return r.Cost == Free && r.By == Gateway
	case Local:
		return r.Cost == Request && r.By == Gateway
	case Write:
		return r.Cost == Samples && r.By == Backend
	case Read:
		return (r.Cost == Slot || r.Cost == Query) && (r.By == Backend || r.By == Prometheus)
	}
	return false
}

// overlap reports whether a path can match both patterns.
func overlap(a, b string) bool {
	as, bs := segments(a), segments(b)
	if len(as) != len(bs) {
		return false
	}
	for i := range as {
		if as[i] != bs[i] && !isParam(as[i]) && !isParam(bs[i]) {
			return false
		}
	}
	return true
}

// CheckHandlers returns an error that names all routes without a handler and all handlers
// without a route. Handlers have the names of their routes.
func CheckHandlers(table []Route, handlers iter.Seq[string]) error {
	have := slices.Sorted(handlers)
	var names []string
	var errs []error
	for i := range table {
		name := table[i].Name
		names = append(names, name)
		if !slices.Contains(have, name) {
			errs = append(errs, fmt.Errorf("route %s has no handler", name))
		}
	}
	for _, name := range have {
		if !slices.Contains(names, name) {
			errs = append(errs, fmt.Errorf("handler %s has no route", name))
		}
	}
	return errors.Join(errs...)
}
