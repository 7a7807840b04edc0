package clock

import "time"

// BudgetTime is the time of running for which a Budget holds.
const BudgetTime = 24 * time.Hour

// Budget counts what was done in the last 24 hours of running. The zero value is
// one of which nothing was spent. It is not safe for concurrent use.
type Budget struct{ spent []spending }

type spending struct {
	at time.Duration // of running
	n  int
}

// Spent is how much was spent in the 24 hours before a time of running.
func (b *Budget) Spent(at time.Duration) int {
	sum, kept := 0, b.spent[:0]
	for _, s := range b.spent {
		if at-s.at < BudgetTime {
			sum += s.n
			kept = append(kept, s)
		}
	}
	b.spent = kept
	return sum
}

// Spend adds to what was spent.
func (b *Budget) Spend(at time.Duration, n int) {
	if n > 0 {
		b.spent = append(b.spent, spending{at, n})
	}
}

// Days is how many of so many days may be expired in 24 hours, when nothing but
// the clock says that they are due: two, or a tenth, whichever is more.
func Days(all int) int { return max(2, all/10) }
