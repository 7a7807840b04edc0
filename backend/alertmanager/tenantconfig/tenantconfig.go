// Package tenantconfig decodes and checks the Alertmanager configuration of a tenant. The tenant is not trusted: a
// configuration must not read files, environment variables or credentials of the server, use its proxies, or be expensive to
// decode. A table (table.go) lists every field of Alertmanager's configuration with the content that it may have. Fields that
// are not listed are rejected, so that a new version of Alertmanager cannot add an option that nobody has reviewed. The
// addresses of receivers are checked by package egress when connections are opened.
package tenantconfig

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/pkg/labels"
)

// Limits bound a configuration. 0 means that there is no limit.
type Limits struct {
	ConfigBytes   int // of alertmanager_config
	Templates     int // number of template files
	TemplateBytes int // of each template file
	Receivers     int
	Integrations  int // of all receivers together
	Routes        int // including the root
	RouteDepth    int // levels of routes, including the root
	InhibitRules  int
	TimeIntervals int
	TimeRanges    int // items of all time intervals together; each may load a time zone
	Matchers      int // of all routes and inhibition rules together, because they may be compared with each alert
	MatcherBytes  int // of the matchers of a route and its parents, which are in the key of each group
	RouteLabels   int // of all routes together, including inherited labels
	Instructions  int // of all compiled regular expressions together; see package regexsize

	// GroupInterval and RepeatInterval are the shortest allowed intervals. A group is processed at each group interval,
	// even if there is nothing to send, so that very short intervals take much CPU time. A group_wait of 0 is allowed,
	// because it applies only once for each group.
	GroupInterval  time.Duration
	RepeatInterval time.Duration

	// Retention is the maximum time for which the notification log keeps an entry. A longer repeat_interval causes a
	// warning, because the notification is repeated when its entry has expired.
	Retention time.Duration
}

// Defaults returns the limits of a tenant that has none of its own.
func Defaults() Limits {
	return Limits{
		ConfigBytes:    1 << 20,
		Templates:      100,
		TemplateBytes:  256 << 10,
		Receivers:      1000,
		Integrations:   2000,
		Routes:         2000,
		RouteDepth:     20,
		InhibitRules:   500,
		TimeIntervals:  500,
		TimeRanges:     2000,
		Matchers:       10_000,
		MatcherBytes:   16 << 10,
		RouteLabels:    10_000,
		Instructions:   20_000,
		GroupInterval:  time.Second,
		RepeatInterval: time.Second,
		Retention:      30 * 24 * time.Hour, // logRetention of package alertmanager
	}
}

// Options are the options of Check.
type Options struct {
	Limits Limits

	// Rewrite returns the text to execute instead of the text of a field. It is called with the path and the text of each
	// field that Alertmanager executes as a template and that contains {{. If it is nil, texts are not changed.
	Rewrite func(path, text string) (string, error)
}

// Checked is a configuration that passed Check.
type Checked struct {
	Config    *config.Config    // with rewritten texts, and with references (secret://NAME) instead of secrets
	Templates map[string]string // the template files by name, as they were written
	Warnings  []string
	Secrets   []string // the names of the secrets that are used, sorted

	document Document
	options  Options
}

// Check decodes and checks a configuration. The error lists all problems that were found, at most 20.
func Check(d Document, o Options) (*Checked, error) {
	return check(d, o, nil)
}

// Resolve returns the configuration with the values of its secrets. The error names secrets that do
// not exist or whose value does not fit the field, and never contains a value.
func (c *Checked) Resolve(secrets map[string]string) (*config.Config, error) {
	var p problems
	for _, name := range c.Secrets {
		if _, ok := secrets[name]; !ok {
			p.add("", "the configuration uses the secret %q, which does not exist: create it, or remove %s%s", name, secretScheme, name)
		}
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	if len(c.Secrets) == 0 {
		return c.Config, nil
	}
	resolved, err := check(c.document, c.options, maps.Clone(secrets))
	if err != nil {
		return nil, err
	}
	return resolved.Config, nil
}

// Fallback returns the configuration of tenants that have none: alerts are shown, and no receiver is notified. It is never
// stored, so that it cannot replace a configuration that could not be read.
func Fallback() *Checked {
	const name = "none"
	global := config.DefaultGlobalConfig()
	return &Checked{
		Config: &config.Config{
			Global:    &global,
			Route:     &config.Route{Receiver: name},
			Receivers: []config.Receiver{{Name: name, Labels: map[string]string{"name": name}}},
		},
		Templates: map[string]string{},
		document:  Document{Config: "route: {receiver: " + name + "}\nreceivers: [{name: " + name + "}]\n"},
	}
}

func newChecker(d Document, o Options, secrets map[string]string) *checker {
	return &checker{
		document: d,
		options:  o,
		known:    table(),
		leaves:   leaves(),
		shapes:   map[reflect.Type][]member{},
		mappings: map[reflect.Type]mapping{},
		resolved: secrets,
		secrets:  map[string]bool{},
		matchers: map[string]labels.Matchers{},
		names:    map[string]string{},
		count:    map[string]int{},
	}
}

// check decodes, checks and completes a configuration. If secrets is not nil, references to secrets are
// replaced by their values.
func check(d Document, o Options, secrets map[string]string) (*Checked, error) {
	c := newChecker(d, o, secrets)
	c.files()
	root, err := parseTree(d.Config, o.Limits.ConfigBytes)
	if err != nil {
		c.problems.add("", "%s", err)
		return nil, c.problems.err()
	}
	cfg := c.config(root)
	if err := c.problems.err(); err != nil {
		return nil, err
	}
	if cfg == nil {
		return nil, errors.New("alertmanager_config: could not be decoded")
	}
	return &Checked{
		Config:    cfg,
		Templates: d.Templates,
		Warnings:  c.warnings.list,
		Secrets:   slices.Sorted(maps.Keys(c.secrets)),
		document:  d,
		options:   o,
	}, nil
}
