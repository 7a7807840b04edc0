package tenantconfig

import (
	"fmt"
	"maps"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/palliumhq/pallium/policies/nearest"
)

// references checks that the receivers and time intervals that routes name exist. Alertmanager checks
// it, too, but its error does not say where the name is.
func (c *checker) references(root *yaml.Node) {
	if c.problems.count() > 0 {
		return
	}
	receivers, intervals := map[string]bool{}, map[string]bool{}
	named(field(root, "receivers"), receivers)
	named(field(root, "time_intervals"), intervals)
	named(field(root, "mute_time_intervals"), intervals)
	if route := field(root, "route"); route != nil {
		c.routeReferences(route, "route", receivers, intervals)
	}
}

// named adds the names of the items of a list.
func named(list *yaml.Node, to map[string]bool) {
	if list == nil {
		return
	}
	for _, item := range list.Content {
		if name := field(item, "name"); name != nil {
			to[name.Value] = true
		}
	}
}

func (c *checker) routeReferences(route *yaml.Node, path string, receivers, intervals map[string]bool) {
	exists := func(n *yaml.Node, at, what, list string, known map[string]bool) {
		if n.Value == "" || known[n.Value] {
			return
		}
		hint := "add it to " + list
		if near := nearest.Word(n.Value, slices.Sorted(maps.Keys(known))); near != "" {
			hint = "did you mean " + near + "?"
		}
		c.problems.add(at, "there is no %s %q: %s", what, short(n.Value), hint)
	}
	if n := field(route, "receiver"); n != nil {
		exists(n, path+".receiver", "receiver", "receivers", receivers)
	}
	for _, name := range []string{"mute_time_intervals", "active_time_intervals"} {
		if list := field(route, name); list != nil {
			for i, n := range list.Content {
				exists(n, fmt.Sprintf("%s.%s[%d]", path, name, i), "time interval", "time_intervals", intervals)
			}
		}
	}
	if list := field(route, "routes"); list != nil {
		for i, n := range list.Content {
			c.routeReferences(n, fmt.Sprintf("%s.routes[%d]", path, i), receivers, intervals)
		}
	}
}
