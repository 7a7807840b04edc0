package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/kit"
)

// TestConnections checks that two processes can connect if both belong to the cluster, also at each
// step of a rotation of secrets. Otherwise the client gets an error, and the server too if it has a
// secret.
func TestConnections(t *testing.T) {
	ca, ca2 := newAuthority(t), newAuthority(t)
	right, right2 := ca.files("127.0.0.1", "ecdsa"), ca.files("127.0.0.1", "rsa")
	foreign, elsewhere := ca2.files("127.0.0.1", "ecdsa"), ca.files("elsewhere.example", "ecdsa")
	none := TLSFiles{}
	for _, c := range []struct {
		name           string
		client, server *Member
		ok             bool
	}{
		{"one secret", member(t, one, none, false), member(t, one, none, false), true},
		{"another secret", member(t, one, none, false), member(t, other, none, false), false},
		{"rotation: second added at the server", member(t, one, none, false), member(t, one+"\n"+two, none, false), true},
		{"rotation: second added at the client", member(t, one+" "+two, none, false), member(t, one, none, false), true},
		{"rotation: swapped at the client", member(t, two+" "+one, none, false), member(t, one+" "+two, none, false), true},
		{"rotation: swapped at the server", member(t, one+" "+two, none, false), member(t, two+" "+one, none, false), true},
		{"rotation: removed at the server", member(t, two+" "+one, none, false), member(t, two, none, false), true},
		{"rotation: removed at the client", member(t, two, none, false), member(t, two+" "+one, none, false), true},
		{"rotation: removed too early", member(t, one+" "+two, none, false), member(t, two, none, false), false},
		{"certificates", member(t, "", right, false), member(t, "", right2, false), true},
		{"client of another authority", member(t, "", foreign, false), member(t, "", right, false), false},
		{"server of another authority", member(t, "", right, false), member(t, "", foreign, false), false},
		{"server's certificate for another host", member(t, "", right, false), member(t, "", elsewhere, false), false},
		{"client without a certificate", member(t, one, none, false), member(t, "", right, false), false},
		{"secret and certificate", member(t, one, right, false), member(t, one, right2, false), true},
		{"secret and certificate, different secret", member(t, one, right, false), member(t, other, right2, false), false},
		{"client without the secret", member(t, "", right, false), member(t, one, right2, false), false},
		{"plain text", member(t, one, none, true), member(t, one+" "+two, none, true), true},
		{"plain text, another secret", member(t, one, none, true), member(t, other, none, true), false},
		{"plain text to TLS", member(t, one, none, true), member(t, one, none, false), false},
		{"TLS to plain text", member(t, one, none, false), member(t, one, none, true), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := pair(t)
			served := serve(c.server, b)
			conn, err := c.client.Client(t.Context(), a, "127.0.0.1")
			if c.ok {
				s := <-served
				if err != nil || s.err != nil {
					t.Fatalf("client %v, server %v", err, s.err)
				}
				talk(t, conn, s.conn)
				return
			}
			if err == nil {
				// With only certificates, a TLS 1.3 client learns of its rejection when it reads.
				_, err = conn.Read(make([]byte, 1))
			}
			if s := <-served; err == nil || s.err == nil && c.server.secrets != nil {
				t.Errorf("client %v, server %v", err, s.err)
			}
		})
	}
}

// TestManInTheMiddle checks that a process with a certificate of its own, which forwards
// the proofs of two members, gets no data.
func TestManInTheMiddle(t *testing.T) {
	m := member(t, one, TLSFiles{}, false)
	a, inA := pair(t)
	outB, b := pair(t)
	served := serve(m, b)
	false1, err := selfSigned(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	leaked := make(chan []byte, 1)
	go func() {
		in := tls.Server(inA, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{false1}})
		out := tls.Client(outB, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{false1}})
		go func() { _, _ = io.Copy(in, out); inA.Close() }()
		var got bytes.Buffer
		_, _ = io.Copy(io.MultiWriter(out, &got), in)
		leaked <- got.Bytes()
	}()
	if _, err := m.Client(t.Context(), a, "127.0.0.1"); !errors.Is(err, ErrStranger) {
		t.Errorf("client: %v", err)
	}
	if s := <-served; !errors.Is(s.err, ErrStranger) {
		t.Errorf("server: %v", s.err)
	}
	if got := <-leaked; len(got) > proofBytes {
		t.Errorf("the client sent %d bytes in addition to its proof", len(got)-proofBytes)
	}
}

// TestRepeatedProof checks that the proof of a client is invalid on another connection,
// and that a peer cannot authenticate by echoing it.
func TestRepeatedProof(t *testing.T) {
	m := member(t, one, TLSFiles{}, false)
	proof := m.secrets.MAC(ofClient, "another connection")
	a, b := pair(t)
	served := serve(m, b)
	conn := tls.Client(a, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true})
	if _, err := conn.Write(proof); err != nil {
		t.Fatal(err)
	}
	if s := <-served; !errors.Is(s.err, ErrStranger) {
		t.Errorf("server: %v", s.err)
	}

	for _, plain := range []bool{false, true} {
		m := member(t, one, TLSFiles{}, plain)
		a, b = pair(t)
		go func() { // sends back what it receives
			conn := b
			if !plain {
				conn = tls.Server(b, m.config(nil))
			}
			var got [proofBytes]byte
			_, _ = io.ReadFull(conn, got[:])
			if plain {
				_, _ = conn.Write(got[:])
				_, _ = io.ReadFull(conn, got[:])
			}
			_, _ = conn.Write(append([]byte{accepted}, got[:]...))
		}()
		if _, err := m.Client(t.Context(), a, "127.0.0.1"); !errors.Is(err, ErrStranger) {
			t.Errorf("plain %v: %v", plain, err)
		}
	}
}

// TestUnresponsivePeer checks that a handshake ends with its context if the peer does not
// respond.
func TestUnresponsivePeer(t *testing.T) {
	for _, plain := range []bool{false, true} {
		m := member(t, one, TLSFiles{}, plain)
		a, b := pair(t)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := m.Client(ctx, a, "127.0.0.1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("client: %v", err)
		}
		if _, err := m.Server(ctx, b); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("server: %v", err)
		}
	}
}

// TestListener checks that an HTTP server serves members while other peers are
// unresponsive or not members.
func TestListener(t *testing.T) {
	m, stranger := member(t, one, TLSFiles{}, false), member(t, other, TLSFiles{}, false)
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 10)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })}
	go func() { _ = srv.Serve(m.Listen(raw, func(err error) { failed <- err })) }()
	defer srv.Close()
	for range 3 {
		unresponsive, err := net.Dial("tcp", raw.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer unresponsive.Close()
	}
	get := func(m *Member) (string, error) {
		transport := &http.Transport{DialContext: m.Dial((&net.Dialer{}).DialContext)}
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Get("http://" + raw.Addr().String())
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}
	if body, err := get(m); err != nil || body != "hello" {
		t.Errorf("the body is %q (%v), want hello", body, err)
	}
	if body, err := get(stranger); err == nil {
		t.Errorf("a process outside the cluster got %q", body)
	}
	if err := <-failed; !errors.Is(err, ErrStranger) {
		t.Errorf("error of the failed handshake = %v", err)
	}
	resp, err := http.Get("http://" + raw.Addr().String())
	if err == nil {
		resp.Body.Close()
		t.Error("a plain-text request got a response")
	}
}

// TestUnauthenticatedLimit checks that unauthenticated connections are bounded, and that
// closed ones no longer count.
func TestUnauthenticatedLimit(t *testing.T) {
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := member(t, one, TLSFiles{}, false)
	l := m.Listen(raw, func(error) {}).(*listener)
	defer l.Close()
	accepted := make(chan net.Conn, 2*maxUnauthenticated)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", raw.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	var list []net.Conn
	for range maxUnauthenticated {
		dial()
		list = append(list, <-accepted)
	}
	if n, err := dial().Read(make([]byte, 1)); err == nil {
		t.Errorf("a connection beyond the limit returned %d bytes, want an error", n)
	}
	for _, c := range list[:2] {
		c.Close()
		c.Close() // closing twice frees one slot only
	}
	dial()
	dial()
	for range 2 {
		kit.Receive(t, "a connection is accepted", accepted)
	}
	if n := l.unauthenticated.Load(); n != maxUnauthenticated {
		t.Errorf("%d unauthenticated connections, want %d", n, maxUnauthenticated)
	}
}

// TestAuthenticatedDoesNotCount checks that authenticated connections no longer count as
// unauthenticated.
func TestAuthenticatedDoesNotCount(t *testing.T) {
	m := member(t, one, TLSFiles{}, false)
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Bound(raw).(*bounded)
	defer l.Close()
	authenticated := make(chan error, 1)
	go func() {
		c, err := net.Dial("tcp", raw.Addr().String())
		if err == nil {
			_, err = m.Client(t.Context(), c, "127.0.0.1")
		}
		authenticated <- err
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n := l.unauthenticated.Load(); n != 1 {
		t.Errorf("%d unauthenticated connections before the handshake, want 1", n)
	}
	if _, err := m.Server(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := <-authenticated; err != nil {
		t.Fatal(err)
	}
	if n := l.unauthenticated.Load(); n != 0 {
		t.Errorf("%d unauthenticated connections after the handshake, want 0", n)
	}
}
