package integrations

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestPool sends 20 notifications concurrently, and checks that each executor is used by one of them at a time, that at most
// Concurrent attempts are in progress at a time, and that an idle executor is used again.
func TestPool(t *testing.T) {
	const concurrent = 4
	arrived, proceed := make(chan struct{}), make(chan struct{})
	var running, most atomic.Int32
	s := start(t, func(http.ResponseWriter, request) {
		n := running.Add(1)
		defer running.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		arrived <- struct{}{}
		<-proceed
	})
	o := optionsOf(s, allow(t, "127.0.0.1"))
	var made []*executor
	var mu sync.Mutex
	o.Templates = func() (Executor, error) {
		e, err := newExecutor()
		mu.Lock()
		made = append(made, e)
		mu.Unlock()
		return e, err
	}
	o.Limits.Concurrent = concurrent
	is := build(t, receiver(t, "webhook_configs:\n- url: 'http://a.example/{{ .CommonLabels.cluster }}'"), o)
	if len(made) != 0 {
		t.Errorf("%d executors were made before they were needed", len(made))
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := is[0].Notify(flush(t), firing()); err != nil {
				t.Error(err)
			}
		})
	}
	for range concurrent {
		<-arrived
	}
	time.Sleep(100 * time.Millisecond) // a further attempt would be counted
	close(proceed)
	for range 20 - concurrent {
		<-arrived
	}
	wg.Wait()
	begun := 0
	for _, e := range made {
		begun += e.begun
	}
	if begun != 20 || testutil.ToFloat64(o.Metrics.notifications.WithLabelValues("webhook")) != 20 {
		t.Errorf("%d attempts, want 20", begun)
	}
	if most.Load() != concurrent {
		t.Errorf("%d attempts were in progress at a time, want %d", most.Load(), concurrent)
	}
	n := len(made)
	go func() { <-arrived }()
	if _, err := is[0].Notify(flush(t), firing()); err != nil || len(made) != n {
		t.Errorf("%v; an idle executor was not used again", err)
	}
	if got, _ := s.got(); got[0].path != "/eu" {
		t.Errorf("path %s", got[0].path)
	}
}

// TestConcurrentKinds notifies several times concurrently with each type of integration. The race detector finds state that
// notifiers share through the configuration.
func TestConcurrentKinds(t *testing.T) {
	s := start(t, service)
	smtp := startSMTP(t, smtpOptions{})
	text := strings.NewReplacer("PLAIN", s.address(), "SMTP", smtp.address).Replace(readFile(t, "testdata/receivers.yaml"))
	is := build(t, load(t, text), optionsOf(s, allow(t, "127.0.0.1")))
	var wg sync.WaitGroup
	for i := range is {
		for range 3 {
			wg.Go(func() {
				if _, err := is[i].Notify(flush(t), firing()); err != nil {
					t.Errorf("%s: %v", is[i].String(), err)
				}
			})
		}
	}
	wg.Wait()
}

// TestIdlePairs checks that idle notifiers are dropped after a while, so that the templates of a tenant without
// alerts need no memory.
func TestIdlePairs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := NewTenantLimiter(Rates{})
		p := &pool{options: Options{Limits: Limits{}.withDefaults(), Limiter: limiter}}
		idle := func() int {
			p.mu.Lock()
			defer p.mu.Unlock()
			return len(p.idle)
		}
		a := &pair{}
		p.put(a)
		p.put(&pair{})
		if w, err := p.take(); err != nil || w != a || idle() != 0 {
			t.Errorf("take returned another pair: %v", err)
		}
		p.put(a)
		time.Sleep(9 * time.Minute)
		synctest.Wait()
		if w, err := p.take(); err != nil || w != a {
			t.Errorf("after 9 minutes, take returned another pair: %v", err)
		}
		p.put(a)
		time.Sleep(9 * time.Minute)
		synctest.Wait()
		if idle() != 1 {
			t.Errorf("%d idle pairs 9 minutes after the last use", idle())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if idle() != 0 {
			t.Errorf("%d idle pairs after 10 minutes without use", idle())
		}
		if !limiter.keep(1) {
			t.Error("pairs that were dropped are still counted")
		}
		p.put(a)
		q := &pool{options: Options{Limits: Limits{Idle: 2}.withDefaults(), Limiter: limiter}}
		q.put(&pair{})
		if idle() != 1 || len(q.idle) != 0 {
			t.Errorf("%d and %d pairs are kept, beyond the limit of the tenant", idle(), len(q.idle))
		}
	})
}

// TestPoolIsFull checks that a notification that waits for other attempts ends with its context.
func TestPoolIsFull(t *testing.T) {
	arrived, proceed := make(chan struct{}), make(chan struct{})
	s := start(t, func(http.ResponseWriter, request) {
		arrived <- struct{}{}
		<-proceed
	})
	o := optionsOf(s, allow(t, "127.0.0.1"))
	o.Limits.Concurrent = 1
	is := build(t, receiver(t, "webhook_configs:\n- url: http://a.example/"), o)
	done := make(chan error)
	go func() {
		_, err := is[0].Notify(flush(t), firing())
		done <- err
	}()
	<-arrived
	ctx, cancel := context.WithCancel(flush(t))
	cancel()
	if retry, err := is[0].Notify(ctx, firing()); !retry || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "concurrent attempts") {
		t.Errorf("retry %t, %v", retry, err)
	}
	close(proceed)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestTemplateLimit checks that an attempt that exceeds a limit is not retried, even if the notifier allows a retry.
func TestTemplateLimit(t *testing.T) {
	s := start(t, func(w http.ResponseWriter, _ request) { w.WriteHeader(http.StatusServiceUnavailable) })
	for _, list := range []string{"webhook_configs:\n- url: http://a.example/", "victorops_configs:\n- {api_key: k, routing_key: r, api_url: 'http://a.example'}"} {
		o := optionsOf(s, allow(t, "127.0.0.1"))
		limit := errors.New("more than 1000 steps")
		o.Templates = func() (Executor, error) {
			e, err := newExecutor()
			e.limit = limit
			return e, err
		}
		retry, err := notifyOnce(t, list, o)
		if retry || !errors.Is(err, limit) || !strings.Contains(err.Error(), "executing the templates: more than 1000 steps") {
			t.Errorf("retry %t, %v", retry, err)
		}
		if n := testutil.CollectAndCount(o.Metrics.failed); n != 1 {
			t.Errorf("%d reasons were counted", n)
		}
		o.Templates = func() (Executor, error) { return nil, limit }
		if retry, err := notifyOnce(t, list, o); !retry || !errors.Is(err, limit) {
			t.Errorf("an executor that cannot be made: retry %t, %v", retry, err)
		}
	}
}

// TestPanic checks that a panic of a notifier becomes an error, and that its executor is not used again.
func TestPanic(t *testing.T) {
	s := start(t, service)
	o := optionsOf(s, allow(t, "127.0.0.1"))
	var made atomic.Int32
	o.Templates = func() (Executor, error) {
		made.Add(1)
		return newExecutor()
	}
	r := receiver(t, "webex_configs:\n- {room_id: x, api_url: 'http://a.example', http_config: {authorization: {credentials: token}}}")
	is := build(t, r, o)
	url := r.WebexConfigs[0].APIURL
	r.WebexConfigs[0].APIURL = nil // the notifier uses it without a check
	if retry, err := is[0].Notify(flush(t), firing()); retry || err == nil || reasonOf(err) != "panic" {
		t.Errorf("retry %t, %v", retry, err)
	}
	r.WebexConfigs[0].APIURL = url
	if _, err := is[0].Notify(flush(t), firing()); err != nil || made.Load() != 2 {
		t.Errorf("%v, %d executors", err, made.Load())
	}
}

// TestErrors checks the texts of errors, and the reasons by which they are counted.
func TestErrors(t *testing.T) {
	answer := func(status int, body string) func(http.ResponseWriter, request) {
		return func(w http.ResponseWriter, _ request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	const telegram = "telegram_configs:\n- {api_url: 'http://a.example', bot_token: 123:bot-token, chat_id: 1}"
	for _, tt := range []struct {
		name, list, want, reason string
		answer                   func(http.ResponseWriter, request)
		retry                    bool
	}{
		{"client", "webhook_configs:\n- url: http://a.example/", "unexpected status code 400: no", "client_error", answer(400, "no"), false},
		{"server", "webhook_configs:\n- url: http://a.example/", "unexpected status code 503", "server_error", answer(503, ""), true},
		{"auth", "webhook_configs:\n- url: http://a.example/", "unexpected status code 401", "auth_error", answer(401, ""), false},
		{"rate", "webhook_configs:\n- url: http://a.example/", "unexpected status code 429", "rate_limited", answer(429, ""), false},
		{"long", "webhook_configs:\n- url: http://a.example/", "... (50028 bytes)", "client_error", answer(400, strings.Repeat("é", 25000)), false},
		{"echo", "webhook_configs:\n- url: http://a.example/token-in-url", "no such hook <secret>", "client_error",
			answer(404, "no such hook token-in-url"), false},
		{"telegram", telegram, "bot<secret>/sendMessage", "other", func(http.ResponseWriter, request) { panic(http.ErrAbortHandler) }, true},
		{"sns", "sns_configs:\n- topic_arn: x\n  api_url: http://a.example\n  sigv4: {region: x, access_key: a, secret_key: b}",
			"InvalidParameter: no topic", "client_error",
			answer(400, "<ErrorResponse><Error><Code>InvalidParameter</Code><Message>no topic</Message></Error></ErrorResponse>"), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := optionsOf(start(t, tt.answer), allow(t, "127.0.0.1"))
			retry, err := notifyOnce(t, tt.list, o)
			if err == nil || retry != tt.retry || !strings.Contains(err.Error(), tt.want) || reasonOf(err) != tt.reason {
				t.Fatalf("retry %t, reason %s: %v", retry, reasonOf(err), err)
			}
			for _, hidden := range []string{"bot-token", "token-in-url"} {
				if strings.Contains(err.Error(), hidden) {
					t.Errorf("the error shows a secret: %v", err)
				}
			}
			var reason *notify.ErrorWithReason
			if tt.reason != "other" && !errors.As(err, &reason) {
				t.Error("Alertmanager's reason is lost")
			}
		})
	}
}

// TestLate checks that integrations that execute templates after a response make at most maxLate concurrent attempts for a
// tenant.
func TestLate(t *testing.T) {
	arrived, proceed := make(chan struct{}), make(chan struct{})
	s := start(t, func(w http.ResponseWriter, r request) {
		if strings.HasPrefix(r.path, "/wechat/gettoken") {
			arrived <- struct{}{}
			<-proceed
		}
		service(w, r)
	})
	list := "wechat_configs:\n" + strings.Repeat("- {api_url: 'http://a.example/wechat/', api_secret: wechat-secret, corp_id: c, agent_id: '1', to_user: u}\n", 4)
	is := build(t, receiver(t, list), optionsOf(s, allow(t, "127.0.0.1")))
	done := make(chan error)
	for i := range maxLate {
		go func() { _, err := is[i].Notify(flush(t), firing()); done <- err }()
	}
	for range maxLate {
		<-arrived
	}
	ctx, cancel := context.WithTimeout(flush(t), 50*time.Millisecond)
	defer cancel()
	if _, err := is[maxLate].Notify(ctx, firing()); err == nil || !strings.Contains(err.Error(), "2 concurrent attempts by wechat") {
		t.Errorf("one more attempt: %v", err)
	}
	close(proceed)
	for range maxLate {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
