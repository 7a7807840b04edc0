// Package login attacks the authentication of a real process: valid credentials, most of
// them used for the first time, arrive during a thousand bad ones a second. No valid
// credential may be rejected.
package login

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

const (
	badPerSecond = 1000
	leastBad     = 2000 // number of bad logins before an attack may end
	senders      = 30   // each with a key and a JWT
	proxy        = "127.0.0.9"
)

// attack defines the addresses of the valid and the bad clients.
type attack struct {
	name string
	bad  func(n int) from
	good func(n int) from
}

// from is the address that a client binds, and its X-Forwarded-For header.
type from struct{ address, forwarded string }

func fixed(address, forwarded string) func(int) from {
	return func(int) from { return from{address, forwarded} }
}

func attacks() []attack {
	many := func(n int) from { return from{address: fmt.Sprintf("127.0.1.%d", 1+n%200)} }
	return []attack{
		{"from the same address", fixed("127.0.1.1", ""), fixed("127.0.1.1", "")},
		{"from a neighbour in the same /24", fixed("127.0.1.1", ""), fixed("127.0.1.222", "")},
		{"from all of the same /24", many, many},
		{"through a trusted proxy, same address", fixed(proxy, "203.0.113.7"), fixed(proxy, "203.0.113.7")},
		{"through a trusted proxy, same /24", fixed(proxy, "203.0.113.7"), func(n int) from { return from{proxy, fmt.Sprintf("203.0.113.%d", 100+n)} }},
	}
}

// TestLogins checks that valid credentials are accepted during each attack. It restarts the process
// for each attack, so that it has no state of earlier clients.
func TestLogins(t *testing.T) {
	iss := newIssuer(t)
	p := programs.StartPallium(t, iss.config()+fmt.Sprintf("gateway: {trusted_proxies: [\"%s/32\"]}\n", proxy))
	keys := []string{p.Tenant("good")}
	for len(keys) < senders {
		keys = append(keys, p.Token("good", "metrics:read"))
	}
	for _, a := range attacks() {
		t.Run(a.name, func(t *testing.T) {
			p.Stop()
			p.Restart()
			r := &run{t: t, p: p, attack: a, keys: keys, issuer: iss, clients: map[string]*http.Client{}, bad: map[int]int{}}
			r.do()
		})
	}
}

type run struct {
	t      *testing.T
	p      *programs.Pallium
	attack attack
	keys   []string
	issuer *issuer

	mu      sync.Mutex
	clients map[string]*http.Client // by address
	bad     map[int]int             // number of responses by status; 0 means no response
	sent    atomic.Int64
	waiting float64 // largest number of logins that were delayed concurrently
	waits   []time.Duration
}

func (r *run) do() {
	cpu, begun := r.p.Metric("process_cpu_seconds_total"), time.Now()
	stop := make(chan struct{})
	var flood sync.WaitGroup
	flood.Go(func() { r.flood(stop) })
	r.atLeast(leastBad / 4)
	var good sync.WaitGroup
	for n := range senders {
		good.Go(func() { r.send(n) })
	}
	good.Wait()
	r.atLeast(leastBad)
	close(stop)
	took := time.Since(begun)
	flood.Wait()
	r.report(took, r.p.Metric("process_cpu_seconds_total")-cpu)
	for _, c := range r.clients {
		c.CloseIdleConnections()
	}
}

// atLeast waits until n bad logins were sent.
func (r *run) atLeast(n int64) {
	kit.Eventually(r.t, 2*time.Minute, func() error {
		w := r.p.Metric(`pallium_gateway_auth_waiting_requests{for="delay"}`)
		r.mu.Lock()
		r.waiting = max(r.waiting, w)
		r.mu.Unlock()
		if got := r.sent.Load(); got < n {
			return fmt.Errorf("%d bad logins were sent, want %d", got, n)
		}
		return nil
	})
}

// send uses a key and a JWT for the first time, and then the same key and another JWT with the same
// subject.
func (r *run) send(n int) {
	time.Sleep(time.Duration(n) * 30 * time.Millisecond)
	src := r.attack.good(n)
	for range 2 {
		for _, credential := range []string{r.keys[n], r.issuer.token(fmt.Sprint("sender-", n))} {
			begun := time.Now()
			code, text, err := r.login(credential, src)
			if code != http.StatusOK {
				r.t.Errorf("a valid credential of sender %d was rejected: %d %s %v", n, code, text, err)
			}
			r.mu.Lock()
			r.waits = append(r.waits, time.Since(begun))
			r.mu.Unlock()
		}
	}
}

// flood sends bad logins at a steady rate, whether or not they get responses.
func (r *run) flood(stop chan struct{}) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var under sync.WaitGroup
	defer under.Wait()
	places := make(chan struct{}, 2*badPerSecond)
	for n, begun := 0, time.Now(); ; {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		for n < int(time.Since(begun).Seconds()*badPerSecond) {
			n++
			select {
			case places <- struct{}{}:
			default:
				continue // the client's machine is the bottleneck
			}
			under.Go(func() {
				defer func() { <-places }()
				code, _, _ := r.login(r.badCredential(n), r.attack.bad(n))
				r.sent.Add(1)
				r.mu.Lock()
				defer r.mu.Unlock()
				r.bad[code]++
			})
		}
	}
}

// badCredential returns one of the expensive kinds: a key that does not exist, a wrong
// secret of an existing key, a forged token of a valid subject, or one of an unknown
// subject.
func (r *run) badCredential(n int) string {
	switch n % 4 {
	case 0:
		return forgedKey(random(12))
	case 1:
		return forgedKey(strings.Split(r.keys[n%senders], "_")[1])
	case 2:
		return r.issuer.forged(fmt.Sprint("sender-", n%senders))
	}
	return r.issuer.forged(fmt.Sprint("nobody-", rand.Int()))
}

func (r *run) login(credential string, src from) (code int, text string, err error) {
	req, err := http.NewRequest(http.MethodGet, r.p.Edge+"/api/v1/user_limits", nil)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer "+credential)
	if src.forwarded != "" {
		req.Header.Set("X-Forwarded-For", src.forwarded)
	}
	resp, err := r.client(src.address).Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	buf := make([]byte, 4096) // reads the whole response, so that the connection is reused
	n, _ := resp.Body.Read(buf)
	return resp.StatusCode, string(buf[:n]), nil
}

// client returns a client whose connections come from the address.
func (r *run) client(address string) *http.Client {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.clients[address]
	if c == nil {
		d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
		c = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DialContext: d.DialContext, MaxIdleConnsPerHost: 2 * badPerSecond}}
		r.clients[address] = c
	}
	return c
}

func (r *run) report(took time.Duration, cpu float64) {
	slices.Sort(r.waits)
	total := 0
	for code, n := range r.bad {
		total += n
		if code != http.StatusUnauthorized && code != http.StatusServiceUnavailable && code != 0 {
			r.t.Errorf("%d bad logins got status %d", n, code)
		}
	}
	if r.bad[http.StatusUnauthorized] < leastBad/2 {
		r.t.Errorf("only %d of %d bad logins were checked: the attack was too weak", r.bad[http.StatusUnauthorized], total)
	}
	r.t.Logf("%s: %d valid logins, all of which must succeed; slowest %s, median %s", r.attack.name, len(r.waits),
		r.waits[len(r.waits)-1].Round(time.Microsecond), r.waits[len(r.waits)/2].Round(time.Microsecond))
	r.t.Logf("%d bad logins in %s, %.0f/s, responses by status %v, up to %.0f delayed at once; CPU %.1f ms for each login, %.0f%% of one processor",
		total, took.Round(time.Millisecond), float64(total)/took.Seconds(), r.bad, r.waiting,
		1000*cpu/float64(total+len(r.waits)), 100*cpu/took.Seconds())
}

func write(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
