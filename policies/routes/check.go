package routes

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// Check returns what is wrong with a table: columns that are missing or contradict each
// other, and paths that two routes could both answer.
func Check(table []Route) error {
	names, paths := map[string]bool{}, []string{}
	for i := range table {
		r := &table[i]
		if err := checkRoute(r); err != nil {
			return err
		}
		if names[r.Name] {
			return fmt.Errorf("the name %s appears twice in the route table", r.Name)
		}
		names[r.Name] = true
		for _, p := range r.Paths {
			for _, other := range paths {
				if overlap(p, other) {
					return fmt.Errorf("routes %s and %s overlap", other, p)
				}
			}
			paths = append(paths, p)
		}
	}
	return nil
}

func checkRoute(r *Route) error {
	if r.Name == "" || len(r.Methods) == 0 || len(r.Paths) == 0 {
		return fmt.Errorf("route %q %q has no name, no methods or no path", r.Name, r.Paths)
	}
	for _, p := range r.Paths {
		if err := checkPath(p, r.Paths[0]); err != nil {
			return fmt.Errorf("route %s: path %q %w", r.Name, p, err)
		}
	}
	if (r.Scope == "") != (r.Kind == Open) {
		return errors.New("route " + r.Name + ": only an open route has no scope")
	}
	if r.Scope != "" && !r.Scope.Valid() {
		return fmt.Errorf("route %s: %q is not a scope", r.Name, r.Scope)
	}
	if !fits(r) {
		return fmt.Errorf("route %s: its kind, its cost (%s) and what answers it do not fit together", r.Name, r.Cost)
	}
	if r.By == Prometheus && !strings.HasPrefix(r.Upstream(), PrometheusAPI+"/") {
		return fmt.Errorf("route %s: Prometheus' own API is under %s", r.Name, PrometheusAPI)
	}
	return nil
}

// param is the only parameter that a path may have, in one segment.
const param = "{name}"

// checkPath checks one path of a route, whose first path is given too.
func checkPath(path, first string) error {
	if !strings.HasPrefix(path, "/") || strings.Contains(path, "*") {
		return errors.New("is not an exact path")
	}
	n := 0
	for _, s := range segments(path) {
		if s == param {
			n++
		} else if strings.ContainsAny(s, "{}") {
			return errors.New("has another parameter than " + param)
		}
	}
	if n > 1 || n != strings.Count(first, param) {
		return errors.New("must have " + param + " once, if the first path has it")
	}
	return nil
}

// fits reports whether kind, cost and answerer of a route belong together.
func fits(r *Route) bool {
	switch r.Kind {
	case Open:
		return r.Cost == Free && r.By == Gateway
	case Local:
		return r.Cost == Request && r.By == Gateway
	case Write:
		return r.Cost == Samples && r.By == Backend
	case Read:
		return (r.Cost == Place || r.Cost == Query) && (r.By == Backend || r.By == Prometheus)
	}
	return false
}

// overlap reports whether some path fits both patterns.
func overlap(a, b string) bool {
	as, bs := segments(a), segments(b)
	if len(as) != len(bs) {
		return false
	}
	for i := range as {
		if as[i] != bs[i] && as[i] != param && bs[i] != param {
			return false
		}
	}
	return true
}

// CheckHandlers returns an error that names the routes of a table that have no handler,
// and the handlers that have no route. Handlers are named as their routes are.
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
