package alertmanager

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/notify"
)

// integrationKey identifies an integration in all configurations of a tenant.
type integrationKey struct {
	receiver, name string
	index          int
}

// is reports whether the key, of the same receiver, is the key of the integration.
func (k integrationKey) is(in notify.Integration) bool {
	return in.Name() == k.name && in.Index() == k.index
}

// attempt is the last attempt of this replica to notify by an integration.
type attempt struct {
	began     time.Time
	took      time.Duration
	failure   string    // empty if the attempt succeeded
	succeeded time.Time // end of the last successful attempt; zero if there was none
	failures  int       // number of failed attempts since then
}

// attempts records the last attempt of each integration, so that tenants can see why notifications do not arrive. It has
// entries only for integrations of the running configuration, which bounds its size.
type attempts struct {
	mu         sync.Mutex
	configured map[string][]notify.Integration // of the running configuration, by receiver
	last       map[integrationKey]*attempt     // nil until the first attempt: many tenants are never notified
}

// change changes the entry of an integration, after creating it if necessary. It ignores an integration that is not in the
// running configuration: an attempt of an earlier configuration may end late.
func (a *attempts) change(key integrationKey, change func(*attempt)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.ContainsFunc(a.configured[key.receiver], key.is) {
		return
	}
	if a.last == nil {
		a.last = map[integrationKey]*attempt{}
	}
	last := a.last[key]
	if last == nil {
		last = &attempt{}
		a.last[key] = last
	}
	change(last)
}

// ended records an attempt that ended.
func (a *attempts) ended(key integrationKey, began time.Time, took time.Duration, err error) {
	a.change(key, func(last *attempt) {
		last.began, last.took, last.failure = began, took, ""
		if err != nil {
			last.failure = err.Error()
			last.failures++
			return
		}
		last.succeeded, last.failures = began.Add(took), 0
	})
}

// delayed records that an attempt waits for the tenant's rate limit. This does not count as a failure.
func (a *attempts) delayed(key integrationKey, began time.Time, why error) {
	a.change(key, func(last *attempt) { last.began, last.took, last.failure = began, 0, why.Error() })
}

// get returns the last attempt of an integration, or the zero value if there is none.
func (a *attempts) get(key integrationKey) attempt {
	a.mu.Lock()
	defer a.mu.Unlock()
	if last := a.last[key]; last != nil {
		return *last
	}
	return attempt{}
}

// keep sets the running configuration, and removes the entries of integrations that it does not have.
func (a *attempts) keep(configured map[string][]notify.Integration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.configured = configured
	maps.DeleteFunc(a.last, func(key integrationKey, _ *attempt) bool {
		return !slices.ContainsFunc(configured[key.receiver], key.is)
	})
}

// recorded returns the integration of a stage with a notifier that records each attempt. Alertmanager's retries call the
// notifier, so that a failure is visible before they end.
func (s *claimStage) recorded() notify.Integration {
	return notify.NewIntegration(&recordedNotifier{s}, s.integration, s.receiver.Integration, s.integration.Index(), s.receiver.GroupName)
}

// key returns the key of the integration of a stage.
func (s *claimStage) key() integrationKey {
	return integrationKey{s.receiver.GroupName, s.receiver.Integration, s.integration.Index()}
}

// admission returns the context of a notification, and a function that waits until the tenant may send the notification.
// The reason of the wait is recorded as the state of the integration.
func (s *claimStage) admission(ctx context.Context) (context.Context, func(context.Context) error) {
	ctx, admit := s.compiled.Admission(ctx, s.integration.Name(), func(why error) { s.attempts.delayed(s.key(), s.opts.Now(), why) })
	return ctx, func(ctx context.Context) error { return s.missed(admit(ctx)) }
}

// missed records that a notification was not sent because of a limit of the tenant. It returns its argument.
func (s *claimStage) missed(err error) error {
	if err != nil && !errors.Is(err, context.Canceled) {
		s.attempts.ended(s.key(), s.opts.Now(), 0, err)
	}
	return err
}

// recordedNotifier implements notify.Notifier.
type recordedNotifier struct{ stage *claimStage }

// Notify implements notify.Notifier.
func (r *recordedNotifier) Notify(ctx context.Context, alerts ...*alert.Alert) (bool, error) {
	in := r.stage.instance
	began, start := in.opts.Now(), in.opts.Running()
	retry, err := r.stage.integration.Notify(ctx, alerts...)
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return retry, err // canceled by a new configuration or in favor of another replica, so the receiver has not failed
	}
	in.attempts.ended(r.stage.key(), began, in.opts.Running()-start, err)
	return retry, err
}
