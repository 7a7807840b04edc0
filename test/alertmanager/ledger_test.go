package alertmanager

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Times of the product (docs/alertmanager.md) and of the test, from which follows when a notification must have arrived.
const (
	claimLife     = 30 * time.Second // after which another replica takes a claim over
	unreachable   = 10 * time.Second // of the row store, after which replicas send without claims
	positionDelay = 15 * time.Second // for which a replica then waits for each one before it
	replicaCount  = 3
	attemptTime   = 10 * time.Second // after which the attempts of one flush end, if group_interval is shorter
	groupInterval = 5 * time.Second
	repeatAlerts  = 3 * time.Second // how often the client sends its alerts

	answerTime = 2 * time.Second // that the receiver may take

	// ordinary is how long a notification may take without a fault: the alert is repeated, a flush comes, and one more if
	// another replica has flushed less than group_interval ago. It is doubled, because test machines are busy.
	ordinary = 2 * (repeatAlerts + 2*groupInterval + answerTime)
	// After the fault of a process its claim must be taken over, and the flush after that may be the one that notifies.
	afterProcess = claimLife + 2*groupInterval
	// After a fault of the row store the last replica may just have begun to wait for those before it.
	afterStore = unreachable + (replicaCount-1)*positionDelay + groupInterval
	// After a fault of the receiver an attempt may hang, whose failure is that of all replicas until the next flush.
	afterReceiver = attemptTime + 2*groupInterval
	// After a fault of Redis processes register again and read the ring, within some heartbeats.
	afterRedis = 30 * time.Second
	// After a fault of the ruler its share is taken over within 15 seconds.
	afterRuler = 30 * time.Second
	// A ruler that was not running when an alert resolved does not resolve it: the alert ends by itself.
	alertEnd = 4 * time.Minute
	// unsureTime is how long replicas may wait before they notify after a replica disappeared with a claim.
	unsureTime = 3 * time.Minute
	// flushLife is how long the flush of a group may last.
	flushLife = groupInterval + 45*time.Second
)

// state is a time during which an alert fired, or was resolved. Each alert is a group of its own.
type state struct {
	group   string
	episode int // from 1, or of a rule the number of its period
	firing  bool
	begin   time.Time
	end     time.Time // zero: it lasts
	rule    bool
	// silenced is set if the whole state was silenced.
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

// trouble is a fault while it lasted.
type trouble struct {
	name       string
	begin, end time.Time
	after      time.Duration // for which it may delay notifications
	total      bool          // no notification may be possible while it lasts
	store      bool          // silences cannot be read
	rules      bool          // only alerts of rules are concerned
}

// ledger is what happened in a run, and checks it. It is safe for concurrent use; the checks expect that nothing happens
// any more.
type ledger struct {
	mu       sync.Mutex
	states   []*state
	receipts []*receipt
	troubles []*trouble
	// silences are the times from which and until which a group was certainly silenced.
	silences map[string][2]time.Time
	arrived  chan struct{} // closed when the next notification arrives
}

// begin begins a state of a group, and ends the one before it.
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

// got notes a notification, and returns it.
func (l *ledger) got(r receipt) *receipt {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.receipts = append(l.receipts, &r)
	close(l.arrived)
	l.arrived = make(chan struct{})
	return &r
}

// next returns a channel that is closed when the next notification arrives, which is not answered yet.
func (l *ledger) next() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.arrived
}

// answer notes that a notification is answered with 200.
func (l *ledger) answer(r *receipt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.answered = true
}

// fault notes the begin of a fault, and returns a function that notes its end.
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

// deadline returns when the receiver must know a state, if it lasts for so long. A fault of one process, or of the
// connections to the row store, delays a notification from its begin on, since other replicas take over; others, and
// all that overlap, delay it from their end on.
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

// lasted reports whether an alert fired so long in an episode, which has ended, that this must have been notified.
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

// known returns the last notification of a group that was answered until a time, or nil.
func (l *ledger) known(group string, until time.Time) *receipt {
	for _, r := range slices.Backward(l.receipts) {
		if r.group == group && r.answered && !r.at.After(until) {
			return r
		}
	}
	return nil
}

// findings returns what must not have happened between two times.
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

// missed returns the states that lasted long enough, and that the receiver did not know when they ended. checked is the
// number of those that lasted long enough.
func (l *ledger) missed(end time.Time) (missed []string, checked int) {
	notified := map[string]bool{} // by group: its last firing state lasted long enough
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
			continue // who does not know that an alert fires is not told that it was resolved
		}
		checked++
		if r := l.known(s.group, until); r == nil || r.firing != s.firing {
			missed = append(missed, fmt.Sprintf("%s lasted until %s, and had to be notified until %s: the last notification is %v",
				s, clock(until), clock(l.deadline(s)), r))
		}
	}
	return missed, checked
}

// invented returns the notifications of states that never existed, or not yet, and resolutions without a notification
// before that the alert fires. After a fault a replica may have disappeared before it sent that an alert fires; others cannot
// know that, and notify that it is resolved. After a fault a resolution may have been sent that is not recorded; then the alert is still
// known to fire, and the next resolution comes without another notification before.
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
			out = append(out, fmt.Sprintf("%s: it was not notified before that the alert fires", r))
		}
		before := resolved[r.group]
		if !r.firing && before != nil && before.episode < r.episode && !l.near(before.at, r.at) {
			out = append(out, fmt.Sprintf("%s: the notification before was %s", r, before))
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

// unsilenced returns the notifications of silenced groups. A replica that cannot read the row store applies the silences
// that it knows; the flush may have begun a while before the notification.
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
			out = append(out, fmt.Sprintf("%s: it was silenced since %s", r, clock(during[0])))
		}
	}
	return out
}

// calm returns the times in which no fault has any effect, until a time.
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

// repeated returns the notifications in times without faults of what the receiver knew.
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

// duplicates returns the number of notifications that were answered, and of those that the receiver had answered before.
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
