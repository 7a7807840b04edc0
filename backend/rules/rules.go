// Package rules is the model of recording and alerting rules as tenants load them: groups of rules
// in YAML, their parsing and encoding, and the checks that a group must pass before it is stored.
// It has no state and reads no storage.
package rules

import (
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
)

// Group is a group of rules: the fields of Prometheus, and those of Mimir's API.
type Group struct {
	Namespace string `yaml:"-"` // not part of the YAML of a group

	rulefmt.RuleGroup `yaml:",inline"`

	// EvaluationDelay is the older name of QueryOffset. At most one of them is set in a valid
	// group; Offset returns it.
	EvaluationDelay               *model.Duration `yaml:"evaluation_delay,omitempty"`
	AlignEvaluationTimeOnInterval bool            `yaml:"align_evaluation_time_on_interval,omitempty"`
	// SourceTenants may contain only the tenant of the group.
	SourceTenants []string `yaml:"source_tenants,omitempty"`
}

// Offset returns how far before its slot a group is evaluated. ok is false if the group does not set
// it, and the default of its tenant applies; zero is a valid offset.
func (g *Group) Offset() (offset time.Duration, ok bool) {
	switch {
	case g.QueryOffset != nil:
		return time.Duration(*g.QueryOffset), true
	case g.EvaluationDelay != nil:
		return time.Duration(*g.EvaluationDelay), true
	}
	return 0, false
}

// Namespace is the groups of one namespace in a file. Name is empty if the file does not name one.
type Namespace struct {
	Name   string
	Groups []*Document
}

// MaxName is the greatest length in bytes of the name of a namespace or a group.
const MaxName = 256

// CheckName returns an error if a name of a namespace or a group is not valid. `what` is part of the
// error, for example "namespace".
func CheckName(what, name string) error {
	switch {
	case name == "":
		return invalid("%s is empty: it must have 1 to %d bytes", what, MaxName)
	case len(name) > MaxName:
		return invalid("%s has %d bytes: it must have 1 to %d bytes", what, len(name), MaxName)
	case !utf8.ValidString(name):
		return invalid("%s %q is not valid UTF-8", what, name)
	case slices.ContainsFunc(strings.Split(name, "/"), func(s string) bool { return s == "." || s == ".." }):
		return invalid("%s %q contains . or .. as a part between slashes: proxies would change the path of requests; "+
			"use another name", what, name)
	case strings.ContainsFunc(name, unicode.IsControl):
		return invalid("%s %q contains control characters: remove them", what, name)
	}
	return nil
}

// Sort sorts groups by namespace and name.
func Sort(groups []Group) {
	slices.SortFunc(groups, func(a, b Group) int {
		if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
}
