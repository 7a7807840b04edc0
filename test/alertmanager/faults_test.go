package alertmanager

import (
	"context"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	chaos "github.com/palliumhq/pallium/test/chaos/cluster"
)

// fault is a fault of one part of the system that can be started and ended.
type fault struct {
	trouble
	part string // part of the system; each part has at most one fault at a time
	do   func() error
	undo func() error
	// sending is set if the fault begins while a notification is being sent.
	sending bool
}

// pick returns a random fault.
func (r *run) pick() fault {
	switch n := r.rnd.Intn(12); {
	case n < 6:
		return r.processFault()
	case n < 8:
		return r.storeFault()
	case n < 10:
		return r.receiverFault()
	case n < 11:
		return r.redisFault()
	}
	return fault{trouble: trouble{name: "SIGKILL ruler-1", total: true, rules: true, after: afterRuler}, part: "ruler",
		do: func() error { return r.c.Stop(r.ctx, "ruler-1", syscall.SIGKILL) }, undo: func() error { return r.restart("ruler-1") }}
}

// victims returns one, two or all Alertmanagers.
func (r *run) victims() []string {
	list := alertmanagers()
	r.rnd.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:1+r.rnd.Intn(len(list))]
}

func (r *run) processFault() fault {
	list := r.victims()
	f := fault{part: "alertmanager", undo: func() error { return r.restart(list...) },
		trouble: trouble{after: afterProcess, total: len(list) == replicaCount}, sending: r.rnd.Intn(3) > 0}
	switch r.rnd.Intn(3) {
	case 0:
		f.name = "SIGKILL"
		f.do = func() error { return each(list, func(n string) error { return r.c.Stop(r.ctx, n, syscall.SIGKILL) }) }
	case 1:
		f.name = "SIGTERM"
		f.do = func() error { return each(list, func(n string) error { return r.c.Stop(r.ctx, n, syscall.SIGTERM) }) }
	case 2:
		f.name = "SIGSTOP"
		f.do = func() error { return each(list, func(n string) error { return r.c.Signal(n, syscall.SIGSTOP) }) }
		f.undo = func() error { return each(list, func(n string) error { return r.c.Signal(n, syscall.SIGCONT) }) }
	}
	f.name += " " + strings.Join(list, " ")
	return f
}

func (r *run) storeFault() fault {
	list := r.victims()
	mode := []chaos.Mode{chaos.Hang, chaos.Reject, chaos.OneWay}[r.rnd.Intn(3)]
	set := func(m chaos.Mode) error { return each(list, func(n string) error { r.stores[n].Set(m); return nil }) }
	return fault{trouble: trouble{name: fmt.Sprintf("row store %s for %s", mode, strings.Join(list, " ")), after: afterStore, store: true},
		part: "row store", do: func() error { return set(mode) }, undo: func() error { return set(chaos.Pass) }}
}

func (r *run) receiverFault() fault {
	mode := []string{"answers 500", "hangs", "closes"}[r.rnd.Intn(3)]
	set := func(m string) error { r.receiver.set(m); return nil }
	return fault{trouble: trouble{name: "receiver " + mode, after: afterReceiver, total: true}, part: "receiver",
		do: func() error { return set(mode) }, undo: func() error { return set("") }}
}

// redisFault pauses Redis, or stops it. After a stop, Redis is empty.
func (r *run) redisFault() fault {
	f := fault{trouble: trouble{name: "SIGSTOP redis", after: afterRedis, total: true}, part: "redis",
		do:   func() error { return r.c.Signal("redis", syscall.SIGSTOP) },
		undo: func() error { return r.c.Signal("redis", syscall.SIGCONT) }}
	if r.rnd.Intn(2) == 0 {
		f.name = "SIGTERM redis"
		f.do = func() error { return r.c.Stop(r.ctx, "redis", syscall.SIGTERM) }
		f.undo = func() error { return r.restart("redis") }
	}
	return f
}

// each calls f for all names at the same time.
func each(names []string, f func(name string) error) error {
	errs := make([]error, len(names))
	var all sync.WaitGroup
	for i, n := range names {
		all.Go(func() { errs[i] = f(n) })
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// restart starts processes. A process that ends because of another fault is started again, as a supervisor would do.
func (r *run) restart(names ...string) error {
	return each(names, func(name string) error {
		var err error
		for range 30 {
			if err = r.c.Start(r.ctx, name); err == nil || r.ctx.Err() != nil {
				return err
			}
			time.Sleep(2 * time.Second)
		}
		return err
	})
}

// disturb causes at most `most` faults of different parts of the system, which may overlap, and returns when all have
// ended.
func (r *run) disturb(most int) {
	n := 1 + r.rnd.Intn(most)
	var all sync.WaitGroup
	var parts []string
	for len(parts) < n {
		f := r.pick()
		if slices.Contains(parts, f.part) {
			continue
		}
		parts = append(parts, f.part)
		before, lasts := r.random(0, r.longest/2), r.random(r.shortest, r.longest)
		if f.part == "redis" {
			lasts = min(lasts, 15*time.Second)
		}
		all.Go(func() {
			if sleep(r.ctx, before) != nil {
				return
			}
			if f.sending {
				select {
				case <-r.ledger.next():
				case <-time.After(r.longest):
				}
			}
			r.t.Logf("%s: %s for %s", clock(time.Now()), f.name, lasts.Round(time.Millisecond))
			end := r.ledger.fault(f.trouble)
			defer end()
			if err := f.do(); err != nil {
				r.t.Errorf("%s: %v", f.name, err)
			}
			_ = sleep(r.ctx, lasts)
			if err := f.undo(); err != nil {
				r.t.Errorf("the end of %s: %v", f.name, err)
			}
			r.t.Logf("%s: the end of %s", clock(time.Now()), f.name)
		})
	}
	all.Wait()
}

// random returns a random duration. Only the goroutine of the test calls it.
func (r *run) random(least, most time.Duration) time.Duration { return between(r.rnd, least, most) }

func between(rnd *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(rnd.Int63n(int64(most-least)+1))
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
