package app

import (
	"context"
	"sync"
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
func (a *App) guardClock(ctx context.Context, obj objects.Store) {
	o := clock.Options{Now: a.opts.Now, Running: a.opts.Running, Logger: a.opts.Logger, Registerer: a.registry}
	if a.redis != nil {
		o.Sources = append(o.Sources, clock.Source{Name: "redis", Now: func(ctx context.Context) (time.Time, error) { return a.redis.Time(ctx).Result() }})
	}
	if timed, ok := obj.(timedObjects); ok {
		o.Sources = append(o.Sources, clock.Source{Name: "bucket", Now: timed.Now})
	}
	a.clock = clock.New(o)
	if len(o.Sources) == 0 {
		return
	}
	a.startup.step("comparing the clock with those of others")
	a.clock.Ask(ctx)
	running, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { a.clock.Run(running) })
	a.closeWorker("comparison of clocks", cancel, &done)
}
