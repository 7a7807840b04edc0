package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// atOnce is the number of panels that a browser requests concurrently.
const atOnce = 6

// dashboard refreshes 20 panels in each process in turns. Before each refresh, the latest
// samples are written to all processes.
func (w *trio) dashboard(ctx context.Context, o options) error {
	// Write the samples from the end of the data set until now.
	if err := w.gen.fill(ctx, time.Now(), false, w.all()...); err != nil {
		return err
	}
	for _, span := range []time.Duration{6 * time.Hour, 24 * time.Hour} {
		if err := w.refresh(ctx, o, span); err != nil {
			return err
		}
	}
	return nil
}

// refresh measures the dashboard over one range.
func (w *trio) refresh(ctx context.Context, o options, span time.Duration) error {
	list := panels(span)[:20]
	var spent [3]time.Duration
	var took [3][]time.Duration
	before := w.cpus()
	began := time.Now()
	n := 0
	for next := began; time.Since(began) < o.refreshes; n++ {
		if err := w.gen.fill(ctx, time.Now(), false, w.all()...); err != nil {
			return err
		}
		for j := range 3 {
			i := (j + n) % 3
			start := w.all()[i].cpu()
			walls, err := w.all()[i].refresh(ctx, w.all()[i].token, list, time.Now())
			if err != nil {
				return err
			}
			spent[i] += w.all()[i].cpu() - start
			took[i] = append(took[i], walls...)
		}
		next = next.Add(o.every)
		if err := sleep(ctx, time.Until(next)); err != nil {
			return err
		}
	}
	after := w.cpus()
	fmt.Printf("\ndashboard of %d panels over %s, refreshed %d times in %s, with samples written\n", len(list), short(span), n,
		time.Since(began).Round(time.Second))
	for i, t := range w.all() {
		fmt.Printf("  %-12s %6.1f ms CPU per refresh, %5.1f s in all; panels: p50 %6.1f ms, p99 %6.1f ms\n", t.name,
			ms(spent[i]/time.Duration(n)), (after[i] - before[i]).Seconds(), ms(quantile(took[i], 0.5)), ms(quantile(took[i], 0.99)))
	}
	fmt.Printf("  CPU: frontend/Prometheus %.3f, frontend/no frontend %.3f\n", ratio(spent[0], spent[2]), ratio(spent[0], spent[1]))
	return nil
}

func (w *trio) cpus() (out [3]time.Duration) {
	for i, t := range w.all() {
		out[i] = t.cpu()
	}
	return out
}

// refresh queries all panels, atOnce concurrently, and returns the latency of each.
func (t *target) refresh(ctx context.Context, token string, list []panel, now time.Time) ([]time.Duration, error) {
	var mu sync.Mutex
	var walls []time.Duration
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, p := range list {
		g.Go(func() error {
			_, wall, err := t.ask(ctx, token, p.at(now))
			mu.Lock()
			defer mu.Unlock()
			walls = append(walls, wall)
			return err
		})
	}
	return walls, g.Wait()
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func quantile(list []time.Duration, q float64) time.Duration {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Clone(list)
	slices.Sort(sorted)
	return sorted[int(q*float64(len(sorted)-1))]
}
