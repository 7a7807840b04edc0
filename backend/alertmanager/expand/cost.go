package expand

import (
	"errors"
	"fmt"
	"slices"
)

// Limits of the analysis by html/template. It analyzes templates at their first execution, which cannot be interrupted. It
// analyzes the body of a range twice, and a called template again for each context and, after an error, for each call. The
// cost of the analysis is estimated when files are loaded. Its unit is the analysis of a node.
const (
	bytesPerUnit = 16
	callUnits    = 100     // for each call, because the state of all templates is copied
	maxAnalysis  = 250_000 // maximum cost of a text
	maxTemplate  = 100_000 // maximum cost of a template
	maxChain     = 20      // maximum depth of nested calls
	maxTemplates = 1_000   // in a configuration, because templates are cloned for each text
)

// cost is the cost of the analysis of a template.
type cost struct {
	own   int64
	calls []string
}

func (c *cost) add(o cost, times int) {
	c.own += o.own * int64(times)
	for range times {
		c.calls = append(c.calls, o.calls...)
	}
}

func textCost(text []byte) int64 { return int64(len(text)) / bytesPerUnit }

// errTooDeep is the error of a template with too deep calls, without the name of the template.
var errTooDeep = fmt.Errorf("calls of templates are nested more than %d levels deep", maxChain)

// analysis computes the costs of templates that call each other.
type analysis struct {
	costs map[string]cost
	known map[string]int64
	path  []string
}

func newAnalysis(costs map[string]cost) *analysis {
	return &analysis{costs: costs, known: map[string]int64{}}
}

// of returns the cost of a template, including the templates that it calls. It returns an error if a template calls itself,
// directly or through others.
func (a *analysis) of(name string) (int64, error) {
	if n, ok := a.known[name]; ok {
		return n, nil
	}
	if i := slices.Index(a.path, name); i >= 0 {
		return 0, fmt.Errorf("template %q calls itself (%q): use range instead", name, append(a.path[i:], name))
	}
	if len(a.path) >= maxChain {
		return 0, errTooDeep
	}
	a.path = append(a.path, name)
	n, err := a.sum(a.costs[name])
	a.path = a.path[:len(a.path)-1]
	if err != nil {
		return 0, err
	}
	if n > maxTemplate {
		return 0, fmt.Errorf("template %q is too complicated: use fewer nested ranges and template actions", name)
	}
	a.known[name] = n
	return n, nil
}

// sum returns the total of a cost and the costs of the called templates.
func (a *analysis) sum(c cost) (int64, error) {
	n := c.own
	for _, called := range c.calls {
		m, err := a.of(called)
		if err != nil {
			return 0, err
		}
		if n += callUnits + 2*m; n > maxAnalysis {
			return n, nil
		}
	}
	return n, nil
}

// check returns the errors of all templates.
func (a *analysis) check(names []string) error {
	for _, name := range names {
		if _, err := a.of(name); err != nil {
			if errors.Is(err, errTooDeep) {
				return fmt.Errorf("template %q: %w", name, err)
			}
			return err
		}
	}
	return nil
}
