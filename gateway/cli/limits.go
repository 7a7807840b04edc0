package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/palliumhq/pallium/gateway/cli/command"
	"github.com/palliumhq/pallium/policies/limits"
)

type limitsAnswer struct {
	Tenant    string                     `json:"tenant"`
	Plan      string                     `json:"plan"`
	Effective map[string]json.RawMessage `json:"effective"`
	Defaults  map[string]json.RawMessage `json:"defaults"`
	Overrides limits.Partial             `json:"overrides"`
}

type planAnswer struct {
	Name        string         `json:"name"`
	DisplayName string         `json:"displayName"`
	Limits      limits.Partial `json:"limits"`
}

func limitsVerbs() []command.Command {
	return []command.Command{
		verb("limits show", "TENANT", "show a tenant's limits and the source of each", 1, 1, limitsShow),
		verb("limits set", "TENANT KEY=VALUE...", "set limits of a tenant; KEY= removes one", 2, -1, limitsSet),
		verb("limits describe", "", "list all limits with unit, default and meaning", 0, 0, limitsDescribe),
		verb("limits plans create", "NAME", "create a plan", 1, 1, planCreate),
		verb("limits plans list", "", "list plans", 0, 0, planList),
		verb("limits plans show", "NAME", "show a plan", 1, 1, planShow),
		verb("limits plans set", "NAME KEY=VALUE...", "set limits of a plan; KEY= removes one", 2, -1, planSet),
		destroys(verb("limits plans delete", "NAME", "delete a plan that no tenant uses", 1, 1, planDelete)),
	}
}

func limitsShow(*flag.FlagSet) action {
	return func(ctx context.Context, s *session, args []string) error {
		var l limitsAnswer
		a, err := s.call(ctx, http.MethodGet, path("tenants", args[0], "limits"), "", nil, &l)
		if err != nil {
			return err
		}
		var plan planAnswer
		if l.Plan != "" {
			if _, err := s.call(ctx, http.MethodGet, path("plans", l.Plan), "", nil, &plan); err != nil {
				return err
			}
		}
		return s.printLimits(a, &l, &plan)
	}
}

// value returns the effective value of a limit in the format of the command line.
func (l *limitsAnswer) value(name string) string { return bare(l.Effective[name]) }

func (s *session) printLimits(a answer, l *limitsAnswer, plan *planAnswer) error {
	var lines []string
	for _, name := range limits.Names() {
		if _, ok := l.Effective[name]; ok {
			lines = append(lines, name+"="+l.value(name))
		}
	}
	return s.print(a, strings.Join(lines, "\n"), func() {
		s.fields("tenant", l.Tenant, "plan", orNone(l.Plan))
		s.say("\n")
		own := builtIn()
		var rows [][]string
		for _, d := range limits.Describe() {
			if _, ok := l.Effective[d.Name]; !ok {
				continue
			}
			from := "default"
			if l.fallback(d.Name) != bare(own[d.Name]) {
				from = "configuration"
			}
			if _, set := plan.Limits.Get(d.Name); set {
				from = "plan " + l.Plan
			}
			if _, set := l.Overrides.Get(d.Name); set {
				from = "override"
			}
			rows = append(rows, []string{d.Name, withZero(d.Name, l.value(d.Name)), string(d.Unit), from})
		}
		s.sayTable([]string{"LIMIT", "VALUE", "UNIT", "FROM"}, rows)
	})
}

func limitsSet(fs *flag.FlagSet) action {
	yes := yesFlag(fs)
	return func(ctx context.Context, s *session, args []string) error {
		if _, err := assignAll(limits.Partial{}, args[1:]); err != nil {
			return err
		}
		p := path("tenants", args[0], "limits")
		var before, after limitsAnswer
		have, err := s.call(ctx, http.MethodGet, p, "", nil, &before)
		if err != nil {
			return err
		}
		var plan planAnswer
		if before.Plan != "" {
			if _, err := s.call(ctx, http.MethodGet, path("plans", before.Plan), "", nil, &plan); err != nil {
				return err
			}
		}
		overrides, err := assignAll(before.Overrides, args[1:])
		if err != nil {
			return err
		}
		err = s.confirmRetention(ctx, *yes, "tenant "+args[0], before.value(retention), before.retentionOf(overrides, plan.Limits), args[0])
		if err != nil {
			return err
		}
		a, err := s.call(ctx, http.MethodPut, p, have.etag, map[string]any{"overrides": overrides}, &after)
		if err != nil {
			return err
		}
		return s.print(a, args[0], func() {
			var list []change
			for _, name := range limits.Names() {
				list = append(list, change{name, withZero(name, before.value(name)), withZero(name, after.value(name))})
			}
			s.changes("tenant "+args[0], list)
		})
	}
}

func limitsDescribe(*flag.FlagSet) action {
	return func(_ context.Context, s *session, _ []string) error {
		type described struct {
			Name    string          `json:"name"`
			Unit    string          `json:"unit"`
			Default json.RawMessage `json:"default"`
			Zero    string          `json:"zero,omitempty"`
			Meaning string          `json:"meaning"`
		}
		own := builtIn()
		var list []described
		for _, d := range limits.Describe() {
			list = append(list, described{d.Name, string(d.Unit), own[d.Name], d.Zero, d.Meaning})
		}
		body, err := json.Marshal(list)
		if err != nil {
			return fmt.Errorf("encode limits: %w", err)
		}
		return s.print(answer{body: body}, strings.Join(limits.Names(), "\n"), func() {
			for _, d := range list {
				zero, value := "", bare(d.Default)
				switch {
				case d.Unit == string(limits.Queries), d.Unit == string(limits.Namespaces):
					value, zero = cmp.Or(value, "empty"), "; empty means "+d.Zero
				case d.Zero != "":
					zero = "; 0 means " + d.Zero
				}
				s.say("%s (%s, default %s%s)\n%s\n", d.Name, d.Unit, value, zero, wrapped(d.Meaning, "    ", 80))
			}
			s.say("These are Pallium's built-in defaults; the configuration of a server can change them under 'limits:'.\n")
		})
	}
}

// wrapped wraps a text into indented lines of at most width columns.
func wrapped(text, indent string, width int) string {
	var b strings.Builder
	column := 0
	for _, word := range strings.Fields(text) {
		if column > 0 && column+1+len(word) > width {
			b.WriteByte('\n')
			column = 0
		}
		if column == 0 {
			b.WriteString(indent)
			column = len(indent)
		} else {
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	b.WriteByte('\n')
	return b.String()
}

func planCreate(fs *flag.FlagSet) action {
	display := fs.String("display-name", "", "display `name`")
	l := limitFlag(fs)
	return func(ctx context.Context, s *session, args []string) error {
		body := map[string]any{"name": args[0], "displayName": *display, "limits": *l}
		a, err := s.call(ctx, http.MethodPost, path("plans"), "", body, nil)
		if err != nil {
			return err
		}
		return s.print(a, args[0], func() { s.say("created plan %s\n", args[0]) })
	}
}

func planList(*flag.FlagSet) action {
	return func(ctx context.Context, s *session, _ []string) error {
		head := []string{"NAME", "DISPLAY NAME", "LIMITS"}
		return list(ctx, s, path("plans"), url.Values{}, func(p planAnswer) string { return p.Name }, head, func(p planAnswer) []string {
			return []string{p.Name, p.DisplayName, overridesText(p.Limits)}
		})
	}
}

func planShow(*flag.FlagSet) action {
	return func(ctx context.Context, s *session, args []string) error {
		var p planAnswer
		a, err := s.call(ctx, http.MethodGet, path("plans", args[0]), "", nil, &p)
		if err != nil {
			return err
		}
		return s.printPlan(a, p)
	}
}

func (s *session) printPlan(a answer, p planAnswer) error {
	return s.print(a, p.Name, func() {
		s.fields("name", p.Name, "display name", p.DisplayName)
		s.say("\n")
		for _, k := range p.Limits.Keys() {
			v, _ := p.Limits.Get(k)
			s.say("%s=%s\n", k, v)
		}
	})
}

func planSet(fs *flag.FlagSet) action {
	yes := yesFlag(fs)
	return func(ctx context.Context, s *session, args []string) error {
		if _, err := assignAll(limits.Partial{}, args[1:]); err != nil {
			return err
		}
		p := path("plans", args[0])
		var before, after planAnswer
		have, err := s.call(ctx, http.MethodGet, p, "", nil, &before)
		if err != nil {
			return err
		}
		l, err := assignAll(before.Limits, args[1:])
		if err != nil {
			return err
		}
		if err := s.confirmPlan(ctx, *yes, args[0], before.Limits, l); err != nil {
			return err
		}
		a, err := s.call(ctx, http.MethodPut, p, have.etag, map[string]any{"displayName": before.DisplayName, "limits": l}, &after)
		if err != nil {
			return err
		}
		return s.print(a, args[0], func() {
			var list []change
			for _, name := range limits.Names() {
				list = append(list, change{name, inPlan(before.Limits, name), inPlan(after.Limits, name)})
			}
			s.changes("plan "+args[0], list)
		})
	}
}

// inPlan returns the value of a limit of a plan, or "" if the plan does not set it.
func inPlan(p limits.Partial, name string) string {
	if v, ok := p.Get(name); ok {
		return withZero(name, v)
	}
	return ""
}

func planDelete(fs *flag.FlagSet) action {
	yes := yesFlag(fs)
	return func(ctx context.Context, s *session, args []string) error {
		p := path("plans", args[0])
		have, err := s.call(ctx, http.MethodGet, p, "", nil, nil)
		if err != nil {
			return err
		}
		if err := s.Ask(ctx, *yes, fmt.Sprintf("Delete plan %s?", args[0])); err != nil {
			return err
		}
		return s.removeAs(ctx, p, "", args[0], have.etag)
	}
}
