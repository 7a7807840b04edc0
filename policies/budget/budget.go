// Package budget shares the rate limits of tenants between gateways. Each gateway
// keeps token buckets of its own and may fill them by its share of a limit only;
// shares follow demand, which gateways tell each other a few times a second. No
// request waits for it.
package budget

import (
	"cmp"
	"context"
	"crypto/rand"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/tenant"
)

// Dimensions of a rate.
const (
	Requests = iota
	Samples
	Bytes
	dimensions
)

// Use is what a tenant asks of one gateway, rejected requests included, as a part
// of its limits: 1 is all of one. A dimension without limit is 0.
type Use [dimensions]float64

// Share is which part of a tenant's limits one gateway may use: of the rates, by
// which its buckets fill, and of the bursts, which they hold. All are above 0.
type Share struct {
	Rate, Burst [dimensions]float64
}

// Whole is the share of a gateway that is the only one.
func Whole() Share { return even(1, 1) }

// Equal is the share of each of some gateways that know nothing of demand.
func Equal(gateways int) Share {
	part := 1 / float64(max(gateways, 1))
	return even(part, part)
}

func even(rate, burst float64) Share {
	return Share{Rate: [dimensions]float64{rate, rate, rate}, Burst: [dimensions]float64{burst, burst, burst}}
}

// Demands is what one gateway was asked for.
type Demands map[tenant.ID]Use

// Exchange tells other gateways what this one was asked for, and returns what
// every gateway that lives was asked for, this one included, by the gateway's ID.
// A gateway that has not called for two seconds does not live. It may be called
// again after an error.
type Exchange interface {
	Exchange(ctx context.Context, id string, mine Demands) (map[string]Demands, error)
}

// Tenants are the buckets of a gateway.
type Tenants interface {
	// Demands calls visit for every tenant that asked for something lately.
	Demands(visit func(id tenant.ID, u Use))
	// SetShares replaces all shares. Tenants that have none of their own have rest.
	// gateways is how many share the limits.
	SetShares(shares map[tenant.ID]Share, rest Share, gateways int)
}

const (
	// told is from which part of an equal share on demand is told to others. Who
	// asks for less has that much of the rate, which others leave free.
	told = 1.0 / 20
	// least is the part of an equal share that whoever can use it has of the rate,
	// and everybody of the burst.
	least = 1.0 / 2
	// headroom is how many times its demand one may grow to use its least share;
	// to leave more to who asks for little would take it from who asks for much.
	headroom = 4
	// MaxTenants bounds one exchange. A gateway that has more tells of those who
	// ask for most; for the others it has the least of the rate, and all know.
	MaxTenants = 10_000
)

// Options of a Sharer. Durations of 0 are the defaults.
type Options struct {
	ID       string // of this gateway; what makes it unique is added
	Exchange Exchange
	Tenants  Tenants
	// Gateways is how many there are as long as nobody has told; at least 1.
	Gateways int
	Every    time.Duration // between exchanges; default 200 ms
	Keep     time.Duration // how long shares hold without an exchange; default 10 s

	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Sharer keeps the shares of one gateway's buckets up to date.
type Sharer struct {
	o         Options
	exchanges *prometheus.CounterVec

	mu       sync.Mutex
	gateways int
	last     time.Time // of the last exchange that worked
	failing  bool
}

// New returns a Sharer that has set first shares; Run or Step changes them.
func New(o Options) *Sharer {
	if o.Every == 0 {
		o.Every = 200 * time.Millisecond
	}
	if o.Keep == 0 {
		o.Keep = 10 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	// Two that had one ID would each take the whole.
	o.ID += "-" + rand.Text()[:8]
	s := &Sharer{o: o, gateways: max(o.Gateways, 1)}
	s.exchanges = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pallium_gateway_budget_exchanges_total", Help: "Exchanges of demand with other gateways, by result."}, []string{"result"})
	if o.Registerer != nil {
		o.Registerer.MustRegister(
			s.exchanges,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "pallium_gateway_budget_gateways",
				Help: "Gateways that share the rate limits.",
			}, s.countGateways),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "pallium_gateway_budget_exchange_age_seconds",
				Help: "Since the last exchange that worked; 0 before the first.",
			}, s.age),
		)
	}
	s.o.Tenants.SetShares(nil, Equal(s.gateways), s.gateways)
	return s
}

func (s *Sharer) countGateways() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return float64(s.gateways)
}

func (s *Sharer) age() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last.IsZero() {
		return 0
	}
	return s.o.Now().Sub(s.last).Seconds()
}

// Run exchanges at once, and then until ctx is done.
func (s *Sharer) Run(ctx context.Context) {
	tick := time.NewTicker(s.o.Every)
	defer tick.Stop()
	s.Step(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.Step(ctx)
		}
	}
}

// Step is one exchange.
func (s *Sharer) Step(ctx context.Context) {
	mine := s.demands()
	limited, cancel := context.WithTimeout(ctx, max(s.o.Every, time.Second))
	defer cancel()
	all, err := s.o.Exchange.Exchange(limited, s.o.ID, mine)
	if ctx.Err() != nil {
		return // the gateway ends
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.o.Now()
	if err != nil {
		s.exchanges.WithLabelValues("error").Inc()
		if !s.failing {
			s.o.Logger.Warn("demand cannot be exchanged with other gateways; the last shares of rate limits hold for a while, then equal ones",
				"gateways", s.gateways, "err", err)
		}
		s.failing = true
		if now.Sub(s.last) > s.o.Keep {
			s.o.Tenants.SetShares(nil, Equal(s.gateways), s.gateways)
		}
		return
	}
	s.exchanges.WithLabelValues("ok").Inc()
	if s.failing {
		s.o.Logger.Info("demand is exchanged with other gateways again", "gateways", len(all))
	}
	s.failing, s.last, s.gateways = false, now, max(len(all), 1)
	s.o.Tenants.SetShares(Shares(s.o.ID, all), Rest(s.gateways, len(all[s.o.ID])), s.gateways)
}

// demands are those that are worth telling.
func (s *Sharer) demands() Demands {
	s.mu.Lock()
	from := told / float64(s.gateways)
	s.mu.Unlock()
	type asked struct {
		id  tenant.ID
		use Use
	}
	var list []asked
	s.o.Tenants.Demands(func(id tenant.ID, u Use) {
		if slices.Max(u[:]) >= from {
			list = append(list, asked{id, u})
		}
	})
	if len(list) > MaxTenants {
		slices.SortFunc(list, func(a, b asked) int { return cmp.Compare(slices.Max(b.use[:]), slices.Max(a.use[:])) })
		list = list[:MaxTenants]
	}
	out := make(Demands, len(list))
	for _, a := range list {
		out[a.id] = a.use
	}
	return out
}

// Rest is the share of a tenant that a gateway told nothing about, of which it
// told tenants in all. Its rate is what others leave free. When demand rises the
// burst, a second's worth of the least share or more, lasts until others know.
func Rest(gateways, tenants int) Share {
	if gateways <= 1 {
		return Whole()
	}
	n := float64(gateways)
	if tenants >= MaxTenants {
		return even(least/n, least/n)
	}
	return even(told/n, least/n)
}

// Shares computes a gateway's shares from what all gateways were asked for. Those
// who ask for enough to tell share by demand, but none has less than the least
// share if it could use that; those who do not, in one dimension or at all, have
// Rest. Rates and bursts of all gateways add up to 1 at most. It is the same
// function on every gateway.
func Shares(id string, all map[string]Demands) map[tenant.ID]Share {
	out := make(map[tenant.ID]Share, len(all[id]))
	rest := Rest(len(all), 0)
	from := told / float64(len(all))
	uses := make([]Use, 0, len(all))
	var asking []float64
	for t, mine := range all[id] {
		uses = uses[:0]
		free := Whole() // for those who tell
		for _, of := range all {
			if u, ok := of[t]; ok {
				uses = append(uses, u)
			} else {
				free = free.less(Rest(len(all), len(of)))
			}
		}
		share := rest
		for d := range dimensions {
			if mine[d] < from || len(all) == 1 {
				continue
			}
			rate, burst := free.Rate[d], free.Burst[d]
			asking = asking[:0]
			for _, u := range uses {
				if u[d] >= from {
					asking = append(asking, capped(u[d]))
					continue
				}
				rate -= rest.Rate[d]
				burst -= rest.Burst[d]
			}
			part := divide(capped(mine[d]), asking, len(all))
			share.Rate[d], share.Burst[d] = rate*part, burst*part
		}
		out[t] = share
	}
	return out
}

func (s Share) less(o Share) Share {
	for d := range dimensions {
		s.Rate[d] -= o.Rate[d]
		s.Burst[d] -= o.Burst[d]
	}
	return s
}

// divide returns which part of 1 is for one of those who ask, by demand. It sorts
// asking. Those who ask for least come first: theirs is furthest below the floor,
// and what they have to reach it is no longer there for the others.
func divide(mine float64, asking []float64, gateways int) float64 {
	slices.Sort(asking)
	left, sum := 1.0, 0.0
	for _, u := range asking {
		sum += u
	}
	for _, u := range asking {
		floor := min(least/float64(gateways), headroom*u)
		if left*u/sum >= floor {
			break
		}
		if u == mine {
			return floor
		}
		left -= floor
		sum -= u
	}
	return left * mine / sum
}

// capped bounds what one demand counts, so that sums stay exact.
func capped(u float64) float64 { return min(u, 1e6) }
