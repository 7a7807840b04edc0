// Package budget shares the rate limits of tenants between gateways. Each gateway
// keeps token buckets of its own and may fill them by its share of a limit only;
// shares follow demand, which gateways tell each other a few times a second. No
// request waits for it.
package budget

import (
	"context"
	"log/slog"
	"math"
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

// Use is what a tenant asks of one gateway, refused requests included, as a part
// of its limits: 1 is all of one. A dimension without limit is 0.
type Use [dimensions]float64

// Share is which part of a tenant's limits one gateway may use.
type Share [dimensions]float64

// Whole is the share of a gateway that is the only one.
func Whole() Share { return Share{1, 1, 1} }

func equal(v float64) Share { return Share{v, v, v} }

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
	// told is from which part of an equal share on demand is told to others. What
	// is below is kept free for those who do not tell.
	told = 1.0 / 20
	// MaxTenants bounds one exchange; tenants beyond it, those who ask for least,
	// have the share of those who do not tell.
	MaxTenants = 10_000
)

// Options of a Sharer. Durations of 0 are the defaults.
type Options struct {
	ID       string // of this gateway, unique
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
	s := &Sharer{o: o, gateways: max(o.Gateways, 1)}
	s.exchanges = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pallium_gateway_budget_exchanges_total", Help: "Exchanges of demand with other gateways, by result."}, []string{"result"})
	if o.Registerer != nil {
		o.Registerer.MustRegister(s.exchanges,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_gateway_budget_gateways", Help: "Gateways that share the rate limits."}, s.countGateways),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_gateway_budget_exchange_age_seconds", Help: "Since the last exchange that worked; 0 before the first."}, s.age))
	}
	s.o.Tenants.SetShares(nil, equal(1/float64(s.gateways)), s.gateways)
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

// Run exchanges until ctx is done.
func (s *Sharer) Run(ctx context.Context) {
	tick := time.NewTicker(s.o.Every)
	defer tick.Stop()
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
	ctx, cancel := context.WithTimeout(ctx, max(s.o.Every, time.Second))
	defer cancel()
	all, err := s.o.Exchange.Exchange(ctx, s.o.ID, mine)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.o.Now()
	if err != nil {
		s.exchanges.WithLabelValues("error").Inc()
		if !s.failing {
			s.o.Logger.Warn("demand cannot be exchanged with other gateways; the last shares of rate limits hold for a while, then equal ones", "gateways", s.gateways, "err", err)
		}
		s.failing = true
		if now.Sub(s.last) > s.o.Keep {
			s.o.Tenants.SetShares(nil, equal(1/float64(s.gateways)), s.gateways)
		}
		return
	}
	s.exchanges.WithLabelValues("ok").Inc()
	if s.failing {
		s.o.Logger.Info("demand is exchanged with other gateways again", "gateways", len(all))
	}
	s.failing, s.last, s.gateways = false, now, max(len(all), 1)
	s.o.Tenants.SetShares(Shares(s.o.ID, all), Rest(s.gateways), s.gateways)
}

// demands are those that are worth telling.
func (s *Sharer) demands() Demands {
	s.mu.Lock()
	least := told / float64(s.gateways)
	s.mu.Unlock()
	type asked struct {
		id  tenant.ID
		use Use
	}
	var list []asked
	s.o.Tenants.Demands(func(id tenant.ID, u Use) {
		if slices.Max(u[:]) >= least {
			list = append(list, asked{id, u})
		}
	})
	if len(list) > MaxTenants {
		slices.SortFunc(list, func(a, b asked) int {
			if slices.Max(a.use[:]) > slices.Max(b.use[:]) {
				return -1
			}
			return 1
		})
		list = list[:MaxTenants]
	}
	out := make(Demands, len(list))
	for _, a := range list {
		out[a.id] = a.use
	}
	return out
}

// Rest is the share of a tenant that a gateway told nothing about. Its demand was
// below what others leave free; when it rises it has this for one exchange.
func Rest(gateways int) Share {
	if gateways <= 1 {
		return Whole()
	}
	return equal(1 / (2 * float64(gateways)))
}

// Shares computes a gateway's shares from what all gateways were asked for: by
// demand, but not below half of an equal share for who asks at all. The shares of
// those who tell add up to 1, less what those who do not may use. It is the same
// function on every gateway.
func Shares(id string, all map[string]Demands) map[tenant.ID]Share {
	n := float64(len(all))
	out := make(map[tenant.ID]Share, len(all[id]))
	for t, mine := range all[id] {
		silent := n
		var uses []Use
		for _, of := range all {
			if u, ok := of[t]; ok {
				uses = append(uses, u)
				silent--
			}
		}
		free := 1 - silent*told/n
		var share Share
		for d := range dimensions {
			sum := 0.0
			for _, u := range uses {
				sum += weight(u[d])
			}
			weights := 0.0
			for _, u := range uses {
				weights += max(weight(u[d])/sum, 1/(2*n))
			}
			share[d] = free * max(weight(mine[d])/sum, 1/(2*n)) / weights
		}
		out[t] = share
	}
	return out
}

// weight is a demand that counts: who asks for nothing in one dimension may do so
// in the next moment.
func weight(u float64) float64 {
	if math.IsNaN(u) || u < 1e-6 {
		return 1e-6
	}
	return min(u, 1e6)
}
