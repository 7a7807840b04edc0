// Package ruler tests rulers as processes of a cluster: no evaluation is missing or different, and no alert is
// resolved, while rulers are killed, stopped, paused and cut off from the row store.
package ruler

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	chaos "github.com/palliumhq/pallium/test/chaos/cluster"
	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/cluster"
	"github.com/palliumhq/pallium/test/kit/programs"
)

const (
	groups   = 40
	interval = 2 * time.Second
	takeover = 20 * time.Second // 15 s, and 5 s more for a busy machine
)

// groupText is the YAML of a group. Its first recording rule writes the time of the slot at which it was evaluated, the second
// one copies the sample of the slot before, and the alert is always active.
const groupText = `name: g%d
interval: 2s
rules:
- {record: slot, expr: "vector(time())", labels: {group: "%[1]d"}}
- {record: before, expr: "slot{group='%[1]d'} offset 2s"}
- alert: Always
  expr: slot{group='%[1]d'} > 0
  for: 4s
  labels: {group: "%[1]d"}
`

// manager is an Alertmanager that counts the alerts it receives, and those that are resolved.
type manager struct {
	*httptest.Server
	mu       sync.Mutex
	last     map[string]time.Time // by group
	longest  time.Duration        // between two notifications of one alert
	resolved []string
}

func newManager(t *testing.T) *manager {
	m := &manager{last: map[string]time.Time{}}
	m.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var list []struct {
			Labels map[string]string
			EndsAt time.Time
		}
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(body, &list)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if err != nil {
			m.resolved = append(m.resolved, err.Error())
		}
		now := time.Now()
		for _, a := range list {
			g := a.Labels["group"]
			if !a.EndsAt.After(now) {
				m.resolved = append(m.resolved, g)
			}
			if last, ok := m.last[g]; ok {
				m.longest = max(m.longest, now.Sub(last))
			}
			m.last[g] = now
		}
	}))
	t.Cleanup(m.Close)
	return m
}

// system is a cluster with two rulers.
type system struct {
	t   *testing.T
	c   *cluster.Cluster
	key string // of the tenant acme
	// stores are the connections of rulers to the row store, by the name of the ruler.
	stores map[string]*chaos.Proxy
}

func newSystem(t *testing.T, m *manager) *system {
	t.Helper()
	binary := os.Getenv("REDIS_SERVER")
	if binary == "" {
		binary = "redis-server"
	}
	s := &system{t: t, stores: map[string]*chaos.Proxy{}}
	c, err := cluster.New(cluster.Options{Dir: t.TempDir(), Free: true, Rulers: 2, Through: s.through,
		Config: fmt.Sprintf("self_monitoring: {disabled: true}\nruler: {alertmanagers: [{url: %q}]}\negress: {allow: [127.0.0.1]}\n"+
			"limits: {min_rule_interval: 1s, max_concurrent_rule_groups: 4}\n", m.URL),
		Binaries: cluster.Binaries{Pallium: programs.Binary(t, "PALLIUM"), Redis: binary,
			Bigtable: programs.Binary(t, "BIGTABLE_EMULATOR_BIN"), GCS: programs.Binary(t, "FAKE_GCS_SERVER_BIN")}})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	t.Cleanup(func() {
		if t.Failed() {
			for _, name := range []string{"ruler-1", "ruler-2"} {
				t.Logf("== %s\n%s", name, c.Log(name))
			}
		}
		if err := c.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	if err := c.Up(ctx); err != nil {
		t.Fatal(err)
	}
	s.c = c
	if s.key, err = c.NewToken(ctx, "acme", "metrics:read", "rules:read", "rules:write"); err != nil {
		t.Fatal(err)
	}
	return s
}

// through puts a proxy between each ruler and the row store.
func (s *system) through(name, address string) string {
	ruler, ok := strings.CutSuffix(name, "-bigtable")
	if !ok {
		return address
	}
	s.stores[ruler] = chaos.NewProxy(s.t, "127.0.0.1", address, 1)
	return s.stores[ruler].Addr
}

// get reads a path of the API of the tenant.
func (s *system) get(path string, form url.Values, into any) error {
	code, text := programs.Do(s.t, http.MethodGet, s.c.Edges[0]+path+"?"+form.Encode(), s.key, "", nil)
	if code != http.StatusOK {
		return fmt.Errorf("%s: %d %s", path, code, text)
	}
	return json.Unmarshal([]byte(text), into)
}

// series returns the samples (time in Unix seconds, and value) of each series of a selector in a time range, by the
// value of the label `group`.
func (s *system) series(selector string, begin, end time.Time) map[string][][2]float64 {
	s.t.Helper()
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Values [][2]any
			}
		}
	}
	query := fmt.Sprintf("%s[%dms]", selector, end.Sub(begin).Milliseconds())
	form := url.Values{"query": {query}, "time": {fmt.Sprintf("%.3f", float64(end.UnixMilli())/1000)}}
	if err := s.get("/prometheus/api/v1/query", form, &answer); err != nil {
		s.t.Fatal(err)
	}
	out := map[string][][2]float64{}
	for _, r := range answer.Data.Result {
		for _, v := range r.Values {
			value, err := strconv.ParseFloat(v[1].(string), 64)
			if err != nil {
				s.t.Fatal(err)
			}
			out[r.Metric["group"]] = append(out[r.Metric["group"]], [2]float64{v[0].(float64), value})
		}
	}
	return out
}

// healthy waits until every group has been evaluated recently and all its rules are healthy.
func (s *system) healthy() {
	s.t.Helper()
	kit.Eventually(s.t, 60*time.Second, func() error {
		var answer struct {
			Data struct {
				Groups []struct {
					Name           string
					LastEvaluation time.Time
					Rules          []struct{ Health, LastError string }
				}
			}
		}
		if err := s.get("/prometheus/api/v1/rules", nil, &answer); err != nil {
			return err
		}
		if n := len(answer.Data.Groups); n != groups {
			return fmt.Errorf("%d groups", n)
		}
		for _, g := range answer.Data.Groups {
			if time.Since(g.LastEvaluation) > 3*interval {
				return fmt.Errorf("group %s was evaluated %s ago: %v", g.Name, time.Since(g.LastEvaluation), g.Rules)
			}
			for _, r := range g.Rules {
				if r.Health != "ok" {
					return fmt.Errorf("group %s is %s: %s", g.Name, r.Health, r.LastError)
				}
			}
		}
		return nil
	})
}

// hasAll checks that a ruler evaluates all groups.
func (s *system) hasAll(name string) {
	s.t.Helper()
	_, text := programs.Do(s.t, http.MethodGet, s.c.Process(name).Admin+"/metrics", "", "", nil)
	_, after, _ := strings.Cut(text, "\npallium_ruler_groups ")
	if n, _, _ := strings.Cut(after, "\n"); n != strconv.Itoa(groups) {
		s.t.Errorf("%s evaluates %q groups, want all %d", name, n, groups)
	}
}

// fault is an action that causes a fault of a ruler or ends it.
type fault func(s *system, name string) error

func stop(sig syscall.Signal) fault {
	return func(s *system, name string) error { return s.c.Stop(s.t.Context(), name, sig) }
}

func start(s *system, name string) error { return s.c.Start(s.t.Context(), name) }

func send(sig syscall.Signal) fault {
	return func(s *system, name string) error { return s.c.Signal(name, sig) }
}

// rowStore changes the connection to the row store.
func rowStore(m chaos.Mode) fault {
	return func(s *system, name string) error {
		s.stores[name].Set(m)
		return nil
	}
}

// TestRulers kills, stops and pauses rulers one after the other, and cuts them off from the row store. Then it checks every
// slot of every group. A ruler evaluates at most four groups at once, so that its own groups must wait for takeovers.
func TestRulers(t *testing.T) {
	m := newManager(t)
	s := newSystem(t, m)
	for i := range groups {
		code, text := programs.Do(t, http.MethodPost, s.c.Edges[i%2]+"/api/v1/rules/n", s.key, "application/yaml", strings.NewReader(fmt.Sprintf(groupText, i)))
		if code != http.StatusAccepted {
			t.Fatalf("load a group: %d %s", code, text)
		}
	}
	s.healthy()
	begin := time.Now().Add(4 * interval) // alerts are firing
	time.Sleep(5 * interval)
	for _, step := range []struct {
		name  string
		fault fault
		pause time.Duration
		end   fault
	}{
		{"ruler-1", stop(syscall.SIGKILL), takeover, start},
		{"ruler-2", send(syscall.SIGSTOP), takeover, send(syscall.SIGCONT)},
		{"ruler-1", stop(syscall.SIGTERM), 10 * time.Second, start},
		{"ruler-2", stop(syscall.SIGKILL), 2 * time.Second, start},
		{"ruler-1", rowStore(chaos.Hang), takeover, rowStore(chaos.Pass)},
		{"ruler-2", rowStore(chaos.Reject), takeover, rowStore(chaos.Pass)},
	} {
		if err := step.fault(s, step.name); err != nil {
			t.Fatal(err)
		}
		time.Sleep(step.pause)
		if step.pause >= takeover {
			s.hasAll(map[string]string{"ruler-1": "ruler-2", "ruler-2": "ruler-1"}[step.name])
		}
		if err := step.end(s, step.name); err != nil {
			t.Fatal(err)
		}
		s.healthy()
		time.Sleep(2 * interval)
	}
	time.Sleep(5 * time.Second)
	end := time.Now().Add(-4 * interval)
	s.check(begin, end)
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.resolved) > 0 || len(m.last) != groups || m.longest > 2*time.Minute {
		t.Errorf("%d alerts were sent, want %d; resolved alerts, want none: %q; the longest time between two notifications of one alert is %s", len(m.last), groups, m.resolved,
			m.longest)
	}
	t.Logf("the longest time between two notifications of one alert is %s", m.longest.Round(time.Millisecond))
}

// check checks that each group has a sample for each slot, with the time of the slot as its value, that rules could read the
// samples of the previous slot, and that alerts were firing all the time.
func (s *system) check(begin, end time.Time) {
	s.t.Helper()
	slots := 0
	for selector, valid := range map[string]func(at, value float64) bool{
		"slot":                         func(at, value float64) bool { return value == at },
		"before":                       func(at, value float64) bool { return math.Abs(value-at+interval.Seconds()) < 0.0005 },
		`ALERTS{alertstate="firing"}`:  func(_, value float64) bool { return value == 1 },
		`ALERTS_FOR_STATE`:             func(_, value float64) bool { return value < float64(begin.Unix()) },
		`ALERTS{alertstate="pending"}`: nil,
	} {
		list := s.series(selector, begin, end)
		if valid == nil {
			if len(list) > 0 {
				s.t.Errorf("%s has samples: %v", selector, list)
			}
			continue
		}
		if len(list) != groups {
			s.t.Errorf("%s has samples of %d groups, want %d", selector, len(list), groups)
		}
		for g, points := range list {
			previous := float64(begin.UnixMilli())/1000 - interval.Seconds()
			for _, p := range points {
				slots++
				if gap := p[0] - previous; gap > interval.Seconds()+0.001 && previous > float64(begin.UnixMilli())/1000 || gap > 2*interval.Seconds() {
					s.t.Errorf("%s of group %s has no sample in the %.3f s before %.3f", selector, g, gap, p[0])
				}
				if !valid(p[0], p[1]) {
					s.t.Errorf("%s of group %s is %f at %.3f", selector, g, p[1], p[0])
				}
				previous = p[0]
			}
			if gap := float64(end.UnixMilli())/1000 - previous; gap > interval.Seconds()+0.001 {
				s.t.Errorf("%s of group %s has no sample in the last %.3f s", selector, g, gap)
			}
		}
	}
	s.t.Logf("%d samples in %s", slots, end.Sub(begin).Round(time.Second))
}
