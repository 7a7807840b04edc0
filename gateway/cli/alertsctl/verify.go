package alertsctl

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"strings"

	"github.com/palliumhq/pallium/backend/alertmanager/expand"
	"github.com/palliumhq/pallium/backend/alertmanager/rehearsal"
	"github.com/palliumhq/pallium/backend/alertmanager/tenantconfig"
	"github.com/palliumhq/pallium/gateway/cli/command"
	"github.com/palliumhq/pallium/policies/limits"
)

// verify checks a configuration in the same way as the server, with the default limits of a tenant.
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

// check checks a configuration and executes its templates for sample alerts.
func check(d tenantconfig.Document) (*tenantconfig.Checked, error) {
	l := limits.Default()
	checked, err := rehearsal.Check(d, rehearsal.Bounds(&l))
	if err != nil {
		return nil, err
	}
	files, err := expand.Parse(checked.Templates)
	if err != nil {
		return nil, err
	}
	return checked.Checked, checked.Execute(files, &url.URL{Scheme: "http", Host: "localhost", Path: "/alertmanager"}, "tenant")
}
