package alertmanager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/alertmanager/alert"
	apiv2 "github.com/prometheus/alertmanager/api/v2"
	"github.com/prometheus/alertmanager/dispatch"
	"github.com/prometheus/alertmanager/eventrecorder"
	"github.com/prometheus/alertmanager/featurecontrol"
	"github.com/prometheus/alertmanager/inhibit"
	"github.com/prometheus/alertmanager/marker"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/provider/mem"
	"github.com/prometheus/alertmanager/silence"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"golang.org/x/sync/semaphore"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/alertmanager/pace"
	"github.com/palliumhq/pallium/backend/index"
)

const (
	// alertGC is the interval at which resolved alerts are removed from memory.
	alertGC = time.Minute
	// groupGC is the interval at which empty groups are removed from memory.
	groupGC = 30 * time.Second
	// claimTime is the time that a flush may wait for claims of other replicas, in addition to the group interval.
	claimTime = 45 * time.Second
	// retryFailed is the interval at which the compilation of an invalid stored configuration is retried.
	retryFailed = time.Minute
	// apiIdle is the time for which the API of a tenant, which takes more than a megabyte, is kept after a request.
	apiIdle = time.Minute
)

// instance is the Alertmanager of one tenant on one replica.
type instance struct {
	tenant   tenant.ID
	opts     *Options
	logger   *slog.Logger
	registry *prometheus.Registry // not exposed, because it would have series for each tenant
	alerts   *mem.Alerts
	limits   *alertLimits
	silences *silences
	silencer *silence.Silencer
	groups   marker.GroupMarker
	carrying *semaphore.Weighted // see maxCarried
	attempts attempts

	putting sync.Mutex // held while alerts are added
	used    atomic.Int64

	reloading chan struct{} // semaphore of the goroutine that reads and compiles a configuration
	mu        sync.Mutex    // held while the running configuration is replaced or the instance is stopped
	stopped   atomic.Bool
	current   atomic.Pointer[running]
	api       atomic.Pointer[apiv2.API]
	asked     atomic.Int64 // time of the last use of api
}

// running contains the parts of an instance that are rebuilt for each configuration.
type running struct {
	settings   index.AlertmanagerSettings // settings from which it was compiled
	compiled   *Compiled
	routes     *dispatch.Route
	matching   int // maximum number of routes that can match an alert
	inhibitor  *inhibit.Inhibitor
	dispatcher *dispatch.Dispatcher
	failed     error // error of the stored configuration; nil if it is running
	failedAt   time.Duration
	failedOf   uint64 // change number of the configuration that failed
}

// same reports whether settings differ at most in their change number, as after a write of the same configuration.
func (r *running) same(s index.AlertmanagerSettings) bool {
	s.Change = r.settings.Change
	return reflect.DeepEqual(s, r.settings)
}

// newInstance starts the Alertmanager of a tenant. It returns an error if its settings or silences cannot be read.
func newInstance(ctx context.Context, o *Options, t tenant.ID) (*instance, error) {
	in := &instance{tenant: t, opts: o, logger: tenantLogger(o.Logger, t), registry: prometheus.NewRegistry(),
		groups: marker.NewGroupMarker(), carrying: semaphore.NewWeighted(maxCarried),
		reloading: make(chan struct{}, 1)}
	var err error
	in.silences, err = newSilences(t, o.Store, silence.Options{Retention: silenceRetention, Logger: in.logger, Metrics: in.registry,
		EventRecorder: eventrecorder.NopRecorder(), Limits: silence.Limits{
			MaxSilences:         func() int { return o.Limits(t).MaxAlertmanagerSilences },
			MaxSilenceSizeBytes: func() int { return o.Limits(t).MaxAlertmanagerSilenceBytes },
		}})
	if err != nil {
		return nil, err
	}
	if err := in.silences.refresh(ctx); err != nil {
		return nil, err
	}
	in.silencer = silence.NewSilencer(in.silences.Silences, in.logger, eventrecorder.NopRecorder())
	in.limits = newAlertLimits(in.silencer, func() (int, int) {
		l := o.Limits(t)
		return l.MaxAlertmanagerAlerts, int(l.MaxAlertmanagerAlertBytes)
	})
	in.alerts, err = mem.NewAlerts(context.Background(), alertGC, 0, in.limits, in.logger, eventrecorder.NopRecorder(), in.registry,
		featurecontrol.NoopFlags{})
	if err != nil {
		return nil, fmt.Errorf("create the store of alerts: %w", err)
	}
	if err := in.reload(ctx); err != nil {
		in.alerts.Close()
		return nil, err
	}
	return in, nil
}

// reload runs the stored configuration. The configuration was valid when it was stored. If it is no longer valid, the
// running configuration continues; if there is none, alerts are received, but no notifications are sent.
func (in *instance) reload(ctx context.Context) error {
	select {
	case in.reloading <- struct{}{}:
		defer func() { <-in.reloading }()
	case <-ctx.Done():
		return fmt.Errorf("wait for another change of the configuration: %w", context.Cause(ctx))
	}
	old := in.current.Load()
	settings, different, err := in.stored(ctx, old)
	if err != nil || !different {
		return err
	}
	turn, err := in.opts.Pace.Begin(ctx, in.tenant, pace.Configuration)
	if err != nil {
		return err
	}
	defer turn.End()
	compiled, err := in.opts.Compile(in.tenant, settings)
	next := &running{settings: settings, compiled: compiled}
	if err != nil {
		in.opts.metrics.invalid.Inc()
		in.opts.Logger.Warn("the stored Alertmanager configuration of a tenant is not valid and is not used", "tenant", in.tenant,
			"previous_one_runs", old != nil, "err", err)
		if old != nil {
			kept := *old
			kept.failed, kept.failedOf, kept.failedAt = err, settings.Change, in.opts.Running()
			in.current.Store(&kept)
			return nil
		}
		next.failed, next.failedOf, next.failedAt = err, settings.Change, in.opts.Running()
		if next.compiled, err = in.opts.Fallback(in.tenant); err != nil {
			return err
		}
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.stopped.Load() {
		next.compiled.Close()
		return errStopped
	}
	in.start(old, next)
	return nil
}

// stored returns the stored settings, and whether they differ from the settings of the running configuration.
func (in *instance) stored(ctx context.Context, old *running) (s index.AlertmanagerSettings, different bool, err error) {
	change, err := in.opts.Store.SettingsChange(ctx, in.tenant)
	if err != nil || old != nil && old.runs(change, in.opts.Running()) {
		return s, false, err
	}
	s, err = in.opts.Store.Settings(ctx, in.tenant)
	if different = old == nil || old.failed != nil || !old.same(s); err != nil || different {
		return s, different, err
	}
	kept := *old
	kept.settings.Change = s.Change
	in.current.Store(&kept)
	return s, false, nil
}

// runs reports whether the configuration with a change number is running, or has failed less than retryFailed ago.
func (r *running) runs(change uint64, now time.Duration) bool {
	if r.failed != nil {
		return r.failedOf == change && now-r.failedAt < retryFailed
	}
	return r.settings.Change == change
}

// start replaces the running configuration. As in Alertmanager, the inhibitor processes the alerts before the dispatcher
// starts.
func (in *instance) start(old, next *running) {
	if old != nil {
		old.stop()
	}
	in.attempts.keep(next.compiled.Integrations)
	routes := dispatch.NewRoute(next.compiled.Config.Route, nil)
	next.routes, next.matching = routes, 1
	routes.Walk(func(r *dispatch.Route) {
		if r.Continue {
			next.matching++
		}
	})
	next.inhibitor = inhibit.NewInhibitor(in.alerts, next.compiled.Config.InhibitRules, in.logger, eventrecorder.NopRecorder())
	stage := in.pipeline(next.compiled, routes, next.inhibitor, in.silencer, in.groups)
	timeout := func(d time.Duration) time.Duration { return max(d, notify.MinTimeout) + claimTime }
	next.dispatcher = dispatch.NewDispatcher(in.alerts, routes, stage, in.groups, timeout, groupGC, in, in.logger,
		eventrecorder.NopRecorder(), nil, next.compiled.Static)
	go next.inhibitor.Run()
	next.inhibitor.WaitForLoading()
	go next.dispatcher.Run(in.opts.Now())
	next.dispatcher.WaitForLoading()
	in.current.Store(next)
	if api := in.api.Load(); api != nil {
		in.update(api)
	}
}

// stop cancels the notifications in progress, and closes what they use.
func (r *running) stop() {
	r.inhibitor.Stop()
	r.dispatcher.Stop()
	r.compiled.Close()
}

// MaxNumberOfAggregationGroups implements dispatch.Limits.
func (in *instance) MaxNumberOfAggregationGroups() int {
	return in.opts.Limits(in.tenant).MaxAlertmanagerGroups
}

// stop stops the instance. Alerts in memory are lost, but their senders repeat them.
func (in *instance) stop() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.stopped.Swap(true) {
		return
	}
	if r := in.current.Load(); r != nil {
		r.stop()
	}
	in.alerts.Close()
}

var errStopped = errors.New("the Alertmanager of the tenant is stopping; try again")

// touch records that the instance is used now.
func (in *instance) touch() { in.used.Store(int64(in.opts.Running())) }

// idle reports whether the instance has no alerts and was not used for a time.
func (in *instance) idle(after time.Duration) bool {
	return in.limits.count() == 0 && in.opts.Running()-time.Duration(in.used.Load()) >= after
}

// handler returns Alertmanager's API for the tenant. The API is built when it is needed, because it takes more memory than
// the rest of an instance. Each API has a registry of its own, because its metrics cannot be registered twice.
func (in *instance) handler() (http.Handler, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.asked.Store(int64(in.opts.Running()))
	if api := in.api.Load(); api != nil {
		return api.Handler, nil
	}
	api, err := apiv2.NewAPI(in.alerts, in.alertGroups, in.groups.Muted, in.silences.Silences, nil, in.logger, prometheus.NewRegistry())
	if err != nil {
		return nil, fmt.Errorf("create the API of the Alertmanager: %w", err)
	}
	in.update(api)
	in.api.Store(api)
	return api.Handler, nil
}

// forget drops the API if it was not used for apiIdle.
func (in *instance) forget() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.opts.Running()-time.Duration(in.asked.Load()) >= apiIdle {
		in.api.Store(nil)
	}
}

// update passes the running configuration to the API.
func (in *instance) update(api *apiv2.API) {
	api.Update(in.current.Load().compiled.Shown, func(ctx context.Context, set model.LabelSet) {
		in.current.Load().inhibitor.Mutes(ctx, set)
		in.silencer.Mutes(ctx, set)
	})
}

func (in *instance) alertGroups(ctx context.Context, routes func(*dispatch.Route) bool, alerts func(*alert.Alert, time.Time) bool,
) (dispatch.AlertGroups, map[model.Fingerprint][]string, error) {
	return in.current.Load().dispatcher.Groups(ctx, routes, alerts)
}
