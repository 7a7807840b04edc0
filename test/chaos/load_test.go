package chaos

import (
	"fmt"
	"math/rand"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

const (
	windowMillis = 2 * 60 * 60 * 1000
	dayMillis    = 24 * 60 * 60 * 1000
)

// unlimited is a configuration that switches off the limits that would slow a test down.
const unlimited = `
limits: {requests_per_second: 0, samples_per_second: 0, bytes_per_second: 0, max_concurrent_requests: 0, max_query_series: 0}
self_monitoring: {interval: 1s}
`

// tenantUnderTest is a tenant with its key and the ledger of its samples.
type tenantUnderTest struct {
	id, token string
	ledger    *ledger
}

func newTenants(p *programs.Pallium, ids ...string) []*tenantUnderTest {
	var out []*tenantUnderTest
	for _, id := range ids {
		out = append(out, &tenantUnderTest{id: id, token: p.Tenant(id), ledger: newLedger(id)})
	}
	return out
}

// verifyAll reads all tenants and compares.
func verifyAll(t testing.TB, when string, p *programs.Pallium, tenants []*tenantUnderTest) {
	t.Helper()
	for _, tn := range tenants {
		tn.ledger.verify(t, when, mustReadAll(t, p, tn.token), nil)
	}
}

// sender is one connection that sends as fast as it gets responses. No other sender
// writes its series.
type sender struct {
	name    string
	tenant  *tenantUnderTest
	version int
	client  *http.Client
	rnd     *rand.Rand
	metrics []labels.Labels // the permanent series
	clock   int64           // time of the last regular sample, Unix ms
	fresh   int             // numbers series that are new in each request
	last    []entry         // the last request, to be repeated
}

func newSenders(tenants []*tenantUnderTest, n int, seed int64) []*sender {
	var out []*sender
	for i := range n {
		s := &sender{
			name: fmt.Sprint("s", i), tenant: tenants[i%len(tenants)], version: 1 + i/len(tenants)%2,
			client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}, Timeout: 30 * time.Second},
			rnd:    rand.New(rand.NewSource(seed + int64(i))), clock: time.Now().Add(-20 * time.Minute).UnixMilli(),
		}
		for j := range 40 {
			s.metrics = append(s.metrics, s.labels([]string{"chaos_float", "chaos_float", "chaos_mixed", "chaos_histogram", "chaos_float_histogram"}[j%5], fmt.Sprint(j)))
		}
		out = append(out, s)
	}
	return out
}

func (s *sender) labels(metric, id string) labels.Labels {
	return labels.FromStrings("__name__", metric, "id", id, "sender", s.name, "tenant", s.tenant.id)
}

// request creates the next request. bad contains entries that must be rejected.
func (s *sender) request() (good, bad []entry) {
	s.clock = min(s.clock+1000, time.Now().UnixMilli())
	for _, ls := range s.metrics { // in order, and some out of order
		e := entry{labels: ls, times: []int64{s.clock}}
		if s.rnd.Intn(8) == 0 {
			e.times = append(e.times, s.clock+500)
		}
		if s.rnd.Intn(8) == 0 {
			good = append(good, entry{labels: ls, times: []int64{s.clock - s.rnd.Int63n(20*60*1000) - 1}})
		}
		good = append(good, e)
	}
	if s.rnd.Intn(3) == 0 { // backfill of several windows
		ls := s.metrics[s.rnd.Intn(len(s.metrics))]
		e := entry{labels: ls}
		for at := s.clock - s.rnd.Int63n(3*dayMillis) - windowMillis; len(e.times) < 10 && at < s.clock; at += windowMillis / 4 {
			e.times = append(e.times, at)
		}
		good = append(good, e)
	}
	for range 5 { // new series
		s.fresh++
		good = append(good, entry{labels: s.labels("chaos_fresh", fmt.Sprint("f", s.fresh)), times: []int64{s.clock, s.clock + 1}})
	}
	if s.rnd.Intn(4) == 0 {
		bad = append(bad, entry{labels: s.metrics[0], times: []int64{s.clock - 30*dayMillis}})
	}
	return good, bad
}

// send sends one request and records its outcome in the ledger. It returns the
// response, with code 0 if there was none.
func (s *sender) send(url string) (answer, error) {
	good, bad := s.request()
	if s.last != nil && s.rnd.Intn(16) == 0 { // like a sender that missed the response
		good, bad = s.last, nil
	}
	s.last = good
	body, err := encode(s.version, append(append([]entry{}, good...), bad...))
	if err != nil {
		return answer{}, err
	}
	s.tenant.ledger.note(good, sent)
	a := push(s.client, url, s.tenant.token, s.version, body, timesOf(good)+timesOf(bad))
	switch {
	case a.code/100 == 2 && len(bad) > 0:
		return a, fmt.Errorf("status %d for a request with samples that are too old", a.code)
	case a.code/100 == 2 || a.code == http.StatusBadRequest && len(bad) > 0:
		if n := timesOf(good); a.written != n {
			return a, fmt.Errorf("%d samples were valid, the response with status %d counts %d: %s", n, a.code, a.written, a.text)
		}
		s.tenant.ledger.note(good, acked)
		s.tenant.ledger.note(bad, never)
	case a.code/100 == 4:
		return a, fmt.Errorf("status %d: %s", a.code, a.text)
	}
	return a, nil
}

// timesOf returns the number of samples of entries.
func timesOf(entries []entry) int {
	n := 0
	for _, e := range entries {
		n += len(e.times)
	}
	return n
}

// load runs senders until it is stopped.
type load struct {
	stop     atomic.Bool
	done     sync.WaitGroup
	requests atomic.Int64 // number of acknowledged requests
	answers  sync.Map     // status → text of one response
}

// startLoad lets every sender send up to `most` requests, until the load is stopped. A sender
// also stops at the first request without a response, because the process has ended.
func startLoad(t testing.TB, url string, senders []*sender, most int) *load {
	l := &load{}
	for _, s := range senders {
		l.done.Go(func() {
			for i := 0; i < most && !l.stop.Load(); i++ {
				a, err := s.send(url)
				if err != nil {
					t.Errorf("sender %s: %v", s.name, err)
					return
				}
				l.answers.Store(a.code, a.text)
				if a.code == 0 {
					break
				}
				if a.code < 500 {
					l.requests.Add(1)
				}
			}
			s.client.CloseIdleConnections()
		})
	}
	return l
}

// wait waits until all senders have finished, or asks them to stop.
func (l *load) wait(stop bool) {
	if stop {
		l.stop.Store(true)
	}
	l.done.Wait()
}

// waitRequests waits until n requests were acknowledged.
func (l *load) waitRequests(t testing.TB, n int64) {
	t.Helper()
	kit.Eventually(t, time.Minute, func() error {
		if have := l.requests.Load(); have < n {
			return fmt.Errorf("%d of %d requests were acknowledged", have, n)
		}
		return nil
	})
}
