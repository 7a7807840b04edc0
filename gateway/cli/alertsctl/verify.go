package alertsctl

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"strings"

	"github.com/prometheus/alertmanager/dispatch"

	"github.com/palliumhq/pallium/backend/alertmanager/expand"
	"github.com/palliumhq/pallium/backend/alertmanager/tenantconfig"
	"github.com/palliumhq/pallium/gateway/cli/command"
	"github.com/palliumhq/pallium/policies/limits"
)

// verify checks a configuration as the server does, with the default limits of a tenant.
func verify(*flag.FlagSet) command.Action {
	return func(_ context.Context, sh *command.Shell, args []string) error {
		d, err := document(sh, args)
		if err != nil {
			return err
		}
		checked, err := check(d)
		if err != nil {
			return fmt.Errorf("%s is not valid:\n%s", args[0], inWords(err.Error()))
		}
		warn(sh, checked.Warnings)
		fmt.Fprintf(sh.Out, "%s is valid: %s, %s\n", args[0], command.Counted(len(checked.Config.Receivers), "receiver"),
			command.Counted(len(d.Templates), "template file"))
		if len(checked.Secrets) > 0 {
			fmt.Fprintf(sh.Out, "it uses these secrets, which must be stored first ('pallium alertmanager secret set'): %s\n",
				strings.Join(checked.Secrets, ", "))
		}
		return nil
	}
}

// bounds returns the limits of a tenant that has none of its own.
func bounds() tenantconfig.Limits {
	l, b := limits.Default(), tenantconfig.Defaults()
	b.ConfigBytes, b.Templates = int(l.MaxAlertmanagerConfigBytes), l.MaxAlertmanagerTemplates
	b.TemplateBytes = int(l.MaxAlertmanagerTemplateBytes)
	return b
}

// check checks a configuration and executes its templates for a sample.
func check(d tenantconfig.Document) (*tenantconfig.Checked, error) {
	var texts []expand.Text
	checked, err := tenantconfig.Check(d, tenantconfig.Options{Limits: bounds(), Rewrite: func(name, text string) (string, error) {
		if file, ok := d.Templates[name]; ok && file == text {
			return text, nil // Parse rewrites files
		}
		texts = append(texts, expand.Text{Name: name, Text: text, HTML: strings.HasSuffix(name, ".html")})
		return expand.Rewrite(name, text)
	}})
	if err != nil {
		return nil, err
	}
	files, err := expand.Parse(checked.Templates)
	if err != nil {
		return nil, err
	}
	external := &url.URL{Scheme: "http", Host: "localhost", Path: "/alertmanager"}
	functions := map[string]any{"tenantID": func() string { return "tenant" }}
	if err := expand.Render(files, external, expand.Defaults(), functions, texts); err != nil {
		return nil, err
	}
	var errs error
	dispatch.NewRoute(checked.Config.Route, nil).Walk(func(r *dispatch.Route) {
		for name, value := range r.RouteOpts.Labels {
			if strings.Contains(string(value), "{{") && errs == nil {
				errs = errors.Join(errs, fmt.Errorf("route: label %q: templates in the labels of routes are not supported: use a text", name))
			}
		}
	})
	return checked, errs
}
