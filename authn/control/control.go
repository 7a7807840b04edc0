// Package control stores tenants, plans, access policies and API keys in the row store,
// and serves the edge's lookups of them from bounded caches.
//
// A change is first written to its record and then, if it can make cached entries outdated, to the
// change log; see changelog.go. All processes poll that log twice per second and drop the entries
// that it names. So a revocation normally takes effect immediately in the process that made it and
// within a second in all others. Cached entries expire after 30 s regardless of the log;
// if the store is unavailable then, a lookup fails and never returns an outdated result.
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
	entryLife     = 30 * time.Second // maximum age of a cached entry
	touchEvery    = time.Minute      // minimum time between two writes of a key's last use
	flushEvery    = 10 * time.Second
	sweepEvery    = time.Hour
	storeTimeout  = 10 * time.Second // timeout of background work
	formatVersion = "1"              // version of everything that this package writes
)

// ErrPepper is returned by Open if the store's keys were hashed with another pepper.
var ErrPepper = errors.New("the stored API keys were created with a different key pepper; " +
	"restore PALLIUM_KEY_PEPPER or the key-pepper file")

// Options are the options of Open. Store is required, and so is Pepper unless Keyless is set.
type Options struct {
	Store      rows.Store // the caller closes it after Stop
	Pepper     apikey.Pepper
	Keyless    bool          // the process verifies no keys: it needs no pepper, and only reads
	Defaults   limits.Limits // limits of tenants without a plan; zero: limits.Default()
	CacheSize  int           // entries per cache; 0: 20,000
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time // nil: time.Now
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

// Open checks that the stored data has a supported format and belongs to the pepper,
// initializes a new store, and creates the built-in tenant. With Keyless, it only checks
// the format. Call Start to follow changes of other processes.
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

// checkFormat writes format version and pepper fingerprint into a new store and compares
// them with those of an existing one.
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
		return fmt.Errorf("control data has format %q, but this version of Pallium supports only format %q: run the version that wrote it, "+
			"or a later one", format, formatVersion)
	}
	if row.text("pepper") != c.pepper.Fingerprint() {
		return ErrPepper
	}
	return nil
}

// checkReadable checks that the store is new or has a supported format.
func (c *Control) checkReadable(ctx context.Context) error {
	row, err := c.readRow(ctx, keyMeta)
	if err != nil {
		return fmt.Errorf("read format of control data: %w", err)
	}
	if format := row.text("format"); format != formatVersion && format != "" {
		return fmt.Errorf("control data has format %q, but this version of Pallium supports only format %q: run the version that wrote it, "+
			"or a later one", format, formatVersion)
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
	if IsKind(err, Conflict) { // another process has created it
		return nil
	}
	return err
}

// Start follows the change log in the background until Stop, and, unless Keyless is set,
// writes the last uses of keys and removes old idempotency records.
func (c *Control) Start() {
	c.background = background.New()
	c.background.Go(c.follow)
	if !c.keyless {
		c.background.Go(c.maintain)
	}
}

// Stop stops the background work of Start and writes the pending last uses.
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

// follow polls the change log. Only the first of consecutive failures is logged.
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
			c.logger.Error("failed to read or write the change log: changes take up to 30 s to reach all gateways; "+
				"if the store stays unreachable for 30 s, API keys are rejected with 503", "err", err)
		}
		if err == nil && failing {
			c.logger.Info("the change log works again")
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
				c.logger.Warn("failed to remove old idempotency records", "err", err)
			}
		}
	}
}

// moment returns the current time as it is stored: in UTC, with milliseconds.
func (c *Control) moment() time.Time { return c.now().UTC().Truncate(time.Millisecond) }

type metrics struct {
	lookups    *prometheus.CounterVec
	pollErrors prometheus.Counter
	pending    prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_control_lookups_total",
			Help: "Lookups of credentials and limits, by the source of the result: cache, store, or error.",
		}, []string{"kind", "from"}),
		pollErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pallium_control_poll_failures_total",
			Help: "Failures to read the change log or to append pending changes to it.",
		}),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pallium_control_pending_entries",
			Help: "Changes whose entry in the change log could not be written yet.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.lookups, m.pollErrors, m.pending)
	}
	return m
}
