package rpc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/tap"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/remotewrite"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wire"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/test/kit"
)

// accounted is a server with a memory account, and a client of it.
type accounted struct {
	*Peer
	t       *testing.T
	server  *Server
	pool    *Pool
	account *memory.Account
	read    atomic.Int64 // bytes that the server has read
}

const accountBytes = 64 << 20

func newAccounted(t *testing.T, ing Ingester, server, client *cluster.Member) *accounted {
	t.Helper()
	a := &accounted{t: t, account: memory.NewAccount(accountBytes, nil), pool: NewPool(client)}
	a.server = NewServer(server, ing, fakeCompactor{}, a.account)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.server.Serve(countingListener{l, &a.read}) }()
	if a.Peer, err = a.pool.Peer(l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = a.pool.Close()
		over, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		a.server.Stop(over)
		<-done
		if held := a.account.Used(); held != 0 {
			t.Errorf("%d bytes still held", held)
		}
	})
	return a
}

// eventually waits until ok returns true for the used bytes of the server's account.
func (a *accounted) eventually(what string, ok func(held int64) bool) {
	a.t.Helper()
	kit.Until(a.t, what+": the account's used memory is as expected", func() bool { return ok(a.account.Used()) })
}

func none(held int64) bool { return held == 0 }
func some(held int64) bool { return held > 0 }

// open sends the header of a push and nothing else.
func (a *accounted) open(call context.Context, header ...string) grpc.ClientStream {
	a.t.Helper()
	desc := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	s, err := a.conn.NewStream(metadata.AppendToOutgoingContext(call, header...), desc, pushMethod)
	if err != nil {
		a.t.Fatal(err)
	}
	return s
}

// headersRead waits until the server has read the headers that were sent before.
func (a *accounted) headersRead() {
	call, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, _ = a.SeriesCount(call, "a") // the headers of a connection are read in order
}

// fill reserves the memory of an account except for `left` bytes; because of rounding, slightly fewer bytes
// remain.
func fill(t *testing.T, a *memory.Account, left int64) (empty func()) {
	t.Helper()
	h := a.Begin(memory.Request{Internal: true})
	if err := h.Take(accountBytes - left); err != nil {
		t.Fatal(err)
	}
	return h.Close
}

type countingListener struct {
	net.Listener
	read *atomic.Int64
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return countingConn{c, l.read}, err
}

type countingConn struct {
	net.Conn
	read *atomic.Int64
}

func (c countingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.read.Add(int64(n))
	return n, err
}

// stuck is an ingester whose Push blocks until release is closed.
type stuck struct {
	Ingester
	entered, release chan struct{}
}

func (s *stuck) Push(context.Context, *series.Batch) (series.Outcome, error) {
	close(s.entered)
	<-s.release
	return series.Outcome{}, nil
}

func (*stuck) HeadStats(tenant.ID) series.HeadStats    { return series.NoHead() }
func (*newcomer) HeadStats(tenant.ID) series.HeadStats { return series.NoHead() }

func (*stuck) SeriesCount(tenant.ID) int    { return 0 }
func (*newcomer) SeriesCount(tenant.ID) int { return 0 }

func (*stuck) Version(tenant.ID) series.IngesterVersion    { return series.IngesterVersion{} }
func (*newcomer) Version(tenant.ID) series.IngesterVersion { return series.IngesterVersion{} }

func openIngester(t *testing.T) *ingester.Ingester {
	t.Helper()
	ing, err := ingester.Open(context.Background(), ingester.Options{ID: "i", Dir: t.TempDir(), Replication: 3, Limits: func(tenant.ID) limits.Limits { return limits.Default() }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ing.Close() })
	return ing
}

func push(id string, body []byte) *wire.Push {
	return &wire.Push{PushRequest: wire.PushRequest{Tenant: id, Write: body}}
}

// incompressible returns a body of about n bytes, which compression does not reduce.
func incompressible(t *testing.T, n int) []byte {
	t.Helper()
	b := &series.Batch{}
	for i := 0; n > 0; i++ {
		var text strings.Builder
		for range 2000 {
			text.WriteByte(byte('!' + rand.N(90)))
		}
		n -= text.Len()
		b.Entries = append(b.Entries, series.Entry{Labels: labels.FromStrings("__name__", "up", "i", text.String()), Samples: []series.Sample{{T: time.Now().UnixMilli()}}})
	}
	e, err := wire.EncodeEntries(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	return e.Body(nil, false)
}

// TestPushBeyondAccount checks that a push without memory is rejected before its message is
// read: as unavailable, or as too large if it can never fit. Pushes of other tenants are
// accepted.
func TestPushBeyondAccount(t *testing.T) {
	sec := member(t, secret, cluster.TLSFiles{})
	a := newAccounted(t, openIngester(t), sec, sec)
	half := accountBytes * 7 / 16
	large := push("a", incompressible(t, half/pushFactor+1<<20))
	_, err := a.Push(ctx, large)
	var tooLarge *memory.TooLargeError
	if !errors.As(err, &tooLarge) || tooLarge.Most != int64(half) || tooLarge.Need <= tooLarge.Most {
		t.Errorf("push larger than a tenant's share: %v", err)
	}
	empty := fill(t, a.account, 1<<20)
	_, err = a.Push(ctx, push("a", large.Write[:1<<20]))
	if !errors.Is(err, wire.ErrUnavailable) || !strings.Contains(err.Error(), memory.ErrFull.Error()) {
		t.Errorf("push while the memory is in use: %v", err)
	}
	if read := a.read.Load(); read > 6<<20 {
		t.Errorf("%d bytes read of pushes without memory, want at most %d", read, 6<<20)
	}
	if _, err := a.Push(ctx, push("b", body(t, 10))); err != nil {
		t.Errorf("small push of another tenant: %v", err)
	}
	empty()
	if _, err := a.Push(ctx, push("a", incompressible(t, 3<<20))); err != nil {
		t.Errorf("push after memory was released: %v", err)
	}
	a.eventually("in the end", none)
}

// counting counts the bytes taken.
type counting int64

func (c *counting) Take(n int64) error {
	*c += counting(n)
	return nil
}

// measuring records the used memory of an account while a push is applied.
type measuring struct {
	Ingester
	account *memory.Account
	held    int64
}

func (m *measuring) Push(context.Context, *series.Batch) (series.Outcome, error) {
	m.held = m.account.Used()
	return series.Outcome{}, nil
}

// TestDecodedPush checks that the memory of a decoded push and of its message is reserved,
// also if the header is missing or has another size.
func TestDecodedPush(t *testing.T) {
	ing := &measuring{account: memory.NewAccount(accountBytes, nil)}
	s := &ingesterServer{ing: ing, memory: ing.account}
	server := &Server{memory: s.memory}
	in := &wire.PushRequest{Tenant: "a", Write: body(t, 3000)}
	message, decoded := int64(len(in.Write)), counting(0)
	if err := new(remotewrite.Request).Unmarshal(remotewrite.V1, in.Write, &decoded); err != nil || decoded == 0 {
		t.Fatalf("Unmarshal decoded %d bytes: %v", decoded, err)
	}
	header := func(size string) metadata.MD {
		return metadata.Pairs(tenantKey, "a", bytesKey, size)
	}
	for name, md := range map[string]metadata.MD{"announced": header(fmt.Sprint(len(in.Write))), "announced as less": header("0"), "not announced": metadata.Pairs()} {
		for left, want := range map[int64]bool{2 * message: false, pushFactor*message + 100<<10: false, 6 * pushFactor * message: true} {
			empty := fill(t, s.memory, left)
			call, cancel := context.WithCancel(ctx)
			admitted, err := server.admission(call, &tap.Info{FullMethodName: pushMethod, Header: md})
			if err == nil {
				_, err = s.Push(admitted, in)
			}
			if err = wire.Error(err); (err == nil) != want || !want && !errors.Is(err, wire.ErrUnavailable) {
				t.Errorf("%s, %d bytes left: %v", name, left, err)
			}
			if want {
				held := ing.held - (accountBytes - left)
				if least := pushFactor*message + int64(decoded); held < least {
					t.Errorf("%s: %d bytes held while the push is applied, want at least %d", name, held, least)
				}
			}
			cancel()
			empty()
			(&accounted{t: t, account: s.memory}).eventually(name, none)
		}
	}
}

// TestPushEnds checks that the memory of a push is released when it ends, however it ends,
// and not before.
func TestPushEnds(t *testing.T) {
	sec := member(t, secret, cluster.TLSFiles{})
	header := []string{tenantKey, "a", bytesKey, "1000000"}
	t.Run("accepted and rejected", func(t *testing.T) {
		a := newAccounted(t, openIngester(t), sec, sec)
		for _, p := range []*wire.Push{push("a", body(t, 100)), push("a", []byte("no body")), push("../a", body(t, 1)), push("a", nil)} {
			_, err := a.Push(ctx, p)
			if (err != nil) != (string(p.Write) == "no body" || p.Tenant != "a") {
				t.Errorf("%s: %v", p.Tenant, err)
			}
			a.eventually("answered", none)
		}
	})
	t.Run("reset before its message", func(t *testing.T) {
		a := newAccounted(t, &newcomer{}, sec, sec)
		call, cancel := context.WithCancel(ctx)
		a.open(call, header...)
		a.eventually("header", some)
		cancel()
		a.eventually("reset", none)
	})
	t.Run("deadline before its message", func(t *testing.T) {
		a := newAccounted(t, &newcomer{}, sec, sec)
		call, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		a.open(call, header...)
		a.headersRead()
		a.eventually("deadline", none)
	})
	t.Run("canceled before it is admitted", func(t *testing.T) {
		a := newAccounted(t, &newcomer{}, sec, sec)
		call, cancel := context.WithCancel(ctx)
		cancel()
		md := metadata.Pairs(header...)
		admitted, err := a.server.admission(call, &tap.Info{FullMethodName: pushMethod, Header: md})
		if err != nil {
			t.Fatal(err)
		}
		a.eventually("over", none)
		s := &ingesterServer{ing: &newcomer{}, memory: a.account}
		if _, err := s.Push(admitted, &wire.PushRequest{Tenant: "a", Write: body(t, 1)}); !errors.Is(wire.Error(err), context.Canceled) {
			t.Errorf("a handler that starts later: %v", err)
		}
		a.eventually("later", none)
	})
	t.Run("client disconnects within the message", func(t *testing.T) {
		a := newAccounted(t, &newcomer{}, sec, sec)
		a.open(ctx, header...)
		a.eventually("header", some)
		_ = a.pool.Close()
		a.eventually("gone", none)
	})
	t.Run("server stops", func(t *testing.T) {
		a := newAccounted(t, &newcomer{}, sec, sec)
		a.open(ctx, header...)
		a.eventually("header", some)
		over, cancel := context.WithCancel(ctx)
		cancel()
		a.server.Stop(over)
		a.eventually("stopped", none)
	})
	t.Run("canceled while the handler runs", func(t *testing.T) {
		ing := &stuck{entered: make(chan struct{}), release: make(chan struct{})}
		a := newAccounted(t, ing, sec, sec)
		call, cancel := context.WithCancel(ctx)
		var once sync.Once
		release := func() { once.Do(func() { close(ing.release) }) }
		t.Cleanup(release)
		done := make(chan error, 1)
		go func() {
			_, err := a.Push(call, push("a", body(t, 100)))
			done <- err
		}()
		kit.Receive(t, "the push is in progress", ing.entered)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: %v", err)
		}
		a.headersRead() // everything sent before on this connection was read, including the reset
		for range 1000 {
			if held := a.account.Used(); held == 0 {
				t.Fatal("memory was released while the handler still runs")
			}
			time.Sleep(20 * time.Microsecond)
		}
		release()
		a.eventually("answered", none)
	})
}

// TestAnnouncements checks that invalid headers of pushes are ignored, and that the tenant
// of a push must match its header.
func TestAnnouncements(t *testing.T) {
	ours := member(t, secret, cluster.TLSFiles{})
	good := []string{tenantKey, "a", bytesKey, "1000000"}
	tests := []struct {
		name   string
		header []string
		holds  bool
	}{
		{"valid", good, true},
		{"no header", nil, false},
		{"no tenant", []string{bytesKey, "1000000"}, false},
		{"no size", []string{tenantKey, "a"}, false},
		{"invalid tenant", []string{tenantKey, "../a", bytesKey, "1000000"}, false},
		{"long tenant", []string{tenantKey, strings.Repeat("a", 5000), bytesKey, "1000000"}, false},
		{"two tenants", append([]string{tenantKey, "b"}, good...), false},
		{"two sizes", append([]string{bytesKey, "5"}, good...), false},
		{"negative", []string{tenantKey, "a", bytesKey, "-1000000"}, false},
		{"nearly overflowing", []string{tenantKey, "a", bytesKey, fmt.Sprint(int64(math.MaxInt64))}, false},
		{"overflowing", []string{tenantKey, "a", bytesKey, "99999999999999999999"}, false},
		{"larger than a message", []string{tenantKey, "a", bytesKey, fmt.Sprint(wire.MaxMessage + 1)}, false},
		{"a fraction", []string{tenantKey, "a", bytesKey, "1e6"}, false},
		{"not a number", []string{tenantKey, "a", bytesKey, "x"}, false},
		{"empty", []string{tenantKey, "", bytesKey, ""}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newAccounted(t, &stuck{}, ours, ours)
			call, cancel := context.WithCancel(ctx)
			defer cancel()
			a.open(call, tt.header...)
			a.headersRead()
			if held := a.account.Used(); (held > 0) != tt.holds {
				t.Errorf("%d bytes held", held)
			}
			cancel()
			a.eventually("reset", none)
			if _, size, ok := announced(metadata.Pairs(tt.header...)); tt.header != nil && ok != tt.holds {
				t.Errorf("announced = %d bytes, %v", size, ok)
			}
		})
	}
	s := &ingesterServer{ing: &newcomer{}, memory: memory.NewAccount(accountBytes, nil)}
	server := &Server{memory: s.memory}
	admitted, err := server.admission(ctx, &tap.Info{FullMethodName: pushMethod, Header: metadata.Pairs(good...)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Push(admitted, &wire.PushRequest{Tenant: "b", Write: body(t, 1)}); !errors.Is(wire.Error(err), wire.ErrRejected) || s.memory.Used() != 0 {
		t.Errorf("push for another tenant than announced: %v, %d bytes held", err, s.memory.Used())
	}
}
