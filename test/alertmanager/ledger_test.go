package alertmanager

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Times of Pallium (docs/alertmanager.md) and of the test. They determine when a notification must have arrived.
const (
	claimLife     = 30 * time.Second // another replica takes over a claim after this time
	unreachable   = 10 * time.Second // replicas send without claims if the row store does not respond for this time
	positionDelay = 15 * time.Second // a replica without a claim waits this time for each replica before it
	replicaCount  = 3
	attemptTime   = 10 * time.Second // the attempts of one flush end after this time, or after group_interval if that is longer
	groupInterval = 5 * time.Second
	repeatAlerts  = 3 * time.Second // interval at which the client sends its alerts

	answerTime = 2 * time.Second // maximum response time of the receiver

	// ordinary is the maximum delay of a notification without a fault: the client sends the alert, a flush follows, and a
	// second one if another replica has flushed less than group_interval before. The sum is doubled for busy machines.
	ordinary = 2 * (repeatAlerts + 2*groupInterval + answerTime)
	// After a fault of a process, its claim must be taken over, and only the flush after that may notify.
	afterProcess = claimLife + 2*groupInterval
	// After a fault of the row store, the last replica may just have begun to wait for those before it.
	afterStore = unreachable + (replicaCount-1)*positionDelay + groupInterval
	// After a fault of the receiver, an attempt may hang. If it fails, no replica retries before the next flush.
	afterReceiver = attemptTime + 2*groupInterval
	// After a fault of Redis, processes register again and read the ring, within a few heartbeats.
	afterRedis = 30 * time.Second
	// After a fault of the ruler, its share is taken over within 15 seconds.
	afterRuler = 30 * time.Second
	// A ruler that was not running when an alert was resolved may not send the resolution: the alert ends at its endsAt.
	alertEnd = 4 * time.Minute
	// unsureTime is the time that replicas may wait before they notify, after a replica with a claim has disappeared.
	unsureTime = 3 * time.Minute
	// flushLife is the maximum duration of a flush of a group.
	flushLife = attemptTime + 45*time.Second
)

// state is a period in which an alert fired or was resolved. Each alert is in a group of its own.
type state struct {
	group   string
	episode int // counted from 1; for an alert of a rule, the number of the period
	firing  bool
	begin   time.Time
	end     time.Time // zero if the state has not ended
	rule    bool
	// silenced is set if the alert was silenced during the whole state.
	silenced bool
}

func (s *state) String() string {
	return fmt.Sprintf("%s %d %s since %s", s.group, s.episode, status(s.firing), clock(s.begin))
}

func status(firing bool) string {
	if firing {
		return "firing"
	}
	return "resolved"
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05.000") }

// receipt is a notification that the receiver got.
type receipt struct {
	group    string
	episode  int
	firing   bool
	at       time.Time
	answered bool // with 200
}

func (r *receipt) String() string {
	return fmt.Sprintf("%s %d %s at %s", r.group, r.episode, status(r.firing), clock(r.at))
}

// trouble is a fault with its begin and end.
type trouble struct {
	name       string
	begin, end time.Time
	after      time.Duration // time after its end during which notifications may be delayed
	total      bool          // whether it may prevent all notifications while it lasts
	store      bool          // whether silences cannot be read
	rules      bool          // whether it affects only alerts of rules
}

// ledger records the events of a run, and checks them. Recording is safe for concurrent use. The checks must only be called
// when the run has ended.
type ledger struct {
	mu       sync.Mutex
	states   []*state
	receipts []*receipt
	troubles []*trouble
	// silences contains the begin and the end of the time in which a group was certainly silenced.
	silences map[string][2]time.Time
	arrived  chan struct{} // closed when the next notification arrives
}

// begin records the begin of a state of a group, which ends the previous state.
func (l *ledger) begin(s *state) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if last := l.last(s.group); last != nil && last.end.IsZero() {
		last.end = s.begin
	}
	l.states = append(l.states, s)
}

// last returns the last state of a group, or nil.
func (l *ledger) last(group string) *state {
	for _, s := range slices.Backward(l.states) {
		if s.group == group {
			return s
		}
	}
	return nil
}

// got records a notification, and returns it.
func (l *ledger) got(r receipt) *receipt {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.receipts = append(l.receipts, &r)
	close(l.arrived)
	l.arrived = make(chan struct{})
	return &r
}

// next returns a channel that is closed when the next notification arrives, before the receiver responds to it.
func (l *ledger) next() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.arrived
}

// answer records that the receiver responds to a notification with 200.
func (l *ledger) answer(r *receipt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.answered = true
}

// fault records the begin of a fault, and returns a function that records its end.
func (l *ledger) fault(t trouble) func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	t.begin = time.Now()
	l.troubles = append(l.troubles, &t)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		t.end = time.Now()
	}
}

// deadline returns the time at which the receiver must have been notified of a state, if the state lasts until then. If
// other replicas can take over during a fault, it delays a notification by `after` from the begin of the fault. Other faults,
// and faults that overlap, delay it by `after` from their end.
func (l *ledger) deadline(s *state) time.Time {
	at := s.begin.Add(ordinary)
	list := slices.Clone(l.troubles)
	slices.SortFunc(list, func(a, b *trouble) int { return a.begin.Compare(b.begin) })
	for _, t := range list {
		after := t.after
		if t.rules && !s.rule {
			continue
		}
		if t.rules && !s.firing {
			after += alertEnd
		}
		until := t.begin.Add(after)
		if t.total || l.overlaps(t) {
			until = t.end.Add(after)
		}
		if t.begin.Before(at) {
			at = maxTime(at, until.Add(ordinary))
		}
	}
	return at
}

// lasted reports whether an alert fired so long in an episode, which has ended, that a notification must have been sent.
func (l *ledger) lasted(group string, episode int) bool {
	return slices.ContainsFunc(l.states, func(s *state) bool {
		return s.group == group && s.episode == episode && s.firing && !s.silenced && !l.deadline(s).After(s.end)
	})
}

func (l *ledger) overlaps(t *trouble) bool {
	return slices.ContainsFunc(l.troubles, func(o *trouble) bool { return o != t && o.begin.Before(t.end) && t.begin.Before(o.end) })
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// known returns the last notification of a group to which the receiver had responded with 200 at a time, or nil.
func (l *ledger) known(group string, until time.Time) *receipt {
	for _, r := range slices.Backward(l.receipts) {
		if r.group == group && r.answered && !r.at.After(until) {
			return r
		}
	}
	return nil
}

// findings returns descriptions of the events that must not have happened. `begin` and `end` are the times of the run.
func (l *ledger) findings(begin, end time.Time) []string {
	missed, _ := l.missed(end)
	repeated, _ := l.repeated(begin, end)
	var out []string
	for _, kind := range []struct {
		name string
		list []string
	}{{"missed", missed}, {"never existed", l.invented()}, {"silenced", l.unsilenced()}, {"repeated", repeated}} {
		for _, text := range kind.list {
			out = append(out, kind.name+": "+text)
		}
	}
	return out
}

// missed returns the states that lasted past their deadline although, when they ended, the last notification to the receiver was
// about another state. `checked` is the number of states that lasted past their deadline.
func (l *ledger) missed(end time.Time) (missed []string, checked int) {
	notified := map[string]bool{} // by group: whether its last firing state lasted past the deadline
	for _, s := range l.states {
		until := s.end
		if until.IsZero() || until.After(end) {
			until = end
		}
		enough := !s.silenced && !l.deadline(s).After(until)
		if s.firing {
			notified[s.group] = enough
		}
		if !enough || !notified[s.group] {
			continue // a receiver that was not notified of a firing alert is not notified of its resolution
		}
		checked++
		if r := l.known(s.group, until); r == nil || r.firing != s.firing {
			missed = append(missed, fmt.Sprintf("%s lasted until %s, and the receiver had to be notified until %s: the last notification is %v",
				s, clock(until), clock(l.deadline(s)), r))
		}
	}
	return missed, checked
}

// invented returns the notifications of states that never existed, or did not exist yet, and the resolutions that were not
// preceded by a notification that the alert fires. Such a resolution is allowed after a fault, for two reasons. A replica
// may have disappeared before it sent that the alert fires, which other replicas cannot know. Or a resolution may have been
// sent but not recorded: Pallium then still regards the alert as firing, and sends the next resolution without another
// notification in between.
func (l *ledger) invented() []string {
	var out []string
	fired, resolved := map[string]bool{}, map[string]*receipt{}
	for _, r := range l.receipts {
		exists := slices.ContainsFunc(l.states, func(s *state) bool {
			return s.group == r.group && s.episode == r.episode && s.firing == r.firing && !s.begin.After(r.at)
		})
		if !exists {
			out = append(out, fmt.Sprintf("%s: the alert was never in this state", r))
		}
		if fired[r.group] = fired[r.group] || r.firing; !fired[r.group] && !l.near(r.at.Add(-unsureTime), r.at) {
			out = append(out, fmt.Sprintf("%s: no notification before it said that the alert fires", r))
		}
		before := resolved[r.group]
		if !r.firing && before != nil && before.episode < r.episode && !l.near(before.at, r.at) {
			out = append(out, fmt.Sprintf("%s: the previous notification was %s", r, before))
		}
		if r.firing {
			delete(resolved, r.group)
		} else {
			resolved[r.group] = r
		}
	}
	return out
}

// storeFailed reports whether a notification at a time may have been sent without a claim.
func (l *ledger) storeFailed(at time.Time) bool {
	return slices.ContainsFunc(l.troubles, func(t *trouble) bool {
		return t.store && t.begin.Before(at) && t.end.Add(t.after).After(at)
	})
}

// near reports whether a fault may have had an effect between two times.
func (l *ledger) near(begin, end time.Time) bool {
	return slices.ContainsFunc(l.troubles, func(t *trouble) bool {
		return t.begin.Before(end) && t.end.Add(t.after+ordinary).After(begin)
	})
}

// unsilenced returns the notifications of silenced groups. It allows notifications during a fault of the row store, when
// replicas apply the silences in their memory, and until flushes that began during the fault have ended.
func (l *ledger) unsilenced() []string {
	var out []string
	for _, r := range l.receipts {
		during, ok := l.silences[r.group]
		if !ok || r.at.Before(during[0]) || !r.at.Before(during[1]) {
			continue
		}
		if !slices.ContainsFunc(l.troubles, func(t *trouble) bool {
			return t.store && t.begin.Before(r.at) && t.end.Add(flushLife).After(r.at)
		}) {
			out = append(out, fmt.Sprintf("%s: the group was silenced since %s", r, clock(during[0])))
		}
	}
	return out
}

// calm returns the periods between two times in which no fault has any effect.
func (l *ledger) calm(begin, end time.Time) [][2]time.Time {
	var out [][2]time.Time
	list := slices.Clone(l.troubles)
	slices.SortFunc(list, func(a, b *trouble) int { return a.begin.Compare(b.begin) })
	for _, t := range list {
		if t.begin.After(begin) {
			out = append(out, [2]time.Time{begin, t.begin})
		}
		begin = maxTime(begin, t.end.Add(t.after+ordinary))
	}
	if end.After(begin) {
		out = append(out, [2]time.Time{begin, end})
	}
	return out
}

// repeated returns the notifications that repeat an earlier one of the same state, in periods without an effect of faults.
// `calm` is the total length of these periods.
func (l *ledger) repeated(begin, end time.Time) (repeated []string, calm time.Duration) {
	for _, c := range l.calm(begin, end) {
		calm += c[1].Sub(c[0])
		for i, r := range l.receipts {
			if r.at.Before(c[0]) || r.at.After(c[1]) {
				continue
			}
			for _, before := range l.receipts[:i] {
				if before.answered && before.group == r.group && before.episode == r.episode && before.firing == r.firing {
					repeated = append(repeated, fmt.Sprintf("%s, and at %s: no fault was near", r, clock(before.at)))
				}
			}
		}
	}
	return repeated, calm
}

// duplicates returns the number of notifications to which the receiver responded with 200, and the number of those that
// repeat an earlier one.
func (l *ledger) duplicates() (all, again int) {
	type what struct {
		group   string
		episode int
		firing  bool
	}
	seen := map[what]bool{}
	for _, r := range l.receipts {
		if !r.answered {
			continue
		}
		all++
		w := what{r.group, r.episode, r.firing}
		if seen[w] {
			again++
		}
		seen[w] = true
	}
	return all, again
}
