package clock

import "time"

// BudgetTime is the period of a Budget.
const BudgetTime = 24 * time.Hour

// Budget sums amounts that were spent in the last 24 hours of the process's running
// time. The zero value is an empty budget. It is not safe for concurrent use.
type Budget struct{ spent []spending }

type spending struct {
	at time.Duration // running time
	n  int
}

// Spent returns the amount spent in the 24 hours before the running time at.
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

// Spend adds n to the amount spent, at the running time at.
func (b *Budget) Spend(at time.Duration, n int) {
	if n > 0 {
		b.spent = append(b.spent, spending{at, n})
	}
}

// Days returns how many of all days may be expired within 24 hours if they are due
// only because time passed: two, or a tenth, whichever is more.
func Days(all int) int { return max(2, all/10) }
