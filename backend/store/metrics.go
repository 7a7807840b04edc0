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
		uploads:   counter("pallium_store_uploads_total", "L0 packs uploaded and entered into the index."),
		published: counter("pallium_store_generations_published_total", "Generations of tenants' days published by compaction."),
		bytesRead: counter("pallium_store_object_bytes_read_total", "Bytes read from the object store."),
		droppedMetadata: counter("pallium_store_dropped_metadata_total",
			"Metadata entries dropped by compaction: more than eight for one metric, too large, or of metrics without series."),
		cacheHits: counter("pallium_store_frame_cache_hits_total", "Blocks that queries read from the frame cache."),
	}
}
