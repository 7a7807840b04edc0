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
	// outageTolerance and forGracePeriod are those of Prometheus for groups without a ruler for
	// longer; Mimir has the same grace period.
	outageTolerance = time.Hour
	forGracePeriod  = 2 * time.Minute
	// resendDelay is how often firing alerts are sent again, as in Prometheus.
	resendDelay = time.Minute
	// minGap is the shortest time without a ruler after which a group is not continued exactly.
	minGap = 30 * time.Second
	// unwritten is how long before the end of its lease a ruler may have stopped to write: the lease is at most 8 s
	// older than its last renewal, and a ruler that stops or leaves the share renews it until its evaluations in
	// progress have ended, but begins none.
	unwritten = 10*time.Second + grace + abandonAfter
	// maxRepeats is the number of slots that are repeated, at most, to find what a group
	// remembers from before its last slot.
	maxRepeats = 30
	// retryTakeover is how often a failed takeover is tried again.
	retryTakeover = 5 * time.Second
)

// takeover is the pending takeover of a group.
type takeover struct {
	idle   time.Duration // of the share, before this ruler held it
	gained time.Time
	// late is set if the group had no ruler for long: it is evaluated twice before its alerts
	// are restored.
	late  bool
	evals int // since late was set
}

// longGap is the time without a ruler after which a group with an interval is not continued exactly.
func longGap(interval time.Duration) time.Duration { return max(minGap, 2*interval) }

// takeOver prepares a group that another ruler evaluated before. It returns the first slot to
// be evaluated, at or before slot: slots that the other ruler may have missed are evaluated too,
// so that the results have no gap. If it fails, it must be called again before the group is
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

// takeoverFailed shows the failure of a takeover, and returns after how long it is tried again.
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

// repeat brings a group into the state in which the ruler before left it after a slot. It
// repeats the slot without writing, which finds the series of each rule and the active alerts,
// restores since when alerts are active, and repeats the slot with these times. If the state
// depends on earlier slots, it begins with one of them: rules that fail keep the series of the
// evaluation before, and keep_firing_for keeps alerts.
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
		// Firing alerts are sent at the next evaluation: the ruler before may have ended
		// without sending them.
		rule.ForEachActiveAlert(func(a *rules.Alert) { a.LastSentAt = time.Time{} })
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	g.rules = fresh
	return ctx.Err()
}

// again returns a group like g without state.
func (r *Ruler) again(g *group) (*rules.Group, error) {
	b, err := r.parse(g, g.built)
	if err != nil {
		return nil, err
	}
	return b.rules, nil
}

// reach evaluates a group at a slot, and returns how many slots before it the state begins.
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

// activity is what a ruler recorded about when the alerts of a group became active: for each
// rule, by the labels of the alerts.
type activity struct {
	rules  []map[string][]point
	window time.Duration // for which a sample counts
}

// point is a sample of ALERTS_FOR_STATE: at a time in Unix milliseconds, the alert was active
// since a Unix time in seconds, or not active any more.
type point struct {
	at     int64
	since  int64
	active bool
}

// activity reads the recorded times of alerts from one slot to another. Before the first slot
// it reads as much as the ruler before may have missed.
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

// restore sets since when the active alerts of a group are active, as recorded at a slot or, if
// the slot was missed, shortly before. It returns the longest keep_firing_for of the rules that
// had alerts which are not active.
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

// slotIn returns the slot in the second that begins at a Unix time, since samples have the
// times of alerts in whole seconds. Without such a slot it returns the second.
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

// setFired sets since when firing alerts fire: the first slot after their hold duration.
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

// restoreLate restores the alerts of a group that had no ruler for long, after its second
// evaluation. If the read fails, it is tried again after the next evaluation.
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
