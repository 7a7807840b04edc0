package gateway

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/palliumhq/pallium/policies/budget"
	"github.com/palliumhq/pallium/policies/limits"
)

// TestSamplesInFlight: many large writes at the same time find one budget, and not
// each its own.
func TestSamplesInFlight(t *testing.T) {
	for _, length := range []string{"known", "chunked"} {
		eachMode(t, func(t *testing.T, e *edge) {
			e.tenants.set("a", limits.Limits{SamplesPerSecond: 100, SampleBurst: 100})
			const pushes, samples = 60, 5000
			decided, entered := make(chan struct{}), make(chan struct{}, pushes)
			e.backend.answer = func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				entered <- struct{}{}
				<-decided
				w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", "5000")
				w.WriteHeader(http.StatusNoContent)
			}
			body, headers := strings.Repeat("x", 30_000), bearer("$A")
			if length == "chunked" {
				body, headers = "7530\r\n"+body+"\r\n0\r\n\r\n", bearer("$A", "Transfer-Encoding: chunked")
			}
			answers := make(chan answer, pushes)
			var wg sync.WaitGroup
			for range pushes {
				wg.Go(func() { answers <- e.do(push, headers, body) })
			}
			// Each is at the backend or was refused before the first is answered.
			taken, refused := 0, 0
			for taken+refused < pushes {
				select {
				case <-entered:
					taken++
				case a := <-answers:
					refusedBy(t, a, 429, "samples_per_second", "requests under way")
					refused++
				}
			}
			close(decided)
			wg.Wait()
			// One write that is larger than the burst passes when there is no debt.
			if taken != 1 {
				t.Errorf("%s: %d writes of %d samples passed at once, of a burst of 100", length, taken, samples)
			}
			e.waitIdle("a")
			e.clock.advance(50 * time.Second)
			if a := e.do(push, headers, body); a.status != 204 {
				t.Errorf("%s: after the debt is paid: %d %s", length, a.status, a.body)
			}
		})
	}
}

// admitWrite admits a write and reserves its samples.
func admitWrite(st *tenantState, now time.Time, l *limits.Limits, length int64) (float64, *refusal) {
	if f := st.admit(now, l, budget.Whole(), 1, true, length); f != nil {
		return 0, f
	}
	return st.reserve(now, l, length)
}

// TestReservationIsSettled: what stays charged is what the answer says, whatever
// was expected.
func TestReservationIsSettled(t *testing.T) {
	now := time.Unix(1e9, 0)
	lim := limits.Limits{SamplesPerSecond: 1000, SampleBurst: 10_000}
	for _, tt := range []struct {
		name                    string
		length, samples, beside int64
		reserved, left          float64
	}{
		{"as expected", 32_000, 1000, 0, 1000, 9000},
		{"fewer", 32_000, 10, 0, 1000, 9990},
		{"more", 32_000, 9000, 0, 1000, 1000},
		{"beyond the burst", 32_000, 15_000, 0, 1000, -5000},
		{"expected beyond the burst", 640_000, 1000, 0, 20_000, 9000},
		{"failed", 32_000, 0, 0, 1000, 10_000},
		{"not told", 32_000, untold, 0, 1000, 10_000},
		{"a day far away", 32_000, 1000, 5000, 1000, 4000},
		{"no body", 0, 0, 0, 0, 10_000},
	} {
		st := &tenantState{}
		reserved, f := admitWrite(st, now, &lim, tt.length)
		if f != nil || reserved != tt.reserved || st.reserved != reserved {
			t.Errorf("%s: reserved %v, in all %v, %v", tt.name, reserved, st.reserved, f)
		}
		st.done(now, tt.length, reserved, outcome{read: max(tt.length, 0), samples: tt.samples, beside: tt.beside})
		if st.samples.tokens != tt.left || st.reserved != 0 {
			t.Errorf("%s: %v samples are left, want %v; %v reserved", tt.name, st.samples.tokens, tt.left, st.reserved)
		}
	}
}

// TestReservationLearns: a sender whose samples are small, or large, is held to
// what its own writes had, within bounds.
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
		st := &tenantState{}
		for range 100 {
			reserved, _ := admitWrite(st, now, &lim, 10_000)
			st.done(now, 10_000, reserved, outcome{read: 10_000, samples: tt.samples, beside: 50_000})
		}
		// A write that failed, or had metadata only, says nothing about others.
		for range 100 {
			reserved, _ := admitWrite(st, now, &lim, 10_000)
			st.done(now, 10_000, reserved, outcome{read: 10_000})
		}
		if reserved, _ := admitWrite(st, now, &lim, 10_000); reserved < tt.reserved*0.999 || reserved > tt.reserved*1.001 {
			t.Errorf("%s: %v are reserved, want %v", name, reserved, tt.reserved)
		}
	}
}

// TestUntoldSamples: a backend that does not count is held to bytes only, also
// while writes are under way; one that counts again is not.
func TestUntoldSamples(t *testing.T) {
	now := time.Unix(1e9, 0)
	lim := limits.Limits{SamplesPerSecond: 1}
	st := &tenantState{}
	reserve := func() float64 {
		reserved, f := admitWrite(st, now, &lim, 100_000)
		if f != nil {
			t.Fatal(f.text)
		}
		return reserved
	}
	st.done(now, 100_000, reserve(), outcome{read: 100_000, samples: untold})
	if got := reserve() + reserve(); got != 0 {
		t.Errorf("%v are reserved", got)
	}
	st.done(now, 100_000, 0, outcome{read: 100_000, samples: untold})
	st.done(now, 100_000, 0, outcome{read: 100_000, samples: 1})
	now = now.Add(time.Hour)
	if reserve() == 0 {
		t.Error("nothing is reserved for a backend that counts again")
	}
}

// TestReservationChecks: writes that were admitted together, whose bodies take their
// time, find one budget all the same.
func TestReservationChecks(t *testing.T) {
	now := time.Unix(1e9, 0)
	lim := limits.Limits{SamplesPerSecond: 100}
	st := &tenantState{}
	for range 3 {
		if f := st.admit(now, &lim, budget.Whole(), 1, true, 30_000); f != nil {
			t.Fatal(f.text)
		}
	}
	if _, f := st.reserve(now, &lim, 30_000); f != nil {
		t.Errorf("the first: %s", f.text)
	}
	for range 2 {
		if _, f := st.reserve(now, &lim, 30_000); f == nil || f.status != http.StatusTooManyRequests {
			t.Errorf("one more: %+v", f)
		}
	}
	if st.use.refused != 2 {
		t.Errorf("%d refused", st.use.refused)
	}
}
