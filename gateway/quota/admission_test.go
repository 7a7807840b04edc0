package quota

import (
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/policies/routes"
	"github.com/palliumhq/pallium/test/kit"
)

// admission holds the budgets and limits of a test.
type admission struct {
	t *testing.T
	c *kit.Clock
	q *Tenants
	l limits.Limits
}

func newAdmission(t *testing.T, l limits.Limits) *admission {
	c := kit.NewClock(time.Unix(1e9, 0))
	return &admission{t: t, c: c, q: NewTenants(1000, c.Now), l: l}
}

func (a *admission) admit(id tenant.ID, cost routes.Cost, length int64) Admission {
	a.t.Helper()
	got, rej := a.q.Admit(Request{Tenant: id, Limits: &a.l, Cost: cost, Length: length})
	if rej != nil {
		a.t.Fatalf("rejected: %s", rej.Text)
	}
	return got
}

// rejects checks that the next request is rejected because of the limit.
func (a *admission) rejects(id tenant.ID, cost routes.Cost, length int64, limit string, retry bool) {
	a.t.Helper()
	_, rej := a.q.Admit(Request{Tenant: id, Limits: &a.l, Cost: cost, Length: length})
	if rej == nil || rej.Limit != limit || !strings.Contains(rej.Text, limit) || (rej.Retry > 0) != retry {
		a.t.Errorf("got %+v, want limit %s, with Retry: %v", rej, limit, retry)
	}
}

// TestConcurrentRequests checks that a request counts as concurrent from Enter until
// Done.
func TestConcurrentRequests(t *testing.T) {
	a := newAdmission(t, limits.Limits{MaxConcurrentRequests: 1})
	first, second, other := a.admit("a", routes.Query, 0), a.admit("a", routes.Query, 0), a.admit("b", routes.Query, 0)
	for _, in := range []*Admission{&first, &other} {
		if rej := in.Enter(0); rej != nil {
			t.Fatal(rej.Text)
		}
	}
	if rej := second.Enter(0); rej == nil || rej.Limit != "max_concurrent_requests" || rej.Retry <= 0 {
		t.Errorf("second concurrent request: %+v, want a rejection", rej)
	}
	second.Done(Outcome{}) // changes nothing, because Enter was rejected
	third := a.admit("a", routes.Query, 0)
	if rej := third.Enter(0); rej == nil {
		t.Error("third request was admitted while the first one is in progress")
	}
	third.Done(Outcome{})
	first.Done(Outcome{})
	fourth := a.admit("a", routes.Query, 0)
	if rej := fourth.Enter(0); rej != nil {
		t.Errorf("request after the first one is done: %s", rej.Text)
	}
	for _, in := range []*Admission{&fourth, &other} {
		in.Done(Outcome{})
	}
	for _, id := range []tenant.ID{"a", "b"} {
		if st := a.q.get(id, a.c.Now()); st.admitted != 0 || st.inflight != 0 {
			t.Errorf("%s: %d admitted and %d in progress, want none", id, st.admitted, st.inflight)
		}
	}
}

// TestWriteIsReserved checks that samples are reserved for writes from Enter to Done, and
// none for reads.
func TestWriteIsReserved(t *testing.T) {
	a := newAdmission(t, limits.Limits{SamplesPerSecond: 100})
	read := a.admit("a", routes.Query, 1<<20)
	if rej := read.Enter(1 << 20); rej != nil {
		t.Fatal(rej.Text)
	}
	write := a.admit("a", routes.Samples, 1<<20)
	if rej := write.Enter(1 << 20); rej != nil {
		t.Fatal(rej.Text)
	}
	a.rejects("a", routes.Samples, 1, "samples_per_second", true)
	write.Done(Outcome{Read: 1 << 20, Samples: 10})
	read.Done(Outcome{Read: 1 << 20})
	if st := a.q.get("a", a.c.Now()); st.samples.tokens != 90 || st.reserved != 0 {
		t.Errorf("%v samples are left, want 90; %v are reserved, want 0", st.samples.tokens, st.reserved)
	}
}

// TestBytesAreCorrected checks that a body costs the bytes that were received.
func TestBytesAreCorrected(t *testing.T) {
	for _, tt := range []struct {
		name                string
		announced, received int64
		left                float64
	}{
		{"as announced", 50, 50, 50}, {"less", 100, 10, 90}, {"nothing", 100, 0, 100}, {"not announced", -1, 70, 30}, {"beyond the budget", 150, 150, -50},
	} {
		a := newAdmission(t, limits.Limits{BytesPerSecond: 100})
		in := a.admit("a", routes.Samples, tt.announced)
		in.Done(Outcome{Read: tt.received})
		if st := a.q.get("a", a.c.Now()); st.bytes.tokens != tt.left {
			t.Errorf("%s: %v bytes are left, want %v", tt.name, st.bytes.tokens, tt.left)
		}
	}
}

// TestRejections checks each limit that a request can exceed by its header, and whether a
// retry makes sense.
func TestRejections(t *testing.T) {
	a := newAdmission(t, limits.Limits{MaxBodyBytes: 10})
	a.rejects("a", routes.Samples, 11, "max_body_bytes", false)
	a = newAdmission(t, limits.Limits{RequestsPerSecond: 1})
	a.admit("a", routes.Request, 0)
	a.rejects("a", routes.Request, 0, "requests_per_second", true)
	a.admit("b", routes.Request, 0)
	a = newAdmission(t, limits.Limits{BytesPerSecond: 1})
	a.admit("a", routes.Query, 2)
	a.rejects("a", routes.Query, 1, "bytes_per_second", true)
	a.admit("a", routes.Query, 0)
}
