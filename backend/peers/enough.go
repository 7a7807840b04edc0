package peers

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/palliumhq/pallium/backend/background"
)

// ErrTooFew is returned when so many failure domains are unavailable that acknowledged
// data could be missing from the result. A later retry may succeed.
var ErrTooFew = errors.New("too many failure domains are unavailable")

// ErrLost is returned, with ErrTooFew, when so many failure domains were lost that a later
// retry may fail until an operator accepts the loss.
var ErrLost = errors.New("ingesters of several failure domains were lost")

// Quorum determines when the responses to a request are complete: acknowledged data is
// on a majority of the replicas, which are in distinct failure domains.
type Quorum struct {
	// Tolerate is the number of domains that may be unavailable: one less than a majority
	// of the replicas.
	Tolerate int
	// Lost are domains that count as unavailable even if all their peers respond.
	Lost []string
	// Key spreads the load: requests with different keys start with different domains.
	Key string
	// HedgeAfter is how long the first domains may take before the request is also sent
	// to the other domains.
	HedgeAfter time.Duration
	// Final reports whether an error of one peer is the final result, because other peers
	// would not help. nil means that no error is.
	Final func(error) bool
	// Late waits for responses that arrive after enough others, and drops them. Its owner
	// must stop it before closing the peers' clients.
	Late *background.Group
}

// check returns ErrTooFew if there are no peers or if more domains are lost than
// tolerated.
func (q *Quorum) check(peers int) error {
	lost := lostDomains(q)
	switch {
	case peers == 0:
		return fmt.Errorf("%w: no peers", ErrTooFew)
	case len(lost) <= q.Tolerate:
		return nil
	}
	return fmt.Errorf("%w: %w: ingesters in %d failure domains (%s) were lost with samples of this time range that may have no other copy; "+
		"an operator can accept the loss (pallium loss accept DAY)", ErrTooFew, ErrLost, len(lost),
		strings.Join(slices.Sorted(maps.Keys(lost)), ", "))
}

func lostDomains(q *Quorum) map[string]bool {
	out := map[string]bool{}
	for _, d := range q.Lost {
		out[d] = true
	}
	return out
}

// Domains returns the number of failure domains of the peers.
func Domains[C any](list []Peer[C]) int { return len(newPoll(list, &Quorum{}).order) }

// Needed returns how many domains that are not lost must respond completely.
func Needed[C any](list []Peer[C], q Quorum) int { return newPoll(list, &q).enough() }

// Enough calls the peers of as many domains as the quorum needs, and the peers of the other
// domains when one fails or is slow. It returns the responses received until the quorum
// was complete, whose union is the result, or ErrTooFew if it cannot be completed. `drop`
// releases a response that is not returned. q.Late waits for the calls still in
// progress; after an error, Enough waits for them before it returns.
func Enough[C, T any](ctx context.Context, list []Peer[C], q Quorum, call func(context.Context, C) (T, error), drop func(T)) ([]T, error) {
	if err := q.check(len(list)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	a := &fanout[C, T]{poll: newPoll(list, &q), list: list, call: call, drop: drop, replies: make(chan reply[T], len(list))}
	defer cancel()
	if err := a.run(ctx, &q); err != nil {
		cancel()
		a.discard(a.started)
		for _, v := range a.got {
			drop(v)
		}
		return nil, err
	}
	if left := a.started; left > 0 {
		q.Late.Go(func(context.Context) { a.discard(left) })
	}
	return a.got, nil
}

// reply is the response of one peer, or its error.
type reply[T any] struct {
	peer  int
	value T
	err   error
}

// fanout is a call of Enough in progress.
type fanout[C, T any] struct {
	poll    *poll
	list    []Peer[C]
	call    func(context.Context, C) (T, error)
	drop    func(T)
	replies chan reply[T]
	started int // calls without a reply
	got     []T
}

// begin calls all peers of the domains.
func (a *fanout[C, T]) begin(ctx context.Context, domains []string) {
	for i := range a.list {
		if !slices.Contains(domains, a.list[i].Domain) {
			continue
		}
		a.started++
		go func() {
			v, err := a.call(ctx, a.list[i].Client)
			a.replies <- reply[T]{i, v, err}
		}()
	}
}

func (a *fanout[C, T]) run(ctx context.Context, q *Quorum) error {
	first := min(a.poll.enough(), len(a.poll.order))
	a.begin(ctx, a.poll.order[:first])
	rest := a.poll.order[first:]
	hedge := time.NewTimer(q.HedgeAfter)
	defer hedge.Stop()
	for a.poll.complete() < a.poll.enough() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-hedge.C:
			a.begin(ctx, rest)
			rest = nil
		case r := <-a.replies:
			a.started--
			if r.err == nil {
				a.got = append(a.got, r.value)
				a.poll.waiting[a.list[r.peer].Domain]--
				continue
			}
			if ctx.Err() != nil || q.Final != nil && q.Final(r.err) {
				return r.err
			}
			if err := a.poll.fail(a.list[r.peer].Domain, named(a.list[r.peer].ID, r.err)); err != nil {
				return err
			}
			a.begin(ctx, rest)
			rest = nil
		}
	}
	return nil
}

// discard waits for n replies and drops their values.
func (a *fanout[C, T]) discard(n int) {
	for range n {
		if r := <-a.replies; r.err == nil {
			a.drop(r.value)
		}
	}
}

// poll tracks which domains have responded.
type poll struct {
	order    []string        // domains in the order in which they are called
	lost     map[string]bool // domains that count as unavailable
	waiting  map[string]int  // peers without a response, by domain
	failed   map[string]bool
	tolerate int
	errs     error
}

func newPoll[C any](list []Peer[C], q *Quorum) *poll {
	p := &poll{tolerate: q.Tolerate, lost: lostDomains(q), waiting: map[string]int{}, failed: map[string]bool{}}
	unhealthy := map[string]bool{}
	for i := range list {
		peer := &list[i]
		if p.waiting[peer.Domain] == 0 {
			p.order = append(p.order, peer.Domain)
		}
		p.waiting[peer.Domain]++
		unhealthy[peer.Domain] = unhealthy[peer.Domain] || peer.Unhealthy
	}
	p.sort(q.Key, unhealthy)
	return p
}

// sort rotates the domains by key to spread the load. Domains with unhealthy peers come
// after the others, and lost domains last.
func (p *poll) sort(key string, unhealthy map[string]bool) {
	if len(p.order) == 0 {
		return
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	slices.Sort(p.order)
	k := int(h.Sum32() % uint32(len(p.order)))
	p.order = append(slices.Clone(p.order[k:]), p.order[:k]...)
	rank := func(d string) int {
		switch {
		case p.lost[d]:
			return 2
		case unhealthy[d]:
			return 1
		}
		return 0
	}
	slices.SortStableFunc(p.order, func(a, b string) int { return rank(a) - rank(b) })
}

// enough returns how many domains that are not lost must respond completely. It is at
// least a majority of the replicas, even if the list has fewer domains: the ring of a
// process that has just started may be incomplete.
func (p *poll) enough() int {
	all := len(p.order)
	for d := range p.lost { // counts even if no ingester of it is left in the ring
		if !slices.Contains(p.order, d) {
			all++
		}
	}
	return max(all-p.tolerate, p.tolerate+1)
}

func (p *poll) complete() int {
	return p.count(func(d string) bool { return !p.failed[d] && p.waiting[d] == 0 })
}

// count returns the number of domains that are not lost and for which fits is true.
func (p *poll) count(fits func(domain string) bool) int {
	n := 0
	for _, d := range p.order {
		if !p.lost[d] && fits(d) {
			n++
		}
	}
	return n
}

// fail records an error of a domain, and returns ErrTooFew if the remaining domains
// cannot complete the quorum.
func (p *poll) fail(domain string, err error) error {
	p.failed[domain] = true
	p.errs = errors.Join(p.errs, err)
	if p.count(func(d string) bool { return !p.failed[d] }) < p.enough() {
		return fmt.Errorf("%w: %w", ErrTooFew, p.errs)
	}
	return nil
}
