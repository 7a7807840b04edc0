package main

import (
	"context"
	"time"

	"github.com/palliumhq/pallium/backend/clock"
	"github.com/palliumhq/pallium/backend/objects"
)

// timedObjects is an object store that has a clock.
type timedObjects interface {
	Now(context.Context) (time.Time, error)
}

// guardClock compares this process's clock with those of the cluster's Redis and of
// the bucket, as far as there are any, until the process ends. What is deleted by its
// time waits for the first answer.
func (p *process) guardClock(ctx context.Context, obj objects.Store) *clock.Guard {
	o := clock.Options{Now: p.opts.Now, Running: p.opts.Running, Logger: p.opts.Logger, Registerer: p.registry}
	if p.redis != nil {
		o.Sources = append(o.Sources,
			clock.Source{Name: "redis", Now: func(ctx context.Context) (time.Time, error) { return p.redis.Time(ctx).Result() }})
	}
	if timed, ok := obj.(timedObjects); ok {
		o.Sources = append(o.Sources, clock.Source{Name: "bucket", Now: timed.Now})
	}
	guard := clock.New(o)
	if len(o.Sources) == 0 {
		return guard
	}
	p.startup.step("comparing the clock with those of others")
	guard.Ask(ctx)
	p.start("comparison of clocks", guard.Run)
	return guard
}
