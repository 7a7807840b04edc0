package cli

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"

	"github.com/palliumhq/pallium/policies/limits"
)

type limitsAnswer struct {
	Tenant    string                     `json:"tenant"`
	Plan      string                     `json:"plan"`
	Effective map[string]json.RawMessage `json:"effective"`
	Overrides limits.Partial             `json:"overrides"`
}

type planAnswer struct {
	Name        string         `json:"name"`
	DisplayName string         `json:"displayName"`
	Limits      limits.Partial `json:"limits"`
}

func limitsVerbs() []verb {
	return []verb{
		{"limits show", "TENANT", "show a tenant's limits and where they come from", 1, limitsShow},
		{"limits set", "TENANT KEY=VALUE...", "set limits of a tenant; KEY= removes one", -1, limitsSet},
		{"limits describe", "", "list all limits with unit and meaning", 0, limitsDescribe},
		{"limits plans create", "NAME", "create a plan", 1, planCreate},
		{"limits plans list", "", "list plans", 0, planList},
		{"limits plans show", "NAME", "show a plan", 1, planShow},
		{"limits plans set", "NAME KEY=VALUE...", "set limits of a plan; KEY= removes one", -1, planSet},
		{"limits plans delete", "NAME", "delete a plan that no tenant is on", 1, planDelete},
	}
}

func limitsShow(*flag.FlagSet) action {
	return func(ctx context.Context, s *session, args []string) error {
		var l limitsAnswer
		a, err := s.call(ctx, http.MethodGet, path("tenants", args[0], "limits"), "", nil, &l)
		if err != nil {
			return err
		}
		return s.printLimits(a, l)
	}
}

func (s *session) printLimits(a answer, l limitsAnswer) error {
	var bare []string
	for _, name := range limits.Names() {
		if v, ok := l.Effective[name]; ok {
			bare = append(bare, name+"="+strings.Trim(string(v), `"`))
		}
	}
	return s.print(a, strings.Join(bare, "\n"), func() {
		s.fields("tenant", l.Tenant, "plan", l.Plan)
		s.say("\n")
		w := tabwriter.NewWriter(s.out, 0, 8, 2, ' ', 0)
		fmt.Fprintln(w, "LIMIT\tVALUE\tUNIT\tFROM")
		for _, d := range limits.Describe() {
			v, ok := l.Effective[d.Name]
			if !ok {
				continue
			}
			from := "default or plan"
			if _, set := l.Overrides.Get(d.Name); set {
				from = "tenant"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", d.Name, strings.Trim(string(v), `"`), d.Unit, from)
		}
		_ = w.Flush() // an error of stdout shows in the next write or nowhere
	})
}

func limitsSet(*flag.FlagSet) action {
	return func(ctx context.Context, s *session, args []string) error {
		if len(args) < 2 {
			return misused("it takes TENANT and at least one KEY=VALUE")
		}
		p := path("tenants", args[0], "limits")
		var l limitsAnswer
		have, err := s.call(ctx, http.MethodGet, p, "", nil, &l)
		if err != nil {
			return err
		}
		for _, kv := range args[1:] {
			if err := assign(&l.Overrides, kv); err != nil {
				return err
			}
		}
		var next limitsAnswer
		a, err := s.call(ctx, http.MethodPut, p, have.etag, map[string]any{"overrides": l.Overrides}, &next)
		if err != nil {
			return err
		}
		return s.printLimits(a, next)
	}
}

func limitsDescribe(*flag.FlagSet) action {
	return func(_ context.Context, s *session, _ []string) error {
		body, err := json.Marshal(limits.Describe())
		if err != nil {
			return fmt.Errorf("encode limits: %w", err)
		}
		return s.print(answer{body: body}, strings.Join(limits.Names(), "\n"), func() {
			w := tabwriter.NewWriter(s.out, 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "LIMIT\tUNIT\t0 MEANS\tMEANING")
			for _, d := range limits.Describe() {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", d.Name, d.Unit, d.Zero, d.Meaning)
			}
			_ = w.Flush() // an error of stdout shows in the next write or nowhere
		})
	}
}

func planCreate(fs *flag.FlagSet) action {
	display := fs.String("display-name", "", "a `name` for people")
	var l limits.Partial
	fs.Func("limit", "set a limit, as `key=value`; may be repeated", func(s string) error { return assign(&l, s) })
	return func(ctx context.Context, s *session, args []string) error {
		body := map[string]any{"name": args[0], "displayName": *display, "limits": l}
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

func planSet(*flag.FlagSet) action {
	return func(ctx context.Context, s *session, args []string) error {
		if len(args) < 2 {
			return misused("it takes NAME and at least one KEY=VALUE")
		}
		var p planAnswer
		have, err := s.call(ctx, http.MethodGet, path("plans", args[0]), "", nil, &p)
		if err != nil {
			return err
		}
		for _, kv := range args[1:] {
			if err := assign(&p.Limits, kv); err != nil {
				return err
			}
		}
		a, err := s.call(ctx, http.MethodPut, path("plans", args[0]), have.etag, map[string]any{"displayName": p.DisplayName, "limits": p.Limits},
			&p)
		if err != nil {
			return err
		}
		return s.printPlan(a, p)
	}
}

func planDelete(*flag.FlagSet) action {
	return func(ctx context.Context, s *session, args []string) error {
		return s.remove(ctx, path("plans", args[0]), "", args[0])
	}
}
