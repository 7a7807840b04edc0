package queue

// MaxDebt is the most samples by which a tenant (or a class) is behind or ahead of
// the others when they wait again: 1000 quanta of a million samples.
const MaxDebt = 1e9

// account says how much one of several competitors was served. The competitor with
// the smallest key is served next and charged the cost of its job, which is
// start-time fair queueing (Goyal, Vin and Cheng, 1996): deficit round robin in which
// the rounds that a competitor has to wait are one addition instead of a loop, and
// with a quantum of zero.
//
// Amounts are samples divided by the competitor's weight. They are floating point
// numbers so that they never overflow: at 1e11 samples per second they are exact to
// one sample for a day and to a quantum for three hundred years.
type account struct {
	served float64 // since the competitor became active, from the others' level on
	debt   float64 // from before it became active, at least 0
	active uint64  // how often it became active
	turn   uint64  // orders equal keys: the one that was served longest ago is first
	kept   float64 // level at which a limit began to keep it from being served
}

func (a *account) key() float64 { return a.served + a.debt }

// before reports whether a is served before b.
func (a *account) before(b *account) bool {
	if ka, kb := a.key(), b.key(); ka != kb {
		return ka < kb
	}
	return a.turn < b.turn
}

// activate is called when the competitor has a first job waiting. first is the
// competitor that is served next, or nil. What it could have used while it had no job
// is not saved up, what it used too much is kept up to MaxDebt.
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

// block is called when a limit keeps a competitor with jobs from being served.
func (a *account) block(l *level) { a.kept = l.now }

// unblock is called when no limit keeps it any more. Of what it has missed it keeps
// MaxDebt.
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

// correct adds the difference between the actual and the charged cost of a job.
// active is the account's at the time of the charge: a job from before the competitor
// became active can only change its debt. Otherwise its refund would be the credit
// that activate denies, and could exceed what is left of the charge after MaxDebt.
func (a *account) correct(active uint64, difference float64) {
	if active == a.active {
		a.served += difference
		return
	}
	a.debt = max(a.debt+difference, 0)
}

// level is the place in the order at which competitors begin.
type level struct {
	now float64 // the largest key that was served
}

// serve raises the level to that of a competitor that is served.
func (l *level) serve(a *account) { l.now = max(l.now, a.key()) }
