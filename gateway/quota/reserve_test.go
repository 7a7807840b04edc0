package quota

import (
	"testing"
	"time"

	"github.com/palliumhq/pallium/policies/budget"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/policies/routes"
)

// admitWrite admits a write and reserves its samples.
func admitWrite(st *state, now time.Time, l *limits.Limits, length int64) (float64, *Rejection) {
	if f := st.admit(now, &Request{Limits: l, Cost: routes.Samples, Length: length}, budget.Whole(), 1); f != nil {
		return 0, f
	}
	return st.reserve(now, l, length)
}

// TestReservationIsReplaced checks that a write is charged with the samples that its response
// reports, whatever was reserved.
func TestReservationIsReplaced(t *testing.T) {
	now := time.Unix(1e9, 0)
	lim := limits.Limits{SamplesPerSecond: 1000, SampleBurst: 10_000}
	for _, tt := range []struct {
		name                   string
		length, samples, extra int64
		reserved, left         float64
	}{
		{"as expected", 32_000, 1000, 0, 1000, 9000},
		{"fewer", 32_000, 10, 0, 1000, 9990},
		{"more", 32_000, 9000, 0, 1000, 1000},
		{"beyond the burst", 32_000, 15_000, 0, 1000, -5000},
		{"expected beyond the burst", 640_000, 1000, 0, 20_000, 9000},
		{"failed", 32_000, 0, 0, 1000, 10_000},
		{"not reported", 32_000, UnknownSamples, 0, 1000, 10_000},
		{"with an additional cost", 32_000, 1000, 5000, 1000, 4000},
		{"no body", 0, 0, 0, 0, 10_000},
	} {
		st := &state{}
		reserved, f := admitWrite(st, now, &lim, tt.length)
		if f != nil || reserved != tt.reserved || st.reserved != reserved {
			t.Errorf("%s: reserved %v, in total %v, want %v; rejection %v", tt.name, reserved, st.reserved, tt.reserved, f)
		}
		st.done(now, tt.length, reserved, Outcome{Read: max(tt.length, 0), Samples: tt.samples, Extra: tt.extra})
		if st.samples.tokens != tt.left || st.reserved != 0 {
			t.Errorf("%s: %v samples are left, want %v; %v reserved", tt.name, st.samples.tokens, tt.left, st.reserved)
		}
	}
}

// TestReservationLearns checks that the estimate adapts to the previous writes of a
// tenant, within bounds.
func TestReservationLearns(t *testing.T) {
	now := time.Unix(1e9, 0)
	lim := limits.Limits{SamplesPerSecond: 1e9}
	for name, tt := range map[string]struct {
		samples  int64 // of 10,000 bytes
		reserved float64
	}{
		"usual": {500, 500}, "small": {5000, 5000}, "histograms": {100, 100},
		"one in each body": {1, 10_000 * leastPerByte}, "more than bytes": {50_000, 10_000 * mostPerByte},
	} {
		st := &state{}
		for range 100 {
			reserved, _ := admitWrite(st, now, &lim, 10_000)
			st.done(now, 10_000, reserved, Outcome{Read: 10_000, Samples: tt.samples, Extra: 50_000})
		}
		// Writes that fail, or contain only metadata, do not change the estimate.
		for range 100 {
			reserved, _ := admitWrite(st, now, &lim, 10_000)
			st.done(now, 10_000, reserved, Outcome{Read: 10_000})
		}
		if reserved, _ := admitWrite(st, now, &lim, 10_000); reserved < tt.reserved*0.999 || reserved > tt.reserved*1.001 {
			t.Errorf("%s: %v samples are reserved, want %v", name, reserved, tt.reserved)
		}
	}
}

// TestUnknownSamples checks that nothing is reserved while a backend does not report
// samples, including for writes in progress, until it reports them again.
func TestUnknownSamples(t *testing.T) {
	now := time.Unix(1e9, 0)
	lim := limits.Limits{SamplesPerSecond: 1}
	st := &state{}
	reserve := func() float64 {
		reserved, f := admitWrite(st, now, &lim, 100_000)
		if f != nil {
			t.Fatal(f.Text)
		}
		return reserved
	}
	st.done(now, 100_000, reserve(), Outcome{Read: 100_000, Samples: UnknownSamples})
	if got := reserve() + reserve(); got != 0 {
		t.Errorf("%v samples are reserved, want 0", got)
	}
	st.done(now, 100_000, 0, Outcome{Read: 100_000, Samples: UnknownSamples})
	st.done(now, 100_000, 0, Outcome{Read: 100_000, Samples: 1})
	now = now.Add(time.Hour)
	if reserve() == 0 {
		t.Error("nothing is reserved for a backend that reports samples again")
	}
}

// TestReservationChecks checks that writes that were admitted together and whose bodies
// arrive later share one budget.
func TestReservationChecks(t *testing.T) {
	now := time.Unix(1e9, 0)
	lim := limits.Limits{SamplesPerSecond: 100}
	st := &state{}
	for range 3 {
		if f := st.admit(now, &Request{Limits: &lim, Cost: routes.Samples, Length: 30_000}, budget.Whole(), 1); f != nil {
			t.Fatal(f.Text)
		}
	}
	if _, f := st.reserve(now, &lim, 30_000); f != nil {
		t.Errorf("first write: %s", f.Text)
	}
	for range 2 {
		if _, f := st.reserve(now, &lim, 30_000); f == nil || f.Retry <= 0 {
			t.Errorf("further write: %+v, want a rejection with Retry", f)
		}
	}
	if st.use.rejected != 2 {
		t.Errorf("%d rejections were counted, want 2", st.use.rejected)
	}
}
