// Package cluster_test attacks a running cluster as an attacker who can write to its Redis, or who
// has taken over the address of one of its processes, and checks that the attacker receives no
// sample, no secret and no tenant.
package cluster_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	goredis "github.com/redis/go-redis/v9"

	"github.com/palliumhq/pallium/test/kit/cluster"
	"github.com/palliumhq/pallium/test/kit/programs"
)

const (
	membersKey, beatsKey, goneKey, metaKey = "{pallium:ring}:members", "{pallium:ring}:beats", "{pallium:ring}:gone", "{pallium:ring}:meta"

	// marker is a label value of every sample: data that contains it leaks samples.
	marker = "secret_metric_of_demo"
)

// listener is a listener of the attacker. It accepts every connection, speaks TLS with clients that
// start it, and records everything that it receives.
type listener struct {
	net.Listener
	cert tls.Certificate

	mu        sync.Mutex
	conns     int
	encrypted bytes.Buffer // as received
	plain     bytes.Buffer // decrypted from TLS
}

func listen(t *testing.T, addr string) *listener {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if l.Listener, err = net.Listen("tcp", addr); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			l.mu.Lock()
			l.conns++
			l.mu.Unlock()
			go l.serve(conn)
		}
	}()
	return l
}

// tapped records everything that is read from a connection.
type tapped struct {
	net.Conn
	l *listener
}

func (t tapped) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.l.mu.Lock()
	t.l.encrypted.Write(p[:n])
	t.l.mu.Unlock()
	return n, err
}

func (l *listener) serve(raw net.Conn) {
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(30 * time.Second))
	conn := tls.Server(tapped{raw, l}, &tls.Config{Certificates: []tls.Certificate{l.cert}, NextProtos: []string{"h2", "http/1.1"}})
	defer conn.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buf)
		l.mu.Lock()
		l.plain.Write(buf[:n])
		l.mu.Unlock()
		if err != nil {
			return
		}
		// A response that a careless client would accept, whatever the request.
		_, _ = conn.Write(append([]byte{1}, buf[:min(n, 32)]...))
	}
}

// got logs how much the attacker received, and fails the test if that includes data which
// an attacker must not get, or more than perConn bytes of plain text per connection. It
// returns the number of connections.
func (l *listener) got(t *testing.T, what string, c *cluster.Cluster, perConn int) int {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	t.Logf("%s: %d connections, %d bytes in TLS, %d bytes of plain text", what, l.conns, l.encrypted.Len(), l.plain.Len())
	secret, err := os.ReadFile(filepath.Join(c.Dir(), "cluster-secret"))
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"on the wire": l.encrypted.Bytes(), "inside of TLS": l.plain.Bytes()} {
		for _, bad := range []string{marker, strings.TrimSpace(string(secret)), c.Token, "PRI * HTTP/2", "POST ", "X-Scope-OrgID", "pallium-tenant"} {
			if bytes.Contains(b, []byte(bad)) {
				t.Errorf("%s: %q was sent to the attacker %s", what, bad[:min(len(bad), 12)], name)
			}
		}
	}
	if l.plain.Len() > perConn*l.conns {
		t.Errorf("%s: the attacker received %d bytes of plain text in %d connections, want at most %d per connection",
			what, l.plain.Len(), l.conns, perConn)
	}
	return l.conns
}

type attack struct {
	t     *testing.T
	c     *cluster.Cluster
	redis *goredis.Client
	n     int
}

func newAttack(t *testing.T) *attack {
	t.Helper()
	redis := os.Getenv("REDIS_SERVER")
	if redis == "" {
		redis = "redis-server"
	}
	c, err := cluster.New(cluster.Options{Dir: t.TempDir(), Free: true, Binaries: cluster.Binaries{Pallium: programs.Binary(t, "PALLIUM"), Redis: redis,
		Bigtable: programs.Binary(t, "BIGTABLE_EMULATOR_BIN"), GCS: programs.Binary(t, "FAKE_GCS_SERVER_BIN")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Down(context.Background()); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, p := range c.Processes {
				t.Logf("== %s\n%s", p.Name, c.Log(p.Name))
			}
		}
	})
	if err := c.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	client := goredis.NewClient(&goredis.Options{Addr: c.Process("redis").Addr})
	t.Cleanup(func() { _ = client.Close() })
	a := &attack{t: t, c: c, redis: client}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		code, body := a.do(http.MethodPost, c.Edges[0]+"/api/v1/push", a.body())
		if code/100 == 2 {
			return a
		}
		if time.Now().After(deadline) {
			t.Fatalf("the cluster accepts no samples: %d %s", code, body)
		}
	}
}

// write sets fields of the ring's hashes and publishes the change.
func (a *attack) write(fields map[string][2]string) {
	a.t.Helper()
	ctx := a.t.Context()
	_, err := a.redis.TxPipelined(ctx, func(p goredis.Pipeliner) error {
		for key, f := range fields {
			p.HSet(ctx, key, f[0], f[1])
		}
		p.HIncrBy(ctx, metaKey, "version", 1)
		return p.Publish(ctx, "{pallium:ring}:changes", "x").Err()
	})
	if err != nil {
		a.t.Fatal(err)
	}
}

func (a *attack) field(key, id string) string {
	a.t.Helper()
	v, err := a.redis.HGet(a.t.Context(), key, id).Result()
	if err != nil {
		a.t.Fatal(err)
	}
	return v
}

// use pushes and queries through both gateways, with samples that contain the marker.
func (a *attack) use(rounds int) {
	a.t.Helper()
	for range rounds {
		data := a.body()
		for i, edge := range a.c.Edges {
			if code, body := a.do(http.MethodPost, edge+"/api/v1/push", data); code/100 != 2 {
				a.t.Errorf("push through gateway %d: %d %s", i+1, code, body)
			}
			if code, body := a.do(http.MethodGet, edge+"/prometheus/api/v1/query?query=count("+marker+")", nil); code != 200 || !strings.Contains(body, `"20"`) {
				a.t.Errorf("query through gateway %d: %d %s", i+1, code, body)
			}
		}
		time.Sleep(100 * time.Millisecond) // leaves time for heartbeats and reads of the ring
	}
}

// body returns a push of 20 series.
func (a *attack) body() []byte {
	a.t.Helper()
	a.n++
	now := time.Now().UnixMilli()
	req := prompb.WriteRequest{}
	for i := range 20 {
		req.Timeseries = append(req.Timeseries, prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: marker}, {Name: "i", Value: fmt.Sprint(i)}},
			Samples: []prompb.Sample{{Timestamp: now, Value: float64(a.n)}}})
	}
	data, err := req.Marshal()
	if err != nil {
		a.t.Fatal(err)
	}
	return snappy.Encode(nil, data)
}

func (a *attack) do(method, url string, body []byte) (int, string) {
	a.t.Helper()
	req, err := http.NewRequestWithContext(a.t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+a.c.Token)
	if method == http.MethodPost {
		req.Header.Set("Content-Encoding", "snappy")
		req.Header.Set("Content-Type", "application/x-protobuf")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return resp.StatusCode, string(out)
}

func (a *attack) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

// heartbeatValidity is how long a heartbeat is valid.
const heartbeatValidity = 30 * time.Second

// proofBytes is the number of bytes that a process sends before the other side has proved anything.
const proofBytes = 32

// TestTrust checks that a false member of the ring, a restored old entry, and an attacker at the
// address of a stopped ingester receive no data of tenants.
func TestTrust(t *testing.T) {
	a := newAttack(t)
	ctx := t.Context()
	a.use(3)

	// A false member: the attacker writes its address into the entries of running ingesters.
	attacker := listen(t, "127.0.0.1:0")
	address := attacker.Addr().String()
	for round := range 10 {
		fields := map[string][2]string{}
		for i := range 3 {
			id := fmt.Sprintf("ingester-%d", i+1)
			forged := strings.ReplaceAll(a.field(membersKey, id), a.c.Process(id).Addr, address)
			if i == round%3 {
				fields[membersKey] = [2]string{id, forged}
			}
		}
		fields[beatsKey] = [2]string{"attacker", fmt.Sprint(time.Now().UnixMilli())}
		a.write(fields)
		a.use(1)
	}
	if n := attacker.got(t, "a false member", a.c, 0); n > 0 {
		t.Errorf("%d connections to a false member", n)
	}

	// The address of a stopped member: processes connect to the attacker there, which cannot prove that it
	// is a member.
	a.must(a.c.Stop(ctx, "ingester-3", syscall.SIGKILL))
	taken := listen(t, a.c.Process("ingester-3").Addr)
	a.use(10)
	if n := taken.got(t, "the address of a stopped ingester", a.c, proofBytes); n == 0 {
		t.Error("no process connected to the address: the test proves nothing")
	}
	a.must(taken.Close())
	a.must(a.c.Start(ctx, "ingester-3"))

	// An entry that was once valid: the attacker restores the entry of an ingester that left, and
	// listens at its address.
	a.must(a.c.AddIngester(ctx, "ingester-4", "zone-a"))
	a.use(3)
	entry, beat := a.field(membersKey, "ingester-4"), a.field(beatsKey, "ingester-4")
	if code, body, err := a.c.Admin(ctx, "ingester-4", "/ring/leave?wait=true", nil); err != nil || code/100 != 2 {
		t.Fatalf("leave: %d %s %v", code, body, err)
	}
	left := time.Now()
	a.must(a.c.Stop(ctx, "ingester-4", syscall.SIGTERM))
	replayed := listen(t, a.c.Process("ingester-4").Addr)
	earlier := -1 // processes that have not read the ring again may still connect for a moment
	for n := 0; earlier != n; {
		earlier = n
		a.use(10)
		n = replayed.got(t, "before the entry is written back", a.c, proofBytes)
	}
	for range 10 {
		a.write(map[string][2]string{membersKey: {"ingester-4", entry}, beatsKey: {"ingester-4", beat}})
		a.use(1)
	}
	// Once the heartbeat has expired, the entry is not trusted, even by a process that starts and
	// does not know that the entry was removed.
	for time.Since(left) < heartbeatValidity+time.Second {
		a.use(1)
	}
	a.must(a.redis.HDel(ctx, goneKey, "ingester-4").Err())
	a.write(map[string][2]string{membersKey: {"ingester-4", entry}, beatsKey: {"ingester-4", beat}})
	a.must(a.c.Stop(ctx, "backend-1", syscall.SIGTERM))
	a.must(a.c.Start(ctx, "backend-1"))
	a.use(5)
	if n := replayed.got(t, "an entry that was written back", a.c, proofBytes); n > earlier {
		t.Errorf("%d connections to the address of a restored entry", n-earlier)
	}
}

// TestFalseBudget checks that fields that no gateway wrote do not reduce a tenant's rate limits,
// which gateways share through Redis.
func TestFalseBudget(t *testing.T) {
	const budgetKey = "{pallium:budget}"
	a := newAttack(t)
	ctx := t.Context()
	if out, err := a.c.Pallium(ctx, "limits", "set", cluster.Tenant, "requests_per_second=100", "request_burst=100"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	own := a.redis.HGetAll(ctx, budgetKey).Val()
	if len(own) == 0 {
		t.Fatal("gateways share no budget: the test proves nothing")
	}
	far := fmt.Sprint(time.Now().Add(24 * time.Hour).UnixMilli())
	for round := range 5 {
		var fields []any
		for i := range 2000 {
			id := fmt.Sprintf("gateway-%d-%d", round, i)
			switch i % 4 {
			case 0: // in the format of older versions
				fields = append(fields, id, far+"x")
			case 1: // with a time in the future
				fields = append(fields, id, "2 "+far+" mAAAA ")
			case 2: // a gateway's own field under another name
				for _, v := range own {
					fields = append(fields, id, v)
					break
				}
			default:
				fields = append(fields, id, "junk")
			}
		}
		a.must(a.redis.HSet(ctx, budgetKey, fields...).Err())
		time.Sleep(time.Second) // five exchanges
		rejected := 0
		for i := range 40 {
			edge := a.c.Edges[i%len(a.c.Edges)]
			code, body := a.do(http.MethodGet, edge+"/prometheus/api/v1/query?query=vector(1)", nil)
			if code == http.StatusTooManyRequests {
				rejected++
			} else if code != http.StatusOK {
				t.Errorf("query: %d %s", code, body)
			}
		}
		if rejected > 0 {
			t.Errorf("round %d: %d of 40 requests of a tenant with a limit of 100/s were rejected", round, rejected)
		}
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		left := a.redis.HLen(ctx, budgetKey).Val()
		if left <= int64(len(a.c.Edges)) {
			t.Logf("10000 false fields: no request was rejected, %d fields remain", left)
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d fields remain", left)
		}
	}
}
