package alertmanager

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/dispatch"
	"github.com/prometheus/alertmanager/eventrecorder"
	"github.com/prometheus/alertmanager/inhibit"
	"github.com/prometheus/alertmanager/marker"
	"github.com/prometheus/alertmanager/nflog"
	"github.com/prometheus/alertmanager/nflog/nflogpb"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/silence"
	"github.com/prometheus/alertmanager/timeinterval"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/palliumhq/pallium/backend/alertmanager/claims"
	"github.com/palliumhq/pallium/backend/alertmanager/pace"
	"github.com/palliumhq/pallium/backend/schema"
)

// logRetention is the maximum time for which an entry of the notification log is kept. Usually an entry is kept for twice
// the repeat interval, so that it still exists when the notification is repeated.
const logRetention = 30 * 24 * time.Hour

// pipeline returns the stages of Alertmanager's own pipeline, with two differences: silences are read from the row store
// before they are applied, and replicas agree by claims on the one that sends.
func (in *instance) pipeline(c *Compiled, routes *dispatch.Route, inhibitor *inhibit.Inhibitor, silencer *silence.Silencer,
	groups marker.GroupMarker) notify.RoutingStage {
	intervals := map[string][]timeinterval.TimeInterval{}
	for _, t := range c.Config.MuteTimeIntervals {
		intervals[t.Name] = t.TimeIntervals
	}
	for _, t := range c.Config.TimeIntervals {
		intervals[t.Name] = t.TimeIntervals
	}
	intervener := timeinterval.NewIntervener(intervals)
	groupIntervals := map[string]time.Duration{}
	routes.Walk(func(r *dispatch.Route) { groupIntervals[r.ID()] = r.RouteOpts.GroupInterval })
	m := in.opts.notify
	out := notify.RoutingStage{}
	for name, list := range c.Integrations {
		var fan notify.FanoutStage
		var claiming []*claimStage
		for i := range list {
			s := &claimStage{instance: in, compiled: c, integration: &list[i], intervals: groupIntervals,
				receiver: &nflogpb.Receiver{GroupName: name, Integration: list[i].Name(), Idx: uint32(list[i].Index())}}
			fan, claiming = append(fan, s), append(claiming, s)
		}
		muting := notify.MultiStage{notify.NewMuteStage(inhibitor, m), notify.NewTimeActiveStage(intervener, groups, m),
			notify.NewTimeMuteStage(intervener, groups, m), notify.NewMuteStage(silencer, m)}
		out[name] = in.flushing(claiming, notify.MultiStage{notify.StageFunc(in.refreshStage),
			in.paced(claiming, notify.MultiStage{muting, notify.StageFunc(digestStage)}), fan})
	}
	return out
}

const (
	// maxFlushes is the maximum number of groups that notify a receiver at the same time, and maxSending the maximum number
	// of their notifications. Further groups wait, but not longer than a flush may take. The limits apply to each receiver,
	// so that a receiver that does not respond does not delay the others.
	maxFlushes = 200
	maxSending = 2000
	// maxCarried is the maximum number of alerts in all notifications in progress, which bounds their memory. An alert
	// counts once for each notification.
	maxCarried = 100_000
)

// flushing returns a stage that waits until there is room for one more flush to a receiver.
func (in *instance) flushing(list []*claimStage, next notify.Stage) notify.Stage {
	most := max(1, min(maxFlushes, maxSending/max(1, len(list))))
	room := make(chan struct{}, most)
	return notify.StageFunc(func(ctx context.Context, l *slog.Logger, alerts ...*alert.Alert) (context.Context, []*alert.Alert, error) {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return ctx, nil, missed(list, fmt.Errorf("wait for other notifications to the receiver; at most %d are sent "+
				"at the same time: %w", most, context.Cause(ctx)))
		}
		defer func() { <-room }()
		return next.Exec(ctx, l, alerts...)
	})
}

// digest is a summary of the alerts of a flush, which the claims of all integrations of the receiver need.
type digest struct {
	content          uint64
	updated, learned time.Time
}

type digestKey struct{}

// digestStage adds the digest of the alerts to the context.
func digestStage(ctx context.Context, _ *slog.Logger, alerts ...*alert.Alert) (context.Context, []*alert.Alert, error) {
	now := flushedAt(ctx)
	return context.WithValue(ctx, digestKey{}, digest{content(alerts), updated(alerts), learned(alerts, now)}), alerts, nil
}

// flushedAt returns the time at which the flush began.
func flushedAt(ctx context.Context) time.Time {
	if now, ok := notify.Now(ctx); ok {
		return now
	}
	return time.Now()
}

// missed records for all integrations of a receiver that a notification was not sent because of err, and returns err.
func missed(list []*claimStage, err error) error {
	for _, s := range list {
		_ = s.missed(err)
	}
	return err
}

// paced returns a stage that executes `next` within the CPU time of the tenant.
func (in *instance) paced(list []*claimStage, next notify.Stage) notify.Stage {
	return notify.StageFunc(func(ctx context.Context, l *slog.Logger, alerts ...*alert.Alert) (context.Context, []*alert.Alert, error) {
		turn, err := in.opts.Pace.Begin(ctx, in.tenant, pace.Notifications)
		if err != nil {
			return ctx, nil, missed(list, err)
		}
		defer turn.End()
		return next.Exec(ctx, l, alerts...)
	})
}

// refreshStage reads the silences if they have changed. While the row store is unavailable, the silences in memory are used.
func (in *instance) refreshStage(ctx context.Context, _ *slog.Logger, alerts ...*alert.Alert) (context.Context, []*alert.Alert, error) {
	call, cancel := context.WithTimeout(ctx, refreshTime)
	defer cancel()
	if err := in.silences.refresh(call); err != nil && ctx.Err() == nil {
		in.opts.metrics.refreshFailures.Inc()
	}
	return ctx, alerts, ctx.Err()
}

// claimStage is the stage that notifies by one integration of a receiver.
type claimStage struct {
	*instance
	compiled    *Compiled
	integration *notify.Integration
	receiver    *nflogpb.Receiver
	intervals   map[string]time.Duration // group intervals by route
}

// Exec implements notify.Stage.
func (s *claimStage) Exec(ctx context.Context, l *slog.Logger, alerts ...*alert.Alert) (context.Context, []*alert.Alert, error) {
	group, ok := notify.GroupKey(ctx)
	route, known := notify.RouteID(ctx)
	if !ok || !known {
		return ctx, nil, errors.New("group key or route missing")
	}
	d, ok := ctx.Value(digestKey{}).(digest)
	if !ok {
		return ctx, nil, errors.New("digest of the alerts missing")
	}
	flushed := flushedAt(ctx)
	interval := s.intervals[route]
	notifying, admit := s.admission(ctx)
	n := &notification{claimStage: s, logger: l, alerts: alerts, most: max(interval, notify.MinTimeout)}
	attempt := &claims.Attempt{Key: schema.NotificationKey(s.tenant, group, s.receiver.GroupName, s.receiver.Integration, s.receiver.Idx),
		Content: d.content, Flushed: flushed, Updated: d.updated, Learned: d.learned,
		Interval: interval, Position: s.opts.Position(s.tenant),
		Due: func(entry string) (bool, bool, error) { return n.due(ctx, entry) }, Unsure: func() (string, error) { return n.unsure(ctx) },
		Admit: admit, Send: n.send}
	if err := s.opts.Claims.Notify(notifying, attempt); err != nil {
		return ctx, nil, err
	}
	return ctx, alerts, nil
}

// updated returns the time at which the firing alerts were last received.
func updated(alerts []*alert.Alert) time.Time {
	var last time.Time
	for _, a := range alerts {
		if !a.Resolved() && a.UpdatedAt.After(last) {
			last = a.UpdatedAt
		}
	}
	return last
}

// learned returns the latest time at which an alert was received or ended.
func learned(alerts []*alert.Alert, now time.Time) time.Time {
	var last time.Time
	for _, a := range alerts {
		for _, t := range []time.Time{a.UpdatedAt, a.EndsAt} {
			if t.After(last) && !t.After(now) {
				last = t
			}
		}
	}
	return last
}

// content returns a hash of the alerts and their states.
func content(alerts []*alert.Alert) uint64 {
	var list []string
	for _, a := range alerts {
		list = append(list, fmt.Sprint(a.Fingerprint(), a.Resolved()))
	}
	slices.Sort(list)
	h := fnv.New64a()
	for _, text := range list {
		_, _ = h.Write([]byte(text))
	}
	return h.Sum64()
}

// notification is one notification that may be sent.
type notification struct {
	*claimStage
	logger *slog.Logger
	alerts []*alert.Alert
	most   time.Duration // maximum time of all attempts to send
	last   string        // entry on which the last decision was based
}

// due decides with Alertmanager's own rule; see claims.Attempt.Due.
func (n *notification) due(ctx context.Context, entry string) (due, first bool, err error) {
	n.last = entry
	if err := n.stillAudible(ctx); err != nil {
		return false, false, err
	}
	turn, err := n.begin(ctx)
	if err != nil {
		return false, false, n.missed(err)
	}
	defer turn.End()
	decided, list, err := n.decide(ctx, entry)
	if err != nil {
		return false, false, err
	}
	reason, _ := notify.NotificationReason(decided)
	return len(list) > 0, reason == notify.ReasonFirstNotification, nil
}

// unsure returns an entry of the notification log in which the resolved alerts of the flush are firing, and no others. After
// such an entry, a notification about all alerts is due.
func (n *notification) unsure(ctx context.Context) (entry string, err error) {
	turn, err := n.begin(ctx)
	if err != nil {
		return "", n.missed(err)
	}
	defer turn.End()
	ctx, _, err = n.decide(ctx, "")
	if err != nil {
		return "", err
	}
	resolved, _ := notify.ResolvedAlerts(ctx)
	return n.record(notify.WithResolvedAlerts(notify.WithFiringAlerts(ctx, resolved), nil))
}

// record returns an entry of the notification log for the alerts of the context.
func (n *notification) record(ctx context.Context) (entry string, err error) {
	log, err := newLog("")
	if err != nil {
		return "", err
	}
	log.SetBroadcast(func(b []byte) { entry = string(b) })
	_, _, err = notify.NewSetNotifiesStage(log, n.receiver).Exec(ctx, n.logger, n.alerts...)
	return entry, err
}

// begin waits until the tenant may decide about the alerts.
func (n *notification) begin(ctx context.Context) (*pace.Turn, error) {
	const each = 3 * time.Microsecond // maximum time of a decision for each alert
	turn, err := n.opts.Pace.Begin(ctx, n.tenant, pace.Notifications)
	if err == nil {
		turn.Limit(time.Duration(len(n.alerts)) * each)
	}
	return turn, err
}

// muteAgain is the age of a flush from which silences are applied again before a notification is sent.
const muteAgain = 5 * time.Second

var errMuted = errors.New("a silence was added while the notification waited: notifying about the remaining alerts at the next flush")

// stillAudible checks that no silence was added while the notification waited for limits or for another replica.
func (n *notification) stillAudible(ctx context.Context) error {
	if n.opts.Now().Sub(flushedAt(ctx)) < muteAgain {
		return nil
	}
	if _, _, err := n.refreshStage(ctx, n.logger); err != nil {
		return err
	}
	turn, err := n.begin(ctx)
	if err != nil {
		return n.missed(err)
	}
	defer turn.End()
	for _, a := range n.alerts {
		if n.silencer.Mutes(ctx, a.Labels) {
			return errMuted
		}
	}
	return nil
}

func (n *notification) decide(ctx context.Context, entry string) (context.Context, []*alert.Alert, error) {
	log, err := newLog(entry)
	if err != nil {
		return ctx, nil, err
	}
	return notify.NewDedupStage(n.integration, log, n.receiver).Exec(ctx, n.logger, n.alerts...)
}

// newLog returns a notification log with one entry, or with none if the entry is empty.
func newLog(entry string) (*nflog.Log, error) {
	log, err := nflog.New(nflog.Options{Retention: logRetention, Metrics: prometheus.NewRegistry(), SnapshotReader: strings.NewReader(entry)})
	if err != nil {
		return nil, fmt.Errorf("read the entry of the notification log: %w", err)
	}
	return log, nil
}

// notSent wraps an error in claims.ErrNotSent, so that another replica may send at once, if it is the error of a limit of
// this replica.
func notSent(err error) error {
	if errors.Is(err, pace.ErrTooMuch) {
		return fmt.Errorf("%w: %w", claims.ErrNotSent, err)
	}
	return err
}

// send sends the notification with Alertmanager's retries, and returns the entry for the notification log.
func (n *notification) send(ctx context.Context) (entry string, expires time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, n.most)
	defer cancel()
	carried := min(int64(len(n.alerts)), maxCarried)
	if err := n.carrying.Acquire(ctx, carried); err != nil {
		return "", time.Time{}, fmt.Errorf("wait for other notifications of the tenant with many alerts: %w", err)
	}
	defer n.carrying.Release(carried)
	turn, err := n.begin(ctx)
	if err != nil {
		return "", time.Time{}, notSent(n.missed(err))
	}
	ctx, list, err := n.decide(ctx, n.last)
	turn.End()
	if err != nil {
		return "", time.Time{}, err
	}
	retry := notify.NewRetryStage(n.recorded(), n.receiver.GroupName, n.opts.notify, eventrecorder.NopRecorder())
	if ctx, _, err = retry.Exec(ctx, n.logger, list...); err != nil {
		return "", time.Time{}, notSent(err)
	}
	if entry, err = n.record(ctx); err != nil {
		return "", time.Time{}, err
	}
	var e nflogpb.MeshEntry
	if err := protodelim.UnmarshalFrom(bytes.NewReader([]byte(entry)), &e); err != nil {
		return "", time.Time{}, fmt.Errorf("decode the entry of the notification log: %w", err)
	}
	return entry, e.ExpiresAt.AsTime(), nil
}
