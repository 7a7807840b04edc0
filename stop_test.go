package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/test/kit"
)

// hang makes calls hang once it is armed: until their context ends if polite is set,
// otherwise until it is released.
type hang struct {
	polite  bool
	armed   atomic.Bool
	once    sync.Once
	entered chan struct{} // closed when the first call hangs
	release chan struct{}
}

func newHang(polite bool) *hang {
	return &hang{polite: polite, entered: make(chan struct{}), release: make(chan struct{})}
}

func (h *hang) wait(ctx context.Context) error {
	if !h.armed.Load() {
		return nil
	}
	h.once.Do(func() { close(h.entered) })
	if h.polite {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-h.release:
			return errors.New("released")
		}
	}
	<-h.release
	return errors.New("released")
}

// hangingRows is a row store that hangs in MutateRows, and in ReadRows if reads is set.
type hangingRows struct {
	rows.Store
	h     *hang
	reads bool
}

func (r hangingRows) MutateRows(ctx context.Context, ms []rows.RowMutation) []error {
	if err := r.h.wait(ctx); err != nil {
		return []error{err}
	}
	return r.Store.MutateRows(ctx, ms)
}

func (r hangingRows) ReadRows(ctx context.Context, ranges []rows.Range, f rows.Filter, visit func(rows.Row) bool) error {
	if r.reads {
		if err := r.h.wait(ctx); err != nil {
			return err
		}
	}
	return r.Store.ReadRows(ctx, ranges, f, visit)
}

// hangingObjects is an object store that hangs in Put, as in an upload, and in Get, as in a
// compaction.
type hangingObjects struct {
	objects.Store
	h *hang
}

func (o hangingObjects) Put(ctx context.Context, name, path string, crc uint32) (objects.Object, error) {
	if err := o.h.wait(ctx); err != nil {
		return objects.Object{}, err
	}
	return o.Store.Put(ctx, name, path, crc)
}

func (o hangingObjects) Get(ctx context.Context, name string, off int64, n int) ([]byte, error) {
	if err := o.h.wait(ctx); err != nil {
		return nil, err
	}
	return o.Store.Get(ctx, name, off, n)
}

// startHanging starts a process with a store that hangs once h is armed.
func startHanging(t *testing.T, cfg Config, h *hang, wrap string) *running {
	t.Helper()
	o := testOptions(All, nil, nil)
	switch wrap {
	case "rows":
		o.wrapRows = func(s rows.Store) rows.Store { return hangingRows{s, h, false} }
	case "objects":
		o.wrapObjects = func(s objects.Store) objects.Store { return hangingObjects{s, h} }
	}
	return startWith(t, cfg, o)
}

// TestStopIsBounded checks that stopping ends within shutdown_timeout whatever hangs, that one log
// line names the part that stop waited for, and that calls that observe their context end at once.
func TestStopIsBounded(t *testing.T) {
	type run struct {
		p *running
		h *hang
	}
	post := func(path string) func(run) {
		return func(r run) {
			if code, text := r.p.do(http.MethodPost, r.p.admin+"/admin/v1"+path, r.p.token, nil); code/100 != 2 {
				r.p.t.Errorf("%s: %d %s", path, code, text)
			}
		}
	}
	seal := func(r run) { // the ingester uploads sealed packs
		if err := r.p.app.backend.ingester.Flush(); err != nil {
			r.p.t.Error(err)
		}
	}
	tests := []struct {
		name string
		wrap string
		act  func(run)
		wait string // regular expression of waiting_for if the call ignores its context
	}{
		{"a part that closes", "", func(r run) {
			r.p.app.onClose("stubborn part", func() error { _ = r.h.wait(r.p.app.background.Context()); return nil })
			r.h.once.Do(func() { close(r.h.entered) })
		}, "stubborn part"},
		{"upload of the ingester, rows", "rows", seal, "ingester"},
		{"upload of the ingester, objects", "objects", seal, "ingester"},
		{"flush by the operator", "objects", post("/flush"), "operator commands in progress|ingester"}, // whichever is first
		{"compaction by the operator", "objects", post("/compact"), "operator commands in progress"},
	}
	for _, tt := range tests {
		for _, polite := range []bool{true, false} {
			name := tt.name
			if !polite {
				name += ", ignoring its context"
			}
			t.Run(name, func(t *testing.T) {
				noLeaks(t)
				cfg := testConfig(t)
				cfg.Self.Disabled = true
				cfg.ShutdownTimeout = model.Duration(time.Hour)
				if !polite {
					cfg.ShutdownTimeout = model.Duration(time.Second)
				}
				h := newHang(polite)
				p := startHanging(t, cfg, h, tt.wrap)
				key := p.tenant("acme")
				p.write(key)
				if strings.HasPrefix(tt.name, "compaction") {
					post("/flush?wait=true")(run{p, h})
				}
				h.armed.Store(true)
				tt.act(run{p, h})
				kit.Receive(t, "the call", h.entered)
				p.cancel()
				p.cancel = nil
				err := <-p.ended
				close(h.release)
				kit.Receive(t, "the rest", p.app.ending.done)
				p.client.CloseIdleConnections()
				const line = "shutdown timeout exceeded"
				if polite {
					if err != nil || strings.Contains(p.log.String(), line) {
						t.Errorf("run = %v\n%s", err, p.log)
					}
					return
				}
				if !errors.Is(err, ErrStopTimeout) {
					t.Errorf("run = %v, want ErrStopTimeout", err)
				}
				if log := p.log.String(); strings.Count(log, line) != 1 || !strings.Contains(log, "nothing acknowledged is lost") ||
					!regexp.MustCompile(`waiting_for="?(`+tt.wait+`)"? `).MatchString(log) {
					t.Errorf("want one line with waiting_for %q, and that nothing acknowledged is lost:\n%s", tt.wait, log)
				}
			})
		}
	}
}

// TestEndlessRequest checks that a request that never ends is canceled, and that the rest of stopping
// is completed within shutdown_timeout.
func TestEndlessRequest(t *testing.T) {
	noLeaks(t)
	entered, left := make(chan struct{}), make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done() // the gateway closed the connection
		close(left)
	}))
	defer upstream.Close()
	cfg := testConfig(t)
	cfg.Upstream.URLs, cfg.ShutdownTimeout = []string{upstream.URL}, model.Duration(2*time.Second)
	p := start(t, cfg, Gateway, secrets())
	key := p.tenant("acme")
	answered := make(chan error, 1)
	go func() {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, p.edge+"/prometheus/api/v1/query?query=up", nil)
		if err == nil {
			req.Header.Set("Authorization", "Bearer "+key)
			var resp *http.Response
			if resp, err = p.client.Do(req); err == nil {
				_ = resp.Body.Close()
			}
		}
		answered <- err
	}()
	kit.Receive(t, "a request is in progress", entered)
	p.cancel()
	p.cancel = nil
	err := <-p.ended
	if err == nil || errors.Is(err, ErrStopTimeout) || !strings.Contains(err.Error(), "requests were canceled") {
		t.Errorf("run = %v\n%s", err, p.log)
	}
	kit.Receive(t, "the upstream's request", left)
	if err := <-answered; err == nil {
		t.Error("the client got a response")
	}
	if len(p.app.closers) != 0 {
		t.Errorf("%d parts are still open", len(p.app.closers))
	}
	upstream.CloseClientConnections()
	p.client.CloseIdleConnections()
}

// TestSealAfterEndlessRequest checks that the head is sealed within shutdown_timeout, although a request
// hangs in a store.
func TestSealAfterEndlessRequest(t *testing.T) {
	noLeaks(t)
	cfg := testConfig(t)
	cfg.Self.Disabled, cfg.ShutdownTimeout = true, model.Duration(8*time.Second)
	h := newHang(true)
	p := startHanging(t, cfg, h, "objects")
	key := p.tenant("acme")
	p.write(key)
	h.armed.Store(true)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		req, _ := http.NewRequestWithContext(context.Background(), http.MethodPost, p.admin+"/admin/v1/flush?wait=true", nil)
		req.Header.Set("Authorization", "Bearer "+p.token)
		if resp, err := p.client.Do(req); err == nil {
			_ = resp.Body.Close()
		}
	}()
	kit.Receive(t, "the upload", h.entered)
	p.write(key)
	p.cancel()
	p.cancel = nil
	if err := <-p.ended; err == nil || errors.Is(err, ErrStopTimeout) {
		t.Errorf("run = %v\n%s", err, p.log)
	}
	kit.Receive(t, "the request", answered)
	p.client.CloseIdleConnections()
	h.armed.Store(false)
	again := start(t, cfg, All, nil)
	defer again.stop()
	if n := len(again.app.backend.ingester.Stats().Packs); n != 2 {
		t.Errorf("%d packs, want 2: the last sample was not sealed\n%s", n, p.log)
	}
}

// TestStartIsBounded checks that a hanging start ends within shutdown_timeout after the
// process is stopped.
func TestStartIsBounded(t *testing.T) {
	noLeaks(t)
	cfg := testConfig(t)
	cfg.ShutdownTimeout = model.Duration(time.Second)
	log := &kit.Buffer{}
	o := testOptions(All, nil, log)
	h := newHang(false)
	h.armed.Store(true)
	o.wrapRows = func(s rows.Store) rows.Store { return hangingRows{s, h, true} }
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { _, err := open(ctx, cfg, o); ended <- err }()
	kit.Receive(t, "the start", h.entered)
	cancel()
	if err := <-ended; !errors.Is(err, ErrStopTimeout) || !strings.Contains(log.String(), "waiting_for=\"the start") {
		t.Errorf("the start ended with %v, want ErrStopTimeout and a log line that it waited for the start\n%s", err, log)
	}
	close(h.release)
}
