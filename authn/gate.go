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
)

var errBusy = errors.New("too many credentials are waiting to be checked")

// gate bounds how many checks of one kind run at the same time, so that they leave the
// CPUs and the store to others, and how many requests wait for a check. Networks are
// served round robin, and so are the addresses within a network. If too many requests
// wait, one of the address with the most waiting requests is rejected: an address with
// few requests is always served.
type gate struct {
	mu      sync.Mutex
	free    int
	waiting int
	crowds  []*crowd // in the order in which they are served next
}

// networkQueue holds the waiting requests of one network.
type crowd struct {
	net   netip.Prefix
	n     int
	lines []*line // in the order in which they are served next
}

// addressQueue holds the waiting requests of one address. Requests with credentials that
// were valid recently are served first.
type line struct {
	src          netip.Prefix
	faults       float64
	known, fresh []waiter
}

func (l *line) n() int { return len(l.known) + len(l.fresh) }

// waiter receives nil when the request may continue, and errBusy when it is rejected.
type waiter chan error

func newGate(atOnce int) *gate { return &gate{free: atOnce} }

// enter waits until the check may run. failures is the number of failures of the address;
// it decides which of two addresses with equally many requests is rejected. The error is
// errBusy or the context's; if it is nil, leave must be called.
func (g *gate) enter(ctx context.Context, src netip.Addr, known bool, faults float64) error {
	g.mu.Lock()
	if g.free > 0 {
		g.free--
		g.mu.Unlock()
		return nil
	}
	w := g.add(src, known, faults)
	if g.waiting > maxWaiting {
		g.turnAway()
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
	c := g.crowds[0]
	l := c.lines[0]
	c.lines = append(c.lines[1:], l)
	g.crowds = append(g.crowds[1:], c)
	from := &l.fresh
	if len(l.known) > 0 {
		from = &l.known
	}
	w := (*from)[0]
	g.take(c, l, from, 0)
	w <- nil
}

func (g *gate) add(src netip.Addr, known bool, faults float64) waiter {
	n, s := network(src), source(src)
	i := slices.IndexFunc(g.crowds, func(c *crowd) bool { return c.net == n })
	if i < 0 {
		i = len(g.crowds)
		g.crowds = append(g.crowds, &crowd{net: n})
	}
	c := g.crowds[i]
	j := slices.IndexFunc(c.lines, func(l *line) bool { return l.src == s })
	if j < 0 {
		j = len(c.lines)
		c.lines = append(c.lines, &line{src: s})
	}
	l := c.lines[j]
	l.faults = faults
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

// take removes waiter i of from, which belongs to l in c, and removes queues that are
// empty then.
func (g *gate) take(c *crowd, l *line, from *[]waiter, i int) {
	*from = slices.Delete(*from, i, i+1)
	g.waiting--
	c.n--
	if l.n() == 0 {
		c.lines = slices.DeleteFunc(c.lines, func(o *line) bool { return o == l })
	}
	if c.n == 0 {
		g.crowds = slices.DeleteFunc(g.crowds, func(o *crowd) bool { return o == c })
	}
}

// rejectOne rejects the newest request of the address with the most waiting requests, in
// the network with the most; with equal numbers, of the address with the most failures.
func (g *gate) turnAway() {
	var worst *crowd
	var worstLine *line
	for _, c := range g.crowds {
		l := c.worst()
		if worst == nil || c.n > worst.n || c.n == worst.n && l.faults >= worstLine.faults {
			worst, worstLine = c, l
		}
	}
	from := &worstLine.fresh
	if len(*from) == 0 {
		from = &worstLine.known
	}
	last := len(*from) - 1
	w := (*from)[last]
	g.take(worst, worstLine, from, last)
	w <- errBusy
}

func (c *crowd) worst() *line {
	w := c.lines[0]
	for _, l := range c.lines[1:] {
		if l.n() > w.n() || l.n() == w.n() && l.faults >= w.faults {
			w = l
		}
	}
	return w
}

// remove removes a waiter and reports whether it was still waiting.
func (g *gate) remove(w waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.crowds {
		for _, l := range c.lines {
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

func (g *gate) load() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting
}
