package store

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// ErrIndex is in every error that says that rows of the index contradict each
// other. The index can be made again from the packs: pallium verify
// -rebuild-index.
var ErrIndex = errors.New("index is inconsistent")

type metrics struct {
	uploads, published, bytesRead, cacheHits, rereads prometheus.Counter
	droppedMetadata, fenced                           prometheus.Counter
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
		fenced: counter("pallium_store_fences_raised_total",
			"Times that a sweep made compactions of a tenant's day begin again, before it deleted leftovers of the day."),
		bytesRead: counter("pallium_store_object_bytes_read_total", "Bytes read from objects."),
		droppedMetadata: counter("pallium_store_dropped_metadata_total",
			"Entries of metadata that compaction left out: more than eight for one metric, or of series that are gone."),
		rereads: counter("pallium_store_index_rereads_total",
			"Rows of the index that were read again by their published generation, because the first read did not show all of it: a day was published meanwhile."),
		cacheHits: counter("pallium_store_frame_cache_hits_total", "Blocks that queries found in the cache."),
	}
}
