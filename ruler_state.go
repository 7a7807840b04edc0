package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/api/rulesapi"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/rpc"
	"github.com/palliumhq/pallium/backend/ruler"
	"github.com/palliumhq/pallium/backend/rulestate"
)

// addRuleHandlers adds the configuration and the state of rules to the API. Every distributor,
// querier and query frontend serves them, since gateways send requests to any of these.
func (b *backend) addRuleHandlers() {
	ix := b.longTerm.Options().Index
	handlers := rulesapi.New(rulesapi.Options{
		Store: ix.Rules, Backfills: ix.Rules, Parsers: querier.NewParsers(querier.MaxOperators), Limits: b.limitsOf, Memory: b.memory,
		Changed: b.rulesChanged, BackfillStarted: b.backfillStarted, States: b.ruleStates, Now: b.opts.Now, Logger: b.opts.Logger,
	})
	if b.api.Handlers == nil {
		b.api.Handlers = handlers
		return
	}
	maps.Copy(b.api.Handlers, handlers)
}

// rulerTime is the timeout of a call to a ruler.
const rulerTime = 5 * time.Second

// rulersInRing returns clients of the rulers of the ring.
func (m *membership) rulersInRing(ctx context.Context) ([]peers.Peer[*rpc.Peer], error) {
	r, err := m.members.Ring(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the ring: %w", err)
	}
	var out []peers.Peer[*rpc.Peer]
	for _, in := range slices.Concat(r.Instances(), r.Others()) {
		if !slices.Contains(in.Roles, string(TargetRuler)) || in.Addr == "" {
			continue
		}
		p, err := m.pool.Peer(in.Addr)
		if err != nil {
			return nil, err
		}
		out = append(out, peers.Peer[*rpc.Peer]{ID: in.ID, Unhealthy: in.Unhealthy, Client: p})
	}
	return out, nil
}

// rulesChanged makes the rulers read the rules of a tenant now. A ruler that cannot be reached reads them within ten seconds.
func (b *backend) rulesChanged(id tenant.ID) {
	if b.cluster == nil {
		if b.ruling != nil {
			b.ruling.ruler.Wake(id)
		}
		return
	}
	if b.wakes.add(id) {
		b.background.Go(b.wakeRulers)
	}
}

// wakes contains the tenants with changed rules about which the rulers have not been told yet.
type wakes struct {
	mu      sync.Mutex
	tenants map[tenant.ID]struct{}
	running bool
}

// add adds a tenant, and reports whether the caller must start wakeRulers.
func (w *wakes) add(id tenant.ID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tenants == nil {
		w.tenants = map[tenant.ID]struct{}{}
	}
	w.tenants[id] = struct{}{}
	start := !w.running
	w.running = true
	return start
}

// take removes and returns all tenants. If there are none, the goroutine that calls it must end, because the next tenant starts
// another.
func (w *wakes) take() []tenant.ID {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := slices.Sorted(maps.Keys(w.tenants))
	clear(w.tenants)
	w.running = len(out) > 0
	return out
}

// wakesAtOnce is the number of tenants about which rulers are told concurrently.
const wakesAtOnce = 8

// wakeRulers tells the rulers about the tenants of wakes, until there are none.
func (b *backend) wakeRulers(ctx context.Context) {
	for {
		ids := b.wakes.take()
		if len(ids) == 0 {
			return
		}
		list, err := b.cluster.rulersInRing(ctx)
		if err != nil {
			continue // rulers read the rules within ten seconds anyway
		}
		var calls errgroup.Group
		calls.SetLimit(wakesAtOnce)
		for _, id := range ids {
			calls.Go(func() error {
				call, cancel := context.WithTimeout(ctx, rulerTime)
				defer cancel()
				peers.Each(call, list, func(ctx context.Context, p *rpc.Peer) (struct{}, error) { return struct{}{}, p.Wake(ctx, id) })
				return nil
			})
		}
		_ = calls.Wait() // there are no errors
	}
}

// backfillStarted makes the ruler of this process look for new backfills now; others do within ten seconds.
func (b *backend) backfillStarted() {
	if b.ruling != nil {
		b.ruling.backfills.Wake()
	}
}

// ruleStates returns the groups of a tenant that rulers report. The groups of rulers that do not respond are missing.
func (b *backend) ruleStates(ctx context.Context, id tenant.ID) ([]rulestate.Group, error) {
	if b.cluster == nil {
		if b.ruling == nil {
			return nil, nil
		}
		return b.ruling.ruler.State(id), nil
	}
	list, err := b.cluster.rulersInRing(ctx)
	if err != nil {
		return nil, err
	}
	call, cancel := context.WithTimeout(ctx, rulerTime)
	defer cancel()
	var all [][]rulestate.Group
	for _, reply := range peers.Each(call, list, func(ctx context.Context, p *rpc.Peer) ([]byte, error) { return p.State(ctx, id) }) {
		if reply.Err != nil {
			continue // its groups are shown as unknown
		}
		var groups []rulestate.Group
		if err := json.Unmarshal(reply.Value, &groups); err != nil {
			return nil, fmt.Errorf("decode the state of rules of %s: %w", reply.ID, err)
		}
		all = append(all, groups)
	}
	return rulestate.Merge(all...), ctx.Err()
}

// calledRuler answers calls of other processes to this process's ruler. It implements rpc.Ruler.
type calledRuler struct{ *ruler.Ruler }

// State implements rpc.Ruler.
func (r calledRuler) State(id tenant.ID) ([]byte, error) { return json.Marshal(r.Ruler.State(id)) }

// aliveRulers returns the IDs of the rulers in a ring that are alive. `self`, which is this process, counts as alive.
func aliveRulers(r *ring.Ring, self string) []string {
	var out []string
	for _, in := range slices.Concat(r.Instances(), r.Others()) {
		if slices.Contains(in.Roles, string(TargetRuler)) && (!in.Unhealthy || in.ID == self) {
			out = append(out, in.ID)
		}
	}
	return out
}
