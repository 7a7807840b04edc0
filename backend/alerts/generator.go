package alerts

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/prometheus/prometheus/notifier"
	"github.com/prometheus/prometheus/rules"

	"github.com/palliumhq/pallium/authn/tenant"
)

// Generator is the template of the URLs at which an alert's expression can be viewed: a URL with the placeholders {tenant} and
// {expr}, which are replaced by the percent-encoded values.
type Generator string

// Check returns an error if the URLs would not be valid.
func (g Generator) Check() error {
	u, err := url.Parse(g.URL("tenant", "up"))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("%q must be a URL that begins with http:// or https://; {tenant} and {expr} are replaced", string(g))
	}
	return nil
}

// URL returns the URL of an expression.
func (g Generator) URL(id tenant.ID, expr string) string {
	return strings.NewReplacer("{tenant}", url.QueryEscape(string(id)), "{expr}", url.QueryEscape(expr)).Replace(string(g))
}

// Of converts the alerts of a rule to the form in which they are sent.
func (g Generator) Of(id tenant.ID, expr string, list []*rules.Alert) []*notifier.Alert {
	link := g.URL(id, expr)
	out := make([]*notifier.Alert, len(list))
	for i, a := range list {
		out[i] = &notifier.Alert{StartsAt: a.FiredAt, EndsAt: a.ValidUntil, Labels: a.Labels, Annotations: a.Annotations, GeneratorURL: link}
		if !a.ResolvedAt.IsZero() {
			out[i].EndsAt = a.ResolvedAt
		}
	}
	return out
}
