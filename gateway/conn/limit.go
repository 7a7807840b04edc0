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

// Limits bound the connections of a listener; 0 selects the default.
type Limits struct {
	Max        int `yaml:"max"`         // all connections
	PerAddress int `yaml:"per_address"` // connections of one address
	PerNetwork int `yaml:"per_network"` // connections of one IPv4 /24 or IPv6 /64
}

// defaultMax is the default of Max if enough file descriptors are available.
const defaultMax = 10_000

// Check returns an error for the first negative value; it begins with the value's key.
func (l Limits) Check() error {
	switch {
	case l.Max < 0:
		return fmt.Errorf("max is %d, it must not be negative", l.Max)
	case l.PerAddress < 0:
		return fmt.Errorf("per_address is %d, it must not be negative", l.PerAddress)
	case l.PerNetwork < 0:
		return fmt.Errorf("per_network is %d, it must not be negative", l.PerNetwork)
	}
	return nil
}

// Resolve sets the defaults and checks the values. `files` is the number of file descriptors that the
// process may open: the default of Max leaves half of them for the store and for connections to
// backends. 0 means unlimited.
func (l Limits) Resolve(files uint64) (Limits, error) {
	if err := l.Check(); err != nil {
		return l, fmt.Errorf("connections.%w", err)
	}
	most := defaultMax
	if files > 0 && files/2 < uint64(most) {
		most = max(int(files/2), 1)
	}
	if l.Max == 0 {
		l.Max = most
	}
	if files > 0 && uint64(l.Max) >= files {
		return l, fmt.Errorf("connections.max is %d, but the process may open only %d files: lower connections.max, or raise the limit of "+
			"open files (ulimit -n) to at least twice connections.max", l.Max, files)
	}
	if l.PerNetwork == 0 {
		l.PerNetwork = max(l.Max/2, 1)
	}
	if l.PerAddress == 0 {
		l.PerAddress = max(l.Max/4, 1)
	}
	return l, nil
}

// OpenFiles returns the number of files that the process may open, or 0 if it is unknown.
func OpenFiles() uint64 {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 0
	}
	return r.Cur
}

const (
	// unsentBytes bounds the unsent part of a response in the kernel. Without it, a
	// client that does not read would hold megabytes.
	unsentBytes = 128 << 10
	// receiveBytes bounds the unread part of requests in the kernel. A client with a
	// round-trip time of 100 ms can still send 5 MB per second.
	receiveBytes = 512 << 10
)

// Limit bounds the connections of a TCP listener. A connection beyond a limit is reset
// right after it was accepted. Connections of trusted proxies count only against Max.
func Limit(l net.Listener, limits Limits, trusted []netip.Prefix, reg prometheus.Registerer) net.Listener {
	out := &limitListener{Listener: l, limits: limits, trusted: trusted,
		addresses: map[netip.Addr]int{}, networks: map[netip.Prefix]int{},
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pallium_gateway_connections_rejected_total",
			Help: "Connections that were reset because of a limit in gateway.connections, by limit (max, per_address, " +
				"per_network)."}, []string{"reason"}),
	}
	for _, reason := range []string{"max", "per_address", "per_network"} {
		out.rejected.WithLabelValues(reason)
	}
	if reg != nil {
		reg.MustRegister(out.rejected, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pallium_gateway_connections", Help: "Open connections of clients.",
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

// counted returns the address under which a connection is counted; it is the zero Addr
// for a trusted proxy and for anything but TCP.
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
	p, _ := a.Prefix(bits) // cannot fail
	return p
}

// enter counts a connection, or returns the limit that it exceeds.
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

// bound limits the memory of a connection in the kernel.
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
	_ = raw.Control(func(fd uintptr) { // ignored: a kernel without the option buffers more
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentBytes)
	})
}

// limitedConn is a connection that counts against the limits until it is closed.
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

// Write resets the connection if it fails: unsent data is dropped at once, and the client
// cannot mistake a partial response for a complete one.
func (c *limitedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		resetOnClose(c.Conn)
	}
	return n, err
}

// SetLinger is called by resetOnClose.
func (c *limitedConn) SetLinger(sec int) error {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		return tcp.SetLinger(sec)
	}
	return nil
}

// CloseWrite closes the server's half of the connection.
func (c *limitedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
