package limits

import (
	"slices"
	"time"
)

// declared has every limit of a tenant, each declared once, in the order of
// docs/limits.md. To add a limit, add it here, run `go generate ./policies/limits`
// (which writes the struct field, the identifier and the documentation) and enforce
// it with the identifier's Exceeded.
//
// The names are those of fields too (max_query_series is MaxQuerySeries), and the
// type of the default is the type of the field. The defaults let one busy
// Prometheus in and keep one tenant from taking the machine down.
func declared() []Description {
	return slices.Concat(edgeLimits(), writeLimits(), queryLimits())
}

// Words of several declarations.
const (
	day = 24 * time.Hour

	unlimited   = "unlimited"
	second      = "one second's worth"
	sendLess    = "send less, or ask for a higher limit"
	sendSmaller = "send smaller requests"
	shorten     = "shorten it by relabeling"
	selectLess  = "select fewer series, a shorter range or a longer step"
)

// edgeLimits are those of all requests, which the gateway checks first.
func edgeLimits() []Description {
	return []Description{
		// Rates at the edge.
		{Name: "requests_per_second", Default: 1000., Unit: PerSecond, Zero: unlimited, Meaning: "requests of the tenant at the edge",
			Counts: "requests", Burst: "request_burst", Use: "%s are under way and the budget is used up", Hint: sendLess},
		{Name: "request_burst", Default: 2000, Unit: Count, Zero: second, Meaning: "requests that may come at once"},
		{Name: "samples_per_second", Default: 500_000., Unit: PerSecond, Zero: unlimited, Meaning: "samples written",
			Counts: "samples", Burst: "sample_burst", Use: "%s were written beyond the budget", Hint: sendLess},
		{Name: "sample_burst", Default: 2_000_000, Unit: Count, Zero: second, Meaning: "samples that may be written at once"},
		{Name: "bytes_per_second", Default: 100. * (1 << 20), Unit: PerSecond, Zero: unlimited, Meaning: "bytes of request bodies as sent",
			Counts: "bytes", Burst: "byte_burst", Use: "%s were sent beyond the budget", Hint: sendLess},
		{Name: "byte_burst", Default: 400 << 20, Unit: Bytes, Zero: second, Meaning: "bytes of request bodies that may come at once"},

		// Sizes of one request, and how many may be under way.
		{Name: "max_body_bytes", Default: int64(16 << 20), Unit: Bytes, Zero: unlimited, Meaning: "size of one request body as sent",
			Use: "the request body has %s", Hint: sendSmaller},
		{Name: "max_decoded_bytes", Default: int64(32 << 20), Unit: Bytes, Zero: unlimited,
			Meaning: "size of one request body after decompression", Use: "the request body has %s after decompression", Hint: sendSmaller},
		{Name: "max_concurrent_requests", Default: 100, Unit: Count, Zero: unlimited, Meaning: "requests under way at once",
			Counts: "requests", Use: "%s are under way", Hint: sendLess},
	}
}

// writeLimits are those of what is written and kept.
func writeLimits() []Description {
	return []Description{
		// Series and their labels.
		{Name: "max_active_series", Default: 2_000_000, Unit: Count, Zero: unlimited, Meaning: "series that got samples lately",
			Counts: "series", Use: "%s are active already", Hint: "drop labels that vary too much or ask for a higher limit"},
		{Name: "max_labels_per_series", Default: 64, Unit: Count, Zero: unlimited, Meaning: "labels of one series",
			Counts: "labels", Use: "a series has %s", Hint: "drop labels by relabeling"},
		{Name: "max_label_name_length", Default: 1024, Unit: Bytes, Zero: unlimited, Meaning: "length of a label name",
			Use: "a label name has %s", Hint: shorten},
		{Name: "max_label_value_length", Default: 4096, Unit: Bytes, Zero: unlimited, Meaning: "length of a label value",
			Use: "a label value has %s", Hint: shorten},
		{Name: "max_exemplars", Default: 10_000, Unit: Count, Zero: "none are kept", Meaning: "exemplars kept in memory"},
		{Name: "max_metadata_metrics", Default: 100_000, Unit: Count, Zero: unlimited, Meaning: "metrics that have a type, help or unit kept"},
		{Name: "max_histogram_buckets", Default: 640, Unit: Count, Zero: unlimited,
			Meaning: "buckets of one native histogram sample; one with more is reduced in resolution as far as that goes",
			Counts:  "buckets", Use: "a native histogram whose resolution cannot be reduced has %s", Hint: "use fewer buckets"},

		// Replicas of a sender that send the same, of which one is elected.
		{Name: "accept_ha_samples", Default: false, Unit: Switch, Zero: "all samples are kept",
			Meaning: "whether one of several replicas of a sender is elected, and only its samples are kept"},
		{Name: "ha_cluster_label", Default: "cluster", Unit: LabelName, Zero: "not allowed",
			Meaning: "label that names what the replicas are replicas of"},
		{Name: "ha_replica_label", Default: "__replica__", Unit: LabelName, Zero: "not allowed",
			Meaning: "label that names the replica; it is taken off the samples that are kept"},
		{Name: "ha_max_clusters", Default: 100, Unit: Count, Zero: "10000", Meaning: "values of the cluster label seen within an hour",
			Counts: "clusters", Use: "the cluster label names %s", Hint: "let fewer groups of replicas send, or none that gives itself a new name"},

		// Time.
		{Name: "past_grace", Default: Duration(14 * day), Unit: Time, Zero: "any age", Meaning: "how old a sample may be",
			Use: "a sample is older", Hint: "send samples sooner or ask for a higher limit"},
		{Name: "future_grace", Default: Duration(10 * time.Minute), Unit: Time, Zero: "any time", Meaning: "how far ahead of now a sample may be",
			Use: "a sample is further ahead", Hint: "check the sender's clock"},
		{Name: "retention", Default: Duration(0), Unit: Time, Zero: "for ever", Meaning: "how long samples are kept",
			Use: "a sample is older", Hint: "send newer samples or ask for a higher limit"},
	}
}

// queryLimits are those of what is read.
func queryLimits() []Description {
	return []Description{
		{Name: "max_query_range", Default: Duration(0), Unit: Time, Zero: unlimited,
			Meaning: "time that one query may span, with what its selectors look back", Use: "the query spans %s", Hint: "ask for a shorter range"},
		{Name: "max_query_steps", Default: maxSteps, Max: maxSteps, Unit: Count, Zero: "11000",
			Meaning: "steps of a range query; it has a point more for each series. No more than 11000 are possible, as in Prometheus",
			Counts:  "steps", Use: "the query has %s", Hint: "ask for a longer step or a shorter range"},
		{Name: "max_query_series", Default: 500_000, Unit: Count, Zero: unlimited, Meaning: "series that one query may select",
			Counts: "series", Use: "the query selects %s", Hint: "select fewer with more exact matchers or a shorter range"},
		{Name: "max_query_samples", Default: 50_000_000, Unit: Count, Zero: unlimited, Meaning: "samples that one query may hold in memory",
			Counts: "samples", Use: "the query holds %s at once", Hint: selectLess},
		{Name: "query_timeout", Default: Duration(2 * time.Minute), Unit: Time, Zero: unlimited, Meaning: "how long one query may run",
			Use: "the query took longer", Hint: selectLess},
		{Name: "max_concurrent_queries", Default: 20, Unit: Count, Zero: unlimited, Meaning: "queries under way at once"},
		{Name: "max_query_length", Default: 64 << 10, Unit: Bytes, Zero: unlimited,
			Meaning: "length of a query's expression, or of all its selectors together",
			Use:     "expressions and selectors of the request have %s", Hint: "send shorter ones, or fewer in a request"},
		{Name: "max_queued_queries", Default: 100, Unit: Count, Zero: "none wait", Meaning: "queries that wait for others of the tenant to end",
			Counts: "queries", Use: "%s are waiting", Hint: "try again when some of them are done"},
		{Name: "max_regex_instructions", Default: 100_000, Unit: Count, Zero: unlimited,
			Meaning: "size of the regular expressions of one query, compiled",
			Counts:  "instructions", Use: "the regular expressions of the request are compiled to %s",
			Hint: "use fewer repetitions (x{1000}), classes and alternatives"},
		{Name: "max_memory_bytes", Default: int64(0), Unit: Bytes, Zero: "what a process allows",
			Meaning: "memory that requests under way hold in one process",
			Use:     "the request needs %s of memory or more", Hint: selectLess},
	}
}
