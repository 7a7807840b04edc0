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

// ErrTooFew is returned when so many failure domains did not answer that something
// acknowledged could be missing. Asking again later may help.
var ErrTooFew = errors.New("too many failure domains are unavailable")

// Quorum says when the answers to a question are enough: what was acknowledged is
// in a majority of the replicas, each in a domain of its own.
type Quorum struct {
	// Tolerate is how many domains may be unavailable: one less than a majority of
	// the replicas.
	Tolerate int
	// Lost are domains that count as unavailable even when all their peers answer.
	Lost []string
	// Key spreads the load: questions with different keys begin with different
	// domains.
	Key string
	// HedgeAfter is how long the domains that are asked first have before the others
	// are asked, too.
	HedgeAfter time.Duration
	// Final reports whether an error of one peer is the answer: asking others does
	// not help. nil: no error is.
	Final func(error) bool
	// Late waits for the answers that came after enough others, and drops them. Its
	// owner stops it before what was asked is closed.
	Late *background.Group
}

// check returns ErrTooFew when there is nobody to ask, or more domains are lost than
// are tolerated.
func (q *Quorum) check(peers int) error {
	lost := lostDomains(q)
	switch {
	case peers == 0:
		return fmt.Errorf("%w: there is nobody to ask", ErrTooFew)
	case len(lost) <= q.Tolerate:
		return nil
	}
	return fmt.Errorf("%w: ingesters of %d zones were lost with samples of this time that may be nowhere else (%s); "+
		"an operator can accept that", ErrTooFew, len(lost), strings.Join(slices.Sorted(maps.Keys(lost)), ", "))
}

func lostDomains(q *Quorum) map[string]bool {
	out := map[string]bool{}
	for _, d := range q.Lost {
		out[d] = true
	}
	return out
}

// Enough asks as many domains as are enough, and the rest when one of those fails or
// is slow. It returns the answers that came until they were enough, all of them to be
// joined; fewer are ErrTooFew. drop lets go of an answer that is not returned: every
// call that was begun is waited for, after an error before Enough returns, else
// by q.Late.
func Enough[C, T any](ctx context.Context, list []Peer[C], q Quorum, call func(context.Context, C) (T, error), drop func(T)) ([]T, error) {
	if err := q.check(len(list)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	a := &asking[C, T]{poll: newPoll(list, &q), list: list, call: call, drop: drop, replies: make(chan reply[T], len(list))}
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

// reply is one peer's answer.
type reply[T any] struct {
	peer  int
	value T
	err   error
}

// asking is a question under way.
type asking[C, T any] struct {
	poll    *poll
	list    []Peer[C]
	call    func(context.Context, C) (T, error)
	drop    func(T)
	replies chan reply[T]
	started int // calls that have not been answered
	got     []T
}

// begin asks all peers of some domains.
func (a *asking[C, T]) begin(ctx context.Context, domains []string) {
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

func (a *asking[C, T]) run(ctx context.Context, q *Quorum) error {
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

// discard waits for answers that nobody wants.
func (a *asking[C, T]) discard(n int) {
	for range n {
		if r := <-a.replies; r.err == nil {
			a.drop(r.value)
		}
	}
}

// poll counts which domains have answered.
type poll struct {
	order    []string        // domains, in the order of asking
	lost     map[string]bool // domains that count as unavailable
	waiting  map[string]int  // calls that a domain has not answered
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

// sort has keys begin at different domains, so that all have the same to do. Those
// that cannot be relied on come last.
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

// enough is how many domains must answer completely, lost ones not counted. It is
// never so few that all replicas of a sample could be in others: a ring that is not
// known as a whole yet may lack some.
func (p *poll) enough() int {
	all := len(p.order)
	for d := range p.lost { // a zone without any ingester left
		if !slices.Contains(p.order, d) {
			all++
		}
	}
	return max(all-p.tolerate, p.tolerate+1)
}

func (p *poll) complete() int {
	return p.count(func(d string) bool { return !p.failed[d] && p.waiting[d] == 0 })
}

// count is how many domains that are not lost fit.
func (p *poll) count(fits func(domain string) bool) int {
	n := 0
	for _, d := range p.order {
		if !p.lost[d] && fits(d) {
			n++
		}
	}
	return n
}

// fail notes an error of a domain, and returns ErrTooFew when the others cannot be
// enough any more.
func (p *poll) fail(domain string, err error) error {
	p.failed[domain] = true
	p.errs = errors.Join(p.errs, err)
	if p.count(func(d string) bool { return !p.failed[d] }) < p.enough() {
		return fmt.Errorf("%w: %w", ErrTooFew, p.errs)
	}
	return nil
}
