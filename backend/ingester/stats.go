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

// registerGauges registers what is read from the ingester when metrics are gathered.
func registerGauges(reg prometheus.Registerer, ing *Ingester) {
	auto := promauto.With(reg)
	gauge := func(name, help string, value func() float64) {
		auto.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	gauge("pallium_ingester_memory_series", "Series in the head, of all tenants.",
		func() float64 { return float64(ing.seriesCount()) })
	gauge("pallium_ingester_head_bytes", "Memory of the head as it is counted: series, samples, metadata and exemplars of all tenants.",
		func() float64 { return float64(ing.account.bytes.Load()) })
	gauge("pallium_ingester_head_limit_bytes", "Budget of the head (ingester.memory_bytes); 0 is none.",
		func() float64 { return float64(ing.opts.MemoryBytes) })
	gauge("pallium_ingester_established_bytes", "Memory of series that were accepted beyond their share, because another replica has them.",
		func() float64 { return float64(ing.account.established.Load()) })
	gauge("pallium_ingester_reserved_series", "Series that are not in the head and whose places are kept: they left early, "+
		"or were active before a restart or on another ingester.",
		func() float64 { return float64(ing.account.places.Load()) })
	gauge("pallium_ingester_wal_series_awaiting_checkpoint",
		"Series whose labels are in one segment of the write-ahead log only, until the next checkpoint.",
		func() float64 { return float64(ing.labels.waiting()) })
	gauge("pallium_ingester_reserved_bytes", "Memory that new series must leave to series with a place; not part of the head's bytes.",
		func() float64 { return float64(ing.account.held.Load()) })
	gauge("pallium_ingester_tenants", "Tenants with a head.",
		func() float64 { return float64(len(ing.heads())) })
	gauge("pallium_ingester_local_packs", "Local packs being served.",
		func() float64 { return float64(ing.packCount()) })
	if reg != nil {
		reg.MustRegister(asideCollector{ing})
	}
	gauge("pallium_ingester_aside_limit_bytes", "Bytes that series that no pack can hold may take of each tenant (ingester.aside_bytes).",
		func() float64 { return float64(asideLimit(ing.opts.AsideBytes)) })
	gauge("pallium_ingester_push_wait_seconds_max",
		"Longest time that a push of the last one to two minutes waited for a seal or for the removal of series.",
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
			Help: "Active series that another ingester handed over, by result: kept, above_share (kept beyond the tenant's limit here), " +
				"dropped (no memory).",
		}, []string{"result"}),
		activeFailures: counter("pallium_ingester_active_series_save_failures_total", "Times the list of active series could not be saved."),
		seriesCreated:  counter("pallium_ingester_memory_series_created_total", "Series that entered the head."),
		seriesRemoved:  counter("pallium_ingester_memory_series_removed_total", "Series that left the head."),
		seals:          counter("pallium_ingester_seals_total", "Times windows were sealed into packs."),
		sealFailures:   counter("pallium_ingester_seal_failures_total", "Seals that failed and will be tried again."),
		packsExpired:   counter("pallium_ingester_packs_expired_total", "Local packs deleted by retention."),
		packsDropped:   counter("pallium_ingester_packs_dropped_total", "Local packs deleted because they were compacted."),
		uploads:        counter("pallium_ingester_uploads_total", "Sealed packs that became part of the long-term store."),
		uploadFailures: counter("pallium_ingester_upload_failures_total", "Uploads that failed and will be tried again."),
		asides:         counter("pallium_ingester_series_set_aside_total", "Series that no pack could hold when their window was sealed."),
		pressureRejected: counter("pallium_ingester_memory_pressure_rejected_series_total",
			"Times a new series was rejected because the head is nearly full (instance_memory)."),
		fullRequests: counter("pallium_ingester_memory_full_requests_total", "Write requests answered 503 because the head is full."),
		established: counter("pallium_ingester_established_series_total",
			"Series accepted beyond the share of their tenant or of new series, because another replica has them."),
		earlySeals: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_ingester_early_seals_total", Help: "Seals before the end of a window, by what was nearly full."}, []string{"cause"}),
		droppedMetadata: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_ingester_dropped_metadata_total", Help: "Metadata of metrics that was dropped, by reason."}, []string{"reason"}),
		damage: counter("pallium_ingester_wal_damage_total", "Damaged records met in the write-ahead log at start."),
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

// TenantStats is a tenant's use of the head.
type TenantStats struct {
	Tenant  tenant.ID `json:"tenant"`
	Series  int       `json:"series"`  // that count for max_active_series
	Bytes   int64     `json:"bytes"`   // of Stats.HeadBytes
	MinTime int64     `json:"minTime"` // Unix milliseconds; above MaxTime when the head has nothing
	MaxTime int64     `json:"maxTime"`
}

// PackStats is one local pack.
type PackStats struct {
	Name    string `json:"name"`    // path below the packs' directory
	MinTime int64  `json:"minTime"` // Unix milliseconds
	MaxTime int64  `json:"maxTime"`
	Tenants int    `json:"tenants"`
	Series  int    `json:"series"`
	Samples int64  `json:"samples"`
	Bytes   int64  `json:"bytes"`
}

// Stats is what the operator page shows of an ingester.
type Stats struct {
	ID        string        `json:"id"`
	HeadBytes int64         `json:"headBytes"`
	Tenants   []TenantStats `json:"tenants"` // by series, most first
	Packs     []PackStats   `json:"packs"`   // by time, newest first
	Segment   int           `json:"segment"` // of the write-ahead log
}

// SeriesCount is the number of a tenant's series that count for its limit: those
// in the head, and those whose places are kept.
func (ing *Ingester) SeriesCount(id tenant.ID) int {
	th := ing.head(id, false)
	if th == nil {
		return 0
	}
	return th.active()
}

// Stats describes the ingester now.
func (ing *Ingester) Stats() Stats {
	s := Stats{ID: ing.opts.ID, HeadBytes: ing.account.bytes.Load(), Segment: ing.log.Segment()}
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
