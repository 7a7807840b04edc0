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
	// maxWaiting bounds the requests that wait at one gate. One of them holds
	// about 20 KiB: its connection's buffers and goroutine.
	maxWaiting = 1000
	// maxWait is the longest wait at a gate.
	maxWait = 5 * time.Second
)

var errBusy = errors.New("too many credentials wait to be checked")

// gate bounds how many checks of one kind run at once, so that they leave the
// processors and the store to others, and how many requests wait for one. Networks
// are served in turn, and in each the addresses. When too many wait, one of the
// address that has most of them has to go: an address with few always gets in.
type gate struct {
	mu      sync.Mutex
	free    int
	waiting int
	crowds  []*crowd // the next to be served first
}

// crowd are the waiters of one network.
type crowd struct {
	net   netip.Prefix
	n     int
	lines []*line // the next to be served first
}

// line are the waiters of one address. Those who were valid lately come first.
type line struct {
	src          netip.Prefix
	faults       float64
	known, fresh []waiter
}

func (l *line) n() int { return len(l.known) + len(l.fresh) }

// waiter is told nil when it may go on, and errBusy when it may not.
type waiter chan error

func newGate(atOnce int) *gate { return &gate{free: atOnce} }

// enter waits for a place. faults are the failures of the address, which decide
// between equals. The error is errBusy or the context's; without one, leave must
// follow.
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
		g.leave() // the place came at the same time
	}
	return err
}

// leave gives the place to the next.
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

// take removes waiter i of from, which belongs to l of c, and what is empty then.
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

// turnAway rejects the last of the address with most waiters, in the network with
// most; among equals of the one with most failures.
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

// remove takes a waiter out and reports whether it was still there.
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
