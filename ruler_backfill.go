package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/ruler"
	"github.com/palliumhq/pallium/backend/ruler/backfill"
	"github.com/palliumhq/pallium/backend/rules"
	"github.com/palliumhq/pallium/backend/series"
)

var errNoShare = errors.New("another process evaluates the group")

// backfills connects the backfills of recording rules with the rules and shares of this process.
type backfills struct {
	b       *backend
	ruling  *ruling
	queries *ruleQueries
	rules   *index.Rules
}

// definitionOf returns a stored group for the ruler.
func definitionOf(g *index.RuleGroup) ruler.Definition {
	d := ruler.Definition{Namespace: g.Namespace, Err: g.Err, Text: g.YAML, Written: time.UnixMilli(g.Written)}
	d.Group.Name = g.Name
	if d.Err != nil {
		return d
	}
	doc, err := rules.Stored(g.Namespace, []byte(g.YAML))
	if err != nil {
		d.Err = err
		return d
	}
	d.Group, d.AlignEvaluationTime = doc.RuleGroup, doc.AlignEvaluationTimeOnInterval
	if d.Group.QueryOffset == nil {
		d.Group.QueryOffset = doc.EvaluationDelay
	}
	return d
}

// group returns the current definition of a backfill's group. First is its first slot at or after start, Last its last slot at
// or before end.
func (p backfills) group(ctx context.Context, b *index.Backfill, start, end time.Time) (*backfill.Group, error) {
	stored, ok, err := p.rules.Get(ctx, b.Tenant, b.Namespace, b.Group)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%w: it was deleted", backfill.ErrNoGroup)
	}
	d := definitionOf(&stored)
	bounds := p.b.ruleBounds(b.Tenant)
	switch {
	case d.Err != nil:
		return nil, fmt.Errorf("%w: %w", backfill.ErrNoGroup, d.Err)
	case !bounds.Recording:
		return nil, fmt.Errorf("%w: recording rules are switched off (limit recording_rules)", backfill.ErrNoGroup)
	}
	g := &backfill.Group{Tenant: b.Tenant, Namespace: b.Namespace, Name: b.Group,
		Rules: d.Group.Rules, Labels: d.Group.Labels, Limit: d.Group.Limit, Interval: time.Duration(d.Group.Interval), Offset: bounds.QueryOffset}
	if most := bounds.MaxResults; most > 0 && (g.Limit == 0 || most < g.Limit) {
		g.Limit = most
	}
	if g.Interval <= 0 {
		g.Interval = ruler.DefaultInterval
	}
	if d.Group.QueryOffset != nil {
		g.Offset = time.Duration(*d.Group.QueryOffset)
	}
	slot := func(at time.Time) time.Time {
		return ruler.Slot(b.Tenant, b.Namespace, b.Group, g.Interval, d.AlignEvaluationTime, at)
	}
	if g.First = slot(start); g.First.Before(start) {
		g.First = g.First.Add(g.Interval)
	}
	g.Last = slot(end)
	return g, nil
}

// mine reports whether this process evaluates a group.
func (p backfills) mine(id tenant.ID, namespace, group string) bool {
	_, _, ok := p.ruling.holder.Lease(ruler.Share(id, namespace, group, p.ruling.count))
	return ok
}

// push writes samples of a backfill. It fails if this process does not hold the share of the group.
func (p backfills) push(ctx context.Context, g *backfill.Group, entries []series.Entry) error {
	share := ruler.Share(g.Tenant, g.Namespace, g.Name, p.ruling.count)
	number, deadline, ok := p.ruling.holder.Lease(share)
	if !ok {
		return errNoShare
	}
	ctx, cancel := context.WithTimeout(ctx, deadline-p.b.running()())
	defer cancel()
	lim := p.b.limitsOf(g.Tenant)
	fence := &series.Fence{Share: share, Number: number}
	out, err := p.b.push(ctx, &series.Batch{Tenant: g.Tenant, Limits: &lim, Entries: entries, Fence: fence})
	switch {
	case err != nil:
		return err
	case len(out.Rejections) > 0:
		return tenantError{errors.New(out.String())}
	}
	return nil
}
