package main

import (
	"context"
	"time"

	"github.com/palliumhq/pallium/backend/clock"
	"github.com/palliumhq/pallium/backend/objects"
)

// timedObjects is an object store with a clock.
type timedObjects interface {
	Now(context.Context) (time.Time, error)
}

// guardClock compares this process's clock with the clocks of Redis and the bucket, if
// configured, until the process ends. Nothing is deleted by its age before the first
// comparison.
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
	p.startup.step("comparing the clock with the clocks of Redis and the bucket")
	guard.Ask(ctx)
	p.start("clock comparison", guard.Run)
	return guard
}
