package ruler

import (
	"context"
	"fmt"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/rules"

	defs "github.com/palliumhq/pallium/backend/rules"
)

// Limits of the templates of one evaluation of a rule. They are needed because the expansion of templates cannot be
// interrupted.
const (
	maxTemplateBytes = 64 << 20   // estimated bytes of the labels and annotations of all alerts
	maxTemplateSteps = 50_000_000 // estimated steps
	maxQueriedBytes  = 64 << 10   // bytes of the labels and histograms in the results of one query in a template
	maxQueriedValue  = 1024       // bytes of one label or histogram
)

// costs are the estimated costs of the templates of alerting rules, for each alert.
type costs map[ruleKey]cost

// ruleKey identifies a rule by the details that the context of its queries contains.
type ruleKey struct{ name, query, labels string }

type cost struct{ bytes, steps int64 }

func keyOf(d rules.RuleDetail) ruleKey { return ruleKey{d.Name, d.Query, d.Labels.String()} }

// add adds the cost of a rule. Of rules with equal keys, the highest cost is kept.
func (c costs) add(rule rules.Rule, group map[string]string, d *rulefmt.Rule) {
	if d.Alert == "" {
		return
	}
	key := keyOf(rules.NewRuleDetail(rule))
	bytes, steps := defs.Cost(group, d)
	c[key] = cost{max(bytes, c[key].bytes), max(steps, c[key].steps)}
}

// check returns an error if expanding the templates of a rule for the results of its query would cost too much.
func (c costs) check(ctx context.Context, out vector) error {
	known, ok := c[keyOf(rules.FromOriginContext(ctx))]
	if !ok {
		return nil // a recording rule
	}
	var bytes, steps float64
	for i := range out {
		b, s := scale(&out[i])
		bytes += float64(known.bytes) * b
		steps += float64(known.steps) * s
	}
	if bytes > maxTemplateBytes {
		return fmt.Errorf("the labels and annotations of the %d alerts of the rule can become longer than the limit of %d bytes: "+
			"aggregate to fewer series, or shorten the templates", len(out), maxTemplateBytes)
	}
	if steps > maxTemplateSteps {
		return fmt.Errorf("expanding the templates of the rule for %d alerts may take more than %d steps, estimated: "+
			"aggregate to fewer series, or use shorter templates, without ranges and regular expressions", len(out), maxTemplateSteps)
	}
	return nil
}

// scale returns the factors by which the templates of an alert cost more than estimated, because its labels are longer or more
// numerous. The factor of steps takes into account that regular expressions may take time proportional to the square of the
// text, and that three ranges over labels may be nested.
func scale(s *promql.Sample) (bytes, steps float64) {
	longest, sum, n := sizes(s.Metric)
	value := max(1, float64(longest)/defs.EstimatedValue)
	more := max(1, float64(n)/defs.EstimatedLabels)
	bytes = max(value*more*more*more, float64(sum)/(defs.EstimatedLabels*(defs.EstimatedName+defs.EstimatedValue)),
		float64(histogramBytes(s))/defs.EstimatedNumber)
	return bytes, value * value * more * more * more
}

// sizes returns the length of the longest name or value, the sum of all lengths, and the number of labels.
func sizes(ls labels.Labels) (longest, sum, n int) {
	ls.Range(func(l labels.Label) {
		n++
		sum += len(l.Name) + len(l.Value)
		longest = max(longest, len(l.Name), len(l.Value))
	})
	return longest, sum, n
}

// histogramBytes returns the estimated length of a histogram as text; it is 0 for a number.
func histogramBytes(s *promql.Sample) int {
	const bucket = 48
	if s.H == nil {
		return 0
	}
	return bucket * (2 + len(s.H.PositiveBuckets) + len(s.H.NegativeBuckets))
}

// checkTemplateResults returns an error if the results of a query in a template are more numerous or larger than allowed.
func checkTemplateResults(out vector) error {
	if len(out) > maxTemplateResults {
		return fmt.Errorf("a query in a template returned %d series; at most %d are allowed: aggregate more", len(out), maxTemplateResults)
	}
	sum := 0
	for i := range out {
		longest, size, n := sizes(out[i].Metric)
		histogram := histogramBytes(&out[i])
		if longest = max(longest, histogram); longest > maxQueriedValue {
			return fmt.Errorf("a query in a template returned a label or a histogram of %d bytes; at most %d are allowed: aggregate without it",
				longest, maxQueriedValue)
		}
		const overhead = 16 // bytes of a label in addition to name and value
		sum += size + overhead*n + histogram
	}
	if sum > maxQueriedBytes {
		return fmt.Errorf("a query in a template returned labels of %d bytes; at most %d are allowed: aggregate more", sum, maxQueriedBytes)
	}
	return nil
}
