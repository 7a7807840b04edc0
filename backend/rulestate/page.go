package rulestate

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
)

// Request contains the parameters of a request for rules.
type Request struct {
	kind          string // "", alert or record
	names         []string
	groups        []string
	files         []string
	health, state []string
	matchers      [][]*labels.Matcher
	excludeAlerts bool
	limit         int // maximum number of groups in a page; 0 means all
	token         string
}

// ParseRequest parses the parameters. The function `parse` parses a selector.
func ParseRequest(form url.Values, parse func(string) ([]*labels.Matcher, error)) (Request, error) {
	r := Request{
		kind:  strings.ToLower(form.Get("type")),
		names: list(form, "rule_name"), groups: list(form, "rule_group"), files: list(form, "file"),
		health: list(form, "health"), state: list(form, "state"),
	}
	if !slices.Contains([]string{"", "alert", "record"}, r.kind) {
		return r, fmt.Errorf("invalid parameter %q: must be alert or record, not %.40q", "type", r.kind)
	}
	if err := among("health", r.health, "ok", "err", Unknown); err != nil {
		return r, err
	}
	if err := among("state", r.state, "inactive", "pending", "firing", Unknown); err != nil {
		return r, err
	}
	for _, s := range list(form, "match") {
		m, err := parse(s)
		if err != nil {
			return r, fmt.Errorf("invalid parameter %q: %w", "match[]", err)
		}
		r.matchers = append(r.matchers, m)
	}
	if text := form.Get("exclude_alerts"); text != "" {
		yes, err := strconv.ParseBool(strings.ToLower(text))
		if err != nil {
			return r, fmt.Errorf("invalid parameter %q: must be true or false, not %.40q", "exclude_alerts", text)
		}
		r.excludeAlerts = yes
	}
	return r, r.page(form)
}

func (r *Request) page(form url.Values) error {
	limit := form.Get("group_limit")
	r.token = form.Get("group_next_token")
	if limit == "" {
		if r.token != "" {
			return fmt.Errorf("invalid parameter %q: it needs group_limit", "group_next_token")
		}
		return nil
	}
	n, err := strconv.ParseInt(limit, 10, 32)
	if err != nil || n <= 0 {
		return fmt.Errorf("invalid parameter %q: must be a whole number above 0, not %.40q", "group_limit", limit)
	}
	r.limit = int(n)
	return nil
}

// list returns the values of a parameter, whose name may have the suffix [] or not.
func list(form url.Values, name string) []string { return slices.Concat(form[name+"[]"], form[name]) }

func among(name string, values []string, allowed ...string) error {
	for i, v := range values {
		values[i] = strings.ToLower(v)
		if !slices.Contains(allowed, values[i]) {
			return fmt.Errorf("invalid parameter %q: must be one of %s, not %.40q", name, strings.Join(allowed, ", "), v)
		}
	}
	return nil
}

// Page is one page of groups.
type Page struct {
	Groups    []Group `json:"groups"`
	NextToken string  `json:"groupNextToken,omitempty"` // "" on the last page
}

// Select returns the page of groups that the request selects. The groups must be sorted; Select does not
// change them.
func (r *Request) Select(groups []Group) (Page, error) {
	page := Page{Groups: []Group{}}
	found := r.token == ""
	for i := range groups {
		g := &groups[i]
		found = found || token(g) == r.token
		if !found || !selected(r.groups, g.Name) || !selected(r.files, g.File) {
			continue
		}
		rules := r.rules(g)
		if len(rules) == 0 {
			continue
		}
		if r.limit > 0 && len(page.Groups) == r.limit {
			page.NextToken = token(g)
			break
		}
		copied := *g
		copied.Rules = rules
		page.Groups = append(page.Groups, copied)
	}
	if !found {
		return Page{}, fmt.Errorf("invalid parameter %q: no group has this token; were groups changed since the last page?", "group_next_token")
	}
	return page, nil
}

// token returns the token of the page that begins with a group. It does not depend on other groups.
func token(g *Group) string {
	sum := sha256.Sum256([]byte(g.File + "\x00" + g.Name)) // a zero byte separates the names, because they cannot contain it
	return hex.EncodeToString(sum[:])
}

func (r *Request) rules(g *Group) []Rule {
	var out []Rule
	for i := range g.Rules {
		rule := g.Rules[i]
		if !r.selects(&rule) {
			continue
		}
		if r.excludeAlerts {
			rule.Alerts = nil
		}
		out = append(out, rule)
	}
	return out
}

func (r *Request) selects(rule *Rule) bool {
	switch {
	case r.kind == "alert" && rule.Type != Alerting, r.kind == "record" && rule.Type != Recording:
		return false
	case !selected(r.names, rule.Name), !selected(r.health, rule.Health), !selected(r.state, rule.State):
		return false
	case len(r.matchers) == 0:
		return true
	}
	return slices.ContainsFunc(r.matchers, func(set []*labels.Matcher) bool {
		return !slices.ContainsFunc(set, func(m *labels.Matcher) bool { return !m.Matches(rule.Labels.Get(m.Name)) })
	})
}

// selected reports whether a filter selects a value; a filter without values selects everything.
func selected(filter []string, v string) bool { return len(filter) == 0 || slices.Contains(filter, v) }
