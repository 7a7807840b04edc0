package home

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/stats"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/timing"
)

func names(list []Frontend) (out []string) {
	for _, f := range list {
		out = append(out, f.ID)
	}
	return out
}

// TestOrder checks that tenants are spread over frontends, that when a frontend
// leaves only its tenants move, and that unhealthy frontends are last.
func TestOrder(t *testing.T) {
	list := []Frontend{{ID: "frontend-1"}, {ID: "frontend-2"}, {ID: "frontend-3"}, {ID: "frontend-4"}}
	count := map[string]int{}
	for i := range 4000 {
		id := tenant.ID(fmt.Sprint("tenant-", i))
		got := names(order(list, id))
		count[got[0]]++
		reversed := slices.Clone(list)
		slices.Reverse(reversed)
		if again := names(order(reversed, id)); !slices.Equal(got, again) {
			t.Fatalf("the order depends on the order of the list: %v, %v", got, again)
		}
		without := slices.DeleteFunc(slices.Clone(list), func(f Frontend) bool { return f.ID == got[1] })
		if home := order(without, id)[0].ID; home != got[0] {
			t.Fatalf("%s moved from %s to %s when %s left", id, got[0], home, got[1])
		}
		sick := slices.Clone(list)
		for k := range sick {
			sick[k].Unhealthy = sick[k].ID == got[0]
		}
		if now := names(order(sick, id)); now[0] != got[1] || now[3] != got[0] {
			t.Fatalf("with %s unhealthy: %v, before %v", got[0], now, got)
		}
	}
	for id, n := range count {
		if n < 850 || n > 1150 {
			t.Errorf("%s is the home of %d of 4000 tenants", id, n)
		}
	}
}

// local is the engine of the process.
type local struct{ unparsed bool }

type here struct {
	stats    *stats.Statistics
	unparsed bool
}

func (h *here) Exec(context.Context) *promql.Result {
	return &promql.Result{Value: promql.String{V: "here"}}
}
func (h *here) Close()         {}
func (h *here) Cancel()        {}
func (h *here) String() string { return "" }
func (h *here) Statement() parser.Statement {
	if h.unparsed {
		return nil
	}
	return &parser.EvalStmt{}
}
func (h *here) Stats() *stats.Statistics { return h.stats }

func (l local) NewInstantQuery(context.Context, storage.Queryable, promql.QueryOpts, string, time.Time) (promql.Query, error) {
	return &here{&stats.Statistics{Timers: stats.NewQueryTimers(), Samples: stats.NewQuerySamples(false)}, l.unparsed}, nil
}

func (l local) NewRangeQuery(ctx context.Context, q storage.Queryable, o promql.QueryOpts, text string, at, _ time.Time, _ time.Duration) (
	promql.Query, error) {
	return l.NewInstantQuery(ctx, q, o, text, at)
}

var errAway = errors.New("not available")

// TestExec checks which process answers a query.
func TestExec(t *testing.T) {
	fault := errors.New("the store did not answer")
	answer := func(id string) (*evaluation.Answer, error) {
		return &evaluation.Answer{Value: promql.String{V: id}, Cost: evaluation.Cost{Read: 5}, Timing: timing.Report{Reads: 9}}, nil
	}
	away := func(string) (*evaluation.Answer, error) { return nil, errAway }
	for name, tt := range map[string]struct {
		say   map[int]func(id string) (*evaluation.Answer, error) // response by position in the order
		self  int                                                 // position of this process; -1: it is no frontend
		rings error
		local local
		opts  promql.QueryOpts
		price bool
		want  string // "home", "second", "third", or "here"
		err   string
		asked int
	}{
		"home":                     {self: -1, want: "home", asked: 1},
		"home is this process":     {self: 0, want: "here"},
		"home is not available":    {self: -1, say: map[int]func(string) (*evaluation.Answer, error){0: away}, want: "second", asked: 2},
		"the next is this process": {self: 1, say: map[int]func(string) (*evaluation.Answer, error){0: away}, want: "here", asked: 1},
		"three are not available":  {self: -1, say: map[int]func(string) (*evaluation.Answer, error){0: away, 1: away, 2: away}, want: "here", asked: 3},
		"no ring":                  {self: -1, rings: errAway, want: "here"},
		"another error":            {self: -1, say: map[int]func(string) (*evaluation.Answer, error){0: func(string) (*evaluation.Answer, error) { return nil, fault }}, err: fault.Error(), asked: 1},
		"a failed query":           {self: -1, say: map[int]func(string) (*evaluation.Answer, error){0: func(string) (*evaluation.Answer, error) { return &evaluation.Answer{Err: fault, Fault: fault}, nil }}, err: fault.Error(), asked: 1},
		"rejected before parsing":  {self: -1, local: local{unparsed: true}, want: "here"},
		"statistics of each step":  {self: -1, opts: promql.NewPrometheusQueryOpts(true, 0, nil), want: "here"},
		"its cost is counted":      {self: -1, price: true, want: "here"},
	} {
		t.Run(name, func(t *testing.T) {
			var list []Frontend
			for i := range 4 {
				list = append(list, Frontend{ID: fmt.Sprint("f", i)})
			}
			list = order(list, "acme")
			asked := 0
			for i := range list {
				list[i].Self = i == tt.self
				list[i].Query = func(context.Context, *evaluation.Request) (*evaluation.Answer, error) {
					asked++
					if say := tt.say[i]; say != nil {
						return say(list[i].ID)
					}
					return answer([]string{"home", "second", "third", "fourth"}[i])
				}
			}
			var noted error
			e := New(Options{Here: tt.local, Frontends: func(context.Context) ([]Frontend, error) {
				if tt.rings != nil {
					return nil, tt.rings
				}
				return list, nil
			},
				Elsewhere: func(err error) bool { return errors.Is(err, errAway) },
				Request: func(context.Context) (evaluation.Request, error) {
					return evaluation.Request{Access: tenant.Access{Tenant: "acme", Policy: tenant.Unrestricted()}}, nil
				},
				Uncached: func(context.Context) bool { return false }, Failed: func(err error) *promql.Result { return &promql.Result{Err: err} },
				Unreadable: func(_ context.Context, err error) { noted = err },
				Logger:     slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
			})
			measured := timing.New(time.Now)
			ctx := timing.NewContext(t.Context(), measured)
			if tt.price {
				ctx = evaluation.WithPrice(ctx)
			}
			q, err := e.NewInstantQuery(ctx, nil, tt.opts, "x", time.Unix(0, 0))
			if err != nil {
				t.Fatal(err)
			}
			res := q.Exec(ctx)
			if tt.err != "" {
				if res.Err == nil || res.Err.Error() != tt.err || (noted != nil) != (name == "a failed query") {
					t.Errorf("error %v, noted %v", res.Err, noted)
				}
			} else if s, ok := res.Value.(promql.String); !ok || s.V != tt.want {
				t.Errorf("answered by %v, %v; want %s", res.Value, res.Err, tt.want)
			}
			if asked != tt.asked {
				t.Errorf("the query was sent to %d frontends, want %d", asked, tt.asked)
			}
			if n := q.Stats().Samples.TotalSamples; (n == 5) != (tt.want != "" && tt.want != "here") {
				t.Errorf("%d samples read", n)
			}
			if n := measured.Report().Reads; (n == 9) != (tt.want != "" && tt.want != "here") {
				t.Errorf("%d reads measured", n)
			}
		})
	}
}

// TestCanceled checks that a canceled query is not sent to another frontend.
func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	asked := 0
	query := func(context.Context, *evaluation.Request) (*evaluation.Answer, error) {
		asked++
		cancel()
		return nil, errAway
	}
	e := New(Options{Here: local{}, Frontends: func(context.Context) ([]Frontend, error) {
		return []Frontend{{ID: "a", Query: query}, {ID: "b", Query: query}}, nil
	},
		Elsewhere: func(error) bool { return true }, Uncached: func(context.Context) bool { return true },
		Request:  func(context.Context) (evaluation.Request, error) { return evaluation.Request{}, nil },
		Canceled: func(context.Context) *promql.Result { return &promql.Result{Err: promql.ErrQueryCanceled("x")} },
		Failed:   func(err error) *promql.Result { return &promql.Result{Err: err} }, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	q, err := e.NewInstantQuery(ctx, nil, nil, "x", time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	var canceled promql.ErrQueryCanceled
	if res := q.Exec(ctx); !errors.As(res.Err, &canceled) || asked != 1 {
		t.Errorf("%v after %d frontends", res.Err, asked)
	}
}

// TestServer checks that a draining frontend rejects queries, and waits for queries in progress.
func TestServer(t *testing.T) {
	released := make(chan struct{})
	s := NewServer(func(context.Context, *evaluation.Request) (*evaluation.Answer, func()) {
		return &evaluation.Answer{}, func() { close(released) }
	})
	_, release, err := s.Query(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	drained := make(chan struct{})
	go func() { s.Drain(t.Context()); close(drained) }()
	for {
		if _, r, err := s.Query(t.Context(), nil); errors.Is(err, ErrDraining) {
			break
		} else if err != nil {
			t.Fatal(err)
		} else {
			_ = r // accepted before Drain began
			s.running.Done()
		}
	}
	select {
	case <-drained:
		t.Error("did not wait for the query in progress")
	default:
	}
	release()
	<-released
	<-drained
	_, _, _ = s.Query(t.Context(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.running.Add(1)
	s.Drain(ctx) // returns although a query is in progress
}

// TestHold checks which frontend holds a slot for a read.
func TestHold(t *testing.T) {
	down := errors.New("down")
	var asked []string
	for name, tt := range map[string]struct {
		fail []string
		here bool
		want string
	}{
		"home": {nil, true, "1"}, "home is down": {[]string{"1"}, true, "2"}, "all are down": {[]string{"1", "2"}, true, "here"},
		"all are down, no frontend here": {[]string{"1", "2"}, false, ""},
	} {
		asked = nil
		hold := func(id string) func(context.Context, tenant.ID, bool) (func(), error) {
			return func(_ context.Context, _ tenant.ID, instant bool) (func(), error) {
				if !instant {
					t.Errorf("%s: the kind of the read was not passed on", name)
				}
				if slices.Contains(tt.fail, id) {
					return nil, down
				}
				asked = append(asked, id)
				return func() { asked = append(asked, "released") }, nil
			}
		}
		first := order([]Frontend{{ID: "a"}, {ID: "b"}}, "acme")
		first[0].Hold, first[1].Hold = hold("1"), hold("2")
		o := Options{Frontends: func(context.Context) ([]Frontend, error) { return first, nil }, Logger: slog.New(slog.DiscardHandler),
			Registerer: prometheus.NewRegistry()}
		if tt.here {
			o.Hold = hold("here")
		}
		release, err := New(o).Hold(t.Context(), "acme", true)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		release()
		want := []string{tt.want, "released"}
		if tt.want == "" {
			want = nil
		}
		if !slices.Equal(asked, want) {
			t.Errorf("%s: %v, want %v", name, asked, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o := Options{Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		Frontends: func(context.Context) ([]Frontend, error) {
			return []Frontend{{ID: "a", Hold: func(ctx context.Context, _ tenant.ID, _ bool) (func(), error) { return nil, context.Cause(ctx) }}}, nil
		}}
	if _, err := New(o).Hold(ctx, "acme", true); !errors.Is(err, context.Canceled) {
		t.Errorf("a read whose client left: %v", err)
	}
}
