package integrations

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"

	commoncfg "github.com/prometheus/common/config"
)

var (
	errNoAttempt   = errors.New("a connection was opened while no notification was sent")
	errEnded       = errors.New("the attempt to notify has ended")
	errConnections = errors.New("too many connections in one attempt to notify")
	errResponse    = errors.New("the response is too large")
	errOtherHost   = errors.New("redirect to another host is not followed")
)

// targetKey marks the context of an attempt. A connection without the mark is not for the notification itself, but for an
// OAuth2 token, which the library requests without the context.
type targetKey struct{}

// dialer opens the connections of one notifier, which makes one attempt at a time. The connections of an attempt share its
// budget of bytes, and are closed when it ends: Alertmanager's notifiers do not always close the response, and telegram and
// OAuth2 do not pass the context of the attempt to their requests.
type dialer struct {
	dial   dialFunc
	limits Limits
	pinned string // reason for which an attempt may connect to only one host, or ""
	tokens string // host of OAuth2's token_url, or ""
	api    string // host to which the notifier also connects without the attempt's context, or ""
	mu     sync.Mutex
	now    *attempt // nil between attempts
}

func newDialer(k kind, o Options) *dialer {
	d := &dialer{dial: o.dial, limits: o.Limits}
	if k.api != nil {
		d.api = strings.ToLower(k.api.Hostname())
	}
	if k.http == nil {
		return d
	}
	redirects := k.http.FollowRedirects && k.name != "sns" // sns also connects to the host that issues the credentials of a role
	if redirects && k.headers {
		d.pinned = k.name + " would send its credentials there"
	}
	if redirects && k.http.HTTPHeaders != nil && len(k.http.HTTPHeaders.Headers) > 0 {
		d.pinned = "the headers of http_config.http_headers would be sent there"
	}
	if k.http.OAuth2 != nil {
		d.tokens = "invalid" // matches no request if the URL is invalid
		if u, err := url.Parse(k.http.OAuth2.TokenURL); err == nil && u.Hostname() != "" {
			d.tokens = strings.ToLower(u.Hostname())
		}
	}
	return d
}

// httpOptions returns the options of an HTTP client that uses the dialer. Each connection carries one request, because
// notifications are rare, and because the budget of bytes is then that of the request.
func (d *dialer) httpOptions() httpOptions {
	return httpOptions{
		commoncfg.WithDialContextFunc(d.DialContext),
		commoncfg.WithKeepAlivesDisabled(),
		commoncfg.WithHTTP2Disabled(),
	}
}

// begin starts an attempt. The function `connecting` is called before each connection.
func (d *dialer) begin(connecting func()) *attempt {
	a := &attempt{open: map[io.Closer]struct{}{}, left: d.limits.Connections, connecting: connecting}
	a.bytes.Store(d.limits.Response)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now = a
	return a
}

// end ends an attempt and closes its connections.
func (d *dialer) end(a *attempt) {
	a.close()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.now == a {
		d.now = nil
	}
}

func (d *dialer) current() *attempt {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now
}

// DialContext connects within the current attempt.
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	a := d.current()
	if a == nil {
		return nil, errNoAttempt
	}
	a.connecting()
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", address, err)
	}
	if err := d.checkHost(a, strings.ToLower(host), ctx.Value(targetKey{}) != nil); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dialing := canceller{cancel}
	if err := a.add(&dialing, true); err != nil {
		return nil, err
	}
	defer a.remove(&dialing)
	conn, err := d.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &connection{Conn: conn, attempt: a, limit: d.limits.Response}
	if err := a.add(c, false); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

// checkHost rejects a host if a redirect to it would send credentials that the clients of Go and Prometheus do not remove:
// headers with names from the configuration, and the secret in the body of a token request.
func (d *dialer) checkHost(a *attempt, host string, target bool) error {
	if d.tokens != "" && !target && host != d.api {
		if host != d.tokens {
			return fmt.Errorf("%w: token_url redirects to %s, where oauth2's client secret would be sent", errOtherHost, host)
		}
		return nil
	}
	if d.pinned == "" {
		return nil
	}
	if first := a.pin(host); first != host {
		return fmt.Errorf("%w: %s redirects to %s, and %s", errOtherHost, first, host, d.pinned)
	}
	return nil
}

// canceller is the Closer of a connection that is still being opened.
type canceller struct{ cancel context.CancelFunc }

// Close cancels the opening of the connection.
func (c *canceller) Close() error {
	c.cancel()
	return nil
}

// attempt is one attempt to notify, with its open connections and those that are being opened.
type attempt struct {
	bytes      atomic.Int64 // number of bytes that may still be read
	connecting func()

	mu    sync.Mutex
	open  map[io.Closer]struct{}
	left  int // number of connections that may still be opened
	host  string
	ended bool
}

// add registers c to be closed when the attempt ends. If `counted` is set, c counts as a further connection.
func (a *attempt) add(c io.Closer, counted bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		return errEnded
	}
	if counted {
		if a.left == 0 {
			return errConnections
		}
		a.left--
	}
	a.open[c] = struct{}{}
	return nil
}

func (a *attempt) remove(c io.Closer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, c)
}

// pin returns the first host to which the attempt connected.
func (a *attempt) pin(host string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.host == "" {
		a.host = host
	}
	return a.host
}

func (a *attempt) close() {
	a.mu.Lock()
	a.ended = true
	open := a.open
	a.open = map[io.Closer]struct{}{}
	a.mu.Unlock()
	for c := range open {
		_ = c.Close()
	}
}

// connection is a connection whose bytes read count against the budget of the attempt.
type connection struct {
	net.Conn
	attempt *attempt
	limit   int64
}

// Read fails when the attempt has read more than its limit.
func (c *connection) Read(p []byte) (int, error) {
	left := c.attempt.bytes.Load()
	if left <= 0 {
		return 0, fmt.Errorf("%w: more than %d bytes", errResponse, c.limit)
	}
	if int64(len(p)) > left {
		p = p[:left]
	}
	n, err := c.Conn.Read(p)
	c.attempt.bytes.Add(int64(-n))
	return n, err
}

// Close closes the connection, which then no longer belongs to the attempt.
func (c *connection) Close() error {
	c.attempt.remove(c)
	return c.Conn.Close()
}
