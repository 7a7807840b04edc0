package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"github.com/palliumhq/pallium/policies/limits"

	"github.com/palliumhq/pallium/gateway/cli/command"
)

const retention = "retention"

// fallback returns the value that a limit has for tenants without plan and overrides.
func (l *limitsAnswer) fallback(name string) string {
	if v, ok := l.Defaults[name]; ok {
		return bare(v)
	}
	return bare(builtIn()[name])
}

// builtIn returns the built-in defaults as the API encodes limits.
func builtIn() map[string]json.RawMessage {
	values := map[string]json.RawMessage{}
	text, err := json.Marshal(limits.Default())
	if err == nil {
		err = json.Unmarshal(text, &values)
	}
	if err != nil {
		return nil // cannot happen
	}
	return values
}

// bare returns a limit's value in the format of the command line: in one line, like
// limits.Partial.Get.
func bare(value json.RawMessage) string {
	var text string
	if json.Unmarshal(value, &text) != nil {
		return string(value)
	}
	return strings.ReplaceAll(text, "\n", `\n`)
}

// retentionOf returns the retention that layers of limits set, the most specific layer first,
// or the default.
func (l *limitsAnswer) retentionOf(layers ...limits.Partial) string {
	for _, layer := range layers {
		if v, ok := layer.Get(retention); ok {
			return v
		}
	}
	return l.fallback(retention)
}

// lowered returns the retention after a change, and reports whether it is shorter than before; 0 means
// forever.
func lowered(before, after string) (keep time.Duration, shorter bool) {
	old, err := model.ParseDuration(before)
	next, err2 := model.ParseDuration(after)
	if err != nil || err2 != nil || next == 0 {
		return 0, false
	}
	return time.Duration(next), old == 0 || next < old
}

// confirmRetention asks for a confirmation if a change lowers a retention, which deletes samples.
// `of` names the tenants, `word` is what the user must type.
func (s *session) confirmRetention(ctx context.Context, yes bool, of, before, after, word string) error {
	keep, shorter := lowered(before, after)
	if !shorter {
		return nil
	}
	warning := fmt.Sprintf("This lowers the retention of %s from %s to %s.\nAll samples older than %s are deleted permanently, soon after "+
		"the change.", of, withZero(retention, before), after, time.Now().Add(-keep).UTC().Format(time.RFC3339))
	return s.Confirm(ctx, yes, warning, word)
}

// confirmPlan asks for a confirmation if new limits of a plan lower the retention of tenants on
// that plan.
func (s *session) confirmPlan(ctx context.Context, yes bool, plan string, before, after limits.Partial) error {
	if yes {
		return nil
	}
	all, _, err := items[tenantAnswer](ctx, s, path("tenants"), url.Values{})
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(t tenantAnswer) bool {
		_, own := t.Limits.Get(retention)
		return own || t.Plan != plan
	})
	if len(all) == 0 {
		return nil
	}
	var l limitsAnswer
	if _, err := s.call(ctx, http.MethodGet, path("tenants", all[0].Name, "limits"), "", nil, &l); err != nil {
		return err
	}
	var names []string
	for _, t := range all {
		names = append(names, t.Name)
	}
	of := command.Counted(len(all), "tenant") + some(names)
	return s.confirmRetention(ctx, false, of, l.retentionOf(before), l.retentionOf(after), plan)
}

// withZero returns the value of a limit; if it is 0 or empty, with the meaning of that value in
// parentheses.
func withZero(name, value string) string {
	if value != "0" && value != "0s" && value != "" {
		return value
	}
	for _, d := range limits.Describe() {
		if d.Name == name && d.Zero != "" && d.Zero != value {
			return strings.TrimSpace(value + " (" + d.Zero + ")")
		}
	}
	return value
}
