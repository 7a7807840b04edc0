package alertmanager

import (
	"context"
	"fmt"
	"math/rand"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	chaos "github.com/palliumhq/pallium/test/chaos/cluster"
	"github.com/palliumhq/pallium/test/kit"
)

// run is a test run with random faults.
type run struct {
	*client
	ctx      context.Context
	rnd      *rand.Rand
	receiver *unreliable
	stores   map[string]*chaos.Proxy // connections of the Alertmanagers

	shortest, longest time.Duration // duration of a fault
	least, most       time.Duration // between two changes of an alert
	period            time.Duration // alerts of rules fire for half of each period
	calm              time.Duration // between faults
	total             time.Duration
	rules             int
	loaded            time.Time // when the rules were loaded
}

func newRun(t *testing.T, seed int64) *run {
	t.Helper()
	r := &run{ctx: t.Context(), rnd: rand.New(rand.NewSource(seed)), stores: map[string]*chaos.Proxy{}, rules: 3,
		shortest: 2 * time.Second, longest: 8 * time.Second, least: 3 * time.Second, most: 18 * time.Second, period: 40 * time.Second,
		total: 15 * time.Second}
	if os.Getenv("CHAOS") == "long" {
		r.shortest, r.longest, r.least, r.most, r.period = 5*time.Second, 40*time.Second, 10*time.Second, 4*time.Minute, 4*time.Minute
		r.calm, r.total = 100*time.Second, 13*time.Minute
	}
	l := &ledger{silences: map[string][2]time.Time{}, arrived: make(chan struct{})}
	r.receiver = newUnreliable(t, l, seed)
	s := newSystem(t, nil, func(process, store string) string {
		r.stores[process] = chaos.NewProxy(t, "127.0.0.1", store, seed)
		return r.stores[process].Addr
	})
	r.client = &client{system: s, ledger: l, alerts: map[string]*posted{}}
	s.do(http.MethodPost, "/api/v1/alerts", "application/yaml", fmt.Sprintf(config, r.receiver.URL), http.StatusCreated)
	var rules strings.Builder
	rules.WriteString("name: g\ninterval: 2s\nrules:\n")
	for i := range r.rules {
		fmt.Fprintf(&rules, "- {alert: Rule%d, expr: 'floor((vector(time()) + %[2]d) / %[3]d) and (vector(time()) + %[2]d) %% %[3]d < %[4]d', "+
			"annotations: {episode: '{{ printf \"%%.0f\" $value }}'}}\n", i, r.offset(i), seconds(r.period), seconds(r.period/2))
	}
	s.do(http.MethodPost, "/prometheus/config/v1/rules/n", "application/yaml", rules.String(), http.StatusAccepted)
	r.loaded = time.Now()
	return r
}

func seconds(d time.Duration) int { return int(d / time.Second) }

// offset returns the offset of the periods of a rule, in seconds, so that rules do not change at the same time.
func (r *run) offset(rule int) int { return rule * seconds(r.period) / r.rules }

// ruleStates returns the states of the alerts of rules, which follow from the time.
func (r *run) ruleStates(end time.Time) []*state {
	var out []*state
	for i := range r.rules {
		begin := func(episode int) time.Time { return time.Unix(int64(episode*seconds(r.period)-r.offset(i)), 0) }
		name := fmt.Sprintf("Rule%d", i)
		for e := (int(r.loaded.Unix()) + r.offset(i)) / seconds(r.period); begin(e).Before(end); e++ {
			half, next := begin(e).Add(r.period/2), begin(e+1)
			if half.After(r.loaded) {
				out = append(out, &state{group: name, episode: e, firing: true, begin: maxTime(begin(e), r.loaded), end: half, rule: true},
					&state{group: name, episode: e, begin: half, end: next, rule: true})
			}
		}
	}
	return out
}

// TestRandomFaults checks the notifications of alerts of a client and of rules. The alerts fire, are resolved and are
// silenced while Alertmanagers, the ruler, the row store, Redis and the receiver fail. CHAOS_SEED is the seed of the run.
// With CHAOS=long, the run takes 15 minutes.
func TestRandomFaults(t *testing.T) {
	t.Parallel()
	seed := time.Now().UnixNano()
	if n, err := strconv.ParseInt(os.Getenv("CHAOS_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("CHAOS_SEED=%d", seed)
	r := newRun(t, seed)
	defer r.show()
	begin := time.Now()
	changing, freeze := context.WithCancel(r.ctx)
	sending, stop := context.WithCancel(r.ctx)
	var changes, sender sync.WaitGroup
	defer func() {
		freeze()
		changes.Wait()
		stop()
		sender.Wait()
	}()
	sender.Go(func() { r.send(sending) })
	for i := range 6 {
		rnd := rand.New(rand.NewSource(seed + int64(i)))
		changes.Go(func() { r.flap(changing, rnd, fmt.Sprintf("Client%d", i), r.least, r.most) })
	}
	silences := rand.New(rand.NewSource(seed - 1))
	changes.Go(func() {
		for i := 0; changing.Err() == nil; i++ {
			r.silence(changing, silences, fmt.Sprintf("Silenced%d-", i), r.least, r.most/6)
		}
	})
	r.received("Client0")                          // the first notification, before any fault
	for n := 0; time.Since(begin) < r.total; n++ { // in every second iteration, two more faults follow with short pauses
		r.disturb(4)
		for i := 0; r.calm > 0 && i < 2*(n%2); i++ {
			_ = sleep(r.ctx, r.calm/10)
			r.disturb(4)
		}
		_ = sleep(r.ctx, r.calm)
	}
	freeze()
	changes.Wait()
	r.settle()
	time.Sleep(2 * groupInterval)
	r.check(begin, time.Now())
}

// received waits until the receiver has got a notification of a group.
func (r *run) received(group string) {
	r.t.Helper()
	kit.Eventually(r.t, 90*time.Second, func() error {
		r.ledger.mu.Lock()
		defer r.ledger.mu.Unlock()
		if r.ledger.known(group, time.Now()) == nil {
			return fmt.Errorf("no notification of %s", group)
		}
		return nil
	})
}

// settle waits until the receiver was notified of the last state of each alert of the client, and until notifications have
// said of the alert of each rule that it fires and that it is resolved. At most one resolved alert of the client may still be
// firing for the receiver: if its last notification was sent without a claim, and all replicas that knew of the notification
// were killed before it was recorded.
func (r *run) settle() {
	r.t.Helper()
	seen := map[string]bool{}
	for deadline := time.Now().Add(4*time.Minute + r.calm); ; time.Sleep(100 * time.Millisecond) {
		late, lost := r.unsettled()
		r.observe(seen)
		if len(late)+len(lost) == 0 && len(seen) == 2*r.rules {
			return
		}
		if !time.Now().After(deadline) {
			continue
		}
		if len(seen) < 2*r.rules {
			r.t.Errorf("of the alerts of %d rules, the receiver was only notified of these states after the faults: %v", r.rules, seen)
		}
		if len(late) > 0 || len(lost) > 1 {
			r.t.Errorf("the receiver does not know the last state of %q", append(late, lost...))
		}
		r.t.Logf("notifications that were not recorded: %q", lost)
		return
	}
}

// observe adds the alerts of rules whose present state was in the last notification, with `firing` or `resolved`.
func (r *run) observe(seen map[string]bool) {
	l := r.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, s := range r.ruleStates(now) {
		if s.begin.After(now) || s.end.Before(now) {
			continue
		}
		if known := l.known(s.group, now); known != nil && known.firing == s.firing && known.episode == s.episode {
			seen[s.group+" "+status(s.firing)] = true
		}
	}
}

// unsettled returns the alerts of whose last state the receiver was not notified, in two lists. `lost` contains the resolved
// alerts that fired only for a short time: a notification of such an alert during a fault of the row store may not have been
// recorded. `late` contains the others.
func (r *run) unsettled() (late, lost []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	for group, a := range r.alerts {
		known := l.known(group, time.Now())
		if known == nil && !a.firing || known != nil && known.firing == a.firing {
			continue
		}
		what := fmt.Sprintf("%s, which is %s: the last notification is %v", group, status(a.firing), known)
		if a.firing || !l.storeFailed(known.at) || l.lasted(group, known.episode) {
			late = append(late, what)
			continue
		}
		lost = append(lost, what)
	}
	return late, lost
}

// check checks the notifications of the run.
func (r *run) check(begin, end time.Time) {
	r.t.Helper()
	l := r.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	l.states = append(l.states, r.ruleStates(end)...)
	for _, text := range append(l.findings(begin, end), r.receiver.errs...) {
		r.t.Error(text)
	}
	_, checked := l.missed(end)
	_, calm := l.repeated(begin, end)
	all, again := l.duplicates()
	r.t.Logf("%d faults; %d states, of which %d lasted long enough; %d notifications were answered, of which "+
		"%d were duplicates, and %d were not; %d silences; %s without a fault", len(l.troubles), len(l.states), checked, all, again,
		len(l.receipts)-all, len(l.silences), calm.Round(time.Second))
	if r.calm > 0 && (checked < 20 || calm < time.Minute || len(l.silences) == 0) {
		r.t.Error("too little was checked: see the numbers in the line above")
	}
}

// show prints what happened, if the test has failed.
func (r *run) show() {
	if !r.t.Failed() {
		return
	}
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	for _, got := range r.ledger.receipts {
		r.t.Logf("received: %s, answered: %t", got, got.answered)
	}
	for _, s := range r.ledger.states {
		r.t.Logf("state: %s, silenced: %t", s, s.silenced)
	}
}
