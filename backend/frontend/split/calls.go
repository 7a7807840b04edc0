package split

import "github.com/prometheus/prometheus/promql/parser"

// kind describes how a function is evaluated.
type kind int

const (
	// unsafe functions make steps depend on each other, or may do so.
	unsafe kind = iota
	// byStep functions are evaluated step by step with the values of all arguments at that step,
	// and their result is collected in a map. The caches that they keep between steps have only
	// labels.
	byStep
	// single functions are evaluated step by step, too, and return at most one
	// series.
	single
	// byWindow functions are evaluated for each series and step with the samples
	// of the range of that step, and keep the order of series.
	byWindow
	// byLabels functions change labels only, and keep the order of series.
	byLabels
)

// kindOf returns how a function is evaluated.
func kindOf(name string) kind {
	switch name {
	case "abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "clamp", "clamp_max", "clamp_min", "cos", "cosh",
		"days_in_month", "day_of_month", "day_of_week", "day_of_year", "deg", "exp", "floor",
		"histogram_avg", "histogram_count", "histogram_fraction", "histogram_quantile", "histogram_quantiles",
		"histogram_stddev", "histogram_stdvar", "histogram_sum",
		"hour", "ln", "log10", "log2", "minute", "month", "rad", "round", "sgn", "sin", "sinh", "sqrt", "tan", "tanh",
		"timestamp", "year":
		return byStep
	case "absent", "absent_over_time", "max_of", "min_of", "pi", "scalar", "time", "vector":
		return single
	case "avg_over_time", "changes", "count_over_time", "delta", "deriv", "double_exponential_smoothing", "first_over_time",
		"idelta", "increase", "integral", "irate", "last_over_time", "mad_over_time", "max_over_time", "min_over_time",
		"predict_linear", "present_over_time", "quantile_over_time", "rate", "resets", "stddev_over_time", "stdvar_over_time",
		"sum_over_time", "ts_of_first_over_time", "ts_of_last_over_time", "ts_of_max_over_time", "ts_of_min_over_time":
		return byWindow
	case "label_join", "label_replace":
		return byLabels
	}
	return unsafe
}

// call checks a function and its arguments.
func (a *analysis) call(n *parser.Call, at place) order {
	kind := kindOf(n.Func.Name)
	if kind == unsafe {
		a.unsafe(n.Func.Name)
	}
	at = insideCall(n.Func.Name, at)
	all := one
	for _, arg := range n.Args {
		all = max(all, a.visit(arg, at))
	}
	switch kind {
	case single:
		return one
	case byWindow, byLabels:
		return all
	case byStep:
		if all == one && n.Func.Name != "histogram_quantiles" {
			return one
		}
	}
	return arbitrary
}

// unsafe records why a function makes steps depend on each other.
func (a *analysis) unsafe(name string) {
	switch name {
	case "sort", "sort_desc", "sort_by_label", "sort_by_label_desc":
		// A range query orders its series by labels, so sorting has no effect. But the engine warns
		// of it unless the range has a single step, and a part may have only one.
		a.couple("%s warns only if a range has more than one step", name)
	case "info":
		// info reads the info series that belong to any series of the whole range. It fails at a
		// step where an info series has a histogram, even if the series that it belongs to has no
		// sample at that step.
		a.couple("info joins the series of the whole range")
	case "start", "end", "range", "step":
		a.couple("%s() has not been resolved", name)
	default:
		// start_timestamp, whose values depend on a switch of the engine, and functions of later
		// versions.
		a.couple("the function %s is not known to be splittable", name)
	}
}

// insideCall returns the place of the arguments of a function, given the place of its call.
func insideCall(name string, at place) place {
	switch name {
	case "histogram_count", "histogram_sum", "histogram_avg", "timestamp", "absent":
		at.stats, at.hints = true, ""
	case "sum_over_time", "avg_over_time":
		if at.stats {
			at.hints = name
		}
	case "rate", "increase", "irate", "delta", "idelta":
		// Their results are gauges, without a hint. They use the hint of a sample only to compare
		// it with the previous sample in the same window, never that of the first sample of a
		// window.
		at.hints = ""
	}
	return at
}
