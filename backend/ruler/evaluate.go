package ruler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/rules"
)

type vector = promql.Vector

// evaluation is one evaluation of a group. Its rules are evaluated one after the other.
type evaluation struct {
	*Ruler
	group *group
	// repeat is set while a slot of another ruler is repeated: no samples are written and no alerts are sent.
	repeat  bool
	answers map[question]vector // results of queries, while repeat is set
	size    int                 // number of samples in answers
	rule    any                 // context of the rule that is evaluated, which identifies it
	queries int                 // number of queries of the rule so far
	failed  error               // the first failure that the tenant did not cause
	writer  writer
	late    *lateAlerts // alerts of earlier slots of this run; nil if no alerts are sent
}

// maxAnswers is the maximum number of samples that a takeover keeps to avoid running queries twice.
const maxAnswers = 500_000

// question identifies a query by its expression and its time.
type question struct {
	expr string
	at   int64
}

// operatorError is a failure that the tenant did not cause.
type operatorError struct{ error }

// Unwrap returns the cause.
func (e operatorError) Unwrap() error { return e.error }

var (
	// errLease is returned for a write of a group whose share was lost, and gained again under another number.
	errLease = errors.New("the share of this rule group was lost, and gained again: a newer evaluation replaces this one")
	// errLapsed is returned for a write while the lease is not valid. A renewal that is in progress may make it valid again;
	// otherwise the share is lost, and the evaluation is canceled.
	errLapsed = errors.New("the lease of this share of rule groups has ended, and was not renewed yet")
)

// maxLate is the maximum number of past slots that a run of a group catches up on, of those that passed before it began (while
// the group was taken over, or waited for takeovers or a lease), and of those that pass while it runs.
const maxLate = 30

// evaluate evaluates a group at the slots from `first` to `slot`. It returns the last slot that was evaluated, and the
// time after which that slot must be retried, or 0 if it need not be.
func (r *Ruler) evaluate(ctx context.Context, g *group, first, slot time.Time) (last time.Time, again time.Duration) {
	if _, _, ok := r.opts.Shares.Lease(g.share); !ok {
		return slot, min(g.interval, time.Second)
	}
	ctx = promql.NewOriginContext(ctx, map[string]any{"ruleGroup": map[string]string{"file": g.rules.File(), "name": g.name}})
	for _, readers := range g.earlier {
		readers.Wait() // until the alerts are copied, because this evaluation changes them
	}
	g.earlier = nil
	g.eval = &evaluation{Ruler: r, group: g}
	if g.ghost() {
		return slot, r.markStale(ctx, g)
	}
	end := slot
	if first.Before(slot) {
		end = slot.Add(maxLate * g.interval)
	}
	if g.takeover != nil {
		var err error
		if first, err = r.takeOver(ctx, g, slot); err != nil {
			return slot, r.takeoverFailed(ctx, g, err)
		}
		if g.takeover == nil { // the group is continued without a gap
			end = slot.Add(maxLate * g.interval)
			r.metrics.due.Add(float64(slot.Sub(first) / g.interval))
		}
	}
	return r.evaluateSlots(ctx, g, first, slot, end), 0
}

// evaluateSlots evaluates a group at the slots from `first` to `slot`, and at later slots up to `end` that have passed
// in the meantime. It returns the last slot that was evaluated.
func (r *Ruler) evaluateSlots(ctx context.Context, g *group, first, slot, end time.Time) time.Time {
	late := &lateAlerts{byRule: map[string]map[uint64]*rules.Alert{}}
	for at := first; !at.After(end) && ctx.Err() == nil; at = at.Add(g.interval) {
		if at.After(slot) {
			if at.After(r.opts.Now()) {
				break
			}
			slot = at
			r.metrics.due.Inc()
		}
		next := at.Add(g.interval)
		late.more = !next.After(slot) || !next.After(end) && !next.After(r.opts.Now())
		g.eval = &evaluation{Ruler: r, group: g, late: late}
		rules.DefaultEvalIterationFunc(ctx, g.rules, at)
		r.evaluated(ctx, g)
		late.unsent(g.rules)
	}
	if ctx.Err() != nil {
		return slot
	}
	g.eval.sendLate(ctx)
	if g.takeover != nil {
		r.restoreLate(g)
	}
	return slot
}

// evaluated counts an evaluation of a group that has ended.
func (r *Ruler) evaluated(ctx context.Context, g *group) {
	if ctx.Err() != nil {
		return
	}
	r.metrics.done.Inc()
	for _, rule := range g.rules.Rules() {
		r.metrics.evaluations.Inc()
		if err := rule.LastError(); err != nil {
			r.metrics.failures.WithLabelValues(reasonOf(err)).Inc()
		}
	}
	err := g.eval.failed
	if err != nil && !g.failing { // only the first failure is logged, because an outage affects many groups for a long time
		r.opts.Logger.Warn("rule evaluation failed", "tenant", g.tenant.id, "namespace", g.namespace, "group", g.name, "err", err)
	}
	g.failing = err != nil
}

func reasonOf(err error) string {
	if errors.As(err, new(operatorError)) {
		return reasonOperator
	}
	return reasonUser
}

// query evaluates an expression of a rule, or of its templates.
func (e *evaluation) query(ctx context.Context, expr string, at time.Time) (vector, error) {
	if e.rule != any(ctx) {
		e.rule, e.queries = ctx, 0
	}
	first := e.queries == 0
	if e.queries++; e.queries > maxTemplateQueries+1 {
		return nil, fmt.Errorf("the templates of one evaluation of a rule may run at most %d queries", maxTemplateQueries)
	}
	q := question{expr, at.UnixMilli()}
	if known, ok := e.answers[q]; ok {
		return append(vector(nil), known...), nil
	}
	id := e.group.tenant.id
	out, err := e.opts.Query(ctx, id, expr, at)
	if err != nil {
		return nil, e.blame(ctx, err)
	}
	if most := e.opts.Bounds(id).MaxResults; first && most > 0 && len(out) > most {
		return nil, fmt.Errorf("the rule returned %d series, max_rule_results is %d; aggregate more, or raise the limit", len(out), most)
	}
	if first {
		err = e.group.costs.check(ctx, out)
	} else {
		err = checkTemplateResults(out)
	}
	if err != nil {
		return nil, err
	}
	if e.answers != nil {
		if e.size += len(out) + 1; e.size > maxAnswers {
			clear(e.answers) // the queries are run again
			e.size = len(out) + 1
		}
		e.answers[q] = append(vector(nil), out...)
	}
	return out, nil
}

// blame wraps an error that the tenant did not cause in an operatorError.
func (e *evaluation) blame(ctx context.Context, err error) error {
	if e.opts.UserError(err) && ctx.Err() == nil {
		return err
	}
	if e.failed == nil {
		e.failed = err
	}
	return operatorError{err}
}
