package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/rpc"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/gateway/admin/operator"
)

// AcceptLoss implements operator.Backend. The lost ingesters need not be running. Without
// replication, each ingester itself records the samples that it lost with a damaged log, so
// AcceptLoss also calls the ingesters.
func (o operations) AcceptLoss(ctx context.Context, day int64) (int, error) {
	n, err := o.b.longTerm.AcceptLoss(ctx, day)
	if err != nil {
		return n, err
	}
	lost, err := o.acceptLogLoss(ctx, day)
	return n + lost, unavailable(err)
}

func (o operations) acceptLogLoss(ctx context.Context, day int64) (int, error) {
	m := o.b.cluster
	if m == nil {
		return o.b.ingester.AcceptLoss(day)
	}
	if m.replication > 1 {
		return 0, nil // replicas have the samples
	}
	var accepted atomic.Int64
	err := m.eachIngester(ctx, func(ctx context.Context, p *rpc.Peer) error {
		n, err := p.AcceptLoss(ctx, day)
		accepted.Add(int64(n))
		return err
	})
	return int(accepted.Load()), err
}

// Losses implements operator.Backend: it lists the windows of lost ingesters and, without
// replication, the windows with samples that were lost with a damaged log.
func (o operations) Losses(ctx context.Context) ([]operator.Loss, error) {
	out, err := o.lostIngesters(ctx)
	if err != nil {
		return nil, err
	}
	m := o.b.cluster
	switch {
	case m == nil:
		return append(out, logLosses(o.b.ingester.Stats())...), nil
	case m.replication > 1:
		return out, nil // replicas have the samples
	}
	var mu sync.Mutex
	err = m.eachIngester(ctx, func(ctx context.Context, p *rpc.Peer) error {
		text, err := p.Status(ctx)
		if err != nil {
			return err
		}
		var s processStatus
		if err := json.Unmarshal(text, &s); err != nil {
			return fmt.Errorf("decode status: %w", err)
		}
		if s.Ingester == nil {
			return fmt.Errorf("the status of %s has no part about its ingester", s.Instance)
		}
		mu.Lock()
		defer mu.Unlock()
		out = append(out, logLosses(*s.Ingester)...)
		return nil
	})
	return out, unavailable(err)
}

// logLosses returns the windows with samples that an ingester lost with its log.
func logLosses(s ingester.Stats) (out []operator.Loss) {
	for _, l := range s.Lost {
		for t := series.WindowStart(l.MinTime); t <= l.MaxTime; t += series.WindowMillis {
			w := store.WindowOf(t)
			one := operator.Loss{Ingester: s.ID, Tenant: l.Tenant, Day: w.Day, Window: w.Number}
			if !slices.Contains(out, one) {
				out = append(out, one)
			}
		}
	}
	return out
}

// LostIngesters implements operator.Ring.
func (o clusterOperations) LostIngesters(ctx context.Context) ([]operator.Loss, error) {
	return operations{b: o.b}.lostIngesters(ctx)
}

func (o operations) lostIngesters(ctx context.Context) ([]operator.Loss, error) {
	losses, err := o.b.longTerm.Losses(ctx)
	var out []operator.Loss
	for _, l := range losses {
		one := operator.Loss{Ingester: l.Ingester, Zone: l.Zone, Tenant: l.Tenant, Day: l.Window.Day, Window: l.Window.Number}
		if !slices.Contains(out, one) {
			out = append(out, one)
		}
	}
	return out, err
}
