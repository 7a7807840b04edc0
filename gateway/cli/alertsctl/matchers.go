package alertsctl

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/prometheus/alertmanager/matcher/compat"
	"github.com/prometheus/alertmanager/pkg/labels"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"

	"github.com/palliumhq/pallium/gateway/cli/command"
)

// parseMatchers parses arguments, each of which contains one or more matchers, with Alertmanager's default parser.
func parseMatchers(args []string) (labels.Matchers, error) {
	parse := compat.FallbackMatchersParser(promslog.NewNopLogger())
	var all labels.Matchers
	for _, arg := range args {
		if !strings.ContainsAny(arg, "=~") {
			return nil, command.Misused("%q is not a matcher: write %s, name!=\"value\", name=~\"regex\" or name!~\"regex\"",
				command.Shorten(arg), "alertname="+strconv.Quote(command.Shorten(arg)))
		}
		found, err := parse(arg, "")
		if err != nil {
			return nil, command.Misused("matcher %q: %s: write name=\"value\", name!=\"value\", name=~\"regex\" or name!~\"regex\"",
				command.Shorten(arg), err)
		}
		if len(found) == 0 {
			return nil, command.Misused("%q has no matcher: write name=\"value\", name!=\"value\", name=~\"regex\" or name!~\"regex\"",
				command.Shorten(arg))
		}
		all = append(all, found...)
	}
	return all, nil
}

// filters adds matchers as parameters to the query string of a request for a list.
func filters(query url.Values, matchers labels.Matchers) {
	for _, m := range matchers {
		query.Add("filter", m.String())
	}
}

// labelFlag is a flag that sets a label of an alert each time it is given. It implements flag.Value.
type labelFlag model.LabelSet

// String implements flag.Value.
func (l labelFlag) String() string { return "" }

// Set implements flag.Value. The value may be in quotes, as in a matcher.
func (l labelFlag) Set(text string) error {
	const form = "write name=value"
	name, value, ok := strings.Cut(text, "=")
	switch {
	case !ok:
		return fmt.Errorf("it has no =: %s", form)
	case name == "":
		return fmt.Errorf("the name is empty: %s", form)
	case strings.HasSuffix(name, "!") || strings.HasPrefix(value, "~"):
		return fmt.Errorf("an alert has labels, not matchers: %s", form)
	case value == "":
		return fmt.Errorf("the value is empty, which means that the alert does not have the label: leave it out")
	}
	if plain, err := strconv.Unquote(name); err == nil && strings.HasPrefix(name, `"`) {
		name = plain
	}
	if plain, err := strconv.Unquote(value); err == nil && strings.HasPrefix(value, `"`) {
		value = plain
	}
	if !utf8.ValidString(name) || !utf8.ValidString(value) {
		return fmt.Errorf("it is not valid UTF-8: %s", form)
	}
	if _, ok := l[model.LabelName(name)]; ok {
		return fmt.Errorf("the label %s appears twice: remove one", nameText(name))
	}
	l[model.LabelName(name)] = model.LabelValue(value)
	return nil
}
