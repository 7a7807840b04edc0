// Package control keeps tenants, plans, access policies and API keys in the row
// store, and answers the edge's questions about them from bounded caches.
//
// Every change is written to its record first and to the change log second; see
// changelog.go. All gateways poll that log twice a second and drop what it
// names, so a revocation acts at once in the process that made it and within a
// second in the others. Cached answers are read again after 30 s whatever the
// log says; when the store cannot be read then, the answer is an error and not
// an old yes.
//
// The package is the gateway's only way to the row store.
package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/background"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/policies/limits"
)

const (
	pollEvery     = 500 * time.Millisecond
	entryLife     = 30 * time.Second // how long a cached answer is given without reading it again
	touchEvery    = time.Minute      // per key
	flushEvery    = 10 * time.Second
	sweepEvery    = time.Hour
	storeTimeout  = 10 * time.Second // of background work
	formatVersion = "1"              // of everything this package writes
)

// ErrPepper is returned by Open for a pepper that the store's keys were not
// made with.
var ErrPepper = errors.New("key pepper is not the one that the stored API keys were made with; " +
	"restore PALLIUM_KEY_PEPPER or the key-pepper file")

// Options of a Control. Store and Pepper are needed.
type Options struct {
	Store      rows.Store // stays the caller's to close, after Stop
	Pepper     apikey.Pepper
	Keyless    bool          // the process checks no keys: it has no pepper, and only reads
	Defaults   limits.Limits // of tenants without plan; the zero value means limits.Default()
	CacheSize  int           // entries per cache; 0 = 20,000
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time // time.Now
}

// Control is the control plane of one process. It is safe for concurrent use.
type Control struct {
	store    rows.Store
	pepper   apikey.Pepper
	keyless  bool
	defaults limits.Limits
	logger   *slog.Logger
	now      func() time.Time
	metrics  *metrics

	credentials lookups[credential]
	limits      lookups[tenantLimits]
	log         changelog
	uses        uses

	background *background.Group // nil: not started
}

// Open checks that the stored data has a known format and belongs to this
// pepper, writes both into a new store, and creates the built-in tenant. Call
// Start to follow other processes' changes.
func Open(ctx context.Context, o Options) (*Control, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.CacheSize == 0 {
		o.CacheSize = 20_000
	}
	if o.Defaults == (limits.Limits{}) {
		o.Defaults = limits.Default()
	}
	if err := o.Defaults.Check(); err != nil {
		return nil, fmt.Errorf("default limits: %w", err)
	}
	c := &Control{
		store: o.Store, pepper: o.Pepper, keyless: o.Keyless, defaults: o.Defaults, logger: o.Logger, now: o.Now,
		metrics:     newMetrics(o.Registerer),
		credentials: newLookups[credential](o.CacheSize, o.Now),
		limits:      newLookups[tenantLimits](o.CacheSize, o.Now),
		uses:        newUses(),
	}
	check := c.checkFormat
	if o.Keyless {
		check = c.checkReadable
	}
	if err := check(ctx); err != nil {
		return nil, err
	}
	head, err := c.readHead(ctx)
	if err != nil {
		return nil, err
	}
	c.log.seen = head
	if o.Keyless {
		return c, nil
	}
	if err := c.ensureSelf(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// checkFormat writes format and pepper fingerprint once and compares them ever
// after.
func (c *Control) checkFormat(ctx context.Context) error {
	_, err := c.store.CheckAndMutate(ctx, keyMeta, rows.Absent(rows.System, "format"), []rows.Mutation{
		rows.Set(rows.System, "format", cellTime, []byte(formatVersion)),
		rows.Set(rows.System, "pepper", cellTime, []byte(c.pepper.Fingerprint())),
	}, nil)
	if err != nil {
		return fmt.Errorf("write format of control data: %w", err)
	}
	row, err := c.readRow(ctx, keyMeta)
	if err != nil {
		return fmt.Errorf("read format of control data: %w", err)
	}
	if format := row.text("format"); format != formatVersion {
		return fmt.Errorf("control data has format %q, this version knows %q only", format, formatVersion)
	}
	if row.text("pepper") != c.pepper.Fingerprint() {
		return ErrPepper
	}
	return nil
}

// checkReadable checks that the data has a format that this version knows, or
// that there is none yet.
func (c *Control) checkReadable(ctx context.Context) error {
	row, err := c.readRow(ctx, keyMeta)
	if err != nil {
		return fmt.Errorf("read format of control data: %w", err)
	}
	if format := row.text("format"); format != formatVersion && format != "" {
		return fmt.Errorf("control data has format %q, this version knows %q only", format, formatVersion)
	}
	return nil
}

// ensureSelf creates the tenant of Pallium's own metrics.
func (c *Control) ensureSelf(ctx context.Context) error {
	_, err := c.Tenant(ctx, tenant.Self)
	if !errors.Is(err, tenant.ErrUnknown) {
		return err
	}
	_, err = c.CreateTenant(ctx, Tenant{ID: tenant.Self, DisplayName: "Pallium's own metrics"})
	if IsKind(err, Conflict) { // another process was first
		return nil
	}
	return err
}

// Start begins to follow the change log and to write last uses, until Stop.
func (c *Control) Start() {
	c.background = background.New()
	c.background.Go(c.follow)
	if !c.keyless {
		c.background.Go(c.maintain)
	}
}

// Stop ends what Start began and writes the last uses not yet written.
func (c *Control) Stop() {
	if c.background == nil {
		return
	}
	c.background.Stop()
	c.background = nil
	if !c.keyless {
		c.flushUses(context.Background())
	}
}

// follow polls the change log. Failures are logged once until it works again.
func (c *Control) follow(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := c.Poll(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			c.logger.Error("change log cannot be followed; cached API keys and limits expire within 30 s", "err", err)
		}
		if err == nil && failing {
			c.logger.Info("change log is followed again")
		}
		failing = err != nil
	}
}

// maintain writes last uses and removes old idempotency records.
func (c *Control) maintain(ctx context.Context) {
	flush, sweep := time.NewTicker(flushEvery), time.NewTicker(sweepEvery)
	defer flush.Stop()
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-flush.C:
			c.flushUses(ctx)
		case <-sweep.C:
			if err := c.sweepIdempotency(ctx); err != nil && ctx.Err() == nil {
				c.logger.Warn("old idempotency records were not removed", "err", err)
			}
		}
	}
}

// moment is now as it is stored: UTC, to the millisecond.
func (c *Control) moment() time.Time { return c.now().UTC().Truncate(time.Millisecond) }

type metrics struct {
	lookups    *prometheus.CounterVec
	pollErrors prometheus.Counter
	owed       prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_control_lookups_total",
			Help: "Lookups of credentials and limits, by where the answer came from: cache, store, or error.",
		}, []string{"kind", "from"}),
		pollErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pallium_control_poll_failures_total",
			Help: "Failed readings of the change log.",
		}),
		owed: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pallium_control_pending_entries",
			Help: "Changes whose entry in the change log could not be written yet.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.lookups, m.pollErrors, m.owed)
	}
	return m
}
