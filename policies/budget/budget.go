// Package budget distributes the rate limits of tenants over several gateways. Each
// gateway has its own token buckets and fills them only with its share of a limit; shares
// follow the demand, which gateways exchange a few times per second. No request waits for
// an exchange.
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

// Use is the demand of a tenant at one gateway, including rejected requests, as a
// fraction of its limits: 1 is the whole limit. It is 0 in a dimension without a limit.
type Use [dimensions]float64

// Share is the fraction of a tenant's limits that one gateway may use: of the rates at
// which its buckets fill, and of the bursts that they hold. All fractions are above 0.
type Share struct {
	Rate, Burst [dimensions]float64
}

// Whole returns the share of a single gateway.
func Whole() Share { return even(1, 1) }

// Equal returns the share of each gateway when the demand is unknown.
func Equal(gateways int) Share {
	part := 1 / float64(max(gateways, 1))
	return even(part, part)
}

func even(rate, burst float64) Share {
	return Share{Rate: [dimensions]float64{rate, rate, rate}, Burst: [dimensions]float64{burst, burst, burst}}
}

// Demands is the demand at one gateway, by tenant.
type Demands map[tenant.ID]Use

// Exchange publishes the demand at this gateway to other gateways, and returns the demand
// at every live gateway, including this one, by the gateway's ID. A gateway that has not
// called Exchange for two seconds is not live. Exchange may be called again after an
// error.
type Exchange interface {
	Exchange(ctx context.Context, id string, mine Demands) (map[string]Demands, error)
}

// Tenants are the token buckets of a gateway.
type Tenants interface {
	// Demands calls visit for every tenant that had requests recently.
	Demands(visit func(id tenant.ID, u Use))
	// SetShares replaces all shares. rest is the share of tenants that are not in shares.
	// gateways is the number of gateways that share the limits.
	SetShares(shares map[tenant.ID]Share, rest Share, gateways int)
}

const (
	// told is the demand, as a fraction of an equal share, from which a gateway publishes it to
	// other gateways. A tenant with less demand gets this fraction of an equal share of the rate,
	// which the other gateways do not use.
	told = 1.0 / 20
	// least is the minimum fraction of an equal share: of the rate for every gateway
	// whose demand can use it, and of the burst for every gateway.
	least = 1.0 / 2
	// headroom bounds the minimum share to this multiple of the demand. A larger share for a
	// gateway with little demand would be taken from gateways with much demand.
	headroom = 4
	// MaxTenants bounds the tenants of one exchange. A gateway with more publishes the
	// ones with the highest demand, and all gateways assign it the minimum share of
	// the rate for its other tenants.
	MaxTenants = 10_000
)

// Options are the options of New. Durations of 0 select the defaults.
type Options struct {
	ID       string // name of this gateway; New appends a random suffix to make it unique
	Exchange Exchange
	Tenants  Tenants
	// Gateways is the number of gateways to assume before the first exchange; at least 1.
	Gateways int
	Every    time.Duration // interval of exchanges; default 200 ms
	Keep     time.Duration // how long shares stay valid without an exchange; default 10 s

	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Sharer updates the shares of one gateway's buckets.
type Sharer struct {
	o         Options
	exchanges *prometheus.CounterVec

	mu       sync.Mutex
	gateways int
	last     time.Time // of the last successful exchange
	failing  bool
}

// New returns a Sharer and sets equal shares; Run or Step updates them.
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
	// Two gateways with the same ID would each use the whole limit.
	o.ID += "-" + rand.Text()[:8]
	s := &Sharer{o: o, gateways: max(o.Gateways, 1)}
	s.exchanges = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pallium_gateway_budget_exchanges_total", Help: "Exchanges of demand with other gateways, by result."}, []string{"result"})
	if o.Registerer != nil {
		o.Registerer.MustRegister(
			s.exchanges,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "pallium_gateway_budget_gateways",
				Help: "Number of gateways that share the rate limits.",
			}, s.countGateways),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "pallium_gateway_budget_exchange_age_seconds",
				Help: "Seconds since the last successful exchange; 0 before the first one.",
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

// Run exchanges demand immediately and then periodically until ctx is done.
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

// Step makes one exchange.
func (s *Sharer) Step(ctx context.Context) {
	mine := s.demands()
	limited, cancel := context.WithTimeout(ctx, max(s.o.Every, time.Second))
	defer cancel()
	all, err := s.o.Exchange.Exchange(limited, s.o.ID, mine)
	if ctx.Err() != nil {
		return // the gateway is stopping
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.o.Now()
	if err != nil {
		s.exchanges.WithLabelValues("error").Inc()
		if !s.failing {
			s.o.Logger.Warn("failed to share rate limits with other gateways: keeping the last shares for a while (attribute keep), "+
				"then every gateway allows an equal part of each limit; a tenant that sends to only one gateway may then get 429 below its limit",
				"keep", s.o.Keep, "gateways", s.gateways, "err", err)
		}
		s.failing = true
		if now.Sub(s.last) > s.o.Keep {
			s.o.Tenants.SetShares(nil, Equal(s.gateways), s.gateways)
		}
		return
	}
	s.exchanges.WithLabelValues("ok").Inc()
	if s.failing {
		s.o.Logger.Info("sharing rate limits with other gateways works again", "gateways", len(all))
	}
	s.failing, s.last, s.gateways = false, now, max(len(all), 1)
	s.o.Tenants.SetShares(Shares(s.o.ID, all), Rest(s.gateways, len(all[s.o.ID])), s.gateways)
}

// demands returns the demand that is high enough to be published.
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

// Rest returns the share for a tenant whose demand a gateway did not publish; tenants is the number
// of tenants that the gateway published. The rate is the part that other gateways do not use. When
// the demand rises, the burst, which is at least a second's worth of the minimum share, lasts until
// other gateways know the new demand.
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

// Shares computes a gateway's shares from the demand at all gateways. Gateways whose
// demand is high enough to be published share the limit by demand, but each gets at least
// the minimum share if it can use it; all others, in one dimension or entirely, get Rest.
// The rates and bursts of all gateways add up to at most 1. Every gateway computes the
// same function.
func Shares(id string, all map[string]Demands) map[tenant.ID]Share {
	out := make(map[tenant.ID]Share, len(all[id]))
	rest := Rest(len(all), 0)
	from := told / float64(len(all))
	uses := make([]Use, 0, len(all))
	var asking []float64
	for t, mine := range all[id] {
		uses = uses[:0]
		free := Whole() // what remains for the gateways that published demand
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

// divide returns the fraction of 1 for one of the demands in asking, which it sorts. The smallest
// demands come first: they are furthest below the floor, and the fraction that raises them to the
// floor reduces the rest for the others.
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

// capped bounds one demand, so that sums remain precise.
func capped(u float64) float64 { return min(u, 1e6) }
