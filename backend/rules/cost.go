package rules

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"text/template/parse"

	"github.com/prometheus/prometheus/model/rulefmt"
)

// Limits of the templates of labels and annotations. Their expansion cannot be interrupted and is repeated for each alert, so
// it must be short for every accepted template.
const (
	maxTemplate    = 64 << 10  // bytes of one template
	maxText        = 32 << 10  // estimated bytes of the result of one template, and of one value
	maxRuleText    = 128 << 10 // estimated bytes of the results of all templates of a rule
	maxSteps       = 1_000_000 // estimated steps of one template
	maxWidth       = 100       // width or precision of printf
	maxLoops       = 3         // depth of nested ranges
	maxPattern     = 1000      // instructions of one regular expression
	maxCompile     = 10_000    // estimated instructions for parsing and compiling one regular expression, see package regexsize
	maxPatternText = 4 << 10   // bytes of one regular expression
	maxMatched     = 4 << 10   // estimated bytes of a text that is matched with a regular expression
)

// The costs of other work than copying text, in steps. A step is the work for one byte of text.
const (
	templateSteps  = 200 // for each template
	nodeSteps      = 2
	iterationSteps = 5 // for each iteration of a range, in addition to its nodes
	callSteps      = 20
	querySteps     = 1000
)

// Cost returns the estimated cost of expanding the templates of an alerting rule for one alert: the bytes of the
// labels and annotations, and the steps. `group` contains the labels of the rule's group. The estimate assumes labels with the
// sizes EstimatedValue and EstimatedLabels. If a template is rejected, the cost is very high.
func Cost(group map[string]string, r *rulefmt.Rule) (bytes, steps int64) {
	if r.Alert == "" {
		return 0, 0
	}
	c, problems := costOf(group, r)
	if len(problems) > 0 {
		return math.MaxInt32, math.MaxInt32
	}
	return int64(c.bytes), int64(c.steps)
}

// costOf returns the cost of the templates of an alerting rule, and the problems of templates that could take much time or
// produce much text. Templates that cannot be parsed are found by Prometheus' own check.
func costOf(group map[string]string, r *rulefmt.Rule) (sum cost, problems []string) {
	for _, field := range []struct {
		what   string
		values map[string]string
	}{{"label", merged(group, r.Labels)}, {"annotation", r.Annotations}} {
		for _, name := range sorted(field.values) {
			c, err := checkTemplate(field.values[name])
			if err != nil {
				problems = append(problems, fmt.Sprintf("%s %q: %v", field.what, name, err))
			}
			sum.bytes += c.bytes + float64(len(name))
			sum.steps += c.steps
		}
	}
	if sum.bytes > maxRuleText && len(problems) == 0 {
		problems = append(problems, fmt.Sprintf("the expanded labels and annotations of one alert can become longer than the limit of %d bytes: "+
			"shorten them", maxRuleText))
	}
	return sum, problems
}

// merged returns the labels of a rule: its own and those of its group.
func merged(group, own map[string]string) map[string]string {
	if len(group) == 0 {
		return own
	}
	out := maps.Clone(group)
	maps.Copy(out, own)
	return out
}

// cost is the estimated cost of the expansion of templates.
type cost struct{ bytes, steps float64 }

// checkTemplate returns the cost of one template, and an error if it is too high. It returns no error if the
// template cannot be parsed.
func checkTemplate(text string) (cost, error) {
	if len(text) > maxTemplate {
		return cost{}, fmt.Errorf("the template has %d bytes, the limit is %d", len(text), maxTemplate)
	}
	const name = "rule"
	// The variables that Prometheus defines.
	const before = "{{$labels := .Labels}}{{$externalLabels := .ExternalLabels}}{{$externalURL := .ExternalURL}}{{$value := .Value}}"
	set := map[string]*parse.Tree{}
	tree := parse.New(name)
	tree.Mode = parse.SkipFuncCheck
	tree, err := tree.Parse(before+text, "", "", set)
	if err != nil {
		return cost{}, nil //nolint:nilerr // Prometheus' check reports it
	}
	if len(set) != 1 || set[name] != tree {
		return cost{}, errNoTemplates
	}
	w := &walk{vars: map[string]value{}, inLoop: map[string]bool{}, repeats: 1}
	w.steps = templateSteps + float64(len(text)) // it is parsed for each alert
	collect(tree.Root, false, w.inLoop)
	err = w.list(tree.Root, rootValue())
	return w.cost, err
}

var errSteps = errors.New("the template is too expensive: its printed bytes, function calls, iterations of ranges and regular " +
	"expressions may take more than 1,000,000 steps; use fewer ranges, shorter regular expressions and shorter texts")

// work adds the steps of the current node.
func (w *walk) work(steps float64) error {
	if w.steps += steps * w.repeats; w.steps > maxSteps {
		return errSteps
	}
	return nil
}

// print adds the size of a printed value to the result of the template.
func (w *walk) print(size float64) error {
	if w.bytes += size * w.repeats; w.bytes > maxText {
		return fmt.Errorf("the expanded template can become longer than the limit of %d bytes: shorten it, or print less in ranges", maxText)
	}
	return w.work(size)
}
