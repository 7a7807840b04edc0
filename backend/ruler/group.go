package ruler

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rulestate"
	"github.com/palliumhq/pallium/backend/switches"
)

// group is a group of a held share. Ruler.mu protects it, with one exception: while `running`
// is set, the goroutine of its evaluation uses the fields from `takeover` on.
type group struct {
	tenant    *rulerTenant
	namespace string
	name      string
	share     int
	interval  time.Duration
	number    uint64          // number of the share under which the group writes
	want      version         // the version to be evaluated
	next      *built          // the group built from want, until it replaces rules
	built     version         // version from which rules was built
	blocked   string          // reason for which the group is not evaluated; empty if it is
	blockedAt time.Time       // time from which blocked is set
	readers   *sync.WaitGroup // waits for those that copy the state of rules without Ruler.mu
	due       time.Time
	place     int // index in the heap, or -1
	queued    bool
	running   bool
	cancel    context.CancelFunc
	dropped   bool      // the share was lost or the tenant deleted, while it was running
	removed   bool      // the group was deleted while it was running
	deleted   time.Time // of a ghost: when the group was deleted
	counted   time.Time // last slot in the metrics
	missed    time.Time // last slot that was counted as missed
	last      time.Time // slot of the last evaluation; zero if the last slot must still be evaluated

	takeover *takeover // the pending takeover; nil if there is none
	rules    *rules.Group
	earlier  []*sync.WaitGroup      // readers of earlier rules, whose alerts are also those of the current rules
	skipped  map[int]rulestate.Rule // rules that are not evaluated, by position
	costs    costs                  // costs of the templates of rules
	eval     *evaluation            // the evaluation in progress
	failing  bool                   // whether the last evaluation failed for a reason that the tenant did not cause
	tries    int                    // attempts to write the staleness markers of a ghost
}

// version contains everything from which a group is built. Groups with equal versions behave in the same way.
type version struct {
	definition *definition
	content    string
	blocked    string
	set        switches.Set
	recording  bool
	alerting   bool
	url        string
}

func (v version) equal(o version) bool {
	v.definition, o.definition = nil, nil
	return v == o
}

// ghost reports whether g is a deleted group that only waits to write its staleness markers.
func (g *group) ghost() bool { return !g.deleted.IsZero() }

// evaluated reports whether the group is evaluated at all.
func (g *group) evaluated() bool { return g.blocked == "" && g.rules != nil }

// slot returns the last slot at or before a time.
func (g *group) slot(now time.Time) time.Time {
	if g.built.definition.AlignEvaluationTime {
		return alignedSlot(g.interval, now)
	}
	return g.rules.EvalTimestamp(now.UnixNano())
}

func alignedSlot(interval time.Duration, at time.Time) time.Time {
	ns := at.UnixNano()
	return time.Unix(0, ns-ns%int64(interval)).UTC()
}

// Slot returns the last slot of a group at or before a time. aligned is Mimir's align_evaluation_time_on_interval.
func Slot(id tenant.ID, namespace, name string, interval time.Duration, aligned bool, at time.Time) time.Time {
	if aligned {
		return alignedSlot(interval, at)
	}
	g := rules.NewGroup(rules.GroupOptions{Name: name, File: file(id, namespace), Interval: interval})
	return g.EvalTimestamp(at.UnixNano())
}

// nextDue returns the time at which the group is due next. If a slot passed during an evaluation,
// the group is due at once.
func (g *group) nextDue(now time.Time) time.Time {
	slot := g.slot(now)
	if slot.After(g.last) {
		return now
	}
	return slot.Add(g.interval)
}

// file returns the file name of Prometheus' group, on which its slots depend.
func file(id tenant.ID, namespace string) string { return string(id) + "/" + namespace }

// change is a group that must be built.
type change struct {
	group *group
	hold  *heldShare
	want  version
}

// apply updates the groups of a tenant according to its definitions, its limits and the held shares. It builds groups without
// holding r.mu, because building large groups takes long.
func (r *Ruler) apply(ctx context.Context, t *rulerTenant) {
	bounds := r.opts.Bounds(t.id)
	base := version{set: switches.Of(r.opts.Limits(t.id)), recording: bounds.Recording, alerting: bounds.Alerting,
		url: r.opts.ExternalURL(t.id)}
	for _, c := range r.changes(t, base, bounds.MaxGroups) {
		if ctx.Err() != nil {
			return
		}
		r.install(t, c, r.build(c.group, c.want))
	}
}

// changes removes the groups that were deleted, and returns those that must be built.
func (r *Ruler) changes(t *rulerTenant, base version, most int) []change {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tenants[t.id] != t {
		return nil
	}
	var out []change
	seen := map[string]bool{}
	for i, d := range t.defs {
		hold := r.held[d.share]
		if hold == nil {
			continue
		}
		v := base
		v.definition, v.content = d, d.content
		switch {
		case d.Err != nil:
			v.blocked = fmt.Sprintf("the stored group cannot be read: %v", d.Err)
		case most > 0 && i >= most:
			v.blocked = fmt.Sprintf("not evaluated: the tenant has %d groups, max_rule_groups is %d; delete groups or raise the limit",
				len(t.defs), most)
		}
		seen[d.key()] = true
		g := t.groups[d.key()]
		if g == nil {
			g = create(t, d, hold)
		}
		if g.want.definition == nil || !g.want.equal(v) {
			out = append(out, change{g, hold, v})
		}
	}
	for key, g := range t.groups {
		if !seen[key] {
			delete(t.groups, key)
			r.remove(t, g)
		}
	}
	return out
}

// create returns a new group. The group is taken over, because another ruler or an earlier process
// may have evaluated it, unless it was stored while this ruler held the share.
func create(t *rulerTenant, d *definition, hold *heldShare) *group {
	g := &group{tenant: t, namespace: d.Namespace, name: d.Group.Name, share: d.share, number: hold.number, place: -1,
		readers: &sync.WaitGroup{}}
	if d.since.Before(hold.gained.Truncate(time.Millisecond)) {
		g.takeover = &takeover{idle: hold.idle, gained: hold.gained}
	}
	return g
}

// install replaces the rules of a group by the built ones, at once or after the evaluation in progress. It does nothing if the
// share was lost or the tenant was dropped in the meantime.
func (r *Ruler) install(t *rulerTenant, c change, b *built) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g, key := c.group, c.want.definition.key()
	if r.tenants[t.id] != t || r.held[g.share] != c.hold {
		r.forget(g)
		return
	}
	t.groups[key] = g
	g.want, g.next = c.want, b
	if !g.running {
		r.adopt(g)
	}
	r.signal()
}

// adopt replaces the rules of a group by those that were built for its new version, and copies the state of the old rules.
// r.mu is locked, and the group is not running.
func (r *Ruler) adopt(g *group) {
	if g.next == nil {
		return
	}
	before, interval, blocked, b, now := g.rules, g.interval, g.blocked, g.next, r.opts.Now()
	g.built, g.blocked, g.next = g.want, b.blocked, nil
	if g.blocked != "" {
		if blocked == "" {
			g.blockedAt = now
		}
		r.unplan(g.tenant, g)
		return
	}
	switch {
	case before == nil:
	case blocked != "" && now.Sub(g.blockedAt) > longGap(b.interval):
		g.takeover, g.last = &takeover{idle: now.Sub(g.blockedAt), gained: now}, time.Time{}
	default:
		b.rules.CopyState(before) // old and new rules have the same alerts
		g.earlier = append(g.earlier, g.readers)
	}
	g.readers = &sync.WaitGroup{}
	g.rules, g.skipped, g.interval, g.costs = b.rules, b.skipped, b.interval, b.costs
	if g.takeover != nil {
		if g.takeover.late {
			setRestored(g, false)
		}
		r.plan(g, now)
		return
	}
	if before == nil || blocked != "" || interval != g.interval {
		g.last = g.slot(now)
	}
	r.plan(g, g.nextDue(now))
}

// built is a group that was built from a version.
type built struct {
	rules    *rules.Group
	skipped  map[int]rulestate.Rule // rules that are not evaluated, by position
	interval time.Duration
	blocked  string // reason for which the group is not evaluated; if it is set, the other fields are not
	costs    costs  // of the templates of rules
}

// build builds a group from a version, without state.
func (r *Ruler) build(g *group, v version) *built {
	if v.blocked != "" {
		return &built{blocked: v.blocked}
	}
	b, err := r.parse(g, v)
	if err != nil {
		return &built{blocked: err.Error()}
	}
	return b
}

// parse builds a group that is evaluated. It returns an error if the group is not valid.
func (r *Ruler) parse(g *group, v version) (*built, error) {
	def := &v.definition.Group
	external, err := url.Parse(v.url)
	if err != nil {
		return nil, fmt.Errorf("external URL of alerts: %w", err)
	}
	parse := r.opts.Parsers(v.set)
	b := &built{skipped: map[int]rulestate.Rule{}, costs: costs{}, interval: time.Duration(def.Interval)}
	if b.interval <= 0 {
		b.interval = DefaultInterval
	}
	var list []rules.Rule
	for i := range def.Rules {
		d := &def.Rules[i]
		expr, err := parse.ParseExpr(d.Expr)
		if err != nil {
			return nil, fmt.Errorf("rule %d (%s%s): expr: %w", i+1, d.Record, d.Alert, err)
		}
		rule, off := newRule(v, d, expr)
		if off != "" {
			b.skipped[i] = notEvaluated(stateOf(rule), off)
			continue
		}
		list = append(list, rule)
		b.costs.add(rule, def.Labels, d)
	}
	b.rules = rules.NewGroup(rules.GroupOptions{Name: g.name, File: file(g.tenant.id, g.namespace), Interval: b.interval,
		Limit: def.Limit, Rules: list, QueryOffset: (*time.Duration)(def.QueryOffset), Opts: r.managerOptions(g, external)})
	return b, nil
}

// newRule returns a rule. `off` is the reason for which the rule is not evaluated, or "" if it is.
func newRule(v version, d *rulefmt.Rule, expr parser.Expr) (rule rules.Rule, off string) {
	set := rules.FromMaps(v.definition.Group.Labels, d.Labels)
	if d.Alert == "" {
		if !v.recording {
			off = "not evaluated: the limit recording_rules is off for this tenant"
		}
		return rules.NewRecordingRule(d.Record, expr, set), off
	}
	if !v.alerting {
		off = "not evaluated: the limit alerting_rules is off for this tenant"
	}
	return rules.NewAlertingRule(d.Alert, expr, time.Duration(d.For), time.Duration(d.KeepFiringFor), set,
		labels.FromMap(d.Annotations), labels.EmptyLabels(), v.url, true, quiet()), off
}

// quiet returns the logger of Prometheus' groups. It discards everything: the groups would log errors of tenants' rules, which
// the state shows.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// managerOptions returns the options of Prometheus' group.
func (r *Ruler) managerOptions(g *group, external *url.URL) *rules.ManagerOptions {
	id := g.tenant.id
	return &rules.ManagerOptions{
		ExternalURL: external,
		QueryFunc: func(ctx context.Context, q string, at time.Time) (res vector, err error) {
			g.eval.note(ctx)
			return g.eval.query(ctx, q, at)
		},
		NotifyFunc:   func(ctx context.Context, expr string, alerts ...*rules.Alert) { g.eval.notify(ctx, expr, alerts) },
		Context:      r.evaluators.Context(),
		AppendableV2: appendable{g},
		Queryable:    restoring{g},
		Logger:       quiet(),
		Metrics:      r.groups,

		OutageTolerance:        outageTolerance,
		ForGracePeriod:         forGracePeriod,
		ResendDelay:            resendDelay,
		DefaultRuleQueryOffset: func() time.Duration { return r.opts.Bounds(id).QueryOffset },
	}
}

// drop stops a group without staleness markers. r.mu is locked.
func (r *Ruler) drop(t *rulerTenant, g *group) {
	r.unplan(t, g)
	for key, known := range t.groups {
		if known == g {
			delete(t.groups, key)
		}
	}
	delete(t.ghosts, g)
	if g.running {
		g.dropped = true
		return
	}
	r.forget(g)
}

// remove stops a group that was deleted; its series get staleness markers after two intervals.
// r.mu is locked.
func (r *Ruler) remove(t *rulerTenant, g *group) {
	r.unplan(t, g)
	if g.running {
		g.removed, g.deleted = true, time.Time{}
		return
	}
	r.bury(t, g)
}

// bury replaces a deleted group that is not running by a ghost. r.mu is locked.
func (r *Ruler) bury(t *rulerTenant, g *group) {
	r.forget(g)
	if g.rules == nil || r.held[g.share] == nil {
		return
	}
	now := r.opts.Now()
	ghost := &group{tenant: t, namespace: g.namespace, name: g.name, share: g.share, number: g.number, interval: g.interval, place: -1,
		deleted: now}
	offset := g.rules.QueryOffset()
	ghost.rules = rules.NewGroup(rules.GroupOptions{Name: g.name, File: file(t.id, g.namespace), Interval: g.interval,
		QueryOffset: &offset, Opts: r.managerOptions(ghost, &url.URL{})})
	ghost.rules.CopyState(g.rules)
	t.ghosts[ghost] = true
	r.plan(ghost, now.Add(2*g.interval))
}

// forget deletes the metrics of a group. r.mu is locked.
func (r *Ruler) forget(g *group) {
	key := rules.GroupKey(file(g.tenant.id, g.namespace), g.name)
	m := r.groups
	for _, v := range []interface{ DeleteLabelValues(...string) bool }{m.IterationsMissed, m.IterationsScheduled, m.EvalTotal,
		m.EvalFailures, m.GroupInterval, m.GroupLastEvalTime, m.GroupLastDuration, m.GroupLastRuleDurationSum,
		m.GroupLastRestoreDuration, m.GroupRules, m.GroupSamples} {
		v.DeleteLabelValues(key)
	}
}
