// Package edge attacks the edge of a real process with connections over the loopback
// interface, prints the cost of each kind of connection, and checks it against limits.
package edge

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

const (
	many       = 200 // connections of one kind
	perAddress = 300 // the process's limit
)

type world struct {
	t     *testing.T
	p     *programs.Pallium
	addr  string
	port  string // in hexadecimal, as in the kernel's list of sockets
	token string
	open  []net.Conn
}

func newWorld(t *testing.T) *world {
	p := programs.StartPallium(t, fmt.Sprintf("gateway: {connections: {max: 2000, per_network: 2000, per_address: %d}}\n", perAddress))
	w := &world{t: t, p: p, addr: strings.TrimPrefix(p.Edge, "http://"), token: p.Tenant("team", "max_concurrent_requests=100")}
	_, port, err := net.SplitHostPort(w.addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	w.port = fmt.Sprintf("%04X", n)
	return w
}

// dial connects from an address of the loopback network.
func (w *world) dial(from string) net.Conn {
	w.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: time.Minute}
	c, err := d.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	_ = c.(*net.TCPConn).SetReadBuffer(4096)
	w.open = append(w.open, c)
	return c
}

// hangUp ends the attack and waits until the process has closed nearly all connections.
func (w *world) hangUp() {
	for _, c := range w.open {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
	w.open = nil
	kit.Eventually(w.t, time.Minute, func() error {
		if n := w.p.Metric("pallium_gateway_connections"); n > 10 {
			return fmt.Errorf("%g connections are open", n)
		}
		return nil
	})
}

// resident returns the process's resident memory in bytes.
func (w *world) resident() int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.p.Pid()))
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				w.t.Fatal(err)
			}
			return n << 10
		}
	}
	w.t.Fatal("no VmRSS")
	return 0
}

// queued returns the bytes of unread requests and unread responses in the kernel's queues for the
// edge's connections: the sum, and the largest queue of responses and of requests.
func (w *world) queued() (sum, mostSent, mostReceived int64) {
	data, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 5 || !strings.HasSuffix(f[1], ":"+w.port) || f[3] == "0A" { // 0A is a listener
			continue
		}
		sent, received, _ := strings.Cut(f[4], ":")
		tx, errTx := strconv.ParseInt(sent, 16, 64)
		rx, errRx := strconv.ParseInt(received, 16, 64)
		if err := errors.Join(errTx, errRx); err != nil {
			w.t.Fatal(err)
		}
		sum += tx + rx
		mostSent, mostReceived = max(mostSent, tx), max(mostReceived, rx)
	}
	return sum, mostSent, mostReceived
}

// kernel returns the memory of all TCP sockets of the machine, including sockets of
// other processes.
func kernel(t *testing.T) int64 {
	data, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		for i := range f {
			if f[0] == "TCP:" && f[i] == "mem" && i+1 < len(f) {
				pages, err := strconv.ParseInt(f[i+1], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				return pages * int64(os.Getpagesize())
			}
		}
	}
	return 0
}

func (w *world) query() (int, string) {
	return programs.Do(w.t, http.MethodGet, w.p.Edge+"/prometheus/api/v1/query?query=up", w.token, "", nil)
}

// attack is a kind of connection: the bytes that it sends, and the limits in bytes of the cost of one connection.
type attack struct {
	name     string
	send     func(w *world, c net.Conn)
	memory   int64 // of the process
	sent     int64 // of responses, in the kernel
	received int64 // of requests, in the kernel
}

func text(format func(w *world) string) func(*world, net.Conn) {
	return func(w *world, c net.Conn) {
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		if _, err := io.WriteString(c, format(w)); err != nil {
			w.t.Error(err)
		}
	}
}

// fill sends pipelined requests until the server stops reading.
func fill(w *world, c net.Conn) {
	requests := strings.Repeat("GET /ready HTTP/1.1\r\nHost: x\r\n\r\n", 1000)
	for range 1000 {
		_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := io.WriteString(c, requests); err != nil {
			return
		}
	}
	w.t.Error("the server read 32 MB of requests from a client that does not read responses")
}

// TestEdge measures the cost of each attack. The attacks are in the order of growing cost.
func TestEdge(t *testing.T) {
	w := newWorld(t)
	for _, a := range []attack{
		{"idle after a request", func(w *world, c net.Conn) {
			text(func(*world) string { return "GET /ready HTTP/1.1\r\nHost: x\r\n\r\n" })(w, c)
			if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != http.StatusOK {
				w.t.Errorf("response %v, error %v; want status 200", resp, err)
			}
		}, 64 << 10, 0, 0},
		{"half a header", text(func(*world) string { return "GET /ready HTTP/1.1\r\nHost: x\r\nA: " }), 64 << 10, 0, 64},
		{"slow body", text(func(w *world) string {
			return "POST /api/v1/push HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + w.token + "\r\nContent-Length: 900000\r\n\r\nabc"
		}), 128 << 10, 0, 64},
		{"half a long header", text(func(*world) string {
			return "GET /ready HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 200<<10)
		}), 1 << 20, 1 << 10, 1 << 20},
		{"responses not read", fill, 256 << 10, 512 << 10, 1 << 20},
	} {
		t.Run(a.name, func(t *testing.T) {
			before, kernelBefore := w.resident(), kernel(t)
			n := many
			if a.name == "responses not read" {
				n = 20 // filling a connection takes longer
			}
			for range n {
				a.send(w, w.dial("127.0.0.1"))
			}
			code, body := w.query()
			if code != http.StatusOK {
				t.Errorf("query during the attack: %d %s", code, body)
			}
			var sum, sent, received, memory int64
			kit.Eventually(t, time.Minute, func() error { // the process may still be reading
				sum, sent, received = w.queued()
				memory = (w.resident() - before) / int64(n)
				if memory > a.memory || sent > a.sent || received > a.received {
					return fmt.Errorf("want at most %d bytes of memory, %d of responses and %d of requests, got %d, %d, %d", a.memory, a.sent, a.received, memory, sent, received)
				}
				return nil
			})
			t.Logf("each of %d connections: process %d KiB, queued in the kernel %d KiB (at most %d of responses, %d of requests); the machine's TCP memory grew by %d KiB",
				n, memory>>10, sum>>10/int64(n), sent>>10, received>>10, (kernel(t)-kernelBefore)>>10)
			w.hangUp()
		})
	}
}

// TestUnreadIsClosed checks that the server closes a connection whose client does not read
// responses.
func TestUnreadIsClosed(t *testing.T) {
	w := newWorld(t)
	fill(w, w.dial("127.0.0.1"))
	kit.Eventually(t, time.Minute, func() error {
		if sum, _, _ := w.queued(); sum > 0 {
			return fmt.Errorf("%d bytes are queued", sum)
		}
		return nil
	})
}

// TestLimitPerAddress checks that one address cannot occupy the connections of others.
func TestLimitPerAddress(t *testing.T) {
	w := newWorld(t)
	const more = 100
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.3")}, Timeout: time.Minute}
	for range perAddress + more {
		if c, err := d.Dial("tcp", w.addr); err == nil { // otherwise the connection was reset at once
			w.open = append(w.open, c)
		}
	}
	kit.Eventually(t, time.Minute, func() error {
		if n := w.p.Metric(`pallium_gateway_connections_rejected_total{reason="per_address"}`); n != more {
			return fmt.Errorf("%g connections were rejected, want %d", n, more)
		}
		return nil
	})
	if code, body := w.query(); code != http.StatusOK {
		t.Errorf("from another address: %d %s", code, body)
	}
}
