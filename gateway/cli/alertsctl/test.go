package alertsctl

import (
	"context"
	"flag"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/dispatch"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"github.com/palliumhq/pallium/backend/alertmanager/rehearsal"
	"github.com/palliumhq/pallium/backend/alertmanager/tenantconfig"
	"github.com/palliumhq/pallium/gateway/cli/command"
	"github.com/palliumhq/pallium/policies/limits"
)

// test shows the routes and receivers of an alert, in the configuration of a file or in the stored one.
func test(fs *flag.FlagSet) command.Action {
	c := newClient(fs)
	labels := labelFlag{}
	fs.Var(labels, "label", "`name=value` of a label of the alert; once for each label")
	stored := fs.Bool("stored", false, "use the stored configuration, instead of a file")
	expect := fs.String("expect", "", "`receivers`, separated by commas: fail if the alert goes to others")
	quiet := fs.Bool("q", false, "print only the names of the receivers, for scripts")
	return func(ctx context.Context, sh *command.Shell, args []string) error {
		c.Shell = sh
		switch err := checkFlags(fs); {
		case err != nil:
			return err
		case *stored == (len(args) > 0):
			return command.Misused("name one file (- for standard input) or set -stored for the stored configuration, not both")
		case len(labels) == 0:
			return command.Misused("-label is missing: set the labels of the alert, such as -label alertname=HighLatency -label severity=page")
		}
		d, from, err := testDocument(ctx, c, args)
		if err != nil {
			return err
		}
		l := limits.Default()
		checked, err := tenantconfig.Check(d, tenantconfig.Options{Limits: rehearsal.Bounds(&l)})
		if err != nil {
			return fmt.Errorf("%s is not valid:\n%s", from, inWords(err.Error()))
		}
		return show(sh, checked.Config, model.LabelSet(labels), *expect, *quiet)
	}
}

// testDocument returns the configuration to test, and its source for errors. Template files of a configuration in a file
// are empty, because their content does not affect routes.
func testDocument(ctx context.Context, c *client, args []string) (d tenantconfig.Document, from string, err error) {
	if len(args) == 0 {
		d, err = c.stored(ctx)
		return d, "the stored configuration", err
	}
	if d, err = document(c.Shell, args); err != nil {
		return d, "", err
	}
	var named struct{ Templates []string }
	_ = yaml.Unmarshal([]byte(d.Config), &named) // Check reports what is wrong
	for _, name := range named.Templates {
		if name == path.Base(name) {
			d.Templates[name] = ""
		}
	}
	return d, args[0], nil
}

// show prints the routes of an alert.
func show(sh *command.Shell, cfg *config.Config, labels model.LabelSet, expect string, quiet bool) error {
	root := dispatch.NewRoute(cfg.Route, nil)
	paths := map[*dispatch.Route]string{}
	name(root, "route", paths)
	var receivers []string
	for _, r := range root.Match(labels) {
		o := &r.RouteOpts
		receivers = append(receivers, o.Receiver)
		if quiet {
			fmt.Fprintln(sh.Out, o.Receiver)
			continue
		}
		group := map[model.LabelName]model.LabelValue{}
		for n, v := range labels {
			if _, ok := o.GroupBy[n]; ok || o.GroupByAll {
				group[n] = v
			}
		}
		if err := fields(sh.Out, "receiver", printable(o.Receiver)+" ("+integrations(cfg, o.Receiver)+")",
			"route", paths[r]+" "+r.Matchers.String(),
			"group labels", labelText(group), "intervals", fmt.Sprintf("group_wait %s, group_interval %s, repeat_interval %s",
				model.Duration(o.GroupWait), model.Duration(o.GroupInterval), model.Duration(o.RepeatInterval)),
			"muted in", strings.Join(o.MuteTimeIntervals, ", "), "active in", strings.Join(o.ActiveTimeIntervals, ", ")); err != nil {
			return err
		}
	}
	if expect != "" && !slices.Equal(receivers, strings.Split(expect, ",")) {
		return fmt.Errorf("the alert goes to %s; -expect is %s", strings.Join(receivers, ","), expect)
	}
	return nil
}

// name sets the paths, such as route.routes[0], of a route and of the routes below it.
func name(r *dispatch.Route, at string, paths map[*dispatch.Route]string) {
	paths[r] = at
	for i, below := range r.Routes {
		name(below, fmt.Sprintf("%s.routes[%d]", at, i), paths)
	}
}

// integrations returns how many integrations of each kind a receiver has, such as "1 slack, 2 email".
func integrations(cfg *config.Config, receiver string) string {
	var out []string
	for i := range cfg.Receivers {
		if cfg.Receivers[i].Name != receiver {
			continue
		}
		v := reflect.ValueOf(cfg.Receivers[i])
		for j := range v.NumField() {
			tag, _, _ := strings.Cut(v.Type().Field(j).Tag.Get("yaml"), ",")
			if kind, ok := strings.CutSuffix(tag, "_configs"); ok && v.Field(j).Len() > 0 {
				out = append(out, fmt.Sprintf("%d %s", v.Field(j).Len(), kind))
			}
		}
	}
	if len(out) == 0 {
		return "notifies nobody"
	}
	return strings.Join(out, ", ")
}
