package claims

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/palliumhq/pallium/backend/schema"
)

var errStore = errors.New("the row store does not answer")

// rowStore is a row store in memory.
type rowStore struct {
	mu   sync.Mutex
	rows map[string]schema.Notification
}

// replica is one replica with its connection to the store.
type replica struct {
	*Claims
	store    *rowStore
	position int
	world    *world

	mu   sync.Mutex
	rng  *rand.Rand
	rate float64 // fraction of calls that fail, hang, or return an error although they had an effect
	cut  bool    // all calls hang
	dead bool    // whether it has crashed: its calls and notifications have no effect any more
}

// world is a tenant with its replicas, and one receiver.
type world struct {
	*rowStore
	replicas []*replica
	registry *prometheus.Registry

	mu       sync.Mutex
	sends    []string // name of the replica and alerts, in the order of sending
	sending  int
	overlaps int // number of sends that overlapped with another one
	takes    time.Duration
	fails    error
	// before and after are called before and after each send.
	before, after func(*replica)
}

func newWorld(n int) *world {
	w := &world{rowStore: &rowStore{rows: map[string]schema.Notification{}}, registry: prometheus.NewRegistry(), takes: 100 * time.Millisecond}
	began := time.Now()
	metrics := NewMetrics(w.registry)
	for i := range n {
		r := &replica{store: w.rowStore, position: i, world: w, rng: rand.New(rand.NewPCG(uint64(i), 1))}
		r.Claims = New(Options{Store: r, ID: fmt.Sprintf("r%d", i), Running: func() time.Duration { return time.Since(began) }, Metrics: metrics,
			Tell: func(key, entry string, flushed int64) {
				for _, other := range w.replicas {
					if other != r && !other.is(&other.dead) {
						other.Told(key, entry, flushed)
					}
				}
			}})
		w.replicas = append(w.replicas, r)
	}
	return w
}

func (r *replica) is(flag *bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return *flag
}

func (r *replica) set(flag *bool, to bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*flag = to
}

// fault returns the fault of a call: `before` is an error without an effect of the call, `after` an error after it.
func (r *replica) fault(ctx context.Context) (before, after error) {
	r.mu.Lock()
	hang, p, kind := r.cut || r.dead, r.rng.Float64(), r.rng.IntN(3)
	rate := r.rate
	r.mu.Unlock()
	if hang || p < rate && kind == 0 {
		<-ctx.Done()
		return errStore, nil
	}
	if p >= rate {
		return nil, nil
	}
	if kind == 1 {
		return errStore, nil
	}
	return nil, errStore
}

// Notification implements Store.
func (r *replica) Notification(ctx context.Context, key string) (schema.Notification, error) {
	before, after := r.fault(ctx)
	if err := errors.Join(before, after); err != nil {
		return schema.Notification{}, err
	}
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	return r.store.rows[key], nil
}

// ReplaceNotification implements Store.
func (r *replica) ReplaceNotification(ctx context.Context, key string, old, next schema.Notification) (bool, error) {
	before, after := r.fault(ctx)
	if before != nil {
		return false, before
	}
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	if r.store.rows[key] != old {
		return false, after
	}
	r.store.rows[key] = next
	return true, after
}

// attempt returns an attempt to notify about alerts. The entry that it records is the text of the alerts.
func (r *replica) attempt(alerts string) *Attempt {
	w := r.world
	a := &Attempt{Key: "k", Content: uint64(len(alerts)), Flushed: time.Now(), Updated: time.Now(), Learned: time.Now(),
		Interval: 10 * time.Second, Position: r.position, Unsure: func() (string, error) { return "unsure", nil }}
	a.Due = func(entry string) (due, first bool, err error) {
		return !strings.Contains(entry, alerts), entry == "", nil
	}
	a.Send = func(ctx context.Context) (string, time.Time, error) {
		if w.before != nil {
			w.before(r)
		}
		if r.is(&r.dead) {
			<-ctx.Done()
			return "", time.Time{}, ctx.Err()
		}
		w.mu.Lock()
		takes, fails := w.takes, w.fails
		if w.sending++; w.sending > 1 {
			w.overlaps++
		}
		w.mu.Unlock()
		err := sleep(ctx, takes)
		w.mu.Lock()
		w.sending--
		if err == nil {
			err = fails
		}
		if err == nil {
			w.sends = append(w.sends, fmt.Sprintf("r%d %s", r.position, alerts))
		}
		w.mu.Unlock()
		if err == nil && w.after != nil {
			w.after(r)
		}
		return alerts, time.Now().Add(time.Hour), err
	}
	return a
}

// notify calls Notify of all replicas with a timeout, and returns their errors.
func (w *world) notify(alerts string, within time.Duration) []error {
	errs := make([]error, len(w.replicas))
	var wg sync.WaitGroup
	for i, r := range w.replicas {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), within)
			defer cancel()
			errs[i] = r.Notify(ctx, r.attempt(alerts))
		})
	}
	wg.Wait()
	return errs
}

func (w *world) metric(name string) float64 {
	n, err := testutil.GatherAndCount(w.registry, name)
	if err != nil || n != 1 {
		panic(fmt.Sprint(name, n, err))
	}
	families, _ := w.registry.Gather()
	for _, f := range families {
		if f.GetName() == name {
			return f.Metric[0].GetCounter().GetValue()
		}
	}
	return -1
}

// TestOnce checks that exactly one replica sends if nothing fails, however long sending takes, and that the other replicas
// regard the notification as sent.
func TestOnce(t *testing.T) {
	for _, takes := range []time.Duration{0, time.Second, 80 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(3)
			w.takes = takes
			for i, alerts := range []string{"a", "ab", "abc"} {
				if errs := w.notify(alerts, 2*time.Minute); errors.Join(errs...) != nil {
					t.Errorf("taking %s: %v", takes, errs)
				}
				if len(w.sends) != i+1 {
					t.Errorf("taking %s: sent %q", takes, w.sends)
				}
				time.Sleep(10 * time.Second)
			}
			if row := w.rows["k"]; row.Holder != "" || row.Entry != "abc" || row.Number != 3 {
				t.Errorf("taking %s: the row is %+v", takes, row)
			}
		})
	}
}

// TestClaimExpires checks that the row of a claim expires after a day, also if the notification is never sent.
func TestClaimExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		w.before = func(r *replica) { r.set(&r.dead, true) }
		w.notify("a", time.Minute)
		row := w.rows["k"]
		if d := time.Until(time.UnixMilli(row.Expires)); row.Holder == "" || d < 23*time.Hour || d > 24*time.Hour {
			t.Errorf("the row is kept for %s: %+v", d, row)
		}
	})
}

// TestCrash checks that a notification is sent if its holder crashes: once if it crashes before it sends, and twice if it
// crashes between sending and recording.
func TestCrash(t *testing.T) {
	for _, c := range []struct {
		what  string
		crash func(w *world, once func(*replica))
		sends int
	}{
		{"after the claim", func(w *world, once func(*replica)) { w.before = once }, 1},
		{"after the send", func(w *world, once func(*replica)) { w.after = once }, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(3)
			var crashed sync.Once
			c.crash(w, func(r *replica) { crashed.Do(func() { r.set(&r.dead, true) }) })
			began := time.Now()
			w.notify("a", 70*time.Second)
			if len(w.sends) != c.sends || w.rows["k"].Entry != "a" || w.metric("pallium_alertmanager_claim_takeovers_total") != 1 {
				t.Errorf("crash %s: sent %q, row %+v", c.what, w.sends, w.rows["k"])
			}
			t.Logf("crash %s: %q after %s", c.what, w.sends, time.Since(began))
		})
	}
}

// TestCrashUnrecorded crashes the holder after it has sent that alerts are resolved and before it has recorded this. The
// other replica, and the row, only know that the alerts fire. The receiver must be notified again, once.
func TestCrashUnrecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(2)
		flush := func(r *replica, alerts string) {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
			defer cancel()
			a := r.attempt(alerts)
			send := a.Send
			a.Send = func(ctx context.Context) (string, time.Time, error) {
				_, expires, err := send(ctx)
				return alerts + time.Now().String(), expires, err // like Alertmanager's entries, which contain a time
			}
			_ = r.Notify(ctx, a) // returns an error when the replica crashes
		}
		flush(w.replicas[0], "firing")
		time.Sleep(20 * time.Second)
		w.after = func(r *replica) { r.set(&r.dead, true) }
		flush(w.replicas[0], "resolved")
		w.after = nil
		for range 6 {
			flush(w.replicas[1], "firing")
			time.Sleep(10 * time.Second)
		}
		row := w.rows["k"]
		if !slices.Equal(w.sends, []string{"r0 firing", "r0 resolved", "r1 firing"}) || !strings.HasPrefix(row.Entry, "firing") || row.Holder != "" {
			t.Errorf("sent %q, row %+v", w.sends, row)
		}
	})
}

// TestCrashResolved crashes the holder after it has sent that alerts fire and before it has recorded this. When the alerts
// are resolved, no replica knows about that notification. The receiver must still be notified of the resolution, also if
// the first attempts fail.
func TestCrashResolved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(3)
		w.after = func(r *replica) { r.set(&r.dead, true) }
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_ = w.replicas[0].Notify(ctx, w.replicas[0].attempt("firing"))
		w.after, w.fails = nil, errors.New("the receiver is down")
		var errs []error
		flush := func(r *replica, learned time.Time) {
			ctx, cancel := context.WithTimeout(t.Context(), 55*time.Second)
			defer cancel()
			a := r.attempt("resolved")
			a.Learned = learned
			a.Due = func(entry string) (due, first bool, err error) { return strings.Contains(entry, "unsure"), false, nil }
			errs = append(errs, r.Notify(ctx, a))
		}
		known := time.Now()
		flush(w.replicas[1], known) // must receive the state of the alerts first
		if !errors.Is(errs[0], ErrUnsure) || len(w.sends) != 1 {
			t.Errorf("errors %v, sent %q", errs, w.sends)
		}
		for range 3 { // after two minutes, the replica notifies without knowing more
			time.Sleep(40 * time.Second)
			flush(w.replicas[1], known)
		}
		if err := errs[len(errs)-1]; !errors.Is(err, w.fails) {
			t.Errorf("after two minutes: %v", err)
		}
		w.mu.Lock()
		w.fails = nil
		w.mu.Unlock()
		flush(w.replicas[2], time.Now())
		for range 3 {
			time.Sleep(10 * time.Second)
			flush(w.replicas[2], time.Now())
		}
		if row := w.rows["k"]; !slices.Equal(w.sends, []string{"r0 firing", "r2 resolved"}) || row.Entry != "resolved" || row.Holder != "" {
			t.Errorf("errors %v, sent %q, row %+v", errs, w.sends, row)
		}
	})
}

// TestCut checks that a holder that is cut off from the row store while it retries stops before another replica sends.
func TestCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(2)
		w.takes = 50 * time.Second
		var once sync.Once
		w.before = func(r *replica) {
			once.Do(func() {
				time.AfterFunc(10*time.Second, func() { r.set(&r.cut, true) })
				time.AfterFunc(36*time.Second, func() { r.set(&r.cut, false) })
			})
		}
		errs := w.notify("a", 3*time.Minute)
		if len(w.sends) != 1 || w.overlaps != 0 || errors.Join(errs...) != nil {
			t.Errorf("sent %q, %d at the same time: %v", w.sends, w.overlaps, errs)
		}
		if lost := w.metric("pallium_alertmanager_claims_lost_total"); lost != 1 {
			t.Errorf("%v claims were lost, want 1", lost)
		}
	})
}

// TestStoreAway checks that the first replica sends a notification while the row store is unavailable, and records it
// later.
func TestStoreAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(3)
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		for _, r := range w.replicas {
			r.cut = true
			running.Go(func() { r.Run(ctx) })
		}
		errs := w.notify("a", 3*time.Minute)
		if !slices.Equal(w.sends, []string{"r0 a"}) || errors.Join(errs...) != nil || w.metric("pallium_alertmanager_unclaimed_notifications_total") != 1 {
			t.Errorf("sent %q: %v", w.sends, errs)
		}
		time.Sleep(10 * time.Second)
		w.notify("a", 3*time.Minute) // nothing is due
		for _, r := range w.replicas {
			r.set(&r.cut, false)
		}
		time.Sleep(10 * time.Second)
		w.notify("a", 3*time.Minute)
		if row := w.rows["k"]; len(w.sends) != 1 || row.Entry != "a" {
			t.Errorf("after the row store was back: sent %q, row %+v", w.sends, row)
		}
		cancel()
		running.Wait()
	})
}

// TestToldLate checks that a process that has run for hours remembers a notification that another replica has sent without
// a claim, and removes it from memory an hour later.
func TestToldLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		r := w.replicas[0]
		time.Sleep(3 * time.Hour)
		r.Told("k", "a", time.Now().UnixMilli())
		r.tidy()
		if entry, _ := r.memory("k"); entry != "a" {
			t.Errorf("at once: %q, want a", entry)
		}
		time.Sleep(61 * time.Minute)
		r.tidy()
		if len(r.known) != 0 {
			t.Errorf("an hour later %d notifications are known", len(r.known))
		}
	})
}

// TestFailure checks that after a failed notification the other replicas do not try to send it before the next flush, and
// that a canceled notification does not count as a failure.
func TestFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(3)
		w.fails = errors.New("rejected")
		errs := w.notify("a", time.Minute)
		failed := 0
		for _, err := range errs {
			if errors.Is(err, ErrFailed) {
				failed++
			}
		}
		if failed != 2 || w.rows["k"].Failures != 1 || w.rows["k"].Holder != "" {
			t.Errorf("%v, row %+v; want one attempt", errs, w.rows["k"])
		}
		w.fails = nil
		if errs := w.notify("a", time.Minute); errors.Join(errs...) != nil || len(w.sends) != 1 {
			t.Errorf("at the next flush: %v, sent %q", errs, w.sends)
		}
		w.takes = time.Hour
		time.Sleep(10 * time.Second)
		w.notify("ab", time.Second)
		if row := w.rows["k"]; row.Failures != 1 || row.Holder != "" {
			t.Errorf("after a canceled notification: row %+v", row)
		}
	})
}

// TestEarly checks that a replica does not notify within one group interval after another replica has notified.
func TestEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(2)
		w.notify("a", time.Minute)
		time.Sleep(3 * time.Second)
		if err := w.replicas[1].Notify(t.Context(), w.replicas[1].attempt("ab")); !errors.Is(err, ErrEarly) {
			t.Errorf("after 3 s: %v", err)
		}
		time.Sleep(7 * time.Second)
		if err := w.replicas[1].Notify(t.Context(), w.replicas[1].attempt("ab")); err != nil || len(w.sends) != 2 {
			t.Errorf("after 10 s: %v, sent %q", err, w.sends)
		}
	})
}

// TestStale checks that a flush that is older than the recorded one does not notify, and that a fast clock of another
// replica does not prevent notifications.
func TestStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(2)
		old := w.replicas[1].attempt("ab")
		time.Sleep(3 * time.Second)
		w.notify("a", time.Minute)
		old.Due = func(string) (bool, bool, error) { return true, true, nil }
		if err := w.replicas[1].Notify(t.Context(), old); !errors.Is(err, ErrEarly) {
			t.Errorf("an old flush: %v", err)
		}
		row := w.rows["k"]
		row.Flushed, row.Sequence = time.Now().Add(10*time.Minute).UnixMilli(), row.Sequence+1
		w.rows["k"] = row
		if err := w.replicas[1].Notify(t.Context(), w.replicas[1].attempt("ab")); !errors.Is(err, ErrEarly) {
			t.Errorf("at once: %v", err)
		}
		time.Sleep(11 * time.Second)
		if err := w.replicas[1].Notify(t.Context(), w.replicas[1].attempt("ab")); err != nil {
			t.Errorf("after an interval: %v", err)
		}
	})
}

// TestFaults sends notifications through a row store whose calls fail, hang, or return errors although they had an effect,
// while a replica is cut off. It checks that no notification is lost, and that no two replicas send at the same time unless a
// notification was sent without a claim, because the row store did not answer.
func TestFaults(t *testing.T) {
	duplicates := 0
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(3)
			rng := rand.New(rand.NewPCG(seed, 2))
			ctx, cancel := context.WithCancel(context.Background())
			var running sync.WaitGroup
			for _, r := range w.replicas {
				r.rng, r.rate = rand.New(rand.NewPCG(seed, uint64(r.position))), rng.Float64()*0.5
				running.Go(func() { r.Run(ctx) })
			}
			alerts := ""
			for i := range 20 {
				alerts += string(rune('a' + i))
				w.takes = time.Duration(rng.IntN(20)) * time.Second
				victim := w.replicas[rng.IntN(3)]
				victim.set(&victim.cut, rng.IntN(3) == 0)
				for flush := 0; w.sent(alerts) == 0 && flush < 5; flush++ {
					w.notify(alerts, 2*time.Minute)
					time.Sleep(10 * time.Second)
				}
				victim.set(&victim.cut, false)
				if n := w.sent(alerts); n == 0 {
					t.Errorf("seed %d: notification %d was not sent", seed, i)
				} else {
					duplicates += n - 1
				}
			}
			for _, r := range w.replicas {
				r.mu.Lock()
				r.rate = 0
				r.mu.Unlock()
			}
			time.Sleep(time.Minute)
			if w.overlaps > 0 && w.metric("pallium_alertmanager_unclaimed_notifications_total") == 0 {
				t.Errorf("seed %d: %d sends at the same time", seed, w.overlaps)
			}
			if row := w.rows["k"]; row.Entry != alerts {
				t.Errorf("seed %d: the row has the entry %q, want %q", seed, row.Entry, alerts)
			}
			cancel()
			running.Wait()
		})
	}
	t.Logf("%d duplicates of %d notifications", duplicates, 40*20)
}

// sent returns how many times a notification about the alerts was sent.
func (w *world) sent(alerts string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, s := range w.sends {
		if _, what, _ := strings.Cut(s, " "); what == alerts {
			n++
		}
	}
	return n
}

// TestAdmitted checks that a notification that the tenant's rate limit does not allow is not claimed, and that a notification
// is counted once by the rate limit.
func TestAdmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(2)
		dropped := errors.New("dropped")
		admitted := 0
		a := w.replicas[0].attempt("a")
		a.Admit = func(context.Context) error { admitted++; return dropped }
		if err := w.replicas[0].Notify(t.Context(), a); !errors.Is(err, dropped) || len(w.rows) != 0 || len(w.sends) != 0 {
			t.Errorf("error %v, rows %v, sent %q", err, w.rows, w.sends)
		}
		a.Admit = func(context.Context) error {
			admitted++ // while it waits, another replica claims the notification and fails to send it
			w.rows["k"] = schema.Notification{Number: 7}
			return nil
		}
		if err := w.replicas[0].Notify(t.Context(), a); err != nil || len(w.sends) != 1 || admitted != 2 || w.rows["k"].Number != 8 {
			t.Errorf("error %v, admitted %d times, sent %q, row %+v", err, admitted, w.sends, w.rows["k"])
		}
		if err := w.replicas[0].Notify(t.Context(), a); err != nil || admitted != 2 {
			t.Errorf("error %v; what is not due was admitted", err)
		}
	})
}

// TestLinger checks that a notification in progress is completed after it was canceled, and that Flush waits for it, but not
// longer than lingerTime.
func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for takes, want := range map[time.Duration]int{5 * time.Second: 1, time.Minute: 0} {
			w := newWorld(1)
			w.takes = takes
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			done := make(chan error)
			go func() { done <- w.replicas[0].Notify(ctx, w.replicas[0].attempt("a")) }()
			time.Sleep(time.Second)
			cancel()
			began := time.Now()
			ending, stop := context.WithTimeout(t.Context(), 20*time.Second)
			if err := w.replicas[0].Flush(ending); err != nil || time.Since(began) > lingerTime+time.Second {
				t.Errorf("Flush took %s: %v", time.Since(began), err)
			}
			stop()
			if row := w.rows["k"]; len(w.sends) != want || row.Holder != "" || (row.Entry == "a") != (want == 1) {
				t.Errorf("taking %s: sent %q, row %+v", takes, w.sends, row)
			}
			<-done
		}
	})
}

// TestForgets checks that notifications are removed from memory after an hour, and sooner if there are many, except for
// those that are not recorded yet.
func TestForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		c := w.replicas[0].Claims
		for n, kept := range map[int]time.Duration{10: time.Hour, maxKnown + 10: 2 * learnTime} {
			for i := range n {
				c.saw(fmt.Sprint(n, "/", i), schema.Notification{Number: 1})
			}
			c.sent("unrecorded", &sent{entry: "e"})
			time.Sleep(kept)
			if c.tidy(); len(c.known) != n+1 {
				t.Errorf("of %d, %d are known after %s", n, len(c.known), kept)
			}
			time.Sleep(time.Second)
			if unwritten := c.tidy(); len(c.known) != 1 || !slices.Equal(unwritten, []string{"unrecorded"}) {
				t.Errorf("of %d, %d are known a second later, and not recorded are %q", n, len(c.known), unwritten)
			}
		}
	})
}
