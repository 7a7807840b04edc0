package ingester

import (
	"cmp"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/palliumhq/pallium/authn/tenant"
)

type metrics struct {
	seriesCreated, seriesRemoved prometheus.Counter
	seals, sealFailures          prometheus.Counter
	packsExpired, damage         prometheus.Counter
	uploads, uploadFailures      prometheus.Counter
	packsDropped                 prometheus.Counter
	asides                       prometheus.Counter
	droppedMetadata              *prometheus.CounterVec
	pressureRejected             prometheus.Counter
	fullRequests, established    prometheus.Counter
	earlySeals                   *prometheus.CounterVec
	activeFailures               prometheus.Counter
	handedOver                   *prometheus.CounterVec
}

// registerGauges registers the gauges whose values are read at collection.
func registerGauges(reg prometheus.Registerer, ing *Ingester) {
	auto := promauto.With(reg)
	gauge := func(name, help string, value func() float64) {
		auto.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	gauge("pallium_ingester_memory_series", "Number of series in the head, of all tenants.",
		func() float64 { return float64(ing.seriesCount()) })
	gauge("pallium_ingester_head_bytes", "Counted memory of the head in bytes: series, samples, metadata and exemplars of all tenants.",
		func() float64 { return float64(ing.account.bytes.Load()) })
	gauge("pallium_ingester_head_limit_bytes", "Memory budget of the head in bytes (ingester.memory_bytes); 0 = no budget.",
		func() float64 { return float64(ing.opts.MemoryBytes) })
	gauge("pallium_ingester_established_bytes",
		"Memory in bytes of series that were accepted over a limit because another replica has them.",
		func() float64 { return float64(ing.account.established.Load()) })
	gauge("pallium_ingester_reserved_series",
		"Number of reserved series, which are not in the head and count for max_active_series: they left the head early, "+
			"or were active before a restart or on another ingester.",
		func() float64 { return float64(ing.account.reserved.Load()) })
	gauge("pallium_ingester_wal_series_awaiting_checkpoint",
		"Number of series whose labels are in only one segment of the write-ahead log until the next checkpoint.",
		func() float64 { return float64(ing.labels.waiting()) })
	gauge("pallium_ingester_reserved_bytes",
		"Memory in bytes that reserved series will need and that new series cannot use; not part of pallium_ingester_head_bytes.",
		func() float64 { return float64(ing.account.held.Load()) })
	gauge("pallium_ingester_tenants", "Number of tenants with a head.",
		func() float64 { return float64(len(ing.heads())) })
	gauge("pallium_ingester_local_packs", "Number of local packs being served.",
		func() float64 { return float64(ing.packCount()) })
	if reg != nil {
		reg.MustRegister(asideCollector{ing})
	}
	gauge("pallium_ingester_aside_limit_bytes",
		"Limit of the bytes on disk of each tenant's series that no pack can hold (ingester.aside_bytes).",
		func() float64 { return float64(asideLimit(ing.opts.AsideBytes)) })
	gauge("pallium_ingester_push_wait_seconds_max",
		"Longest time in the last one to two minutes that a push waited for a seal or for the removal of series.",
		func() float64 { return ing.gate.waits.value(ing.opts.Now()).Seconds() })
}

func newMetrics(reg prometheus.Registerer, ing *Ingester) *metrics {
	registerGauges(reg, ing)
	auto := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return auto.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return &metrics{
		handedOver: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_ingester_handed_over_series_total",
			Help: "Active series handed over by other ingesters, by result: kept (reserved), " +
				"above_share (reserved beyond the tenant's local limit), " +
				"dropped (no memory, or too many reserved series).",
		}, []string{"result"}),
		activeFailures: counter("pallium_ingester_active_series_save_failures_total", "Failures to save the list of active series."),
		seriesCreated:  counter("pallium_ingester_memory_series_created_total", "Series created in the head."),
		seriesRemoved:  counter("pallium_ingester_memory_series_removed_total", "Series removed from the head."),
		seals:          counter("pallium_ingester_seals_total", "Seals of the head into packs."),
		sealFailures:   counter("pallium_ingester_seal_failures_total", "Seals that failed to write packs; they are retried."),
		packsExpired:   counter("pallium_ingester_packs_expired_total", "Local packs deleted because they were beyond retention."),
		packsDropped:   counter("pallium_ingester_packs_dropped_total", "Local packs deleted because they were compacted."),
		uploads:        counter("pallium_ingester_uploads_total", "Sealed packs uploaded to the long-term store."),
		uploadFailures: counter("pallium_ingester_upload_failures_total",
			"Failed attempts to sync intents, packs and records of series set aside; they are retried."),
		asides: counter("pallium_ingester_series_set_aside_total", "Series set aside at a seal because no pack can hold them."),
		pressureRejected: counter("pallium_ingester_memory_pressure_rejected_series_total",
			"New series rejected because the head was nearly full (instance_memory)."),
		fullRequests: counter("pallium_ingester_memory_full_requests_total",
			"Write requests rejected with 503 because the head used too much of its memory budget."),
		established: counter("pallium_ingester_established_series_total",
			"Series accepted over a limit because another replica has them."),
		earlySeals: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_ingester_early_seals_total",
			Help: "Seals before the end of a window, by the resource that was nearly full."}, []string{"cause"}),
		droppedMetadata: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_ingester_dropped_metadata_total", Help: "Metadata entries dropped, by reason."}, []string{"reason"}),
		damage: counter("pallium_ingester_wal_damage_total", "Damaged records found in the write-ahead log at start."),
	}
}

func (ing *Ingester) seriesCount() int {
	n := 0
	for _, th := range ing.heads() {
		n += th.seriesCount()
	}
	return n
}

func (th *tenantHead) seriesCount() int {
	th.mu.RLock()
	defer th.mu.RUnlock()
	return th.count
}

func (ing *Ingester) packCount() int {
	if ing.packs == nil {
		return 0
	}
	ing.packs.mu.RLock()
	defer ing.packs.mu.RUnlock()
	return len(ing.packs.packs)
}

// TenantStats describes a tenant's use of the head.
type TenantStats struct {
	Tenant  tenant.ID `json:"tenant"`
	Series  int       `json:"series"`  // that count for max_active_series
	Bytes   int64     `json:"bytes"`   // part of Stats.HeadBytes
	MinTime int64     `json:"minTime"` // Unix milliseconds; greater than MaxTime if no sample was appended
	MaxTime int64     `json:"maxTime"`
}

// PackStats describes one local pack.
type PackStats struct {
	Name    string `json:"name"`    // path relative to the directory of packs
	MinTime int64  `json:"minTime"` // Unix milliseconds
	MaxTime int64  `json:"maxTime"`
	Tenants int    `json:"tenants"`
	Series  int    `json:"series"`
	Samples int64  `json:"samples"`
	Bytes   int64  `json:"bytes"`
}

// Stats is the state of an ingester as shown on the operator page.
type Stats struct {
	ID        string        `json:"id"`
	HeadBytes int64         `json:"headBytes"`
	Tenants   []TenantStats `json:"tenants"` // by number of series, descending
	Packs     []PackStats   `json:"packs"`   // newest first
	Segment   int           `json:"segment"` // current segment of the write-ahead log
	// Lost are samples that were lost with damaged records of the write-ahead log and
	// whose loss no operator has accepted: queries for them fail.
	Lost []LostStats `json:"lost,omitempty"`
}

// SeriesCount returns the number of a tenant's series that count for its limit:
// those in the head and the reserved ones.
func (ing *Ingester) SeriesCount(id tenant.ID) int {
	th := ing.head(id, false)
	if th == nil {
		return 0
	}
	return th.active()
}

// Stats returns the current state of the ingester.
func (ing *Ingester) Stats() Stats {
	s := Stats{ID: ing.opts.ID, HeadBytes: ing.account.bytes.Load(), Segment: ing.log.Segment(), Lost: ing.losses.stats()}
	for _, th := range ing.heads() {
		s.Tenants = append(s.Tenants,
			TenantStats{Tenant: th.id, Series: th.active(), Bytes: th.bytes.Load(), MinTime: th.minTime.Load(), MaxTime: th.maxTime.Load()})
	}
	slices.SortFunc(s.Tenants, func(a, b TenantStats) int {
		if c := cmp.Compare(b.Series, a.Series); c != 0 {
			return c
		}
		return cmp.Compare(a.Tenant, b.Tenant)
	})
	ing.packs.mu.RLock()
	defer ing.packs.mu.RUnlock()
	for _, lp := range ing.packs.packs {
		p := PackStats{Name: strings.TrimPrefix(lp.path, ing.packs.dir+"/"), Bytes: lp.reader.Info().Size}
		var b timeBounds
		tenants := map[tenant.ID]bool{}
		for _, sec := range lp.reader.Info().Sections {
			b.add(sec.MinTime)
			b.add(sec.MaxTime)
			tenants[sec.Tenant] = true
			p.Series += sec.Series
			p.Samples += sec.Samples
		}
		p.MinTime, p.MaxTime, p.Tenants = b.min, b.max, len(tenants)
		s.Packs = append(s.Packs, p)
	}
	slices.SortFunc(s.Packs, func(a, b PackStats) int { return cmp.Compare(b.MaxTime, a.MaxTime) })
	return s
}
