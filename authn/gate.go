package authn

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// maxWaiting bounds the requests that wait at one gate. Each of them holds about
	// 20 KiB: its connection's buffers and goroutine.
	maxWaiting = 1000
	// maxWait is the longest wait at a gate.
	maxWait = 5 * time.Second
	// knownTurns limits the priority of known requests, whose credentials were valid recently. While
	// known and other requests wait at one address, knownTurns known requests are served, then one of
	// the others. The claims of a JWT are not verified before the check, so without this limit a
	// client could lock out others at its address by claiming a known subject.
	knownTurns = 3
)

var errBusy = errors.New("too many credentials are waiting to be checked")

// gate bounds how many checks of one kind run at the same time, so that they leave the
// CPUs and the store to others, and how many requests wait for a check. Networks are
// served round robin, and so are the addresses within a network. If too many requests
// wait, rejectOne chooses the one to reject, so that networks with few requests, and
// addresses with few requests within a network, are still served.
type gate struct {
	mu       sync.Mutex
	free     int
	waiting  int
	networks []*networkQueue // in the order in which they are served next
}

// networkQueue holds the waiting requests of one network.
type networkQueue struct {
	net   netip.Prefix
	n     int
	addrs []*addressQueue // in the order in which they are served next
}

// addressQueue holds the waiting requests of one address. Requests with credentials that
// were valid recently are served first, but not alone; see knownTurns.
type addressQueue struct {
	src          netip.Prefix
	failures     float64
	known, fresh []waiter // requests with and without such a credential
	turns        int      // number of known requests served since the last fresh one
}

func (l *addressQueue) n() int { return len(l.known) + len(l.fresh) }

// next returns the list whose first request is served next.
func (l *addressQueue) next() *[]waiter {
	if len(l.fresh) == 0 || len(l.known) > 0 && l.turns < knownTurns {
		l.turns++
		return &l.known
	}
	l.turns = 0
	return &l.fresh
}

// excess returns the list whose last request is rejected first: l.known if it has more than
// knownTurns requests for each request in l.fresh, otherwise l.fresh.
func (l *addressQueue) excess() *[]waiter {
	if len(l.known) > knownTurns*len(l.fresh) {
		return &l.known
	}
	return &l.fresh
}

// waiter receives nil when the request may continue, and errBusy when it is rejected.
type waiter chan error

func newGate(atOnce int) *gate { return &gate{free: atOnce} }

// enter waits until the check may run. `known` says that the credential was valid recently.
// `failures` is the number of failed checks of the address; see rejectOne. The error is errBusy
// or the context's; if it is nil, the caller must call leave after the check.
func (g *gate) enter(ctx context.Context, src netip.Addr, known bool, failures float64) error {
	g.mu.Lock()
	if g.free > 0 {
		g.free--
		g.mu.Unlock()
		return nil
	}
	w := g.add(src, known, failures)
	if g.waiting > maxWaiting {
		g.rejectOne()
	}
	g.mu.Unlock()

	t := time.NewTimer(maxWait)
	defer t.Stop()
	var err error
	select {
	case err = <-w:
		return err
	case <-t.C:
		err = errBusy
	case <-ctx.Done():
		err = ctx.Err()
	}
	if !g.remove(w) && <-w == nil {
		g.leave() // the check was allowed at the same time
	}
	return err
}

// leave lets the next waiting request continue.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting == 0 {
		g.free++
		return
	}
	c := g.networks[0]
	l := c.addrs[0]
	c.addrs = append(c.addrs[1:], l)
	g.networks = append(g.networks[1:], c)
	from := l.next()
	w := (*from)[0]
	g.take(c, l, from, 0)
	w <- nil
}

func (g *gate) add(src netip.Addr, known bool, failures float64) waiter {
	n, s := network(src), source(src)
	i := slices.IndexFunc(g.networks, func(c *networkQueue) bool { return c.net == n })
	if i < 0 {
		i = len(g.networks)
		g.networks = append(g.networks, &networkQueue{net: n})
	}
	c := g.networks[i]
	j := slices.IndexFunc(c.addrs, func(l *addressQueue) bool { return l.src == s })
	if j < 0 {
		j = len(c.addrs)
		c.addrs = append(c.addrs, &addressQueue{src: s})
	}
	l := c.addrs[j]
	l.failures = failures
	w := make(waiter, 1)
	if known {
		l.known = append(l.known, w)
	} else {
		l.fresh = append(l.fresh, w)
	}
	c.n++
	g.waiting++
	return w
}

// take removes the waiter i of the list `from`, which belongs to l in c, and then l and c
// if they are empty.
func (g *gate) take(c *networkQueue, l *addressQueue, from *[]waiter, i int) {
	*from = slices.Delete(*from, i, i+1)
	g.waiting--
	c.n--
	if l.n() == 0 {
		c.addrs = slices.DeleteFunc(c.addrs, func(o *addressQueue) bool { return o == l })
	}
	if c.n == 0 {
		g.networks = slices.DeleteFunc(g.networks, func(o *networkQueue) bool { return o == c })
	}
}

// rejectOne rejects one waiting request. It chooses the network with the most waiting
// requests, and in it the address with the most; among equals, it prefers the address with
// the most failures. It rejects the newest request in the list that excess returns for that
// address.
func (g *gate) rejectOne() {
	var worst *networkQueue
	var worstAddr *addressQueue
	for _, c := range g.networks {
		l := c.worst()
		if worst == nil || c.n > worst.n || c.n == worst.n && l.failures >= worstAddr.failures {
			worst, worstAddr = c, l
		}
	}
	from := worstAddr.excess()
	last := len(*from) - 1
	w := (*from)[last]
	g.take(worst, worstAddr, from, last)
	w <- errBusy
}

// worst returns the address from which rejectOne rejects a request.
func (c *networkQueue) worst() *addressQueue {
	w := c.addrs[0]
	for _, l := range c.addrs[1:] {
		if l.n() > w.n() || l.n() == w.n() && l.failures >= w.failures {
			w = l
		}
	}
	return w
}

// remove removes a waiter and reports whether it was still waiting.
func (g *gate) remove(w waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.networks {
		for _, l := range c.addrs {
			for _, from := range []*[]waiter{&l.known, &l.fresh} {
				if i := slices.Index(*from, w); i >= 0 {
					g.take(c, l, from, i)
					return true
				}
			}
		}
	}
	return false
}

// load returns the number of waiting requests.
func (g *gate) load() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting
}
