package alertmanager

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

const arrowsConfig = `alertmanager_config: |
  route:
    receiver: hook
    group_by: [alertname]
    group_wait: 1s
    group_interval: 5s
    repeat_interval: 4h
    routes: [{receiver: unread, matchers: [alertname=Unread]}]
  receivers:
  - {name: hook, webhook_configs: [{url: "%s/hook"}]}
  - {name: unread, webhook_configs: [{url: "http://%s/hook"}]}
`

// The groups of alerts of TestArrows, by the arrow of the protocol at which their holder is killed.
const (
	unclaimed  = "Unclaimed"  // it has decided to send, and its claim has not reached the row store
	unread     = "Unread"     // it has the claim and a connection to the receiver, which has not read the request
	unrecorded = "Unrecorded" // the receiver has answered 200, and `sent` has not reached the row store
	recorded   = "Recorded"   // `sent` is in the row store, and the response has not reached the holder
)

// arrows holds one process, the victim, at each arrow.
type arrows struct {
	victim string
	groups map[string]string // by key of the row

	mu      sync.Mutex
	killed  bool
	held    map[string]int          // writes of the victim that were held, by group
	passed  map[string]map[kind]int // writes of the victim that the row store has answered, by group
	reached map[string]chan struct{}
	finish  chan struct{} // closed when the write `sent` of the group recorded may reach the row store
}

func newArrows(victim string) *arrows {
	a := &arrows{victim: victim, groups: map[string]string{}, held: map[string]int{}, passed: map[string]map[kind]int{},
		reached: map[string]chan struct{}{}, finish: make(chan struct{})}
	for _, name := range []string{unclaimed, unread, unrecorded, recorded} {
		route, receiver := "{}", "hook"
		if name == unread {
			route, receiver = `{}/{alertname="Unread"}`, "unread"
		}
		group := fmt.Sprintf(`%s:{alertname=%q}`, route, name)
		a.groups[schema.NotificationKey("acme", group, receiver, "webhook", 0)] = name
		a.reached[name], a.passed[name] = make(chan struct{}), map[kind]int{}
	}
	return a
}

var errReserved = errors.New("the test lets only one process claim this notification")

// hook implements hook for the taps of all processes.
func (a *arrows) hook(ctx context.Context, w write, answered bool) error {
	name := a.groups[w.key]
	a.mu.Lock()
	killed := a.killed
	if name != "" && w.process == a.victim && answered {
		a.passed[name][w.kind]++
	}
	a.mu.Unlock()
	switch {
	case name == "" || killed:
		return nil
	case w.process != a.victim:
		if w.kind == claim && !answered {
			return errReserved
		}
		return nil
	case name == unclaimed && w.kind == claim && !answered, name == unrecorded && w.kind == sent && !answered:
		return a.hold(ctx, name)
	case name == recorded && w.kind == sent && answered:
		return a.hold(ctx, name)
	case name == recorded && w.kind == sent:
		select {
		case <-a.finish:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// hold keeps a write until the process has given up waiting for its response, or has died.
func (a *arrows) hold(ctx context.Context, name string) error {
	a.mu.Lock()
	a.held[name]++
	if a.held[name] == 1 {
		close(a.reached[name])
	}
	a.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

// deaf is a listener that keeps its first connection and never reads from it. Later ones are accepted as usual.
type deaf struct {
	net.Listener
	once    sync.Once
	reached chan struct{} // closed when the first connection was accepted
	kept    net.Conn
}

// Accept implements net.Listener.
func (d *deaf) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	first := false
	d.once.Do(func() { first = true })
	if !first {
		return c, nil
	}
	d.kept = c
	close(d.reached)
	return d.Listener.Accept()
}

// newDeaf returns the address of a receiver that counts with r, except that it never reads from its first connection.
func newDeaf(t *testing.T, r *receiver, reached chan struct{}) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &deaf{Listener: l, reached: reached}
	server := &http.Server{Handler: r.Config.Handler}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(d) }) // ends with Close
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
		if d.kept != nil {
			_ = d.kept.Close()
		}
	})
	return l.Addr().String()
}

// metric returns a counter of a process, the sum of all its label values.
func (s *system) metric(process, name string) int {
	s.t.Helper()
	_, text := programs.Do(s.t, http.MethodGet, s.c.Process(process).Admin+"/metrics", "", "", nil)
	sum := 0.0
	for line := range strings.Lines(text) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if series != name && !strings.HasPrefix(series, name+"{") {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			s.t.Fatalf("%s of %s: %v", name, process, err)
		}
		sum += n
	}
	return int(sum)
}

// TestArrows kills an Alertmanager at each arrow of claim, send and sent, of four groups at the same moment, with the other
// replicas alive. The receiver gets each notification once, and twice only if the holder died between the answer of the
// receiver and the write `sent`.
func TestArrows(t *testing.T) {
	t.Parallel()
	a := newArrows("alertmanager-1")
	r := newReceiver(t)
	address := newDeaf(t, r, a.reached[unread])
	s := newSystem(t, r, func(process, store string) string { return newTap(t, process, store, a.hook).addr })
	s.do(http.MethodPost, "/api/v1/alerts", "application/yaml", fmt.Sprintf(arrowsConfig, s.URL, address), http.StatusCreated)

	s.fire(`"alertname":"Unclaimed"`, false)
	s.fire(`"alertname":"Unrecorded"`, false)
	kit.Receive(t, "the claim is held", a.reached[unclaimed])
	kit.Receive(t, "the write of what was sent is held", a.reached[unrecorded])
	// The attempt to send ends after ten seconds, so these two come last.
	s.fire(`"alertname":"Unread"`, false)
	s.fire(`"alertname":"Recorded"`, false)
	kit.Receive(t, "the holder has connected to the receiver", a.reached[unread])
	s.arrives("Recorded firing", 20*time.Second)
	attempts := s.metric(a.victim, "pallium_alertmanager_notifications_total")
	close(a.finish)
	kit.Receive(t, "the response to the write of what was sent is held", a.reached[recorded])
	a.mu.Lock()
	s.signal(syscall.SIGKILL, a.victim)
	a.killed = true
	passed := fmt.Sprint(a.passed[unclaimed], a.passed[recorded])
	claimed, ended := a.passed[unread][claim], a.passed[unread][release]+a.passed[unread][sent]
	written := a.passed[unrecorded][sent]
	a.mu.Unlock()

	if want := "map[] map[claim:1 sent:1]"; passed != want {
		t.Errorf("of the groups %s and %s the holder wrote %s, want %s", unclaimed, recorded, passed, want)
	}
	if claimed != 1 || ended != 0 {
		t.Errorf("of the group %s the holder wrote %d claims, and %d ends of claims, want 1 and 0", unread, claimed, ended)
	}
	if written != 0 {
		t.Errorf("of the group %s the holder wrote that it was sent", unrecorded)
	}
	if attempts != 3 {
		t.Errorf("the holder has made %d attempts to notify, want 3: %s, %s and %s", attempts, unread, unrecorded, recorded)
	}
	for name, want := range map[string]int{unread: 0, unrecorded: 1, recorded: 1} { // another replica may have sent the first group by now
		s.exactly("when the holder was killed", name+" firing", want)
	}
	s.start(a.victim)
	for name, want := range map[string]int{unclaimed: 1, unread: 1, unrecorded: 2} {
		kit.Eventually(t, 90*time.Second, func() error {
			if n := s.got(name + " firing"); n < want {
				return fmt.Errorf("%d notifications of the group %s, want %d", n, name, want)
			}
			return nil
		})
	}
	time.Sleep(flushes)
	for name, want := range map[string]int{unclaimed: 1, unread: 1, unrecorded: 2, recorded: 1} {
		s.exactly("in the end", name+" firing", want)
	}
	taken := s.metric("alertmanager-2", "pallium_alertmanager_claim_takeovers_total") +
		s.metric("alertmanager-3", "pallium_alertmanager_claim_takeovers_total")
	if taken != 2 {
		t.Errorf("%d claims were taken over, want 2: of the groups %s and %s", taken, unread, unrecorded)
	}
}
