package main

import (
	"errors"
	"math"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/gateway"
	"github.com/palliumhq/pallium/policies/limits"
)

const mib = 1 << 20

// TestMemoryOfRoles checks, for memory limits such as those in deploy/, that the memory of a process
// can be divided, that each of its parts gets enough memory, that parts that it does not have get
// none, and that settings for parts that it does not have do not reduce its memory.
func TestMemoryOfRoles(t *testing.T) {
	distributor, querier := Targets{TargetDistributor: true}, Targets{TargetQuerier: true}
	both, ingester, compactor := Targets{TargetDistributor: true, TargetQuerier: true}, Targets{TargetIngester: true}, Targets{TargetCompactor: true}
	every := Targets{TargetDistributor: true, TargetQuerier: true, TargetIngester: true, TargetCompactor: true}
	tests := []struct {
		name    string
		role    Role
		targets Targets
		mib     int64
		head    int64 // configured
		// The minimum of each part in MiB; 0 means that the role does not have the part.
		wantHead, wantRequests int64
		// whole is set if a request at all default limits must fit.
		whole bool
	}{
		{"kubernetes gateway", Gateway, nil, 1024, 0, 0, 0, false},
		{"kubernetes distributor", Backend, distributor, 2048, 0, 0, 1200, true},
		{"kubernetes querier", Backend, querier, 8192, 0, 0, 5500, true},
		{"kubernetes small backend", Backend, both, 4096, 0, 0, 2500, true},
		{"kubernetes ingester", Backend, ingester, 4096, 0, 1400, 900, true},
		{"kubernetes production ingester", Backend, ingester, 16384, 0, 5800, 3600, true},
		{"kubernetes compactor", Backend, compactor, 4096, 0, 0, 0, false},
		{"compose gateway", Gateway, nil, 512, 0, 0, 0, false},
		{"compose backend", Backend, both, 1024, 0, 0, 600, false},
		{"compose ingester", Backend, ingester, 1024, 0, 360, 220, false},
		{"compose compactor", Backend, compactor, 1024, 0, 0, 0, false},
		{"test ingester", Backend, ingester, 1024, 512, 512, 170, false},
		{"test backend", Backend, both, 512, 512, 0, 300, false},
		{"test compactor", Backend, compactor, 512, 512, 0, 0, false},
		{"test gateway", Gateway, nil, 512, 512, 0, 0, false},
		{"everything of a cluster in one", Backend, every, 2048, 0, 700, 450, true},
		{"one process", All, nil, 2048, 0, 650, 400, true},
		{"the minimum", All, nil, 256, 0, 60, 16, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newProcess(Config{}, Options{Role: tt.role, Targets: tt.targets, Now: time.Now})
			a.cfg.Ingester.MemoryBytes = tt.head * mib
			if tt.role != All {
				a.cfg.Store.Bigtable.Project, a.cfg.Store.Bigtable.Instance = "p", "i"
			}
			w := a.want(tt.mib * mib)
			p, err := memory.Divide(w)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("go %d, head %d, caches %d, requests %d MiB", p.Go/mib, p.Head/mib, p.Caches/mib, p.Requests/mib)
			for name, part := range map[string]struct{ got, want int64 }{"head": {p.Head, tt.wantHead * mib}, "requests": {p.Requests, tt.wantRequests * mib}} {
				if part.got < part.want || (part.got == 0) != (part.want == 0) {
					t.Errorf("%s has %d bytes, want at least %d", name, part.got, part.want)
				}
			}
			if (p.Caches > 0) != (tt.role != Gateway) {
				t.Errorf("caches = %d bytes for this role", p.Caches)
			}
			if p.Go+w.Fixed > w.Limit || p.Head+p.Caches+p.Requests > p.Go*85/100 {
				t.Errorf("parts %+v exceed the limit", p)
			}
			// A push takes its body, and five times the decompressed body: decompressed, decoded, and
			// three times in pushes to ingesters.
			d := limits.Default()
			if most := memory.NewAccount(p.Requests, nil).Most(); tt.whole && most < d.MaxBodyBytes+5*d.MaxDecodedBytes {
				t.Errorf("a request may use %d bytes, too few for a push at the default limits", most)
			}
		})
	}
}

// TestPlanMemory checks that a process divides the limit of the configuration or of GOMEMLIMIT
// between its parts, sets Go's limit, and watches its memory, and that a process whose limit is too
// low does not start.
func TestPlanMemory(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	for _, tt := range []struct {
		name           string
		role           Role
		limit, given   int64 // memory.limit_bytes, and GOMEMLIMIT, in MiB
		golang         int64 // of the plan, in MiB
		head, requests int64 // in percent of golang
		err            string
	}{
		{"configured", All, 2048, math.MaxInt64, 1728, 40, 35, ""},
		{"GOMEMLIMIT is less", All, 2048, 1000, 1000, 40, 35, ""},
		{"GOMEMLIMIT is more", All, 2048, 4000, 1728, 40, 35, ""},
		{"a gateway", Gateway, 1000, math.MaxInt64, 814, 0, 25, ""},
		{"too little", All, 100, math.MaxInt64, 0, 0, 0, "memory.limit_bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			given := tt.given
			if given != math.MaxInt64 {
				given *= mib
			}
			debug.SetMemoryLimit(given)
			o := testOptions(tt.role, nil, nil)
			o.Now = time.Now
			p := newProcess(testConfig(t), o)
			p.cfg.Memory.LimitBytes = tt.limit * mib
			defer p.close()
			switch err := p.planMemory(); {
			case tt.err != "":
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q in it", err, tt.err)
				}
				return
			case err != nil:
				t.Fatal(err)
			}
			near := func(what string, got, want int64) {
				t.Helper()
				if math.Abs(float64(got-want)) > float64(want)/50 {
					t.Errorf("%s: %d MiB, want %d", what, got/mib, want/mib)
				}
			}
			of := debug.SetMemoryLimit(-1)
			near("Go's limit", of, tt.golang*mib)
			near("head", p.cfg.Ingester.MemoryBytes, of*tt.head/100)
			near("a tenant's requests", p.memory.Most(), of*tt.requests/100*7/8/2)
			if !slices.ContainsFunc(p.closers, func(c closer) bool { return c.name == "memory watch" }) {
				t.Error("nobody watches the memory")
			}
		})
	}
}

// TestEdgeMemory checks that a gateway takes memory from the account of the process, that reads
// have the tenant's limit, that writes get errors if they can never fit or no memory is free, and
// that all memory is released.
func TestEdgeMemory(t *testing.T) {
	account := memory.NewAccount(64*mib, nil)
	edge := edgeMemory{account}
	for _, tt := range []struct {
		name        string
		write       bool
		own, others int64 // the tenant's limit, and what others hold
		want        error // nil for a read: the tenant's limit
	}{
		{"within", true, 0, 0, nil},
		{"a read above its tenant's limit", false, mib, 0, nil},
		{"a write above its tenant's limit", true, mib, 0, gateway.ErrNeverFits},
		{"nothing is free", true, 0, 27 * mib, gateway.ErrNoMemory},
	} {
		others := account.Begin(memory.Request{Tenant: "b"})
		if err := others.Take(tt.others); err != nil {
			t.Fatal(err)
		}
		h := edge.Hold("a", tt.own, tt.write)
		err := h.Take(20 * mib)
		var exceeded *limits.Exceeded
		if tt.write && !errors.Is(err, tt.want) || !tt.write && !errors.As(err, &exceeded) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if held := account.Used() - others.Used(); (err == nil) != (held >= 20*mib) {
			t.Errorf("%s: %d bytes are held, %v", tt.name, held, err)
		}
		h.Close()
		if others.Close(); account.Used() != 0 {
			t.Errorf("%s: %d bytes are left", tt.name, account.Used())
		}
	}
}
