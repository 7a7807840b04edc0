package cluster

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// handshakeTimeout bounds the TLS handshake and the exchange of proofs of one connection.
const handshakeTimeout = 5 * time.Second

const (
	proofBytes = 32
	// exporter is the label of the keying material in a proof (RFC 8446, 7.5).
	exporter = "EXPORTER-pallium-cluster-1"

	accepted, rejected = 1, 0
)

// ErrStranger is returned if the peer does not prove that it belongs to this cluster.
var ErrStranger = errors.New("peer did not prove that it belongs to this cluster: its PALLIUM_CLUSTER_SECRET or cluster.tls authority " +
	"differs, or it runs an older version")

// Client authenticates a connection that was dialed to host and, unless PlainText is set,
// encrypts it. It returns after the peer has proved that it belongs to the cluster; without
// secrets, the peer may then still reject the certificate of this process. On an error the
// connection is closed.
func (m *Member) Client(ctx context.Context, raw net.Conn, host string, protocols ...string) (net.Conn, error) {
	return m.handshake(ctx, raw, func(ctx context.Context) (net.Conn, error) {
		config := m.config(protocols)
		config.ServerName = host
		conn, binding, err := m.encrypt(ctx, raw, func() *tls.Conn { return tls.Client(raw, config) })
		if err == nil && m.plain {
			binding, err = exchange(conn, true)
		}
		if err != nil || m.secrets == nil {
			return conn, err
		}
		return conn, m.proveFirst(conn, binding)
	})
}

// Dial returns a dial function for an HTTP transport. It calls the function `dial` and then Client.
func (m *Member) Dial(
	dial func(ctx context.Context, network, addr string) (net.Conn, error),
) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		raw, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return m.Client(ctx, raw, host, "http/1.1")
	}
}

// Server is Client for the side that accepted the connection.
func (m *Member) Server(ctx context.Context, raw net.Conn, protocols ...string) (net.Conn, error) {
	if c, ok := raw.(*counted); ok {
		defer c.left()
	}
	return m.handshake(ctx, raw, func(ctx context.Context) (net.Conn, error) {
		conn, binding, err := m.encrypt(ctx, raw, func() *tls.Conn { return tls.Server(raw, m.config(protocols)) })
		if err == nil && m.plain {
			binding, err = exchange(conn, false)
		}
		if err != nil || m.secrets == nil {
			return conn, err
		}
		return conn, m.proveSecond(conn, binding)
	})
}

// handshake limits the duration of fn, which reads and writes without deadlines: the
// deadlines of the connection belong to the caller.
func (m *Member) handshake(ctx context.Context, raw net.Conn, fn func(context.Context) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	release := context.AfterFunc(ctx, func() { _ = raw.Close() }) // unblocks reads and writes
	conn, err := fn(ctx)
	if !release() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("authenticate cluster connection with %s: %w", raw.RemoteAddr(), errors.Join(err, ctx.Err()))
	}
	return conn, nil
}

// encrypt returns the connection to use and the binding that the proofs include.
func (m *Member) encrypt(ctx context.Context, raw net.Conn, make func() *tls.Conn) (net.Conn, string, error) {
	if m.plain {
		return raw, "", nil
	}
	conn := make()
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, "", err
	}
	state := conn.ConnectionState()
	binding, err := state.ExportKeyingMaterial(exporter, nil, proofBytes)
	if err != nil {
		return nil, "", err
	}
	return conn, string(binding), nil
}

// exchange returns the binding of a plain-text connection: a random number of each side,
// the client's first.
func exchange(conn net.Conn, client bool) (string, error) {
	var mine, other [proofBytes]byte
	_, _ = rand.Read(mine[:]) // never fails
	if _, err := conn.Write(mine[:]); err != nil {
		return "", err
	}
	if _, err := io.ReadFull(conn, other[:]); err != nil {
		return "", err
	}
	if client {
		return string(mine[:]) + string(other[:]), nil
	}
	return string(other[:]) + string(mine[:]), nil
}

// The purposes of proofs. Each side has its own, so that a peer cannot send a received
// proof back.
const (
	ofClient = "connection, client"
	ofServer = "connection, server"
)

func (m *Member) proveFirst(conn net.Conn, binding string) error {
	if _, err := conn.Write(m.secrets.MAC(ofClient, binding)); err != nil {
		return err
	}
	var answer [1 + proofBytes]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return errors.Join(ErrStranger, err)
	}
	if answer[0] != accepted || m.secrets.Verify(answer[1:], ofServer, binding) < 0 {
		return ErrStranger
	}
	return nil
}

func (m *Member) proveSecond(conn net.Conn, binding string) error {
	var proof [proofBytes]byte
	if _, err := io.ReadFull(conn, proof[:]); err != nil {
		return errors.Join(ErrStranger, err)
	}
	which := m.secrets.Verify(proof[:], ofClient, binding)
	if which < 0 {
		_, _ = conn.Write(make([]byte, 1+proofBytes)) // tells the client the reason; the connection is closed anyway
		return ErrStranger
	}
	// Use the secret that the client has proved to know: it may not know our first one.
	answer := append([]byte{accepted}, mac(m.secrets.list[which], ofServer, []string{binding})...)
	_, err := conn.Write(answer)
	return err
}

// maxUnauthenticated bounds the connections of a listener that have not completed their
// handshake. New connections beyond it are closed at once.
const maxUnauthenticated = 512

// Bound limits the number of connections of a listener for which Server has not returned
// yet.
func Bound(l net.Listener) net.Listener { return &bounded{Listener: l} }

type bounded struct {
	net.Listener
	unauthenticated atomic.Int64
}

// Accept implements net.Listener.
func (l *bounded) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.unauthenticated.Add(1) > maxUnauthenticated {
			l.unauthenticated.Add(-1)
			_ = raw.Close() // the peer may retry
			continue
		}
		return &counted{Conn: raw, of: l}, nil
	}
}

// counted is a connection that counts as unauthenticated until the function `left` is called.
type counted struct {
	net.Conn
	of    *bounded
	leave sync.Once
}

func (c *counted) left() { c.leave.Do(func() { c.of.unauthenticated.Add(-1) }) }

// Close implements net.Conn.
func (c *counted) Close() error {
	c.left()
	return c.Conn.Close()
}

// Listen authenticates the connections of a listener. The handshake runs at the first
// read or write of a connection, so that an unresponsive peer does not block others.
// The function `failed` is called with the error of each failed handshake.
func (m *Member) Listen(l net.Listener, failed func(error)) net.Listener {
	return &listener{bounded: &bounded{Listener: l}, member: m, failed: failed}
}

type listener struct {
	*bounded
	member *Member
	failed func(error)
}

func (l *listener) Accept() (net.Conn, error) {
	raw, err := l.bounded.Accept()
	if err != nil {
		return nil, err
	}
	return &lazy{Conn: raw, of: l}, nil
}

// lazy is a connection whose handshake runs at its first use.
type lazy struct {
	net.Conn      // the accepted connection
	of            *listener
	once          sync.Once
	authenticated atomic.Pointer[net.Conn]
	err           error
}

func (c *lazy) conn() (net.Conn, error) {
	c.once.Do(func() {
		conn, err := c.of.member.Server(context.Background(), c.Conn, "http/1.1")
		if err != nil {
			c.err = err
			c.of.failed(err)
			return
		}
		c.authenticated.Store(&conn)
	})
	if conn := c.authenticated.Load(); conn != nil {
		return *conn, nil
	}
	return nil, c.err
}

func (c *lazy) Read(p []byte) (int, error) {
	conn, err := c.conn()
	if err != nil {
		return 0, err
	}
	return conn.Read(p)
}

func (c *lazy) Write(p []byte) (int, error) {
	conn, err := c.conn()
	if err != nil {
		return 0, err
	}
	return conn.Write(p)
}

// Close also aborts a handshake that is in progress.
func (c *lazy) Close() error {
	if conn := c.authenticated.Load(); conn != nil {
		return (*conn).Close()
	}
	return c.Conn.Close()
}
