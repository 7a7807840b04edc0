package store

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	uploads, published, bytesRead, cacheHits prometheus.Counter
	droppedMetadata                          prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, s *Store) *metrics {
	auto := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return auto.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	for name, c := range map[string]interface{ used() int64 }{"pages": s.pages, "frames": s.frames, "tables": s.tables} {
		auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_store_cache_bytes", Help: "Bytes in the caches of the long-term store.",
			ConstLabels: prometheus.Labels{"cache": name}}, func() float64 { return float64(c.used()) })
	}
	return &metrics{
		uploads:   counter("pallium_store_uploads_total", "L0 packs that became part of the long-term store."),
		published: counter("pallium_store_generations_published_total", "Days of tenants published by compaction."),
		bytesRead: counter("pallium_store_object_bytes_read_total", "Bytes read from objects."),
		droppedMetadata: counter("pallium_store_dropped_metadata_total",
			"Entries of metadata that compaction left out: more than eight for one metric, or of series that are gone."),
		cacheHits: counter("pallium_store_frame_cache_hits_total", "Blocks that queries found in the cache."),
	}
}
