package ruler

import (
	"context"
	"time"

	"github.com/prometheus/prometheus/rules"
)

// writer identifies the rule that is being evaluated. Prometheus' group evaluates its rules one after the other. Each
// evaluation begins with the query of the rule, and requests an appender if it succeeds.
type writer struct {
	ctx      any  // context of the queries of the rule, which identifies the rule
	place    int  // position of the rule in the group, counted from 1
	appended bool // whether the rule has requested an appender
}

// note records that a rule runs a query.
func (e *evaluation) note(ctx context.Context) {
	if w := &e.writer; w.ctx != any(ctx) {
		*w = writer{ctx: ctx, place: w.place + 1}
	}
}

// writing returns the rule that requests an appender, or nil if the group requests it for removed rules.
func (e *evaluation) writing() rules.Rule {
	w, list := &e.writer, e.group.rules.Rules()
	if e.repeat || w.appended || w.place == 0 || w.place > len(list) {
		return nil
	}
	w.appended = true
	if rule := list[w.place-1]; rule.LastError() == nil { // a failed rule does not request an appender
		return rule
	}
	return nil
}

// lateAlerts contains alerts that changed at slots that are evaluated late. They are sent only after the last of these slots, with
// the state that they have then: an alert that was resolved in between must not be sent as active.
type lateAlerts struct {
	more   bool // whether another late slot follows
	byRule map[string]map[uint64]*rules.Alert
}

// notify sends alerts, or keeps them until the last late slot is evaluated.
func (e *evaluation) notify(ctx context.Context, expr string, alerts []*rules.Alert) {
	if e.repeat || e.late == nil || len(alerts) == 0 {
		return
	}
	known := e.late.byRule[expr]
	if e.late.more {
		if known == nil {
			known = map[uint64]*rules.Alert{}
			e.late.byRule[expr] = known
		}
		for _, a := range alerts {
			known[a.Labels.Hash()] = a
		}
		return
	}
	for _, a := range alerts {
		delete(known, a.Labels.Hash())
	}
	e.send(ctx, expr, alerts)
}

// send sends alerts, unless the evaluation was canceled or the lease of its share has ended.
func (e *evaluation) send(ctx context.Context, expr string, alerts []*rules.Alert) {
	if number, _, ok := e.opts.Shares.Lease(e.group.share); !ok || number != e.group.number || ctx.Err() != nil {
		return
	}
	e.opts.Notify(ctx, e.group.tenant.id, expr, alerts...)
}

// unsent makes the alerts that were kept at a slot due again at the next slot.
func (l *lateAlerts) unsent(of *rules.Group) {
	if !l.more {
		return
	}
	for _, rule := range alerting(of) {
		known := l.byRule[rule.Query().String()]
		rule.ForEachActiveAlert(func(a *rules.Alert) {
			if known[a.Labels.Hash()] != nil {
				a.LastSentAt = time.Time{}
			}
		})
	}
}

// sendLate sends the kept alerts that were not sent with the alerts of the last slot: alerts that were resolved and are pending
// again, or whose rule failed.
func (e *evaluation) sendLate(ctx context.Context) {
	for expr, known := range e.late.byRule {
		var list []*rules.Alert
		for _, a := range known {
			list = append(list, a)
		}
		if len(list) > 0 {
			e.send(ctx, expr, list)
		}
	}
}
