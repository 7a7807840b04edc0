package openapi

import "maps"

// description has the properties of a route that are not in the route table.
type description struct {
	summary    string
	parameters []argument // in the query string, or in the form of a POST or PUT
	body       string     // media type of a body that is not a form
	answers    []string   // media types of a successful response; none: 204
	envelope   bool       // the JSON has Prometheus' status and data
	accepted   bool       // a successful response has the status 202
}

// argument is a parameter of a query string or a form.
type argument struct {
	name, text string
	kind       string // a type of JSON Schema; "": string
	repeated   bool
	required   bool
}

// needed returns the argument as a required one.
func (a argument) needed() argument {
	a.required = true
	return a
}

// schema returns the schema of the argument's value.
func (a argument) schema() *schema {
	s := &schema{Type: a.kind}
	if a.kind == "" {
		s.Type = "string"
	}
	if a.repeated {
		return &schema{Type: "array", Items: s}
	}
	return s
}

// protobufDelimited is the media type of the protobuf format of scrapes.
const protobufDelimited = "application/vnd.google.protobuf"

// json returns the description of a route with Prometheus' format of responses.
func json(summary string, arguments ...argument) description {
	return description{summary: summary, parameters: arguments, answers: []string{"application/json"}, envelope: true}
}

// ndjson returns the description of a route that responds with a JSON object in each line, the
// last of which has the status.
func ndjson(summary string, arguments ...argument) description {
	return description{summary: summary, parameters: arguments, answers: []string{"application/x-ndjson"}}
}

// text returns the description of a route that responds with a line of text.
func text(summary string) description {
	return description{summary: summary, answers: []string{"text/plain"}}
}

// yamlText returns the description of a route that responds with YAML.
func yamlText(summary string) description {
	return description{summary: summary, answers: []string{"application/yaml"}}
}

// operations returns the descriptions by the names of routes.
func operations() map[string]description {
	out := ruleOperations()
	maps.Copy(out, alertmanagerOperations())
	maps.Copy(out, otherOperations())
	return out
}

// otherOperations returns the descriptions of the routes that are not about rules.
func otherOperations() map[string]description {
	var (
		query   = argument{name: "query", text: "PromQL expression."}
		start   = argument{name: "start", text: "Start of the range: Unix seconds or RFC 3339."}
		end     = argument{name: "end", text: "End of the range, inclusive: Unix seconds or RFC 3339."}
		timeout = argument{name: "timeout", text: "Duration after which the query ends. The tenant's query_timeout applies as well."}
		stats   = argument{name: "stats", text: "If set, the response has statistics of the query."}
		back    = argument{name: "lookback_delta", text: "Duration for which a sample is the current value of its series."}
		partial = argument{name: "partial_response", kind: "boolean",
			text: "Leave out days of the long-term store that cannot be read, with a warning for each."}
		limit   = argument{name: "limit", kind: "integer", text: "Maximum number of entries."}
		match   = argument{name: "match[]", repeated: true, text: "Series selector. Series that match one of them are selected."}
		listing = []argument{match, start, end, limit}
		step    = argument{name: "step", text: "Duration or seconds.", required: true}
		priced  = pricedArguments(timeout, limit, back, stats)
		ranged  = append([]argument{query.needed(), start.needed(), end.needed(), step}, priced...)

		selector  = argument{name: "selector", text: "Series selector. Without it, all series are counted."}
		method    = argument{name: "count_method", text: "Which series count: inmemory (default) or active."}
		label     = argument{name: "label", text: "Label name."}
		searching = searchArguments(match, start, end, limit)
	)
	return map[string]description{
		"push":             {summary: "Write samples: remote write 1.0 or 2.0, compressed with snappy.", body: "application/x-protobuf"},
		"query":            json("Evaluate an expression at one time.", append([]argument{query.needed(), at(), partial}, priced...)...),
		"query_range":      json("Evaluate an expression over a range of time.", append([]argument{partial}, ranged...)...),
		"query_cost":       json("Estimate the cost of a query, without evaluating it.", append([]argument{query.needed(), at()}, priced...)...),
		"query_range_cost": json("Estimate the cost of a range query, without evaluating it.", ranged...),
		"query_exemplars":  json("Read exemplars of the series of an expression.", query.needed(), start, end),
		"labels":           json("List label names.", listing...),
		"series":           json("List series.", match.needed(), start, end, limit),
		"format_query":     json("Format an expression.", query.needed()),
		"parse_query":      json("Parse an expression to a tree.", query.needed()),
		"metadata": json("List type, help and unit of metrics.", limit, argument{name: "limit_per_metric", kind: "integer",
			text: "Without effect: each metric has one entry."}, argument{name: "metric", text: "Only this metric."}),
		"read": {summary: "Remote read of Prometheus, compressed with snappy.", body: "application/x-protobuf",
			answers: []string{"application/x-protobuf", "application/x-streamed-protobuf"}},
		"label_values":            json("List the values of a label.", listing...),
		"delete_series":           {summary: "Delete samples of series.", parameters: []argument{match.needed(), start, end}},
		"clean_tombstones":        {summary: "Request that deleted samples are removed from the files now."},
		"tsdb_status":             json("Statistics of the tenant's series in memory.", limit),
		"cardinality_label_names": json("Count the values of label names.", selector, limit, method),
		"cardinality_label_values": json("Count the series of label values.", argument{name: "label_names[]", repeated: true, required: true,
			text: "Label names."}, selector, limit, method),
		"cardinality_active_series": json("List the labels of active series.", selector.needed()),
		"search_metric_names": ndjson("Search metric names.", append([]argument{{name: "include_metadata", kind: "boolean",
			text: "Add type, help and unit."}}, searching...)...),
		"search_label_names":  ndjson("Search label names.", searching...),
		"search_label_values": ndjson("Search the values of a label.", append([]argument{label.needed()}, searching...)...),
		"federate": {summary: "The current samples of series, for another Prometheus to scrape.", parameters: []argument{match.needed()},
			answers: []string{"text/plain", protobufDelimited}},
		"features": json("List the features of this server that work."),

		"openapi":     {summary: "This document.", answers: []string{"application/yaml"}},
		"buildinfo":   json("Version of the server."),
		"user_limits": {summary: "The tenant's limits.", answers: []string{"application/json"}},
		"user_stats":  {summary: "The tenant's number of active series.", answers: []string{"application/json"}},
		"ready":       text("Whether the process can serve requests."),
		"healthy":     text("Whether the process is running."),
	}
}

// at returns the argument with the time of a query.
func at() argument { return argument{name: "time", text: "Unix seconds or RFC 3339; default now."} }

// pricedArguments returns the arguments that queries and estimates of their costs share.
func pricedArguments(query ...argument) []argument {
	return append(query,
		argument{name: "cost", kind: "boolean", text: "Add the estimated and the actual cost to the response."},
		argument{name: "max_series", kind: "integer", text: "Maximum number of series that all selectors together may select; not above " +
			"max_query_series."},
		argument{name: "max_samples_read", kind: "integer", text: "Maximum number of samples that the query may read; not above " +
			"max_query_samples."},
		argument{name: "max_query_duration", text: "Duration after which the query fails; at most query_timeout."},
	)
}

// searchArguments returns the arguments that the routes of the search API share.
func searchArguments(selection ...argument) []argument {
	return append([]argument{
		{name: "search[]", repeated: true, text: "Text to search for. Names that match one of them are listed."},
		{name: "fuzz_alg", text: "Algorithm of fuzzy matches: subsequence or jarowinkler."},
		{name: "fuzz_threshold", kind: "integer", text: "Minimum similarity of fuzzy matches, 0 to 100."},
		{name: "case_sensitive", kind: "boolean", text: "Whether upper and lower case differ."},
		{name: "sort_by", text: "Order: alpha or score."}, {name: "sort_dir", text: "Direction: asc or dsc."},
		{name: "include_score", kind: "boolean", text: "Add the similarity."},
		{name: "batch_size", kind: "integer", text: "Maximum number of results in a line."},
	}, selection...)
}
