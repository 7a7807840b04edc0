package conn

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// Serve serves a listener until the server is shut down, and returns the same errors as
// http.Server.Serve. Without a TLS configuration it serves HTTP/1. With one, it also serves HTTP/2
// with the second server; the caller must shut down both. (It sets NextProtos in a copy of the
// configuration.) HTTP/1 is guarded as by Guard.
func Serve(srv, two *http.Server, l net.Listener, config *tls.Config, headerBytes int) error {
	if config == nil {
		return srv.Serve(Guard(l, headerBytes))
	}
	config = config.Clone()
	config.NextProtos = []string{"h2", "http/1.1"}
	s := &splitter{Listener: l, config: config, done: make(chan struct{})}
	toOne, toTwo := &half{s, make(chan net.Conn)}, &half{s, make(chan net.Conn)}
	failed := make(chan error, 3)
	var running sync.WaitGroup
	running.Go(func() { failed <- srv.Serve(Guard(toOne, headerBytes)) })
	running.Go(func() { failed <- two.Serve(toTwo) })
	running.Go(func() { failed <- s.run(toOne, toTwo) })
	err := <-failed
	_ = s.Close()
	running.Wait()
	for range 2 {
		if e := <-failed; errors.Is(e, http.ErrServerClosed) {
			err = e // the shutdown is the reason why the other listeners ended
		}
	}
	return err
}

// splitter makes TLS handshakes and distributes connections by protocol: net/http serves
// HTTP/2 only on a connection of package tls, which the guard is not.
type splitter struct {
	net.Listener
	config *tls.Config
	done   chan struct{}
	once   sync.Once
}

// Close stops accepting connections and aborts handshakes.
func (s *splitter) Close() error {
	s.once.Do(func() { close(s.done) })
	return s.Listener.Close()
}

// run accepts connections until the listener fails or is closed.
func (s *splitter) run(one, two *half) error {
	ctx, cancel := context.WithCancel(context.Background())
	var shaking sync.WaitGroup
	defer shaking.Wait()
	defer cancel()
	for delay := time.Duration(0); ; {
		c, err := s.Accept()
		if err == nil {
			delay = 0
			shaking.Go(func() { s.shake(ctx, c, one, two) })
			continue
		}
		// Retry like net/http: file descriptors may become available later.
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Temporary() { //nolint:staticcheck // net/http uses it as well
			_ = s.Close()
			return err
		}
		delay = min(max(2*delay, 5*time.Millisecond), time.Second)
		select {
		case <-s.done:
			return net.ErrClosed
		case <-time.After(delay):
		}
	}
}

func (s *splitter) shake(ctx context.Context, raw net.Conn, one, two *half) {
	ctx, cancel := context.WithTimeout(ctx, readHeaderTimeout)
	defer cancel()
	c := tls.Server(raw, s.config)
	if err := c.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return
	}
	to := one
	if c.ConnectionState().NegotiatedProtocol == "h2" {
		to = two
	}
	select {
	case to.conns <- c:
	case <-s.done:
		_ = raw.Close()
	}
}

// half is the listener for one protocol.
type half struct {
	*splitter
	conns chan net.Conn
}

// Accept implements net.Listener.
func (h *half) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// limitsOfHTTP2 returns the limits of one HTTP/2 connection. net/http has no deadline for
// a header in HTTP/2, but while it reads a header it processes no other frames: a header
// that is not completed is ended by the ping timeout, after three times headerTimeout.
func limitsOfHTTP2(headerTimeout time.Duration) *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:          64,
		MaxDecoderHeaderTableSize:     4 << 10,
		MaxEncoderHeaderTableSize:     4 << 10,
		MaxReadFrameSize:              16 << 10,
		MaxReceiveBufferPerConnection: 1 << 20,
		MaxReceiveBufferPerStream:     256 << 10,
		SendPingTimeout:               headerTimeout,
		PingTimeout:                   2 * headerTimeout,
		WriteByteTimeout:              BodyGrace,
	}
}
