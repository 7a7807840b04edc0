package tenantconfig

import (
	"maps"
	"slices"

	"go.yaml.in/yaml/v3"
)

// references checks that the receivers and time intervals to which routes refer exist. Alertmanager checks this, too, but its
// errors have no path.
func (c *checker) references(root *yaml.Node) {
	if c.problems.count() > 0 {
		return
	}
	receivers := named(field(root, "receivers"))
	intervals := named(field(root, "time_intervals"), field(root, "mute_time_intervals"))
	if route := field(root, "route"); route != nil {
		c.routeReferences(route, "route", receivers, intervals)
	}
}

// nameSet is a set of names.
type nameSet struct {
	has    map[string]bool
	sorted []string
}

// named returns the names of the items of lists.
func named(lists ...*yaml.Node) nameSet {
	s := nameSet{has: map[string]bool{}}
	for _, list := range lists {
		if list == nil {
			continue
		}
		for _, item := range list.Content {
			if name := field(item, "name"); name != nil {
				s.has[name.Value] = true
			}
		}
	}
	s.sorted = slices.Sorted(maps.Keys(s.has))
	return s
}

func (c *checker) routeReferences(route *yaml.Node, path string, receivers, intervals nameSet) {
	exists := func(n *yaml.Node, at, what, list string, known nameSet) {
		if n.Value == "" || known.has[n.Value] {
			return
		}
		hint := c.near(n.Value, known.sorted, "add it to "+list, "")
		c.problems.add(at, "there is no %s %q: %s", what, short(n.Value), hint)
	}
	if n := field(route, "receiver"); n != nil {
		exists(n, path+".receiver", "receiver", "receivers", receivers)
	}
	for _, name := range []string{"mute_time_intervals", "active_time_intervals"} {
		if list := field(route, name); list != nil {
			used := map[string]bool{}
			for i, n := range list.Content {
				at := itemAt(path+"."+name, i)
				if used[n.Value] {
					c.problems.add(at, "the time interval %q is in the list twice: remove one", short(n.Value))
				}
				used[n.Value] = true
				exists(n, at, "time interval", "time_intervals", intervals)
			}
		}
	}
	if list := field(route, "routes"); list != nil {
		for i, n := range list.Content {
			c.routeReferences(n, itemAt(path+".routes", i), receivers, intervals)
		}
	}
}
