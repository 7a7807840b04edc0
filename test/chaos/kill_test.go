// Package chaos tests that after a kill, damaged files or a full disk Pallium still has
// everything that it acknowledged, except the content of damaged records and packs, and
// nothing that was not sent.
package chaos

import (
	"math/rand"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// TestKill checks that no acknowledged sample is lost if the process is repeatedly killed at full
// load: in half of the rounds while it seals, uploads and compacts. In the end, the process also
// loses its local packs that are in the long-term store.
func TestKill(t *testing.T) {
	const rounds = 20
	const requests = 200 // maximal number of requests of one sender in a round
	rnd := rand.New(rand.NewSource(1))
	p := programs.StartPalliumIn(t, t.TempDir(), unlimited)
	tenants := newTenants(p, "alpha", "beta", "gamma")
	senders := newSenders(tenants, 6, 100)
	for round := range rounds {
		l := startLoad(t, p.Edge, senders, requests)
		l.waitRequests(t, int64(20+rnd.Intn(2*requests)))
		if round%2 == 0 {
			actions := actSoon(p, "flush", "compact", "flush", "compact")
			time.Sleep(time.Duration(rnd.Intn(200)) * time.Millisecond)
			defer actions.Wait()
		}
		p.Kill()
		l.wait(false)
		if round%4 == 0 {
			if out, err := p.Offline("verify"); err != nil {
				t.Errorf("round %d: %v\n%s", round, err, out)
			}
		}
		p.Restart()
		verifyAll(t, "after a kill", p, tenants)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	p.Flush()
	verifyAll(t, "after a last flush", p, tenants)
	p.Compact()
	p.Kill()
	dropped := p.DropUploaded()
	p.Restart()
	verifyAll(t, "from the long-term store alone", p, tenants)
	if out, err := offlineVerify(p); err != nil || dropped == 0 {
		t.Errorf("%d local packs deleted; verify: %v\n%s", dropped, err, out)
	}
	checkRangeVectors(t, p, tenants[0])
	checkForeignTenant(t, p, tenants)
	for _, tn := range tenants {
		t.Logf("tenant %s: %d samples acknowledged, %d without a response, %d rejected", tn.id, tn.ledger.count(acked), tn.ledger.count(sent), tn.ledger.count(never))
		if tn.ledger.count(acked) < 1000 {
			t.Errorf("tenant %s: %d acknowledged samples are too few for a meaningful test", tn.id, tn.ledger.count(acked))
		}
	}
}

// actSoon starts operator actions one after the other and ignores the responses: the
// process may end before.
func actSoon(p *programs.Pallium, actions ...string) *sync.WaitGroup {
	var wg sync.WaitGroup
	token := p.AdminToken()
	wg.Go(func() {
		for _, action := range actions {
			req, err := http.NewRequest(http.MethodPost, p.Admin+"/admin/v1/"+action+"?wait=true", nil)
			if err != nil {
				return
			}
			req.Header.Set("Authorization", "Bearer "+token)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return
			}
			resp.Body.Close()
		}
	})
	return &wg
}

// offlineVerify stops the process, verifies the whole long-term store and starts the
// process again.
func offlineVerify(p *programs.Pallium) (string, error) {
	p.Kill()
	defer p.Restart()
	return p.Offline("verify", "-data")
}

// checkForeignTenant queries another tenant's data with a tenant's key.
func checkForeignTenant(t *testing.T, p *programs.Pallium, tenants []*tenantUnderTest) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, p.Edge+"/prometheus/api/v1/query?query=chaos_float", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+tenants[0].token)
	req.Header.Set("X-Scope-OrgID", tenants[1].id)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("status of a query for another tenant = %d, want 403", resp.StatusCode)
	}
}

// TestTerminate checks that a SIGTERM under load ends the process without an error, and that no acknowledged
// sample is lost.
func TestTerminate(t *testing.T) {
	p := programs.StartPalliumIn(t, t.TempDir(), unlimited+"shutdown_timeout: 20s\n")
	tenants := newTenants(p, "alpha", "beta")
	senders := newSenders(tenants, 4, 200)
	for range 3 {
		l := startLoad(t, p.Edge, senders, 100000)
		l.waitRequests(t, 100)
		p.Signal(syscall.SIGTERM)
		if err := p.Wait(30 * time.Second); err != nil {
			t.Fatalf("SIGTERM under load: %v\n%s", err, p.Log())
		}
		l.wait(true)
		if strings.Contains(p.Log(), "panic") {
			t.Errorf("the process printed a panic:\n%s", p.Log())
		}
		p.Restart()
		verifyAll(t, "after SIGTERM", p, tenants)
	}
}

// TestSecondProcess checks that a second process on the same data directory exits with an error and changes
// no data.
func TestSecondProcess(t *testing.T) {
	p := programs.StartPalliumIn(t, t.TempDir(), unlimited)
	tenants := newTenants(p, "alpha")
	senders := newSenders(tenants, 2, 300)
	startLoad(t, p.Edge, senders, 20).wait(false)
	code, out := programs.RunPallium(t, 30*time.Second, nil, "all", "-data-dir", p.DataDir, "-listen", kit.FreeAddr(t), "-admin-listen", kit.FreeAddr(t))
	if code != 1 || !strings.Contains(out, "in use") || !strings.Contains(out, p.DataDir) {
		t.Errorf("the second process ended with %d and printed:\n%s", code, out)
	}
	startLoad(t, p.Edge, senders, 20).wait(false)
	p.Kill()
	p.Restart()
	verifyAll(t, "after a second process was rejected", p, tenants)
}

// TestWrongPepper checks that a process with another pepper than the stored keys have exits with an error
// and changes no data.
func TestWrongPepper(t *testing.T) {
	p := programs.StartPalliumIn(t, t.TempDir(), unlimited)
	tenants := newTenants(p, "alpha")
	startLoad(t, p.Edge, newSenders(tenants, 1, 400), 20).wait(false)
	p.Stop()
	args := []string{"all", "-data-dir", p.DataDir, "-listen", kit.FreeAddr(t), "-admin-listen", kit.FreeAddr(t)}
	for pepper, want := range map[string]string{
		strings.Repeat("x", 32): "pepper",
		"short":                 "PALLIUM_KEY_PEPPER",
	} {
		code, out := programs.RunPallium(t, 30*time.Second, []string{"PALLIUM_KEY_PEPPER=" + pepper}, args...)
		if code != 1 || !strings.Contains(out, want) || strings.Contains(out, pepper) && pepper != "short" {
			t.Errorf("with a wrong pepper the process ended with %d and printed:\n%s", code, out)
		}
	}
	p.Restart()
	verifyAll(t, "after a start with a wrong pepper", p, tenants)
}
