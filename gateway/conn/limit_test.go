package conn

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestLimitsResolve(t *testing.T) {
	tests := []struct {
		limits Limits
		files  uint64
		want   Limits
		says   string
	}{
		{Limits{}, 1024, Limits{512, 128, 256}, ""},
		{Limits{}, 1 << 20, Limits{10_000, 2500, 5000}, ""},
		{Limits{}, 0, Limits{10_000, 2500, 5000}, ""},
		{Limits{Max: 8}, 1024, Limits{8, 2, 4}, ""},
		{Limits{Max: 1, PerAddress: 7}, 1024, Limits{1, 7, 1}, ""},
		{Limits{Max: 1024}, 1024, Limits{}, "ulimit"},
		{Limits{PerNetwork: -1}, 1024, Limits{}, "negative"},
	}
	for _, tt := range tests {
		got, err := tt.limits.Resolve(tt.files)
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%+v of %d files: %v, want %q", tt.limits, tt.files, err, tt.says)
		}
		if err == nil && got != tt.want {
			t.Errorf("%+v of %d files: %+v, want %+v", tt.limits, tt.files, got, tt.want)
		}
	}
}

// queue is a listener that accepts the connections that a test sends to conns.
type queue struct {
	net.Listener
	conns chan net.Conn
}

func (q queue) Accept() (net.Conn, error) {
	c, ok := <-q.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

type from struct {
	net.Conn
	addr   netip.AddrPort
	closed bool
}

func (f *from) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(f.addr) }
func (f *from) Close() error         { f.closed = true; return nil }

// TestConnectionLimits lets addresses connect in the order of the rows and checks which
// connections are accepted.
func TestConnectionLimits(t *testing.T) {
	q := queue{conns: make(chan net.Conn, 100)}
	reg := prometheus.NewPedanticRegistry()
	l := Limit(q, Limits{Max: 10, PerAddress: 2, PerNetwork: 3}, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, reg)
	rows := []struct {
		addr string
		in   bool
	}{
		{"192.0.2.1", true}, {"192.0.2.1", true}, {"192.0.2.1", false}, {"::ffff:192.0.2.1", false},
		{"192.0.2.2", true}, {"192.0.2.3", false}, {"192.0.3.3", true},
		{"2001:db8::1", true}, {"2001:db8::2", true}, {"2001:db8::3", true}, {"2001:db8::4", false}, {"2001:db8:0:1::4", true},
		{"10.0.0.1", true}, {"10.0.0.1", true}, {"10.0.0.1", false}, // the ninth, tenth, eleventh
	}
	var conns []*from
	for _, r := range rows {
		c := &from{addr: netip.AddrPortFrom(netip.MustParseAddr(r.addr), 1)}
		conns = append(conns, c)
		q.conns <- c
	}
	close(q.conns)
	var open []net.Conn
	for {
		c, err := l.Accept()
		if err != nil {
			break
		}
		open = append(open, c)
	}
	for i, r := range rows {
		if conns[i].closed == r.in {
			t.Errorf("connection %d from %s: closed = %v", i, r.addr, conns[i].closed)
		}
	}
	const metrics = `
# HELP pallium_gateway_connections_rejected_total Connections that were reset because of a limit in gateway.connections, by limit (max, per_address, per_network).
# TYPE pallium_gateway_connections_rejected_total counter
pallium_gateway_connections_rejected_total{reason="max"} 1
pallium_gateway_connections_rejected_total{reason="per_address"} 2
pallium_gateway_connections_rejected_total{reason="per_network"} 2
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(metrics), "pallium_gateway_connections_rejected_total"); err != nil {
		t.Error(err)
	}
	for _, c := range open {
		_ = c.Close()
		_ = c.Close() // closing twice frees one slot only
	}
	ll := l.(*limitListener)
	if ll.open != 0 || len(ll.addresses) != 0 || len(ll.networks) != 0 {
		t.Errorf("after all connections were closed: %d connections, %d addresses and %d networks are counted", ll.open, len(ll.addresses), len(ll.networks))
	}
}

// TestUnsentIsBounded checks that the kernel buffers little for a client that does not
// read.
func TestUnsentIsBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	limited := Limit(l, Limits{Max: 1, PerAddress: 1, PerNetwork: 1}, nil, nil)
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_ = client.(*net.TCPConn).SetReadBuffer(4096)
	c, err := limited.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetWriteDeadline(time.Now().Add(2 * time.Second)) // the writes block until then
	written, err := io.Copy(c, bytes.NewReader(make([]byte, 16<<20)))
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("wrote %d bytes: %v, want a timeout", written, err)
	}
	if written > 1<<20 {
		t.Errorf("%d bytes were buffered for a client that does not read, want at most %d", written, 1<<20)
	}
}
