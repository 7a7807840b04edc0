package main

import (
	"fmt"
	"net"
	"time"

	"github.com/palliumhq/pallium/backend/alerts"
	"github.com/palliumhq/pallium/backend/egress"
)

// Ruler configures the ruler.
type Ruler struct {
	// Alertmanagers receive the alerts. If there are none, Pallium's own Alertmanagers receive them. The URL
	// "local" also stands for Pallium's own Alertmanagers.
	Alertmanagers []alerts.Config `yaml:"alertmanagers"`
	// GeneratorURL is the template of links in alerts to their expression, with {tenant} and {expr}. If it is
	// empty, the links have the path of Prometheus' own page below external_url.
	GeneratorURL alerts.Generator `yaml:"generator_url"`
	// Concurrency is the maximum number of rule groups that one process evaluates at the same time; 0 means the
	// default.
	Concurrency int `yaml:"concurrency"`
}

// Egress configures connections that the process makes for tenants.
type Egress struct {
	// Allow contains the non-public networks to which connections are allowed.
	Allow []string `yaml:"allow"`
}

func (c *Ruler) check() error {
	if c.GeneratorURL != "" {
		if err := c.GeneratorURL.Check(); err != nil {
			return fmt.Errorf("generator_url: %w", err)
		}
	}
	for i := range c.Alertmanagers {
		a := c.Alertmanagers[i]
		if a.URL == alerts.Local {
			if _, err := alerts.NewLocal(a.Tenants, nil); err != nil {
				return fmt.Errorf("alertmanagers[%d]: %w", i, err)
			}
			continue
		}
		a.PasswordFile, a.BearerTokenFile, a.TLS = placeholder(a.PasswordFile), placeholder(a.BearerTokenFile), alerts.TLS{}
		if _, err := alerts.NewTarget(a, nil, nil, time.Now); err != nil {
			return fmt.Errorf("alertmanagers[%d]: %w", i, err)
		}
	}
	return nil
}

// placeholder returns "" for an empty path, and otherwise a file name that stands for the path in checks that do not open files.
func placeholder(path string) string {
	if path == "" {
		return ""
	}
	return "file"
}

func (c *Egress) check() error {
	if _, err := egress.New(c.Allow); err != nil {
		return fmt.Errorf("allow: %w", err)
	}
	return nil
}

// targets returns the configured Alertmanagers.
func (c *Ruler) targets(e *Egress, now func() time.Time, local alerts.Post) ([]*alerts.Target, error) {
	list := c.Alertmanagers
	if len(list) == 0 {
		list = []alerts.Config{{URL: alerts.Local}}
	}
	rules, err := egress.New(e.Allow)
	if err != nil {
		return nil, fmt.Errorf("egress.allow: %w", err)
	}
	var out []*alerts.Target
	for i := range list {
		var t *alerts.Target
		if list[i].URL == alerts.Local {
			t, err = alerts.NewLocal(list[i].Tenants, local)
		} else {
			t, err = alerts.NewTarget(list[i], rules.DialContext, net.DefaultResolver, now)
		}
		if err != nil {
			return nil, fmt.Errorf("ruler.alertmanagers[%d]: %w", i, err)
		}
		out = append(out, t)
	}
	return out, nil
}

// generator returns the template of links in alerts. `edge` is the URL of the edge.
func (c *Config) generator(edge string) alerts.Generator {
	if c.Ruler.GeneratorURL != "" {
		return c.Ruler.GeneratorURL
	}
	return alerts.Generator(edge + "/graph?g0.expr={expr}&g0.tab=1")
}
