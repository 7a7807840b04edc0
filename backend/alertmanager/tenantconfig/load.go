package tenantconfig

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/prometheus/alertmanager/config"
	"go.yaml.in/yaml/v3"
)

// config checks the tree of a configuration, lets Alertmanager decode it, and completes and checks what
// Alertmanager made of it. It returns nil if there is a problem.
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

// locate adds the error of decoding the whole tree, which has no path, with the path of the integration or
// receiver that causes it.
func (c *checker) locate(root *yaml.Node, err error) {
	receivers := field(root, "receivers")
	if receivers == nil {
		c.problems.add("", "%s", c.realNames(readable(err)))
		return
	}
	for i, r := range receivers.Content {
		name := field(r, "name")
		if name == nil {
			continue
		}
		if loadOne(root, r) == nil {
			continue
		}
		path := itemAt("receivers", i)
		found := false
		fields(r, func(k, list *yaml.Node) {
			for j, item := range list.Content {
				if list.Kind != yaml.SequenceNode || found {
					return
				}
				only := &yaml.Node{Kind: yaml.MappingNode, Content: append(pair(r, "name"), k,
					&yaml.Node{Kind: yaml.SequenceNode, Content: []*yaml.Node{item}})}
				if one := loadOne(root, only); one != nil {
					found = true
					c.problems.add(itemAt(path+"."+k.Value, j), "%s", c.realNames(readable(one)))
				}
			}
		})
		if !found {
			c.problems.add(path, "%s", c.realNames(readable(loadOne(root, r))))
		}
		return
	}
	c.problems.add("", "%s", c.realNames(readable(err)))
}

// loadOne decodes the global settings and one receiver.
func loadOne(root, receiver *yaml.Node) error {
	one := &yaml.Node{Kind: yaml.MappingNode, Content: append(pair(root, "global"),
		stringNode("route"), &yaml.Node{Kind: yaml.MappingNode, Content: append([]*yaml.Node{stringNode("receiver")}, field(receiver, "name"))},
		stringNode("receivers"), &yaml.Node{Kind: yaml.SequenceNode, Content: []*yaml.Node{receiver}})}
	_, err := load(one)
	return err
}

// root checks the root of the routes. Alertmanager checks its matchers while it decodes, when they are
// not there yet.
func (c *checker) root(r *config.Route) {
	if len(r.Matchers) > 0 {
		c.problems.add("route.matchers", "the root route must not have matchers, because it is for all alerts: "+
			"move them to a route in route.routes")
	}
}
