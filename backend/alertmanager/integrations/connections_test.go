package integrations

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/palliumhq/pallium/backend/egress"
)

// notifyOnce builds the only integration of a receiver, whose YAML is `list`, and notifies once.
func notifyOnce(t *testing.T, list string, o Options) (bool, error) {
	t.Helper()
	is := build(t, receiver(t, list), o)
	return is[0].Notify(flush(t), firing())
}

// TestRedirects checks which redirects are followed, and which credentials the second request contains. The first host
// responds with a redirect to the second host; both names resolve to the same server.
func TestRedirects(t *testing.T) {
	const hidden = "secret-value"
	for _, tt := range []struct {
		name, conf, to string
		want           error // nil: the redirect is followed
		sent           bool  // whether the credential reaches the second request
	}{
		{"no credential, other host", "webhook_configs:\n- url: http://a.example/x", "http://b.example/y", nil, false},
		{"address that is not allowed", "webhook_configs:\n- url: http://a.example/x", "http://127.0.0.2/y", egress.ErrDenied, false},
		{"metadata service", "webhook_configs:\n- url: http://a.example/x", "http://169.254.169.254/latest", egress.ErrDenied, false},
		{"authorization, other host", "webhook_configs:\n- url: http://a.example/x\n  http_config: {authorization: {credentials: secret-value}}",
			"http://b.example/y", nil, false},
		{"authorization, same host", "webhook_configs:\n- url: http://a.example/x\n  http_config: {authorization: {credentials: secret-value}}",
			"http://a.example/y", nil, true},
		{"basic auth, other host", "webhook_configs:\n- url: http://a.example/x\n  http_config: {basic_auth: {username: secret-value, password: x}}",
			"http://b.example/y", nil, false},
		{"header Cookie, other host", "webhook_configs:\n- url: http://a.example/x\n  http_config: {http_headers: {Cookie: {secrets: [secret-value]}}}",
			"http://b.example/y", errOtherHost, false},
		{"own header, other host", "webhook_configs:\n- url: http://a.example/x\n  http_config: {http_headers: {X-Key: {secrets: [secret-value]}}}",
			"http://b.example/y", errOtherHost, false},
		{"own header, same host", "webhook_configs:\n- url: http://a.example/x\n  http_config: {http_headers: {X-Key: {secrets: [secret-value]}}}",
			"http://a.example/y", nil, true},
		{"rocketchat, other host", "rocketchat_configs:\n- {api_url: 'http://a.example/x', token: secret-value, token_id: id, channel: x}",
			"http://b.example/y", errOtherHost, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, func(w http.ResponseWriter, r request) {
				if strings.HasPrefix(r.path, "/x") {
					w.Header().Set("Location", tt.to)
					w.WriteHeader(http.StatusTemporaryRedirect)
				}
			})
			retry, err := notifyOnce(t, tt.conf, optionsOf(s, allow(t, "127.0.0.1")))
			if tt.want != nil && (retry || !errors.Is(err, tt.want)) || tt.want == nil && err != nil {
				t.Errorf("retry %t, error %v, want %v", retry, err, tt.want)
			}
			got, _ := s.got()
			if want := map[bool]int{true: 2, false: 1}[tt.want == nil]; len(got) != want {
				t.Fatalf("%d requests, want %d: %v", len(got), want, got)
			}
			if tt.want != nil {
				return
			}
			first, second := fmt.Sprint(got[0].header), fmt.Sprint(got[1].header)
			if user, _, _ := (&http.Request{Header: got[1].header}).BasicAuth(); user != "" {
				second += user
			}
			if strings.Contains(tt.conf, hidden) && got[0].header.Get("Authorization")+got[0].header.Get("X-Key") == "" {
				t.Errorf("the credential is not in the first request: %s", first)
			}
			if strings.Contains(second, hidden) != tt.sent {
				t.Errorf("headers of the second request: %s", second)
			}
		})
	}
}

// TestRedirectsAreNotFollowed checks that redirects are not followed with follow_redirects: false, and that an endless chain
// of redirects ends at the limit of connections.
func TestRedirectsAreNotFollowed(t *testing.T) {
	s := start(t, func(w http.ResponseWriter, _ request) {
		w.Header().Set("Location", "/again")
		w.WriteHeader(http.StatusFound)
	})
	o := optionsOf(s, allow(t, "127.0.0.1"))
	retry, err := notifyOnce(t, "webhook_configs:\n- url: http://a.example/x\n  http_config: {follow_redirects: false}", o)
	if got, _ := s.got(); err == nil || retry || len(got) != 1 {
		t.Errorf("retry %t, %v, %d requests", retry, err, len(got))
	}
	retry, err = notifyOnce(t, "sns_configs:\n- topic_arn: x\n  api_url: http://a.example/x\n  sigv4: {region: x, access_key: a, secret_key: b}", o)
	if got, _ := s.got(); err == nil || retry || len(got) != 2 {
		t.Errorf("sns: retry %t, %v, %d requests", retry, err, len(got))
	}
	o.Limits.Connections = 5
	_, err = notifyOnce(t, "webhook_configs:\n- url: http://a.example/x", o)
	if _, n := s.got(); !errors.Is(err, errConnections) || n != 7 {
		t.Errorf("%v after %d connections, want %v after 7", err, n, errConnections)
	}
}

// TestOAuth2 checks redirects and denied addresses of the client that requests OAuth2 tokens. It has a transport and a
// context of its own.
func TestOAuth2(t *testing.T) {
	const conf = "webhook_configs:\n- url: http://a.example/x\n  http_config:\n    oauth2: {client_id: client, client_secret: client-secret, token_url: %s}"
	t.Setenv("HTTP_PROXY", "http://proxy.invalid:1")
	tokens := func(w http.ResponseWriter, r request) {
		switch r.path {
		case "/redirect":
			w.Header().Set("Location", "http://other.example/token")
			w.WriteHeader(http.StatusTemporaryRedirect)
		case "/token":
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(`{"access_token":"t","token_type":"bearer","expires_in":3600}`))
		}
	}
	for _, tt := range []struct {
		url      string
		want     error
		requests int
	}{
		{"http://tokens.example/token", nil, 2},
		{"http://tokens.example/redirect", errOtherHost, 2}, // the library tries two ways to send the secret
		{"http://127.0.0.2/token", egress.ErrDenied, 0},
	} {
		s := start(t, tokens)
		retry, err := notifyOnce(t, fmt.Sprintf(conf, tt.url), optionsOf(s, allow(t, "127.0.0.1")))
		got, _ := s.got()
		if tt.want == nil && err != nil || tt.want != nil && (retry || !errors.Is(err, tt.want)) || len(got) != tt.requests {
			t.Errorf("%s: retry %t, %v, want %v; requests %v", tt.url, retry, err, tt.want, got)
		}
		for _, r := range got {
			if r.host == "other.example" {
				t.Errorf("%s: the redirect was followed", tt.url)
			}
		}
		if tt.want == nil && got[1].header.Get("Authorization") != "Bearer t" {
			t.Errorf("the request has the headers %v", got[1].header)
		}
	}
}

// TestNames checks that the dialer resolves names and checks their addresses. It uses the real dialer instead of the test's.
func TestNames(t *testing.T) {
	s := start(t, service)
	_, port, _ := net.SplitHostPort(s.address())
	o := optionsOf(s, allow(t))
	o.dial = nil
	for _, host := range []string{"localhost", "127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]", "[::1]"} {
		retry, err := notifyOnce(t, "webhook_configs:\n- url: http://"+host+":"+port+"/", o)
		if _, n := s.got(); !errors.Is(err, egress.ErrDenied) || retry || n != 0 {
			t.Errorf("%s: retry %t, %v, %d connections", host, retry, err, n)
		}
	}
	if n := testutil.ToFloat64(o.Metrics.failed.WithLabelValues("webhook", "egress_denied")); n != 5 {
		t.Errorf("%v attempts were counted as denied", n)
	}
}

// endless starts servers whose responses never end. They send `head` once, and then repeat `body`, or send nothing if it is
// empty.
func endless(t *testing.T, head, body string) *servers {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if head == "" && body == "" {
				_, _ = conn.Read(make([]byte, 64<<10))
			} else if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.Copy(io.Discard, r.Body) // a client may stop when it gets a response before its request is complete
			}
			_, err = conn.Write([]byte(head))
			for err == nil && body != "" {
				_, err = conn.Write([]byte(body))
			}
			_, _ = io.Copy(io.Discard, conn) // until the client closes
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	plain := &httptest.Server{Listener: l}
	return &servers{plain: plain, secure: plain}
}

// TestEndlessAnswers checks that endless headers and bodies of successful and failed responses are read up to the limit, and
// that a notifier that does not close the response (discord, webex) leaves no connection open.
func TestEndlessAnswers(t *testing.T) {
	big := strings.Repeat("x", 4096)
	for _, tt := range []struct {
		name, head, body, conf string
		err                    bool
	}{
		{"success", "HTTP/1.1 200 OK\r\n\r\n", big, "webhook_configs:\n- url: http://a.example/", false},
		{"failure", "HTTP/1.1 400 Bad\r\n\r\n", big, "webhook_configs:\n- url: http://a.example/", true},
		{"headers", "HTTP/1.1 200 OK\r\n", "X-A: " + big + "\r\n", "webhook_configs:\n- url: http://a.example/", true},
		{"informational", "", "HTTP/1.1 103 Early Hints\r\n\r\n", "webhook_configs:\n- url: http://a.example/", true},
		{"discord", "HTTP/1.1 204 OK\r\nContent-Length: 99999999\r\n\r\n", big, "discord_configs:\n- webhook_url: http://a.example/", false},
		{"slack", "HTTP/1.1 200 OK\r\n\r\n", big, "slack_configs:\n- {api_url: 'http://a.example/', channel: x}", true},
		{"telegram", "HTTP/1.1 200 OK\r\n\r\n", big, "telegram_configs:\n- {api_url: 'http://a.example', bot_token: token, chat_id: 1}", true},
		{"sns", "HTTP/1.1 200 OK\r\n\r\n", "<x>" + big, "sns_configs:\n- topic_arn: x\n  api_url: http://a.example\n" +
			"  sigv4: {region: x, access_key: a, secret_key: b}", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := endless(t, tt.head, tt.body)
			is := build(t, receiver(t, tt.conf), optionsOf(s, allow(t, "127.0.0.1")))
			before := runtime.MemStats{}
			runtime.ReadMemStats(&before)
			_, err := is[0].Notify(flush(t), firing())
			after := runtime.MemStats{}
			runtime.ReadMemStats(&after)
			if (err != nil) != tt.err || err != nil && len(err.Error()) > 2*maxErrorText {
				t.Errorf("%v", err)
			}
			if n := (after.TotalAlloc - before.TotalAlloc) >> 20; n > 64 {
				t.Errorf("%d MiB were allocated", n)
			}
		})
	}
}

// TestSilentServers checks that an attempt ends with its context, and after its timeout, if a server accepts the connection
// and sends nothing, or only a part of a response. goleak finds goroutines that remain.
func TestSilentServers(t *testing.T) {
	confs := map[string]string{
		"webhook":  "webhook_configs:\n- url: http://a.example/",
		"telegram": "telegram_configs:\n- {api_url: 'http://a.example', bot_token: token, chat_id: 1}",
		"discord":  "discord_configs:\n- webhook_url: http://a.example/",
		"pushover": "pushover_configs:\n- {user_key: x, token: y}", // the TLS handshake is not answered
		"email":    "email_configs:\n- {to: a@example.com, smarthost: 'a.example:25'}",
		"smtps":    "email_configs:\n- {to: a@example.com, smarthost: 'a.example:465'}",
		"oauth2": "webhook_configs:\n- url: http://a.example/x\n  http_config:\n" +
			"    oauth2: {client_id: client, client_secret: client-secret, token_url: http://tokens.example}",
		"sns": "sns_configs:\n- topic_arn: x\n  api_url: http://a.example\n  sigv4: {region: x, access_key: a, secret_key: b}",
	}
	for name, conf := range confs {
		for _, head := range []string{"", "HTTP/1.1 500 Bad\r\nContent-Length: 100\r\n\r\nx"} {
			if head != "" && (name == "pushover" || name == "smtps") {
				continue // over TLS
			}
			t.Run(name, func(t *testing.T) {
				o := optionsOf(endless(t, head, ""), allow(t, "127.0.0.1"))
				is := build(t, receiver(t, conf), o)
				ctx, cancel := context.WithTimeout(flush(t), 30*time.Millisecond)
				defer cancel()
				if retry, err := is[0].Notify(ctx, firing()); err == nil || !retry || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("deadline of the context: retry %t, %v", retry, err)
				}
				o.Limits.Timeout = 30 * time.Millisecond
				is = build(t, receiver(t, conf), o)
				if retry, err := is[0].Notify(flush(t), firing()); err == nil || !retry || reasonOf(err) != "timeout" {
					t.Errorf("timeout of the attempt: retry %t, %v", retry, err)
				}
			})
		}
	}
}

// TestDialerEnds checks that connections can only be opened during an attempt, and are closed at its end.
func TestDialerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ends []net.Conn
		dial := func(ctx context.Context, _, address string) (net.Conn, error) {
			if address == "slow:1" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			a, b := net.Pipe()
			ends = append(ends, b)
			return a, nil
		}
		d := &dialer{dial: dial, limits: Limits{}.withDefaults()}
		if _, err := d.DialContext(t.Context(), "tcp", "a:1"); !errors.Is(err, errNoAttempt) {
			t.Errorf("before an attempt: %v", err)
		}
		a := d.begin(func() {})
		conn, err := d.DialContext(t.Context(), "tcp", "a:1")
		if err != nil {
			t.Fatal(err)
		}
		failed := make(chan error)
		go func() {
			_, err := d.DialContext(t.Context(), "tcp", "slow:1")
			failed <- err
		}()
		synctest.Wait()
		d.end(a)
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("dialling while the attempt ended: %v", err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("the connection is open after the attempt")
		}
		if err := a.add(conn, true); !errors.Is(err, errEnded) {
			t.Errorf("a connection of an attempt that ended: %v", err)
		}
		for _, c := range ends {
			c.Close()
		}
	})
}
