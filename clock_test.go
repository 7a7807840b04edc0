package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	goredis "github.com/redis/go-redis/v9"

	"github.com/palliumhq/pallium/test/kit/programs"
)

// TestClockJumps checks that a single process whose clock moves 400 days ahead deletes
// neither local packs nor data in the long-term store, reports the clock, and continues when
// the clock is right again.
func TestClockJumps(t *testing.T) {
	noLeaks(t)
	cfg := testConfig(t)
	if err := cfg.Limits.Set("retention", "30d"); err != nil {
		t.Fatal(err)
	}
	var ahead atomic.Int64
	o := testOptions(All, nil, nil)
	began := time.Now()
	o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	o.Running = func() time.Duration { return time.Since(began) }
	p := startWith(t, cfg, o)
	key := p.tenant("acme")
	action := func(path string, want int) {
		t.Helper()
		if code, text := p.do(http.MethodPost, p.admin+"/admin/v1/"+path, p.token, nil); code != want {
			t.Fatalf("%s: %d %s", path, code, text)
		}
	}
	found := func(target, text string, want bool) {
		t.Helper()
		if _, got := p.do(http.MethodGet, p.admin+target, p.token, nil); strings.Contains(got, text) != want {
			t.Errorf("%s contains %q: %t, want %t\n%s", target, text, !want, want, got)
		}
	}
	p.write(key)
	action("flush?wait=true", 200)
	action("compact?wait=true", 200)
	p.write(key)
	action("flush?wait=true", 200)
	ahead.Store(int64(400 * 24 * time.Hour))
	if err := p.app.backend.compactor.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := p.app.backend.ingester.Sweep(); err != nil {
		t.Fatal(err)
	}
	action("compact?wait=true&expire=all", 500)
	found("/metrics", "pallium_clock_trusted 0", true)
	found("/", "Nothing is deleted by age", true)
	if log := p.log.String(); strings.Count(log, "clock cannot be trusted") != 1 {
		t.Errorf("log:\n%s", log)
	}
	ahead.Store(0)
	action("compact?wait=true&expire=all", 200)
	action("compact?wait=true&expire=some", 400)
	found("/metrics", "pallium_clock_trusted 1", true)
	found("/", "Nothing is deleted by age", false)
	if code, text := p.query(key, "count_over_time(up[1h])"); code != 200 || !strings.Contains(text, `"2"`) {
		t.Errorf("query: %d %s", code, text)
	}
}

// TestClockOfRedis checks that a process of a cluster compares its clock with that of Redis.
func TestClockOfRedis(t *testing.T) {
	srv := programs.Redis(t)
	client := goredis.NewClient(&goredis.Options{Addr: srv.Addr})
	defer client.Close()
	for ahead, want := range map[time.Duration]string{0: "", 9 * time.Minute: "", 11 * time.Minute: "ahead of the clock of redis", -time.Hour: "behind the clock of redis"} {
		o := testOptions(Backend, nil, nil)
		o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
		o.Now = func() time.Time { return time.Now().Add(ahead) }
		a := newProcess(testConfig(t), o)
		a.registry, a.redis = prometheus.NewRegistry(), client
		_, err := a.guardClock(context.Background(), nil).Now()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s ahead: %v, want %q", ahead, err, want)
		}
		if err := a.close(); err != nil {
			t.Error(err)
		}
	}
}
