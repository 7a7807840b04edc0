package wal

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// logMetrics are the metrics of a Log.
type logMetrics struct {
	records, bytes, syncs, failures prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) logMetrics {
	auto := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return auto.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return logMetrics{
		records:  counter("pallium_wal_records_total", "Records appended to the write-ahead log."),
		bytes:    counter("pallium_wal_bytes_total", "Bytes appended to the write-ahead log."),
		syncs:    counter("pallium_wal_syncs_total", "Syncs of the write-ahead log."),
		failures: counter("pallium_wal_failures_total", "Failed writes and syncs of the write-ahead log."),
	}
}
