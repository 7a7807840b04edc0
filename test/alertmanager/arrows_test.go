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

// The groups of alerts of TestArrows. Each is named after the step of the protocol at which the holder of the group's
// claim is killed.
const (
	unclaimed  = "Unclaimed"  // the holder has decided to send, but its claim has not reached the row store
	unread     = "Unread"     // the holder has the claim and a connection to the receiver, but the receiver has not read the request
	unrecorded = "Unrecorded" // the receiver has responded with 200, but the write `sent` has not reached the row store
	recorded   = "Recorded"   // the write `sent` is in the row store, but its response has not reached the holder
)

// arrows delays the writes of one process, the victim, so that it waits at each of the steps.
type arrows struct {
	victim string
	groups map[string]string // names, by key of the row

	mu      sync.Mutex
	killed  bool
	held    map[string]int          // number of the victim's delayed writes, by group
	passed  map[string]map[kind]int // number of the victim's writes to which the row store has responded, by group
	reached map[string]chan struct{}
	finish  chan struct{} // closed when the write `sent` of the group `recorded` may reach the row store
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

// hook is the hook of the taps of all processes.
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

// hold delays a write until the process stops waiting for the response, or is killed.
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

// deaf is a listener that accepts its first connection but never reads from it. Later connections are served.
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

// newDeaf returns the address of a receiver that never reads from its first connection. r counts the notifications of
// the others. The channel is closed when the first connection was accepted.
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

// metric returns the value of a counter of a process, summed over all labels.
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

// TestArrows kills one Alertmanager while four groups are at different steps of the protocol: before the claim, before the
// response of the receiver, before the write `sent`, and after it. The other replicas are alive. The receiver gets each
// notification once, and twice only if the holder was killed between the response of the receiver and the write `sent`.
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
	// An attempt to send ends after ten seconds, so the test waits for these two groups last.
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
		t.Errorf("the holder's completed writes for the groups %s and %s are %s, want %s", unclaimed, recorded, passed, want)
	}
	if claimed != 1 || ended != 0 {
		t.Errorf("the holder wrote %[2]d claims and %[3]d ends of claims for the group %[1]s, want 1 and 0", unread, claimed, ended)
	}
	if written != 0 {
		t.Errorf("the holder recorded the notification of the group %s as sent", unrecorded)
	}
	if attempts != 3 {
		t.Errorf("the holder has made %d attempts to notify, want 3: %s, %s and %s", attempts, unread, unrecorded, recorded)
	}
	// Another replica may have notified about the group `unclaimed` by now.
	for name, want := range map[string]int{unread: 0, unrecorded: 1, recorded: 1} {
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
		t.Errorf("%d claims were taken over, want 2: those of the groups %s and %s", taken, unread, unrecorded)
	}
}
