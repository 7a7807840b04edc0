package shares

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/rows/faulty"
	"github.com/palliumhq/pallium/backend/rows/memory"
	"github.com/palliumhq/pallium/backend/schema"
)

// world simulates rulers and one row store. `now` is the true time. Everything runs in one goroutine:
// while a ruler waits for the store, the others run.
type world struct {
	t      *testing.T
	rng    *rand.Rand
	now    time.Duration
	count  int
	store  *index.Shares
	plan   *faults.Plan
	rulers []*ruler
	late   []late // calls that are executed after their caller got an error
	number []uint64
	holder []string
}

type late struct {
	at time.Duration
	do func()
}

// ruler is one process. Its clock runs at its own rate.
type ruler struct {
	*world
	name    string
	h       *Holder
	rate    float64
	next    time.Duration // time of its next poll
	busy    bool          // whether a poll is in progress
	crashed bool
	hidden  time.Duration // time at which the ring notices its crash
	cutoff  time.Duration // time until which it cannot reach the store
	chaos   bool          // whether pauses and faults are injected
	slow    bool          // whether all calls are paused, with chaos
	leaving []func()
}

func newWorld(t *testing.T, seed uint64, count int) *world {
	t.Helper()
	mem, err := memory.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mem.Close() })
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), count: count, plan: &faults.Plan{},
		number: make([]uint64, count), holder: make([]string, count)}
	ix, err := index.New(index.Options{Rows: faulty.Store{Store: mem, Plan: w.plan}})
	if err != nil {
		t.Fatal(err)
	}
	w.store = ix.Shares
	return w
}

func (w *world) start(name string, chaos bool) *ruler {
	r := &ruler{world: w, name: name, rate: 0.96 + 0.08*w.rng.Float64(), next: w.now + w.within(pollInterval), chaos: chaos}
	r.h = New(Options{Store: r, Count: w.count, ID: fmt.Sprintf("%s/%x", name, w.rng.Uint64()), Rulers: w.ring, Parallel: 1,
		Running: func() time.Duration { return time.Duration(float64(w.now) * r.rate) },
		Now:     func() time.Time { return time.UnixMilli(1_790_000_000_000).Add(w.now) }})
	w.rulers = append(w.rulers, r)
	return r
}

func (w *world) within(d time.Duration) time.Duration { return time.Duration(w.rng.Int64N(int64(d))) }

func (w *world) ring(context.Context) ([]string, error) {
	var names []string
	for _, r := range w.rulers {
		if (!r.crashed || w.now < r.hidden) && !slices.Contains(names, r.name) {
			names = append(names, r.name)
		}
	}
	return names, nil
}

// until advances the clock to `end`, and runs the polls and late writes that become due.
func (w *world) until(end time.Duration) {
	for {
		at, run := end, func() {}
		for _, r := range w.rulers {
			if !r.busy && !r.crashed && r.next < at {
				at, run = r.next, r.poll
			}
		}
		for i, l := range w.late {
			if l.at < at {
				at, run = l.at, func() { w.late = slices.Delete(w.late, i, i+1); l.do() }
			}
		}
		w.now = max(w.now, at)
		w.check()
		if at == end {
			return
		}
		run()
		w.check()
	}
}

// check fails the test if two rulers may write the same share.
func (w *world) check() {
	for i := range w.count {
		by := ""
		for _, r := range w.rulers {
			if r.crashed {
				continue
			}
			if _, _, ok := r.h.Lease(i); ok && by != "" {
				w.t.Fatalf("at %v both %s and %s may write share %d", w.now, by, r.h.opts.ID, i)
			} else if ok {
				by = r.h.opts.ID
			}
		}
	}
}

func (r *ruler) poll() {
	r.busy = true
	r.h.poll(context.Background(), r)
	r.busy = false
	r.next = max(r.next+pollInterval, r.now)
	for _, ended := range r.leaving {
		ended()
	}
	r.leaving = nil
}

func (r *ruler) Gained(share int, number uint64, idle time.Duration) {
	if number < r.number[share] || number == r.number[share] && r.holder[share] != r.h.opts.ID {
		r.t.Fatalf("%s gained share %d with number %d after %s had number %d", r.h.opts.ID, share, number, r.holder[share], r.number[share])
	}
	if first := r.number[share] == 0; first != (idle == Forever) && !r.chaos {
		r.t.Fatalf("share %d is gained after idle time %v, first holder: %t", share, idle, first)
	}
	r.number[share], r.holder[share] = number, r.h.opts.ID
}

func (r *ruler) Lost(_ int, ended func()) { r.leaving = append(r.leaving, ended) }

var errUnreachable = errors.New("the store cannot be reached")

// call runs a call of the store with delays before and after it, in which others run. With
// chaos the process may be paused in the delays, and the call may fail before, after or long
// after its execution.
func (r *ruler) call(do func(ctx context.Context) error) error {
	pause := func() {
		d := r.within(20 * time.Millisecond)
		if r.chaos && (r.slow || r.rng.IntN(60) == 0) {
			d = r.within(25 * time.Second)
		}
		r.until(r.now + d)
	}
	pause()
	defer pause()
	if r.now < r.cutoff {
		r.until(r.now + callTimeout)
		return errUnreachable
	}
	if r.chaos {
		switch r.rng.IntN(40) {
		case 0:
			r.plan.Fail(1, faults.Rejected)
		case 1:
			r.plan.Fail(1, faults.Lost)
		case 2:
			at := r.now + r.within(20*time.Second)
			r.late = append(r.late, late{at, func() { _ = do(context.Background()) }})
			return errUnreachable
		}
	}
	return do(context.Background())
}

func (r *ruler) ReadAll(_ context.Context, count int) (s []schema.Share, bad map[int]error, err error) {
	err = r.call(func(ctx context.Context) (err error) { s, bad, err = r.store.ReadAll(ctx, count); return err })
	return s, bad, err
}

func (r *ruler) Read(_ context.Context, i int) (s schema.Share, err error) {
	err = r.call(func(ctx context.Context) (err error) { s, err = r.store.Read(ctx, i); return err })
	return s, err
}

func (r *ruler) Take(_ context.Context, i int, old schema.Share, id string, until int64) (s schema.Share, ok bool, err error) {
	s = schema.Share{Holder: id, Number: old.Number + 1, Sequence: old.Sequence + 1, Until: until} // returned even if the call fails
	err = r.call(func(ctx context.Context) (err error) { s, ok, err = r.store.Take(ctx, i, old, id, until); return err })
	return s, ok, err
}

func (r *ruler) Renew(_ context.Context, i int, old schema.Share, until int64) (s schema.Share, ok bool, err error) {
	s = schema.Share{Holder: old.Holder, Number: old.Number, Sequence: old.Sequence + 1, Until: until}
	err = r.call(func(ctx context.Context) (err error) { s, ok, err = r.store.Renew(ctx, i, old, until); return err })
	return s, ok, err
}

func (r *ruler) Release(_ context.Context, i int, old schema.Share, now int64) (s schema.Share, ok bool, err error) {
	s = schema.Share{Number: old.Number, Sequence: old.Sequence + 1, Until: now}
	err = r.call(func(ctx context.Context) (err error) { s, ok, err = r.store.Release(ctx, i, old, now); return err })
	return s, ok, err
}

// held returns the number of shares that a running ruler may write.
func (w *world) held() int {
	n := 0
	for i := range w.count {
		for _, r := range w.rulers {
			if _, _, ok := r.h.Lease(i); ok && !r.crashed {
				n++
			}
		}
	}
	return n
}

func (r *ruler) crash() {
	r.crashed, r.hidden = true, r.now+30*time.Second
}

// stop releases the shares, like a process that ends normally.
func (r *ruler) stop() {
	r.busy, r.slow = true, true // it polls no more, and others may take each share before its release returns
	r.h.Release(context.Background())
	r.crashed, r.hidden = true, r.now
}

// TestHistories runs random histories of rulers that start, stop, crash, are paused or cannot
// reach the store, whose calls fail with unknown outcomes. At no time may two rulers write the
// same share, and numbers only grow. In the end, without faults, all shares are held.
func TestHistories(t *testing.T) {
	seeds := 40
	if testing.Short() {
		seeds = 20
	}
	for seed := range seeds {
		w := newWorld(t, uint64(seed), 5)
		for i := range 3 {
			w.start(fmt.Sprint("r", i), true)
		}
		for started := 3; w.now < 10*time.Minute; {
			w.until(w.now + w.within(20*time.Second))
			r := w.rulers[w.rng.IntN(len(w.rulers))]
			switch {
			case w.rng.IntN(2) == 0 || r.crashed || r.busy:
			case w.rng.IntN(2) == 0:
				r.cutoff = w.now + w.within(30*time.Second)
			case w.rng.IntN(2) == 0:
				r.crash()
				w.start(r.name, true) // as another incarnation
			case w.rng.IntN(2) == 0:
				r.stop()
				w.start(fmt.Sprint("r", started), true)
				started++
			default:
				r.crash()
				w.start(fmt.Sprint("r", started), true)
				started++
			}
		}
		for _, r := range w.rulers {
			r.chaos, r.cutoff = false, 0
		}
		w.plan.Heal()
		w.until(w.now + 3*time.Minute)
		if n := w.held(); n != w.count {
			t.Fatalf("seed %d: %d of %d shares are held three minutes after the last fault", seed, n, w.count)
		}
	}
}

// TestTakeover checks how long shares have no holder when rulers stop normally, and when they crash
// and the ring notices this only after 30 s.
func TestTakeover(t *testing.T) {
	for _, c := range []struct {
		what   string
		stop   func(*ruler)
		within time.Duration
	}{{"crash", (*ruler).crash, 15 * time.Second}, {"stop", (*ruler).stop, 4 * time.Second}} {
		for seed := range 30 {
			w := newWorld(t, uint64(seed), 16)
			for i := range 4 {
				w.start(fmt.Sprint("r", i), false)
			}
			w.until(40*time.Second + w.within(pollInterval))
			if n := w.held(); n != w.count {
				t.Fatalf("seed %d: %d of %d shares are held after the start", seed, n, w.count)
			}
			r := w.rulers[w.rng.IntN(4)]
			had := r.h.Held()
			c.stop(r)
			w.until(w.now + c.within)
			if n := w.held(); n != w.count || had == 0 {
				t.Fatalf("seed %d: %v after the %s of a ruler with %d shares, %d of %d are held", seed, c.within, c.what, had, n, w.count)
			}
		}
	}
}

// TestJoin checks that a joining ruler gets the shares that it owns, and no others.
func TestJoin(t *testing.T) {
	w := newWorld(t, 1, 64)
	w.start("r0", false)
	w.until(30 * time.Second)
	if n := w.rulers[0].h.Held(); n != 64 {
		t.Fatalf("the only ruler holds %d of 64 shares", n)
	}
	r := w.start("r1", false)
	w.until(w.now + 15*time.Second)
	want := 0
	for i := range 64 {
		if weight(i, "r1") > weight(i, "r0") {
			want++
		}
	}
	if n := r.h.Held(); n != want || w.rulers[0].h.Held() != 64-want {
		t.Fatalf("the rulers hold %d and %d of 64 shares; the second one owns %d", w.rulers[0].h.Held(), n, want)
	}
}
