// Package cluster is the chaos test of a whole cluster. A recorder pushes samples
// whose values follow from series and time, and records which were acknowledged. A
// checker reads everything back. Meanwhile processes are killed, stopped, cut off, and
// lose their disks and stores.
package cluster

import (
	"io"
	"math/rand"
	"net"
	"sync"
	"testing"
	"time"
)

// Mode is the way in which a proxy treats connections.
type Mode int

// Modes of a proxy.
const (
	Pass    Mode = iota
	Reject       // closes every connection
	Hang         // accepts connections and bytes, and forwards nothing
	OneWay       // forwards requests, and no responses
	Partial      // cuts connections off at random points
	Slow         // forwards everything, each part delayed by up to slowest
)

func (m Mode) String() string {
	return [...]string{"is healthy", "rejects", "hangs", "is cut off one way", "fails partially", "is slow"}[m]
}

// slowest is the longest delay of a slow proxy.
const slowest = 60 * time.Millisecond

// Proxy forwards connections to an address and can be made to fail.
type Proxy struct {
	Addr   string
	target string

	mu    sync.Mutex
	mode  Mode
	rnd   *rand.Rand
	conns map[net.Conn]bool
	done  sync.WaitGroup
	l     net.Listener
}

// NewProxy returns a proxy that listens at an IP address until the test ends, in mode
// Pass.
func NewProxy(t testing.TB, ip, target string, seed int64) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", ip+":0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), target: target, l: l, rnd: rand.New(rand.NewSource(seed)), conns: map[net.Conn]bool{}}
	p.done.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.Set(Reject)
		p.done.Wait()
	})
	return p
}

// Set changes the mode, also for open connections.
func (p *Proxy) Set(m Mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.mode
	p.mode = m
	if m == Reject || m == Pass && before != Pass && before != Slow { // discarded bytes are missing from open connections
		for c := range p.conns {
			_ = c.Close()
		}
	}
}

func (p *Proxy) now() Mode {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode
}

func (p *Proxy) chance(n int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rnd.Intn(n) == 0
}

func (p *Proxy) delay() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Duration(p.rnd.Int63n(int64(slowest)))
}

func (p *Proxy) keep(c net.Conn, open bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if open {
		p.conns[c] = true
	} else {
		delete(p.conns, c)
	}
}

func (p *Proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		if p.now() == Reject {
			_ = c.Close()
			continue
		}
		up, err := net.DialTimeout("tcp", p.target, 5*time.Second)
		if err != nil {
			_ = c.Close()
			continue
		}
		p.keep(c, true)
		p.keep(up, true)
		end := sync.OnceFunc(func() {
			_ = c.Close()
			_ = up.Close()
			p.keep(c, false)
			p.keep(up, false)
		})
		p.done.Go(func() { defer end(); p.copy(up, c, false) })
		p.done.Go(func() { defer end(); p.copy(c, up, true) })
	}
}

func (p *Proxy) copy(dst io.Writer, src io.Reader, back bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if err != nil {
			return
		}
		switch m := p.now(); {
		case m == Reject:
			return
		case m == Hang, m == OneWay && back:
			continue // discarded
		case m == Partial && p.chance(20):
			_, _ = dst.Write(buf[:n/2])
			return
		case m == Slow:
			time.Sleep(p.delay())
		}
		if _, err := dst.Write(buf[:n]); err != nil {
			return
		}
	}
}
