package active

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/test/kit"
)

type world struct {
	*Registry
	clock *kit.Clock
	log   bytes.Buffer
	reg   *prometheus.Registry
}

func newWorld() *world {
	w := &world{clock: kit.NewClock(time.Unix(1000, 0)), reg: prometheus.NewRegistry()}
	w.Registry = New(Options{Slow: 10 * time.Second, Now: w.clock.Now, Registerer: w.reg,
		Logger: slog.New(slog.NewTextHandler(&w.log, nil))})
	return w
}

// TestList checks what is listed while reads wait, run and are done.
func TestList(t *testing.T) {
	w := newWorld()
	_, first := w.Begin(t.Context(), Query{Tenant: "a", Text: "up", Start: "1", End: "2", Step: "3", Path: "/p"})
	w.clock.Advance(time.Second)
	ctx, second := w.Begin(t.Context(), Query{Tenant: "b", Text: strings.Repeat("x", 10_000), Step: strings.Repeat("1", 1000),
		Path: strings.Repeat("p", 1000)})
	Of(ctx).Run()
	list := w.List()
	if len(list) != 2 || list[0].Tenant != "a" || list[0].Running || !list[1].Running || list[0].ID == list[1].ID {
		t.Fatalf("list %+v", list)
	}
	want := Query{ID: list[0].ID, Tenant: "a", Path: "/p", Text: "up", Start: "1", End: "2", Step: "3", Since: time.Unix(1000, 0)}
	if list[0] != want || len(want.ID) != 16 {
		t.Errorf("query %+v, want %+v", list[0], want)
	}
	if q := list[1]; len(q.Text) != textBytes || len(q.Step) != partBytes || len(q.Path) != pathBytes || !strings.HasSuffix(q.Text, "...") {
		t.Errorf("texts of %d, %d and %d bytes", len(q.Text), len(q.Step), len(q.Path))
	}
	first.Done()
	second.Done()
	if list := w.List(); len(list) != 0 {
		t.Errorf("list %+v after all are done", list)
	}
}

// TestEnd checks that only the read that an operator ends is canceled, with the cause.
func TestEnd(t *testing.T) {
	w := newWorld()
	ended, a := w.Begin(t.Context(), Query{Tenant: "a", Text: "heavy"})
	other, b := w.Begin(t.Context(), Query{Tenant: "a"})
	defer b.Done()
	if _, ok := w.End("0123456789abcdef"); ok {
		t.Error("ended a read that does not exist")
	}
	if q, ok := w.End(a.query.ID); !ok || q.Text != "heavy" {
		t.Errorf("ended %+v, %t", q, ok)
	}
	if !errors.Is(context.Cause(ended), ErrEnded) || other.Err() != nil {
		t.Errorf("cause %v, and of another read %v", context.Cause(ended), other.Err())
	}
	a.Run()
	if q, ok := w.End(a.query.ID); !ok || !q.Running { // again, before it is done
		t.Errorf("ended again: %+v, %t", q, ok)
	}
	a.Done()
	if _, ok := w.End(a.query.ID); ok {
		t.Error("ended a read that is done")
	}
	if n := testutil.ToFloat64(w.ended); n != 1 {
		t.Errorf("%g reads were ended", n)
	}
	if !strings.Contains(w.log.String(), `msg="an operator ended a query"`) {
		t.Errorf("log %s", &w.log)
	}
}

// TestSlow checks which reads are logged, and the fields of the log line.
func TestSlow(t *testing.T) {
	w := newWorld()
	_, fast := w.Begin(t.Context(), Query{Tenant: "a", Text: "fast"})
	w.clock.Advance(10*time.Second - 1)
	fast.Done()
	_, slow := w.Begin(t.Context(), Query{Tenant: "a", Text: "slow", Path: "/p"})
	slow.Read(5, 3)
	slow.Read(7, 2)
	slow.Status(422)
	slow.Status(200) // not the first one
	w.clock.Advance(10 * time.Second)
	slow.Done()
	want := "tenant=a path=/p query=slow start=\"\" end=\"\" step=\"\" duration=10s status=422 samples_read=12 peak_samples=3"
	if log := w.log.String(); strings.Contains(log, "fast") || !strings.Contains(log, want) {
		t.Errorf("log %s, want %s", log, want)
	}
	if n := testutil.ToFloat64(w.slow); n != 1 {
		t.Errorf("%g slow reads", n)
	}
	off := New(Options{Now: w.clock.Now})
	_, e := off.Begin(t.Context(), Query{})
	w.clock.Advance(time.Hour)
	e.Done()
	if n := testutil.ToFloat64(off.slow); n != 0 {
		t.Errorf("%g slow reads although none is logged", n)
	}
}

// TestNone checks that all methods can be called for a context without a registered read.
func TestNone(*testing.T) {
	e := Of(context.Background())
	e.Run()
	e.Read(1, 1)
	e.Status(200)
	e.Done()
}

// TestSecrets checks that API keys that a client sends in a query are neither listed nor logged.
func TestSecrets(t *testing.T) {
	w := newWorld()
	const secret = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
	key := apikey.Prefix + "_" + strings.Repeat("a", apikey.KeyIDLength) + "_" + secret
	long := strings.Repeat("x", textBytes-len(key)) + key + key // cut within the key
	for _, q := range []Query{{Text: `up{token="` + key + `"}`}, {Text: long}, {Path: "/label/" + key + "/values"}, {Start: key}, {End: key}, {Step: key}} {
		q.Tenant = "a"
		_, e := w.Begin(t.Context(), q)
		list, err := json.Marshal(w.List())
		if err != nil {
			t.Fatal(err)
		}
		w.clock.Advance(time.Minute)
		w.End(w.List()[0].ID)
		e.Done()
		if all := string(list) + w.log.String(); strings.Contains(all, secret[:8]) || !strings.Contains(all, "REDACTED") {
			t.Errorf("%+v is shown as %s", q, all)
		}
		w.log.Reset()
	}
}
