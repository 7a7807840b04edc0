package ruler

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

const (
	// outageTolerance and forGracePeriod apply to groups that had no ruler for a longer time. The
	// first is the default of Prometheus and Mimir, the second that of Mimir.
	outageTolerance = time.Hour
	forGracePeriod  = 2 * time.Minute
	// resendDelay is the interval at which firing alerts are sent again, as in Prometheus.
	resendDelay = time.Minute
	// minGap is the shortest time without a ruler after which a group is not continued exactly.
	minGap = 30 * time.Second
	// unwritten is the time before the end of a lease in which its ruler may have written nothing. The lease lasts 8 s from
	// the last renewal; 2 s more are a margin. A ruler that stops or leaves the share renews the lease until
	// its evaluations in progress have ended, but begins no more evaluations.
	unwritten = 10*time.Second + grace + abandonAfter
	// maxRepeats is the maximum number of slots before the last one that are repeated, too, if the state of a
	// group depends on them.
	maxRepeats = 30
	// retryTakeover is the interval at which a failed takeover is retried, unless the group's interval is shorter.
	retryTakeover = 5 * time.Second
)

// takeover is the pending takeover of a group.
type takeover struct {
	idle   time.Duration // time for which the share had no holder before this ruler
	gained time.Time
	// late is set if the group had no ruler for a long time. Then it is evaluated twice before its
	// alerts are restored.
	late  bool
	evals int // number of evaluations since late was set
}

// longGap returns the time without a ruler after which a group with the given interval is not continued exactly.
func longGap(interval time.Duration) time.Duration { return max(minGap, 2*interval) }

// takeOver prepares a group that another ruler has evaluated. It returns the first slot to be
// evaluated, which is at or before `slot`: slots that the other ruler may have missed are evaluated,
// too, so that the results have no gap. After an error, it must be called again before the group is
// evaluated.
func (r *Ruler) takeOver(ctx context.Context, g *group, slot time.Time) (time.Time, error) {
	o := g.takeover
	gap := o.idle
	if since := r.opts.Now().Sub(o.gained); gap < math.MaxInt64-since {
		gap += since
	}
	if o.late || gap > longGap(g.interval) {
		if !o.late {
			o.late = true
			setRestored(g, false)
			r.metrics.takeovers.WithLabelValues("restored").Inc()
		}
		return slot, nil
	}
	first := slot
	for end := o.gained.Add(-o.idle - unwritten); first.Add(-g.interval).After(end); {
		first = first.Add(-g.interval)
	}
	if err := r.repeat(ctx, g, first.Add(-g.interval)); err != nil {
		return slot, err
	}
	g.takeover = nil
	r.metrics.takeovers.WithLabelValues("continued").Inc()
	return first, nil
}

// takeoverFailed shows the error of a takeover in the state of the group, and returns the time after which the takeover is
// retried.
func (r *Ruler) takeoverFailed(ctx context.Context, g *group, err error) time.Duration {
	if ctx.Err() == nil {
		r.metrics.takeovers.WithLabelValues("failed").Inc()
		r.opts.Logger.Warn("could not take over a rule group; retrying", "tenant", g.tenant.id, "namespace", g.namespace, "group", g.name,
			"err", err)
	}
	for _, rule := range g.rules.Rules() {
		rule.SetHealth(rules.HealthBad)
		rule.SetLastError(err)
	}
	return min(g.interval, retryTakeover)
}

func setRestored(g *group, restored bool) {
	for _, rule := range g.rules.AlertingRules() {
		rule.SetRestored(restored)
	}
}

// repeat restores the state that a group had after the previous ruler evaluated it at a slot. It
// repeats the slot without writing, which finds the series of each rule and the active alerts. It
// restores the times at which alerts became active, and repeats the slot with these times. It begins
// with an earlier slot if the state depends on it: rules that fail keep the series of the previous
// evaluation, and keep_firing_for keeps alerts.
func (r *Ruler) repeat(ctx context.Context, g *group, slot time.Time) error {
	defer func() { g.eval = nil }()
	fresh, err := r.again(g)
	if err != nil {
		return err
	}
	g.eval = &evaluation{Ruler: r, group: g, repeat: true, answers: map[question]vector{}}
	back, err := r.reach(ctx, g, fresh, slot)
	if err != nil {
		return err
	}
	if fresh, err = r.again(g); err != nil {
		return err
	}
	first := slot.Add(-time.Duration(back) * g.interval)
	past, err := r.activity(ctx, g, fresh, first, slot)
	if err != nil {
		return err
	}
	for at := first; !at.After(slot); at = at.Add(g.interval) {
		fresh.Eval(ctx, at)
		past.restore(fresh, at)
		fresh.Eval(ctx, at)
		setFired(fresh, at)
	}
	if g.eval.failed != nil {
		return g.eval.failed
	}
	for _, rule := range alerting(fresh) {
		// Firing alerts are sent at the next evaluation, because the previous ruler may have ended
		// without sending them.
		rule.ForEachActiveAlert(func(a *rules.Alert) { a.LastSentAt = time.Time{} })
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	g.rules = fresh
	return ctx.Err()
}

// again builds the group of g again, without state.
func (r *Ruler) again(g *group) (*rules.Group, error) {
	b, err := r.parse(g, g.built)
	if err != nil {
		return nil, err
	}
	return b.rules, nil
}

// reach evaluates a group at a slot, and returns the number of earlier slots on which the state depends.
func (r *Ruler) reach(ctx context.Context, g *group, fresh *rules.Group, slot time.Time) (int, error) {
	fresh.Eval(ctx, slot)
	if g.eval.failed != nil {
		return 0, g.eval.failed
	}
	open := failing(fresh.Rules())
	past, err := r.activity(ctx, g, fresh, slot, slot)
	if err != nil {
		return 0, err
	}
	kept := past.restore(fresh, slot)
	back := min(maxRepeats, int((kept+g.interval-1)/g.interval))
	for n := 1; len(open) > 0 && n <= maxRepeats; n++ {
		fresh.Eval(ctx, slot.Add(-time.Duration(n)*g.interval))
		if g.eval.failed != nil {
			return 0, g.eval.failed
		}
		open, back = failing(open), max(back, n)
	}
	return back, nil
}

// failing returns the rules whose last evaluation failed.
func failing(list []rules.Rule) []rules.Rule {
	var out []rules.Rule
	for _, rule := range list {
		if rule.LastError() != nil {
			out = append(out, rule)
		}
	}
	return out
}

// activity contains the recorded times at which the alerts of a group became active: for each
// rule, by the labels of the alerts.
type activity struct {
	rules  []map[string][]point
	window time.Duration // time for which a sample is current
}

// point is a sample of ALERTS_FOR_STATE. At the time `at` (Unix milliseconds), the alert was active since
// the time `since` (Unix seconds) or, if `active` is false, no longer active.
type point struct {
	at     int64
	since  int64
	active bool
}

// activity reads the recorded times of alerts from one slot to another. It also reads the time before
// the first slot during which the previous ruler may have missed slots.
func (r *Ruler) activity(ctx context.Context, g *group, of *rules.Group, first, last time.Time) (*activity, error) {
	a := &activity{window: max(minGap, 2*g.interval) + g.interval}
	list := alerting(of)
	if len(list) == 0 {
		return a, nil
	}
	offset := of.QueryOffset()
	q, err := r.opts.Select(g.tenant.id).Querier(first.Add(-offset-a.window).UnixMilli(), last.Add(-offset).UnixMilli())
	if err != nil {
		return nil, err
	}
	defer func() { _ = q.Close() }()
	for _, rule := range list {
		points, err := pointsOf(ctx, rule, q)
		if err != nil {
			return nil, err
		}
		a.rules = append(a.rules, points)
	}
	return a, nil
}

// alerting returns the alerting rules of a group in their order in the group.
func alerting(of *rules.Group) []*rules.AlertingRule {
	var out []*rules.AlertingRule
	for _, rule := range of.Rules() {
		if a, ok := rule.(*rules.AlertingRule); ok {
			out = append(out, a)
		}
	}
	return out
}

// pointsOf reads the recorded times of the alerts of a rule.
func pointsOf(ctx context.Context, rule *rules.AlertingRule, q storage.Querier) (map[string][]point, error) {
	set, err := rule.QueryForStateSeries(ctx, q)
	if err != nil {
		return nil, err
	}
	out := map[string][]point{}
	var it chunkenc.Iterator
	for set.Next() {
		s := set.At()
		it = s.Iterator(it)
		var list []point
		for it.Next() == chunkenc.ValFloat {
			t, v := it.At()
			list = append(list, point{at: t, since: int64(v), active: !value.IsStaleNaN(v)})
		}
		if err := it.Err(); err != nil {
			return nil, err
		}
		out[s.Labels().DropReserved(func(n string) bool { return n == model.MetricNameLabel }).String()] = list
	}
	return out, set.Err()
}

// restore sets the times at which the active alerts of a group became active, as they were recorded
// at a slot or, if the slot was missed, shortly before. It returns the longest keep_firing_for of the
// rules with recorded alerts that are not active.
func (a *activity) restore(of *rules.Group, slot time.Time) (kept time.Duration) {
	end := slot.Add(-of.QueryOffset()).UnixMilli()
	for i, rule := range alerting(of) {
		active := map[string]int64{}
		for name, list := range a.rules[i] {
			for k := len(list) - 1; k >= 0; k-- {
				if p := list[k]; p.at > end {
					continue
				} else if p.active && p.at > end-a.window.Milliseconds() {
					active[name] = p.since
				}
				break
			}
		}
		rule.ForEachActiveAlert(func(alert *rules.Alert) {
			if alert.State == rules.StateInactive {
				return
			}
			if since, ok := active[alert.Labels.String()]; ok {
				alert.ActiveAt = slotIn(since, slot, of.Interval())
				delete(active, alert.Labels.String())
			}
		})
		if len(active) > 0 {
			kept = max(kept, rule.KeepFiringFor())
		}
	}
	return kept
}

// slotIn returns the slot in the second that begins at a Unix time, because samples contain the
// times of alerts in whole seconds. If there is no such slot, it returns the second.
func slotIn(second int64, slot time.Time, interval time.Duration) time.Time {
	at := time.Unix(second, 0).UTC()
	back := slot.Sub(at)
	if back < 0 {
		return at
	}
	if s := slot.Add(-back / interval * interval); s.Sub(at) < time.Second {
		return s
	}
	return at
}

// setFired sets the times from which firing alerts fire: the first slot after their hold duration.
func setFired(of *rules.Group, slot time.Time) {
	interval := of.Interval()
	for _, rule := range alerting(of) {
		hold := (rule.HoldDuration() + interval - 1) / interval * interval
		rule.ForEachActiveAlert(func(a *rules.Alert) {
			if at := a.ActiveAt.Add(hold); a.State == rules.StateFiring && !at.After(slot) {
				a.FiredAt = at
			}
		})
	}
}

// restoring is the storage.Queryable from which Prometheus' group restores alerts. It records
// failures, which the group ignores.
type restoring struct{ g *group }

// Querier implements storage.Queryable.
func (s restoring) Querier(mint, maxt int64) (storage.Querier, error) {
	e := s.g.eval
	q, err := e.opts.Select(s.g.tenant.id).Querier(mint, maxt)
	if err != nil {
		e.failed = err
		return nil, err
	}
	return recording{q, e}, nil
}

// recording is a storage.Querier that records failures of Select.
type recording struct {
	storage.Querier
	e *evaluation
}

// Select implements storage.Querier.
func (q recording) Select(ctx context.Context, sorted bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	return recordingSet{q.Querier.Select(ctx, sorted, h, ms...), q.e}
}

type recordingSet struct {
	storage.SeriesSet
	e *evaluation
}

// Next implements storage.SeriesSet.
func (s recordingSet) Next() bool {
	ok := s.SeriesSet.Next()
	if !ok {
		s.note()
	}
	return ok
}

// Err implements storage.SeriesSet.
func (s recordingSet) Err() error {
	s.note()
	return s.SeriesSet.Err()
}

func (s recordingSet) note() {
	if err := s.SeriesSet.Err(); err != nil && s.e.failed == nil {
		s.e.failed = err
	}
}

var errNotRestored = errors.New("could not restore the times at which alerts became active; retrying at the next evaluation")

// restoreLate restores the alerts of a group that had no ruler for a long time, after the second
// evaluation of the group. If the read fails, it is retried after the next evaluation.
func (r *Ruler) restoreLate(g *group) {
	if g.takeover.evals++; g.takeover.evals < 2 {
		return
	}
	g.eval = &evaluation{Ruler: r, group: g}
	g.rules.RestoreForState(r.opts.Now())
	err := g.eval.failed
	if err == nil {
		g.takeover = nil
		return
	}
	r.metrics.takeovers.WithLabelValues("failed").Inc()
	r.opts.Logger.Warn("could not restore the alerts of a rule group; retrying at the next evaluation", "tenant", g.tenant.id,
		"namespace", g.namespace, "group", g.name, "err", err)
	setRestored(g, false)
	for _, rule := range g.rules.AlertingRules() {
		rule.SetHealth(rules.HealthBad)
		rule.SetLastError(errors.Join(errNotRestored, err))
	}
}
