// Package limits has the limits of a tenant: the struct that every part of
// Pallium reads them from, the named plans and per-tenant overrides that they
// are made of, and their validation. It is pure: storage is authn/control's.
package limits

import (
	"time"

	"github.com/prometheus/common/model"
)

// Duration is written as Prometheus writes it ("14d", "1h30m"); "0s" is zero.
type Duration = model.Duration

// Limits are all limits of one tenant. 0 means unlimited, unless the comment
// says otherwise. The yaml names are the names in plans, overrides, the admin
// API and every refusal.
type Limits struct {
	// Rates at the edge; a burst of 0 is one second's worth.
	RequestsPerSecond float64 `yaml:"requests_per_second" json:"requests_per_second"`
	RequestBurst      int     `yaml:"request_burst" json:"request_burst"`
	SamplesPerSecond  float64 `yaml:"samples_per_second" json:"samples_per_second"`
	SampleBurst       int     `yaml:"sample_burst" json:"sample_burst"`
	BytesPerSecond    float64 `yaml:"bytes_per_second" json:"bytes_per_second"` // request bodies as sent
	ByteBurst         int     `yaml:"byte_burst" json:"byte_burst"`

	// Sizes of one request, and how many may be under way.
	MaxBodyBytes          int64 `yaml:"max_body_bytes" json:"max_body_bytes"`       // as sent
	MaxDecodedBytes       int64 `yaml:"max_decoded_bytes" json:"max_decoded_bytes"` // after decompression
	MaxConcurrentRequests int   `yaml:"max_concurrent_requests" json:"max_concurrent_requests"`

	// Series and their labels.
	MaxActiveSeries     int `yaml:"max_active_series" json:"max_active_series"`
	MaxLabelsPerSeries  int `yaml:"max_labels_per_series" json:"max_labels_per_series"`
	MaxLabelNameLength  int `yaml:"max_label_name_length" json:"max_label_name_length"`   // bytes
	MaxLabelValueLength int `yaml:"max_label_value_length" json:"max_label_value_length"` // bytes
	MaxExemplars        int `yaml:"max_exemplars" json:"max_exemplars"`                   // kept in memory; 0 keeps none
	MaxMetadataMetrics  int `yaml:"max_metadata_metrics" json:"max_metadata_metrics"`     // metrics with type, help or unit
	MaxHistogramBuckets int `yaml:"max_histogram_buckets" json:"max_histogram_buckets"`   // of one native histogram sample

	// Pairs of replicas that send the same, of which one is elected.
	AcceptHASamples bool   `yaml:"accept_ha_samples" json:"accept_ha_samples"`
	HAClusterLabel  string `yaml:"ha_cluster_label" json:"ha_cluster_label"` // not empty
	HAReplicaLabel  string `yaml:"ha_replica_label" json:"ha_replica_label"` // not empty
	HAMaxClusters   int    `yaml:"ha_max_clusters" json:"ha_max_clusters"`   // 0 = 10,000

	// Time.
	PastGrace   Duration `yaml:"past_grace" json:"past_grace"`     // how old a sample may be; 0 = any age
	FutureGrace Duration `yaml:"future_grace" json:"future_grace"` // how far ahead of now; 0 = any
	Retention   Duration `yaml:"retention" json:"retention"`       // 0 = for ever

	// Queries.
	MaxQueryRange        Duration `yaml:"max_query_range" json:"max_query_range"` // end - start, plus what selectors look back
	MaxQuerySteps        int      `yaml:"max_query_steps" json:"max_query_steps"` // of a range query; 0 means 11,000
	MaxQuerySeries       int      `yaml:"max_query_series" json:"max_query_series"`
	MaxQuerySamples      int      `yaml:"max_query_samples" json:"max_query_samples"`
	QueryTimeout         Duration `yaml:"query_timeout" json:"query_timeout"`
	MaxConcurrentQueries int      `yaml:"max_concurrent_queries" json:"max_concurrent_queries"`
	MaxQueryLength       int      `yaml:"max_query_length" json:"max_query_length"`             // bytes of expressions and selectors
	MaxQueuedQueries     int      `yaml:"max_queued_queries" json:"max_queued_queries"`         // that wait; 0 = none may
	MaxRegexInstructions int      `yaml:"max_regex_instructions" json:"max_regex_instructions"` // of all regular expressions of a query
	MaxMemoryBytes       int64    `yaml:"max_memory_bytes" json:"max_memory_bytes"`             // that all requests hold; 0 = half of the process's
}

// Default are the limits of a tenant without plan and overrides. They let one
// busy Prometheus in and keep one tenant from taking the machine down.
func Default() Limits {
	return Limits{
		RequestsPerSecond: 1000, RequestBurst: 2000,
		SamplesPerSecond: 500_000, SampleBurst: 2_000_000,
		BytesPerSecond: 100 << 20, ByteBurst: 400 << 20,
		MaxBodyBytes: 16 << 20, MaxDecodedBytes: 32 << 20, MaxConcurrentRequests: 100,
		MaxActiveSeries: 2_000_000, MaxLabelsPerSeries: 64,
		MaxLabelNameLength: 1024, MaxLabelValueLength: 4096,
		MaxExemplars: 10_000, MaxMetadataMetrics: 100_000, MaxHistogramBuckets: 640,
		HAClusterLabel: "cluster", HAReplicaLabel: "__replica__", HAMaxClusters: 100,
		PastGrace: Duration(14 * 24 * time.Hour), FutureGrace: Duration(10 * time.Minute),
		MaxQuerySteps: 11_000, MaxQuerySeries: 500_000, MaxQuerySamples: 50_000_000,
		QueryTimeout: Duration(2 * time.Minute), MaxConcurrentQueries: 20, MaxQueryLength: 64 << 10,
		MaxQueuedQueries: 100, MaxRegexInstructions: 100_000,
	}
}
