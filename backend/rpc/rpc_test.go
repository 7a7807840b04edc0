package rpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/compactor"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wire"
	"github.com/palliumhq/pallium/policies/limits"
)

var ctx = context.Background()

const secret = "0123456789abcdef0123456789abcdef"

func member(t *testing.T, secret string, files cluster.TLSFiles) *cluster.Member {
	t.Helper()
	o := cluster.Options{TLS: files}
	if secret != "" {
		var err error
		if o.Secrets, err = cluster.ParseSecrets(secret); err != nil {
			t.Fatal(err)
		}
	}
	m, err := cluster.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// serve runs a server with a new ingester and returns the ingester and a client.
func serve(t *testing.T, server, client *cluster.Member) (*ingester.Ingester, *Peer) {
	t.Helper()
	lim := limits.Default()
	lim.MaxActiveSeries = 5000
	ing, err := ingester.Open(context.Background(), ingester.Options{ID: "i", Dir: t.TempDir(), Replication: 3, Limits: func(tenant.ID) limits.Limits { return lim }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ing.Close() }) // after the server was stopped
	return ing, serveIngester(t, ing, server, client)
}

// serveIngester runs a server with an ingester and returns a client.
func serveIngester(t testing.TB, ing Ingester, server, client *cluster.Member) *Peer {
	t.Helper()
	s := NewServer(server, ing, fakeCompactor{}, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	pool := NewPool(client)
	p, err := pool.Peer(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = pool.Close()
		s.Stop(ctx)
		<-done
	})
	return p
}

// newcomer is an ingester that creates every second series of a push, and all series of a
// push marked established.
type newcomer struct {
	Ingester
	established []bool
}

func (n *newcomer) Push(_ context.Context, b *series.Batch) (series.Outcome, error) {
	n.established = append(n.established, b.Established)
	var out series.Outcome
	for i := range b.Entries {
		if b.Established || i%2 == 1 {
			out.Created = append(out.Created, i)
		}
	}
	return out, nil
}

// TestCreated checks that Established and Created are transferred, and only with their own
// push.
func TestCreated(t *testing.T) {
	sec := member(t, secret, cluster.TLSFiles{})
	ing := &newcomer{}
	p := serveIngester(t, ing, sec, sec)
	want := []bool{true, false, true, false}
	for _, established := range want {
		resp, err := p.Push(ctx, &wire.Push{PushRequest: wire.PushRequest{Tenant: "a", Write: body(t, 300), Established: established}})
		if err != nil {
			t.Fatal(err)
		}
		every := 1
		if !established {
			every = 2
		}
		if len(resp.Created) != 300/every {
			t.Fatalf("established %v: %d series created", established, len(resp.Created))
		}
		for i, entry := range resp.Created {
			if int(entry) != i*every+every-1 {
				t.Fatalf("established %v: created %v", established, resp.Created)
			}
		}
	}
	if fmt.Sprint(ing.established) != fmt.Sprint(want) {
		t.Errorf("the ingester received established = %v, want %v", ing.established, want)
	}
}

type fakeCompactor struct{}

func (fakeCompactor) Compact(context.Context, compactor.Which) (compactor.Report, error) {
	return compactor.Report{Days: 1, Published: 2, Series: 3, Samples: 4}, nil
}

func (fakeCompactor) ExpireAll(context.Context) error { return errors.New("its clock is wrong") }

func body(t testing.TB, n int) []byte {
	t.Helper()
	b := &series.Batch{Metadata: []series.MetricMetadata{{Metric: "up", Metadata: metadata.Metadata{Type: "gauge", Help: "Help."}}}}
	now := time.Now().UnixMilli()
	for i := range n {
		ls := labels.FromStrings("__name__", "up", "i", fmt.Sprintf("%06d", i), "long", strings.Repeat("x", 200))
		b.Entries = append(b.Entries, series.Entry{Labels: ls, Samples: []series.Sample{{T: now, V: float64(i)}, {T: now + 1, V: 1}},
			Exemplars: []exemplar.Exemplar{{Labels: labels.FromStrings("trace", fmt.Sprint(i)), Value: 1, Ts: now, HasTs: true}}})
	}
	e, err := wire.EncodeEntries(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	return e.Body(nil, true)
}

func all(id tenant.ID) series.Request {
	return series.Request{Tenant: id, MinTime: 0, MaxTime: math.MaxInt64, Matchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, "i", ".+")}}
}

// TestCalls checks that every call returns over the network what the ingester returns.
func TestCalls(t *testing.T) {
	sec := member(t, secret, cluster.TLSFiles{})
	ing, p := serve(t, sec, sec)
	resp, err := p.Push(ctx, &wire.Push{PushRequest: wire.PushRequest{Tenant: "a", Write: body(t, 6000)}})
	if err != nil {
		t.Fatal(err)
	}
	rejected := int64(0)
	for _, r := range resp.Rejections {
		rejected += 2 // samples per series
		if len(r.Places) > 0 || r.Reason != "max_active_series" || r.Entry < 5000 {
			t.Fatalf("rejection %+v", r)
		}
	}
	if rejected != 2000 || !strings.Contains(resp.Rejections[0].Message, "5000") {
		t.Errorf("%d samples rejected: %+v", rejected, resp.Rejections[0])
	}
	for _, labelsOnly := range []bool{false, true} {
		req := all("a")
		req.LabelsOnly = labelsOnly
		got, _, err := p.Select(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		want, _, _ := ing.Select(ctx, req)
		if describe(got) != describe(want) || len(got.Series) != 5000 {
			t.Errorf("labels only %v: received %d series", labelsOnly, len(got.Series))
		}
	}
	part := all("a")
	part.Range = series.LabelRange{From: selectAll(t, p)[10].Labels, To: selectAll(t, p)[20].Labels}
	if got, _, err := p.Select(ctx, part); err != nil || len(got.Series) != 10 {
		t.Errorf("range of series: %v", err)
	}
	late := all("a").Tenant
	if v, err := p.Version(ctx, late); err != nil || v != ing.Version(late) || v.RecentBound <= v.Bound {
		t.Errorf("version %+v, %v; want %+v", v, err, ing.Version(late))
	}
	if h, err := p.HeadStats(ctx, "a"); err != nil || h != ing.HeadStats("a") || h.Chunks < 5000 {
		t.Errorf("head %+v, %v", h, err)
	}
	if h, err := p.HeadStats(ctx, "nobody"); err != nil || h != series.NoHead() {
		t.Errorf("head of another tenant %+v, %v", h, err)
	}
	if err := p.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	got, packs, err := p.Select(ctx, all("a"))
	_, want, _ := ing.Select(ctx, all("a"))
	if err != nil || len(packs) != 1 || len(want) != 1 || packs[0] != want[0] || len(got.Series) != 5000 {
		t.Errorf("after a flush: packs %v, %v", packs, err)
	}
	limited := all("a")
	limited.MaxSeries = 10
	var exceeded *limits.Exceeded
	if _, _, err := p.Select(ctx, limited); !errors.As(err, &exceeded) || exceeded.Name() != "max_query_series" {
		t.Errorf("over the limit: %v", err)
	}
	if got, _, err := p.Select(ctx, all("b")); err != nil || len(got.Series) != 0 {
		t.Errorf("another tenant: %v", err)
	}
	if names, _, err := p.Labels(ctx, "", all("a")); err != nil || fmt.Sprint(names) != "[__name__ i long]" {
		t.Errorf("names %v, %v", names, err)
	}
	if values, _, err := p.Labels(ctx, "i", all("a")); err != nil || len(values) != 5000 {
		t.Errorf("%d values, %v", len(values), err)
	}
	if m, err := p.Metadata(ctx, "a"); err != nil || len(m) != 1 || m[0].Help != "Help." {
		t.Errorf("metadata %v, %v", m, err)
	}
	if n, err := p.SeriesCount(ctx, "a"); err != nil || n != 5000 {
		t.Errorf("%d series, %v", n, err)
	}
	matchers := [][]*labels.Matcher{{labels.MustNewMatcher(labels.MatchEqual, "i", "000007")}}
	if ex, err := p.Exemplars(ctx, "a", 0, math.MaxInt64, matchers); err != nil || len(ex) != 1 || ex[0].Exemplars[0].Labels.Get("trace") != "7" {
		t.Errorf("exemplars %v, %v", ex, err)
	}
	ts := schema.NewTombstone(1, 0, math.MaxInt64, matchers, 0)
	if err := p.Delete(ctx, "a", ts); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := p.Select(ctx, all("a")); len(got.Series) != 4999 {
		t.Errorf("%d series after a deletion, want 4999", len(got.Series))
	}
	if r, err := p.Compact(ctx, false); err != nil || r != (compactor.Report{Days: 1, Published: 2, Series: 3, Samples: 4}) {
		t.Errorf("Compact = %+v, %v", r, err)
	}
	if _, err := p.Compact(ctx, true); err == nil || !strings.Contains(err.Error(), "clock is wrong") {
		t.Errorf("Compact with expireAll = %v, want the error of ExpireAll", err)
	}
	if _, err := p.Push(ctx, &wire.Push{PushRequest: wire.PushRequest{Tenant: "a", Write: []byte("no body")}}); !errors.Is(err, wire.ErrRejected) {
		t.Errorf("invalid body: %v", err)
	}
	if _, err := p.Push(ctx, &wire.Push{PushRequest: wire.PushRequest{Tenant: "../a", Write: body(t, 1)}}); !errors.Is(err, wire.ErrRejected) {
		t.Errorf("invalid tenant: %v", err)
	}
	_ = ing.Close()
	if _, err := p.Push(ctx, &wire.Push{PushRequest: wire.PushRequest{Tenant: "a", Write: body(t, 1)}}); !errors.Is(err, wire.ErrUnavailable) {
		t.Errorf("stopped ingester: %v", err)
	}
}

func describe(s *series.Selection) string {
	m := map[string]string{}
	for _, w := range s.Series {
		m[w.Labels.String()] = fmt.Sprint(w.Chunks)
	}
	return fmt.Sprint(m)
}

// TestStrangers checks that only processes with the credentials of the cluster can call each
// other, for each kind of credentials.
func TestStrangers(t *testing.T) {
	dir := t.TempDir()
	ours, other, none := authority(t, dir, "ours"), authority(t, dir, "other"), cluster.TLSFiles{}
	tests := []struct {
		name           string
		server, client *cluster.Member
		ok             bool
	}{
		{"same secret", member(t, secret, none), member(t, secret, none), true},
		{"another secret", member(t, secret, none), member(t, secret+"x", none), false},
		{"certificates", member(t, "", ours), member(t, "", ours), true},
		{"secret and certificate", member(t, secret, ours), member(t, secret, ours), true},
		{"certificate without the secret", member(t, secret, ours), member(t, "", ours), false},
		{"another authority", member(t, "", ours), member(t, "", other), false},
		{"no certificate", member(t, "", ours), member(t, secret, none), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, p := serve(t, tt.server, tt.client)
			call, cancel := context.WithTimeout(ctx, 20*time.Second)
			defer cancel()
			_, err := p.SeriesCount(call, "a")
			if (err == nil) != tt.ok {
				t.Errorf("SeriesCount: %v", err)
			}
			if _, _, err := p.Select(call, all("a")); (err == nil) != tt.ok {
				t.Errorf("select: %v", err)
			}
		})
	}
}

// TestPlainText checks that calls work without encryption.
func TestPlainText(t *testing.T) {
	secrets, err := cluster.ParseSecrets(secret)
	if err != nil {
		t.Fatal(err)
	}
	m, err := cluster.New(cluster.Options{Secrets: secrets, PlainText: true})
	if err != nil {
		t.Fatal(err)
	}
	_, p := serve(t, m, m)
	if _, err := p.SeriesCount(ctx, "a"); err != nil {
		t.Error(err)
	}
}

// TestReadsDoNotPause checks that reads that time out do not pause the pushes to a peer: a
// tenant chooses the timeout of its queries.
func TestReadsDoNotPause(t *testing.T) {
	conn, err := grpc.NewClient("passthrough:///127.0.0.1:1", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p := &Peer{conn: conn, ingester: wire.NewIngesterClient(conn)}
	short, cancel := context.WithDeadline(ctx, time.Now())
	defer cancel()
	for range 2 * pauseAfter {
		if _, _, err := p.Select(short, series.Request{Tenant: "a"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
	if err := p.healthy(); err != nil {
		t.Errorf("after reads that timed out: %v", err)
	}
	for range pauseAfter {
		_, _ = p.Push(short, &wire.Push{})
	}
	if p.healthy() == nil {
		t.Error("pushes that timed out do not pause the peer")
	}
}

// TestPaused checks that no pushes are sent for a while to a peer after pauseAfter consecutive
// timeouts of pushes, and that one push then probes it.
func TestPaused(t *testing.T) {
	p := &Peer{}
	short, cancel := context.WithDeadline(ctx, time.Now())
	defer cancel()
	for range pauseAfter {
		if err := p.healthy(); err != nil {
			t.Fatal(err)
		}
		_ = p.pushed(short, context.DeadlineExceeded)
	}
	if err := p.healthy(); !errors.Is(err, wire.ErrUnavailable) {
		t.Errorf("after %d timeouts: %v", pauseAfter, err)
	}
	p.paused = time.Now().Add(-2 * pauseFor)
	if p.healthy() != nil || p.healthy() == nil {
		t.Error("want exactly one push to probe the peer")
	}
	_ = p.pushed(ctx, nil)
	if err := p.healthy(); err != nil {
		t.Errorf("after a successful call: %v", err)
	}
}

// authority creates the files of a certificate authority and of a certificate that it signed.
func authority(t *testing.T, dir, name string) cluster.TLSFiles {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	f := cluster.TLSFiles{CertFile: filepath.Join(dir, name+".crt"), KeyFile: filepath.Join(dir, name+".key"), CAFile: filepath.Join(dir, name+".crt")}
	for path, block := range map[string]*pem.Block{f.CertFile: {Type: "CERTIFICATE", Bytes: der}, f.KeyFile: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// TestUnauthenticatedLimit checks that unauthenticated connections are bounded, and that closing them
// frees slots.
func TestUnauthenticatedLimit(t *testing.T) {
	const bound = 512 // docs/cluster-trust.md
	m := member(t, secret, cluster.TLSFiles{})
	_, p := serve(t, m, m)
	addr := p.conn.Target()[len("passthrough:///"):]
	var strangers []net.Conn
	for range bound + 1 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		strangers = append(strangers, c)
	}
	_, _ = strangers[bound].Read(make([]byte, 1)) // until it is closed
	if err := strangers[0].SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := strangers[0].Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the first connection was closed, want the last one: %v", err)
	}
	for _, c := range strangers {
		_ = c.Close()
	}
	if _, err := p.SeriesCount(ctx, "a"); err != nil {
		t.Errorf("call of a member after they disconnected: %v", err)
	}
}

// selectAll returns the series of tenant a.
func selectAll(t *testing.T, p *Peer) []series.WithChunks {
	t.Helper()
	got, _, err := p.Select(ctx, all("a"))
	if err != nil {
		t.Fatal(err)
	}
	return got.Series
}
