package cardinality

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// ParameterError is the error of a request with an invalid parameter.
type ParameterError struct{ text string }

// Error implements error.
func (e *ParameterError) Error() string { return e.text }

func bad(format string, args ...any) error { return &ParameterError{fmt.Sprintf(format, args...)} }

// Limits of the lists of cardinality/label_names and label_values, as in Mimir.
const (
	defaultLimit = 20
	maxLimit     = 500
)

// parameters are the parameters of the endpoints cardinality/*.
type parameters struct {
	selector []*labels.Matcher // nil: all series
	active   bool              // count_method=active; otherwise inmemory
	limit    int               // maximum number of entries of each list
	names    []string          // label_names[], each once
}

// parse parses parameters. Its errors are *ParameterError.
func (a *API) parse(r *http.Request) (*parameters, error) {
	form := r.Form
	p := &parameters{limit: defaultLimit}
	var err error
	if text := form.Get("limit"); text != "" {
		if p.limit, err = strconv.Atoi(text); err != nil || p.limit < 0 || p.limit > maxLimit {
			return nil, bad("parameter limit must be a number from 0 to %d, not %.40q", maxLimit, text)
		}
	}
	switch method := form.Get("count_method"); method {
	case "active":
		p.active = true
	case "", "inmemory":
	default:
		return nil, bad("parameter count_method must be inmemory or active, not %.40q", method)
	}
	if len(form["selector"]) > 1 {
		return nil, bad("parameter selector appears %d times: send one series selector", len(form["selector"]))
	}
	if text := form.Get("selector"); text != "" {
		if p.selector, err = a.o.Parser(r).ParseMetricSelector(text); err != nil {
			return nil, bad("parameter selector: %v", err)
		}
	}
	seen := map[string]bool{} // there may be thousands of names
	for _, name := range form["label_names[]"] {
		if !model.UTF8Validation.IsValidLabelName(name) {
			return nil, bad("parameter label_names[]: %.40q is not a label name", name)
		}
		if !seen[name] {
			seen[name], p.names = true, append(p.names, name)
		}
	}
	return p, nil
}
