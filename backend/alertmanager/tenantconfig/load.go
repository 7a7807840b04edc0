package tenantconfig

import (
	"errors"
	"fmt"
	"reflect"
	"sort"
	"strconv"

	"github.com/prometheus/alertmanager/config"
	"go.yaml.in/yaml/v3"
)

// config checks the tree of a configuration, lets Alertmanager decode it, and completes and checks the decoded configuration.
// It returns nil if there is a problem.
func (c *checker) config(root *yaml.Node) *config.Config {
	c.node(root, reflect.TypeFor[config.Config](), data, "")
	c.references(root)
	if c.problems.count() > 0 {
		return nil
	}
	cfg, err := load(root)
	if err != nil {
		c.locate(root, err)
		return nil
	}
	v := values{checker: c, seen: map[any]bool{}, sizes: map[any]int{}}
	v.walk(reflect.ValueOf(cfg).Elem(), data, "", "")
	c.root(cfg.Route)
	c.amounts(cfg)
	if c.problems.count() > 0 {
		return nil
	}
	return cfg
}

// load lets Alertmanager decode a tree.
func load(root *yaml.Node) (cfg *config.Config, err error) {
	flow := *root
	flow.Style = yaml.FlowStyle // without indentation, which is long in deep values
	text, err := yaml.Marshal(&flow)
	if err != nil {
		return nil, fmt.Errorf("encode the configuration: %w", err)
	}
	defer func() {
		if r := recover(); r != nil { // Alertmanager's decoders expect that some fields are set
			cfg, err = nil, errors.New("the combination of fields is not supported: a field that another one needs is missing")
		}
	}()
	return config.Load(string(text))
}

// locate adds the error of decoding the whole tree as a problem. The error has no path, so locate searches the integration or
// receiver that causes it, with few decoding attempts, because each attempt also decodes the global settings.
func (c *checker) locate(root *yaml.Node, err error) {
	path := ""
	if list := field(root, "receivers"); list != nil {
		i, found := firstBad(list.Content, func(some []*yaml.Node) error { return loadReceivers(root, some) })
		if found != nil {
			path, err = itemAt("receivers", i), found
			if inner, found := locateIn(root, list.Content[i]); found != nil {
				path, err = path+"."+inner, found
			}
		}
	}
	c.problems.add(path, "%s", c.realNames(readable(err)))
}

// locateIn returns the path within a receiver of the integration that cannot be decoded, and its error. The error is nil if
// all integrations can be decoded.
func locateIn(root, receiver *yaml.Node) (path string, err error) {
	var items []*yaml.Node // lists of one integration, each after the name of its field
	var paths []string
	fields(receiver, func(k, list *yaml.Node) {
		if list.Kind != yaml.SequenceNode {
			return
		}
		for j, item := range list.Content {
			items = append(items, &yaml.Node{Kind: yaml.MappingNode, Content: append(pair(receiver, "name"), k,
				&yaml.Node{Kind: yaml.SequenceNode, Content: []*yaml.Node{item}})})
			paths = append(paths, itemAt(k.Value, j))
		}
	})
	i, err := firstBad(items, func(some []*yaml.Node) error { return loadReceivers(root, renamed(some)) })
	if err != nil {
		path = paths[i]
	}
	return path, err
}

// renamed returns the receivers with unique names.
func renamed(receivers []*yaml.Node) []*yaml.Node {
	out := make([]*yaml.Node, len(receivers))
	for i, r := range receivers {
		out[i] = without(r, "name")
		out[i].Content = append(out[i].Content, stringNode("name"), stringNode("r"+strconv.Itoa(i)))
	}
	return out
}

// firstBad returns the index of the first item that cannot be decoded, and its error. The error is nil if all items can be
// decoded.
func firstBad(items []*yaml.Node, decode func([]*yaml.Node) error) (int, error) {
	var bad error
	i := sort.Search(len(items), func(i int) bool {
		err := decode(items[:i+1])
		if err != nil {
			bad = err
		}
		return err != nil
	})
	return i, bad
}

// loadReceivers decodes the global settings and receivers.
func loadReceivers(root *yaml.Node, receivers []*yaml.Node) error {
	if field(receivers[0], "name") == nil {
		return nil // the error of the whole configuration describes this
	}
	some := &yaml.Node{Kind: yaml.MappingNode, Content: append(pair(root, "global"),
		stringNode("route"), &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{stringNode("receiver"), field(receivers[0], "name")}},
		stringNode("receivers"), &yaml.Node{Kind: yaml.SequenceNode, Content: receivers})}
	_, err := load(some)
	return err
}

// root checks the root route. Alertmanager checks the matchers of the root route during decoding, when this package has not
// set them yet.
func (c *checker) root(r *config.Route) {
	if len(r.Matchers) > 0 {
		c.problems.add("route.matchers", "the root route must not have matchers, because it is for all alerts: "+
			"move them to a route in route.routes")
	}
}
