package conn

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// Limits bound the connections of a listener; 0 is the default.
type Limits struct {
	Max        int `yaml:"max"`         // in all
	PerAddress int `yaml:"per_address"` // of one address
	PerNetwork int `yaml:"per_network"` // of one IPv4 /24 or IPv6 /64
}

// mostConnections is the default of Max where there are file descriptors enough.
const mostConnections = 10_000

// Resolve fills in the defaults and checks the values. files is how many file
// descriptors the process may have: half of them are reserved for the store and
// for connections to backends. 0 files are as many as one wants.
func (l Limits) Resolve(files uint64) (Limits, error) {
	if l.Max < 0 || l.PerAddress < 0 || l.PerNetwork < 0 {
		return l, fmt.Errorf("connections: max, per_address and per_network must not be negative")
	}
	most := mostConnections
	if files > 0 && files/2 < uint64(most) {
		most = max(int(files/2), 1)
	}
	if l.Max == 0 {
		l.Max = most
	}
	if files > 0 && uint64(l.Max) >= files {
		return l, fmt.Errorf("connections.max is %d, the process may open only %d files: raise its limit (ulimit -n) to twice as many",
			l.Max, files)
	}
	if l.PerNetwork == 0 {
		l.PerNetwork = max(l.Max/2, 1)
	}
	if l.PerAddress == 0 {
		l.PerAddress = max(l.Max/4, 1)
	}
	return l, nil
}

// OpenFiles is how many files the process may open; 0 if that is not known.
func OpenFiles() uint64 {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 0
	}
	return r.Cur
}

const (
	// unsentBytes is how much of an answer waits in the kernel, beside what is on
	// its way to the client. Without it a client that does not read keeps megabytes.
	unsentBytes = 128 << 10
	// receiveBytes bounds what the kernel keeps of requests that were not read yet. A
	// client 100 ms away can send 5 MB a second.
	receiveBytes = 512 << 10
)

// Limit bounds the connections of a TCP listener. One too many is reset as soon as
// it is accepted. Addresses in trusted, those of proxies, count in all only.
func Limit(l net.Listener, limits Limits, trusted []netip.Prefix, reg prometheus.Registerer) net.Listener {
	out := &limitListener{Listener: l, limits: limits, trusted: trusted,
		addresses: map[netip.Addr]int{}, networks: map[netip.Prefix]int{},
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pallium_gateway_connections_rejected_total",
			Help: "Connections that were reset because of gateway.connections, by which limit: max, per_address, per_network."}, []string{"reason"}),
	}
	for _, reason := range []string{"max", "per_address", "per_network"} {
		out.rejected.WithLabelValues(reason)
	}
	if reg != nil {
		reg.MustRegister(out.rejected, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pallium_gateway_connections", Help: "Connections of clients that are open.",
		}, func() float64 { return float64(out.count()) }))
	}
	return out
}

type limitListener struct {
	net.Listener
	limits   Limits
	trusted  []netip.Prefix
	rejected *prometheus.CounterVec

	mu        sync.Mutex
	open      int
	addresses map[netip.Addr]int
	networks  map[netip.Prefix]int
}

func (l *limitListener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

// Accept implements net.Listener.
func (l *limitListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		addr := l.counted(c.RemoteAddr())
		if reason := l.enter(addr); reason != "" {
			l.rejected.WithLabelValues(reason).Inc()
			resetOnClose(c)
			_ = c.Close()
			continue
		}
		bound(c)
		return &limitedConn{Conn: c, leave: sync.OnceFunc(func() { l.leave(addr) })}, nil
	}
}

// counted is the address as it is counted; the zero one is a trusted proxy's, or
// of no IP.
func (l *limitListener) counted(a net.Addr) netip.Addr {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	addr := tcp.AddrPort().Addr().Unmap().WithZone("")
	for _, p := range l.trusted {
		if p.Contains(addr) {
			return netip.Addr{}
		}
	}
	return addr
}

func network(a netip.Addr) netip.Prefix {
	bits := 64
	if a.Is4() {
		bits = 24
	}
	p, _ := a.Prefix(bits) // fits the address
	return p
}

// enter counts a connection, or says which limit it is beyond.
func (l *limitListener) enter(a netip.Addr) (reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= l.limits.Max {
		return "max"
	}
	if a.IsValid() {
		n := network(a)
		switch {
		case l.addresses[a] >= l.limits.PerAddress:
			return "per_address"
		case l.networks[n] >= l.limits.PerNetwork:
			return "per_network"
		}
		l.addresses[a]++
		l.networks[n]++
	}
	l.open++
	return ""
}

func (l *limitListener) leave(a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if !a.IsValid() {
		return
	}
	n := network(a)
	if l.addresses[a]--; l.addresses[a] == 0 {
		delete(l.addresses, a)
	}
	if l.networks[n]--; l.networks[n] == 0 {
		delete(l.networks, n)
	}
}

// bound bounds what the kernel keeps of a connection.
func bound(c net.Conn) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	_ = tcp.SetReadBuffer(receiveBytes)
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { // a kernel without it keeps more
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentBytes)
	})
}

// limitedConn is counted until it is closed.
type limitedConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.leave()
	return err
}

// Write resets the connection when it fails: what was not sent is dropped at once,
// and the client cannot take a part of an answer for all of it.
func (c *limitedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		resetOnClose(c.Conn)
	}
	return n, err
}

// SetLinger is for resetOnClose.
func (c *limitedConn) SetLinger(sec int) error {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		return tcp.SetLinger(sec)
	}
	return nil
}

// CloseWrite ends the server's half of the connection.
func (c *limitedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
