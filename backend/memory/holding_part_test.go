package memory

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/tenant"
)

// TestPart checks that the bytes that a part takes count for the request until the
// part is closed.
func TestPart(t *testing.T) {
	a := NewAccount(40<<20, prometheus.NewRegistry())
	h := a.Begin(Request{Tenant: tenant.ID("t")})
	defer h.Close()
	if err := h.Take(1 << 20); err != nil {
		t.Fatal(err)
	}
	for range 20 { // more in all than the account has
		p := h.Part()
		if err := p.Take(4 << 20); err != nil {
			t.Fatal(err)
		}
		if h.Used() != 5<<20 || p.Used() != 4<<20 {
			t.Fatalf("the request uses %d bytes, the part %d", h.Used(), p.Used())
		}
		p.Give(1 << 20)
		if h.Used() != 4<<20 || p.Used() != 3<<20 {
			t.Fatalf("after Give the request uses %d bytes, the part %d", h.Used(), p.Used())
		}
		p.Close()
		if err := p.Take(1); err == nil {
			t.Fatal("a closed part takes memory")
		}
		p.Close()
		if h.Used() != 1<<20 {
			t.Fatalf("after Close the request uses %d bytes", h.Used())
		}
	}
	p := h.Part()
	if err := p.Take(80 << 20); err == nil {
		t.Error("a part takes more than the account has")
	}
	if p.Used() != 0 || p.Most() != h.Most() {
		t.Errorf("the part uses %d bytes of %d", p.Used(), p.Most())
	}
	var none *Holding
	if none.Part() != nil {
		t.Error("Part of a nil Holding is not nil")
	}
}

// TestAnother checks that a holding for work that outlives a request is independent of it.
func TestAnother(t *testing.T) {
	a := NewAccount(1<<30, prometheus.NewRegistry())
	h := a.Begin(Request{Tenant: "acme", Limit: 1 << 20})
	other := h.Another()
	if err := h.Take(1 << 19); err != nil {
		t.Fatal(err)
	}
	h.Close()
	if err := other.Take(1 << 20); err != nil || a.Used() != 1<<20 {
		t.Errorf("%v; %d bytes held", err, a.Used())
	}
	if err := other.Take(1); err == nil {
		t.Error("Take beyond the tenant's limit succeeded")
	}
	other.Close()
	if a.Used() != 0 {
		t.Errorf("%d bytes left", a.Used())
	}
	if (*Holding)(nil).Another() != nil {
		t.Error("Another of a nil Holding is not nil")
	}
}
