package limits

import (
	"slices"
	"time"
)

// declared returns the declarations of all limits of a tenant, in the order of
// docs/limits.md. To add a limit, declare it here, run `go generate ./policies/limits`
// (which writes the struct field, the identifier and the documentation), and enforce it
// with the identifier's Exceeded.
//
// The names determine the names of the fields (max_query_series is MaxQuerySeries), and the type of
// the default is the type of the field. The defaults suffice for one busy Prometheus and prevent
// one tenant from overloading the machine.
func declared() []Description {
	return slices.Concat(edgeLimits(), writeLimits(), queryLimits(), syntaxLimits(), ruleLimits(), alertmanagerLimits())
}

// Texts used by several declarations.
const (
	day = 24 * time.Hour

	unlimited   = "unlimited"
	second      = "one second's worth"
	sendLess    = "send less, or ask the administrator for a higher limit"
	sendSmaller = "send smaller requests"
	shorten     = "shorten it with a relabeling rule"
	selectLess  = "select fewer series, a shorter range or a longer step"
)

// edgeLimits returns the limits of all requests. The gateway checks them, except max_decoded_bytes, which the
// backend checks.
func edgeLimits() []Description {
	return []Description{
		// Rates at the edge.
		{Name: "requests_per_second", Default: 1000., Unit: PerSecond, Zero: unlimited, Meaning: "requests of the tenant at the edge",
			Counts: "requests", Burst: "request_burst", Use: "%s are in progress and the budget is used up", Hint: sendLess},
		{Name: "request_burst", Default: 2000, Unit: Count, Zero: second, Meaning: "requests that may arrive at once"},
		{Name: "samples_per_second", Default: 500_000., Unit: PerSecond, Zero: unlimited, Meaning: "samples written",
			Counts: "samples", Burst: "sample_burst", Use: "%s were written beyond the budget", Hint: sendLess},
		{Name: "sample_burst", Default: 2_000_000, Unit: Count, Zero: second, Meaning: "samples that may be written at once"},
		{Name: "bytes_per_second", Default: 100. * (1 << 20), Unit: PerSecond, Zero: unlimited, Meaning: "bytes of request bodies as sent",
			Counts: "bytes", Burst: "byte_burst", Use: "%s were sent beyond the budget", Hint: sendLess},
		{Name: "byte_burst", Default: 400 << 20, Unit: Bytes, Zero: second, Meaning: "bytes of request bodies that may arrive at once"},

		// Sizes of one request, and the number of concurrent requests.
		{Name: "max_body_bytes", Default: int64(16 << 20), Unit: Bytes, Zero: unlimited, Meaning: "size of one request body as sent",
			Use: "the request body has %s", Hint: sendSmaller},
		{Name: "max_decoded_bytes", Default: int64(32 << 20), Unit: Bytes, Zero: unlimited,
			Meaning: "size of one request body after decompression", Use: "the request body has %s after decompression", Hint: sendSmaller},
		{Name: "max_concurrent_requests", Default: 100, Unit: Count, Zero: unlimited, Meaning: "requests in progress at the same time",
			Counts: "requests", Use: "%s are in progress", Hint: sendLess},
	}
}

// writeLimits returns the limits of writes and of stored data.
func writeLimits() []Description {
	return []Description{
		// Series and their labels.
		{Name: "max_active_series", Default: 2_000_000, Unit: Count, Zero: unlimited, Meaning: "series that had a sample within the last 30 " +
			"minutes",
			Counts: "series", Use: "%s are already active", Hint: "drop labels with many values, or ask the administrator for a higher limit"},
		{Name: "max_labels_per_series", Default: 64, Unit: Count, Zero: unlimited, Meaning: "labels of one series",
			Counts: "labels", Use: "a series has %s", Hint: "drop labels with a relabeling rule"},
		{Name: "max_label_name_length", Default: 1024, Unit: Bytes, Zero: unlimited, Meaning: "length of a label name",
			Use: "a label name has %s", Hint: shorten},
		{Name: "max_label_value_length", Default: 4096, Unit: Bytes, Zero: unlimited, Meaning: "length of a label value",
			Use: "a label value has %s", Hint: shorten},
		{Name: "max_exemplars", Default: 10_000, Unit: Count, Zero: "no exemplars are stored", Meaning: "exemplars in memory"},
		{Name: "max_metadata_metrics", Default: 100_000, Unit: Count, Zero: unlimited, Meaning: "metrics with a stored type, help or unit"},
		{Name: "max_histogram_buckets", Default: 640, Unit: Count, Zero: unlimited,
			Meaning: "buckets of one native histogram sample; the resolution of a larger one is reduced if possible",
			Counts:  "buckets", Use: "a native histogram whose resolution cannot be reduced further has %s", Hint: "use fewer buckets"},

		// Deduplication of HA pairs: one of several replicas that send the same samples is
		// elected.
		{Name: "accept_ha_samples", Default: false, Unit: Switch, Zero: "the samples of all replicas are accepted",
			Meaning: "whether one of several replicas of a sender is elected, and only its samples are accepted"},
		{Name: "ha_cluster_label", Default: "cluster", Unit: LabelName, Zero: "not allowed",
			Meaning: "label with the name of the sender that the replicas belong to"},
		{Name: "ha_replica_label", Default: "__replica__", Unit: LabelName, Zero: "not allowed",
			Meaning: "label with the name of the replica; it is removed from accepted samples"},
		{Name: "ha_max_clusters", Default: 100, Unit: Count, Zero: "10000", Meaning: "values of the cluster label seen within an hour",
			Counts: "clusters", Use: "the cluster label has %s as values", Hint: "send from fewer groups of replicas, and keep the values of " +
				"the cluster label stable"},

		// Time.
		{Name: "past_grace", Default: Duration(14 * day), Unit: Time, Zero: "any age", Meaning: "how old a sample may be",
			Use: "a sample is older", Hint: "send samples sooner, or ask the administrator for a higher limit"},
		{Name: "future_grace", Default: Duration(10 * time.Minute), Unit: Time, Zero: "any time", Meaning: "how far ahead of now a sample may be",
			Use: "a sample is further ahead", Hint: "check the sender's clock"},
		{Name: "retention", Default: Duration(0), Unit: Time, Zero: "forever", Meaning: "how long samples are stored",
			Use: "a sample is older", Hint: "send newer samples, or ask the administrator for a higher limit"},
	}
}

// queryLimits returns the limits of queries.
func queryLimits() []Description {
	return []Description{
		{Name: "max_query_range", Default: Duration(0), Unit: Time, Zero: unlimited,
			Meaning: "time that one query may span, including the ranges of its selectors and `lookback_delta`",
			Use:     "the query spans %s", Hint: "query a shorter range"},
		{Name: "max_query_steps", Default: maxSteps, Max: maxSteps, Unit: Count, Zero: "11000",
			Meaning: "steps of a range query, which has one more point than steps for each series. The maximum is 11000, as in Prometheus",
			Counts:  "steps", Use: "the query has %s", Hint: "use a longer step or a shorter range"},
		{Name: "max_query_series", Default: 500_000, Unit: Count, Zero: unlimited, Meaning: "series that one query may select",
			Counts: "series", Use: "the query selects %s", Hint: "select fewer series with more specific matchers, or a shorter range"},
		{Name: "max_query_samples", Default: 50_000_000, Unit: Count, Zero: unlimited, Meaning: "samples that one query may hold in memory",
			Counts: "samples", Use: "the query holds %s in memory", Hint: selectLess},
		{Name: "query_timeout", Default: Duration(2 * time.Minute), Unit: Time, Zero: unlimited, Meaning: "how long one query may run",
			Use: "the query took longer", Hint: selectLess},
		{Name: "max_concurrent_queries", Default: 20, Unit: Count, Zero: unlimited, Meaning: "queries in progress at the same time"},
		{Name: "max_query_length", Default: 64 << 10, Unit: Bytes, Zero: unlimited,
			Meaning: "length of a query's expression, or of all its selectors together",
			Use:     "the expressions and selectors of the request have %s", Hint: "send shorter ones, or fewer in one request"},
		{Name: "max_queued_queries", Default: 100, Unit: Count, Zero: "no queue", Meaning: "queries that wait for other queries of the " +
			"tenant to finish",
			Counts: "queries", Use: "%s are waiting", Hint: "try again later, or send fewer queries at the same time"},
		{Name: "max_regex_instructions", Default: 100_000, Unit: Count, Zero: unlimited,
			Meaning: "size of the compiled regular expressions of one query",
			Counts:  "instructions", Use: "the regular expressions of the request compile to %s",
			Hint: "use fewer repetitions (x{1000}), classes and alternatives"},
		{Name: "blocked_queries", Default: "", Unit: Queries, Zero: "no query is blocked",
			Meaning: "queries that are rejected: one in each line, or a regular expression after `~`"},
		{Name: "max_memory_bytes", Default: int64(0), Unit: Bytes, Zero: "limited only by the process",
			Meaning: "memory that requests in progress hold in one process",
			Use:     "the request needs at least %s of memory", Hint: selectLess},
	}
}

// syntaxLimits returns the PromQL switches: features that Prometheus, too, has only with flags
// (--enable-feature). Package backend/switches applies them.
func syntaxLimits() []Description {
	const rejected = "a query with one is an error"
	return []Description{
		{Name: "promql_experimental_functions", Default: false, Unit: Switch, Zero: rejected,
			Meaning: "whether PromQL has experimental functions and aggregations, such as `sort_by_label` and `limitk`"},
		{Name: "promql_binop_fill_modifiers", Default: false, Unit: Switch, Zero: rejected,
			Meaning: "whether binary operators have the modifiers `fill`, `fill_left` and `fill_right`"},
		{Name: "promql_unquoted_utf8_names", Default: false, Unit: Switch, Zero: "such names must be quoted",
			Meaning: "whether names with letters of all alphabets and dots may be written without quotes"},
		{Name: "promql_delayed_name_removal", Default: false, Unit: Switch, Zero: "functions and operators drop it at once",
			Meaning: "whether the metric name is dropped at the end of a query; the query is then not divided by days"},
		{Name: "promql_type_and_unit_labels", Default: false, Unit: Switch, Zero: "they follow from the name of the metric",
			Meaning: "whether annotations about the types of metrics follow from the label `__type__`"},
		{Name: "promql_per_step_stats", Default: false, Unit: Switch, Zero: "`stats=all` has no samples of steps",
			Meaning: "whether `stats=all` counts samples for each step; such a query is not divided and not cached"},
	}
}

// ruleLimits returns the limits of recording and alerting rules. Those of a group apply when it is
// loaded; the others apply to evaluations.
func ruleLimits() []Description {
	return []Description{
		{Name: "max_rule_groups", Default: 200, Unit: Count, Zero: unlimited, Meaning: "groups of rules, in all namespaces",
			Counts: "groups", Use: "the tenant would have %s", Hint: "delete groups that are not needed, or put their rules into fewer groups"},
		{Name: "max_rules_per_group", Default: 100, Unit: Count, Zero: unlimited, Meaning: "rules of one group",
			Counts: "rules", Use: "the group has %s", Hint: "divide it into several groups"},
		{Name: "min_rule_interval", Default: Duration(5 * time.Second), Unit: Time, Zero: "any interval",
			Meaning: "shortest interval between evaluations of a group"},
		{Name: "max_rule_results", Default: 10_000, Unit: Count, Zero: unlimited,
			Meaning: "series or alerts that one evaluation of a rule may return",
			Counts:  "series", Use: "the rule returned %s", Hint: "aggregate more, or select fewer series"},
		{Name: "max_concurrent_rule_groups", Default: 4, Unit: Count, Zero: unlimited,
			Meaning: "groups of rules that are evaluated at the same time"},
		{Name: "rule_query_offset", Default: Duration(0), Unit: Time, Zero: "rules are evaluated at the current time",
			Meaning: "how far in the past the rules of a group without `query_offset` are evaluated. It is 0 by default because remote write " +
				"delivers samples within seconds; Mimir's default is 1m, for senders that are late"},
		{Name: "recording_rules", Default: true, Unit: Switch, Zero: "they are stored, but not evaluated",
			Meaning: "whether recording rules are evaluated"},
		{Name: "alerting_rules", Default: true, Unit: Switch, Zero: "they are stored, but not evaluated",
			Meaning: "whether alerting rules are evaluated"},
		{Name: "protected_rule_namespaces", Default: "", Unit: Namespaces, Zero: "no namespace is protected",
			Meaning: "namespaces of rules that are only changed by requests with the header " +
				"`X-Mimir-Ruler-Override-Namespace-Protection`: one in each line"},
	}
}

// alertmanagerLimits returns the limits of a tenant's Alertmanager. The limits of the configuration are checked when a
// configuration is stored.
func alertmanagerLimits() []Description {
	return []Description{
		{Name: "max_alertmanager_config_bytes", Default: int64(1 << 20), Unit: Bytes, Zero: unlimited,
			Meaning: "size of the configuration of the Alertmanager, with its templates"},
		{Name: "max_alertmanager_templates", Default: 20, Unit: Count, Zero: unlimited, Meaning: "template files of the Alertmanager"},
		{Name: "max_alertmanager_template_bytes", Default: int64(128 << 10), Unit: Bytes, Zero: unlimited,
			Meaning: "size of one template file of the Alertmanager"},
		{Name: "max_alertmanager_alerts", Default: 20_000, Unit: Count, Zero: unlimited, Meaning: "alerts in the Alertmanager at the same time"},
		{Name: "max_alertmanager_alert_bytes", Default: int64(64 << 20), Unit: Bytes, Zero: unlimited,
			Meaning: "size of all alerts in the Alertmanager, with labels and annotations"},
		{Name: "max_alertmanager_groups", Default: 10_000, Unit: Count, Zero: unlimited,
			Meaning: "groups of alerts in the Alertmanager; alerts of a further group are not notified"},
		{Name: "max_alertmanager_silences", Default: 1000, Unit: Count, Zero: unlimited,
			Meaning: "silences, including those that expired in the last five days"},
		{Name: "max_alertmanager_silence_bytes", Default: 16 << 10, Unit: Bytes, Zero: unlimited, Meaning: "size of one silence"},
		{Name: "alertmanager_cpus", Default: 0.25, Unit: CPUs, Zero: unlimited,
			Meaning: "CPUs that the Alertmanager of the tenant may use on average, on each of its replicas, for each of four kinds of work: " +
				"notifications, alerts that it receives, lists of alerts, and configurations. Work beyond that waits, and is then " +
				"retried later or rejected"},
		{Name: "notifications_per_second", Default: 10., Unit: PerSecond, Zero: unlimited,
			Meaning: "notifications of each integration, such as `email`. Further ones wait, and are dropped when the next flush of their " +
				"group is due"},
		{Name: "notification_burst", Default: 100, Unit: Count, Zero: second, Meaning: "notifications of each integration that may be sent at " +
			"once"},
	}
}
