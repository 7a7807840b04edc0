package ruler

import (
	"context"
	"time"

	"github.com/prometheus/prometheus/rules"
)

// writer is the rule that is evaluated. Prometheus' group evaluates its rules one after the other; each begins with
// its query, and asks for an appender if the evaluation succeeded.
type writer struct {
	ctx      any  // of the queries of the rule, which identifies it
	place    int  // of the rule in the group, counted from 1
	appended bool // the rule has an appender
}

// note records that a rule runs a query.
func (e *evaluation) note(ctx context.Context) {
	if w := &e.writer; w.ctx != any(ctx) {
		*w = writer{ctx: ctx, place: w.place + 1}
	}
}

// writing returns the rule that asks for an appender, or nil if the group does so for rules that were removed.
func (e *evaluation) writing() rules.Rule {
	w, list := &e.writer, e.group.rules.Rules()
	if e.repeat || w.appended || w.place == 0 || w.place > len(list) {
		return nil
	}
	w.appended = true
	if rule := list[w.place-1]; rule.LastError() == nil { // otherwise it failed, and has no appender
		return rule
	}
	return nil
}

// lateAlerts are alerts that changed at slots of a takeover that are evaluated late. They are sent with those of the
// last slot, in the state that they have then: an alert that was resolved meanwhile must not be sent as active again.
type lateAlerts struct {
	more   bool // another slot follows
	byRule map[string]map[uint64]*rules.Alert
}

// notify sends alerts, or keeps them until the last slot is evaluated.
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

// unsent makes the alerts that were kept at a slot due again at the next one.
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

// sendLate sends the alerts that were kept and were not sent with those of the last slot: they were resolved, and
// are pending again, or their rule failed.
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
