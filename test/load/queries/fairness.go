package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const month = 30 * 24 * time.Hour

// dashboardPanels is the number of panels of tenant B.
const dashboardPanels = 15

// world is a Pallium with three tenants: heavy (A) has many long queries, viewer (B) a
// dashboard, and steady (C) short queries one after another.
type world struct {
	t                     *target
	heavy, viewer, steady string // tokens
	end                   time.Time
	asked                 atomic.Int64 // number of queries, which makes their expressions different
}

// condition has the measurements of the dashboard while one other tenant, or no other, was active.
type condition struct {
	name  string
	walls []time.Duration
	cpu   time.Duration
	wall  time.Duration
	other int64 // successful queries of the other tenant
}

// fairness measures the latency of a dashboard while another tenant has many long queries
// queued, and while another tenant uses as much CPU with short queries, in turns.
func fairness(ctx context.Context, o options) (err error) {
	w := &world{}
	if w.t, err = newPallium("fairness", o.pallium, filepath.Join(o.dir, "fairness"), o.config+"\n"); err != nil {
		return err
	}
	defer func() { w.t.stop(syscall.SIGKILL) }()
	if err := w.prepare(ctx, o); err != nil {
		return err
	}
	heavy, steady, alone := condition{name: "beside A"}, condition{name: "beside C"}, condition{name: "alone"}
	if err := w.phase(ctx, o, &condition{}, 0, w.short); err != nil { // fills caches
		return err
	}
	if err := w.phase(ctx, o, &alone, 0, w.short); err != nil {
		return err
	}
	defer w.t.profile(o.profile, "fairness", int(o.phase.Seconds()))()
	for range o.phases {
		one := condition{}
		if err := w.phase(ctx, o, &one, o.queued, w.long); err != nil {
			return err
		}
		heavy.join(one)
		load := float64(one.cpu) / float64(one.wall)
		one = condition{}
		if err := w.phase(ctx, o, &one, 8, w.paced(load)); err != nil {
			return err
		}
		steady.join(one)
	}
	fmt.Printf("\nfairness: tenant B, a dashboard of %d panels over 6 h every %s\n", dashboardPanels, o.every)
	fmt.Printf("  tenant A, %d queries over 30 days of samples at 60 s, it has %d series; tenant C, short queries\n", o.queued, o.fairSeries)
	for _, c := range []*condition{&alone, &heavy, &steady} {
		fmt.Printf("  %-9s %4d panels: p50 %7.1f ms, p90 %7.1f ms, p99 %7.1f ms; %.2f s CPU per second; the other had %d answers\n",
			c.name, len(c.walls), ms(quantile(c.walls, 0.5)), ms(quantile(c.walls, 0.9)), ms(quantile(c.walls, 0.99)),
			c.cpu.Seconds()/c.wall.Seconds(), c.other)
	}
	fmt.Printf("  beside A / beside C: p50 %.2f, p90 %.2f, p99 %.2f\n", ratio(quantile(heavy.walls, 0.5), quantile(steady.walls, 0.5)),
		ratio(quantile(heavy.walls, 0.9), quantile(steady.walls, 0.9)), ratio(quantile(heavy.walls, 0.99), quantile(steady.walls, 0.99)))
	return nil
}

func (c *condition) join(d condition) {
	c.walls = append(c.walls, d.walls...)
	c.cpu, c.wall, c.other = c.cpu+d.cpu, c.wall+d.wall, c.other+d.other
}

// prepare writes the samples of all tenants.
func (w *world) prepare(ctx context.Context, o options) (err error) {
	if err := w.t.start(); err != nil {
		return err
	}
	w.end = time.Now().Truncate(time.Minute)
	for i, token := range []*string{&w.heavy, &w.viewer, &w.steady} {
		if *token, err = w.t.tenant(fmt.Sprint("tenant-", i)); err != nil {
			return err
		}
		w.t.token = *token
		series := o.fairSeries
		if i > 0 {
			series /= 4 // a dashboard and short queries need fewer
		}
		if err := newGenerator(series, time.Minute, w.end.Add(-month)).fill(ctx, w.end, true, w.t); err != nil {
			return err
		}
	}
	if err := w.t.compact(); err != nil {
		return err
	}
	w.t.settle(ctx)
	return nil
}

// phase refreshes the dashboard while clients of another tenant send one query after another.
func (w *world) phase(ctx context.Context, o options, c *condition, clients int, ask func(ctx context.Context, c *condition) error) error {
	others, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	failed := make(chan error, clients)
	start := &condition{cpu: w.t.cpu()}
	for range clients {
		wg.Go(func() {
			for others.Err() == nil {
				if err := ask(others, start); err != nil && others.Err() == nil {
					failed <- err
					return
				}
			}
		})
	}
	if err := sleep(ctx, 2*time.Second); err != nil { // until the queue is full
		return err
	}
	before, began := w.t.cpu(), time.Now()
	var err error
	for next := began; time.Since(began) < o.phase && err == nil; {
		var walls []time.Duration
		walls, err = w.t.refresh(ctx, w.viewer, panels(6 * time.Hour)[:dashboardPanels], w.end.Add(time.Since(began)))
		c.walls = append(c.walls, walls...)
		if next = next.Add(o.every); err == nil {
			err = sleep(ctx, time.Until(next))
		}
	}
	c.cpu, c.wall = w.t.cpu()-before, time.Since(began)
	cancel()
	wg.Wait()
	c.other = atomic.LoadInt64(&start.other)
	close(failed)
	w.t.settle(ctx)
	return errors.Join(err, <-failed)
}

// long sends a query over 30 days that reads all samples of a metric.
func (w *world) long(ctx context.Context, c *condition) error {
	text := fmt.Sprintf(`sum by (job) (rate(http_requests_total{pod!="%d"}[1h]))`, w.asked.Add(1))
	return w.other(ctx, c, w.heavy, rangeQuery{text: text, start: w.end.Add(-month), end: w.end, step: time.Hour})
}

// short sends a query over an hour.
func (w *world) short(ctx context.Context, c *condition) error {
	text := fmt.Sprintf(`sum by (job) (rate(http_requests_total{pod!="%d"}[5m]))`, w.asked.Add(1))
	end := w.end.Add(-time.Duration(w.asked.Load()%20) * 24 * time.Hour)
	return w.other(ctx, c, w.steady, rangeQuery{text: text, start: end.Add(-time.Hour), end: end, step: 15 * time.Second})
}

// paced returns a function that calls the method `short`, or waits while the process has used more
// than `load` CPU seconds per second.
func (w *world) paced(load float64) func(context.Context, *condition) error {
	var once sync.Once
	var began time.Time
	return func(ctx context.Context, c *condition) error {
		once.Do(func() { began = time.Now() })
		used := float64(w.t.cpu() - c.cpu)
		if allowed := load * float64(time.Since(began)); used > allowed {
			return sleep(ctx, time.Duration((used-allowed)/load)+time.Millisecond)
		}
		return w.short(ctx, c)
	}
}

func (w *world) other(ctx context.Context, c *condition, token string, q rangeQuery) error {
	_, _, err := w.t.ask(ctx, token, q)
	if err == nil {
		atomic.AddInt64(&c.other, 1)
	}
	return err
}
