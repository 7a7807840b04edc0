package queue

// MaxDebt is the maximum number of samples by which a tenant (or a class) can be behind or ahead of
// the others when it starts to wait again.
const MaxDebt = 1e9

// account records how much one of several competitors (tenants of a class, or classes) was served.
// The competitor with the smallest key is served next and charged the cost of its job. This is
// start-time fair queueing (Goyal, Vin and Cheng, 1996). It is like deficit round robin with a
// quantum of zero, but without a loop over rounds.
//
// Amounts are samples divided by the competitor's weight. They are floating-point numbers so that
// they never overflow: at 1e11 samples per second they are exact to one sample for a day.
type account struct {
	served float64 // level at which the competitor became active, plus its costs since then
	debt   float64 // cost in excess from before it became active, at least 0
	active uint64  // how many times it became active
	turn   uint64  // orders equal keys: the competitor that was served, or became active, longest ago is first
	kept   float64 // level at which a limit last began to block it
}

func (a *account) key() float64 { return a.served + a.debt }

// before reports whether a is served before b.
func (a *account) before(b *account) bool {
	if ka, kb := a.key(), b.key(); ka != kb {
		return ka < kb
	}
	return a.turn < b.turn
}

// activate is called when the first job of the competitor begins to wait. `first` is the competitor
// that is served next, or nil. The competitor gets no credit for the time when it had no job.
// Excess use from before remains as a debt of at most MaxDebt.
func (a *account) activate(l *level, first *account, turn uint64) {
	start := l.now
	if first != nil {
		start = max(min(l.now, first.key()), l.now-MaxDebt)
	}
	a.debt = min(max(a.key()-start, 0), MaxDebt)
	a.served = start
	a.kept = l.now
	a.turn = turn
	a.active++
}

// block is called when a limit begins to block a competitor that has jobs.
func (a *account) block(l *level) { a.kept = l.now }

// unblock is called when no limit blocks the competitor any more. Its credit for the blocked time
// is at most MaxDebt.
func (a *account) unblock(l *level) {
	missed := l.now - a.kept
	behind := l.now - a.key()
	a.served += max(min(missed, behind)-MaxDebt, 0)
}

// charge adds the cost of a job that is served.
func (a *account) charge(cost float64, turn uint64) {
	a.served += cost
	a.turn = turn
}

// correct adds the difference between the actual and the charged cost of a job. active is the value
// of a.active at the time of the charge. If the competitor became active again since then, the job
// can only change its debt: a refund would be credit, which activate denies.
func (a *account) correct(active uint64, difference float64) {
	if active == a.active {
		a.served += difference
		return
	}
	a.debt = max(a.debt+difference, 0)
}

// level is the key at which competitors that become active begin.
type level struct {
	now float64 // the largest key that was served
}

// serve raises the level to that of a competitor that is served.
func (l *level) serve(a *account) { l.now = max(l.now, a.key()) }
