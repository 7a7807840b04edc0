package clock

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// fake is a process whose clocks a test sets.
type fake struct {
	wall    time.Time
	running time.Duration
	source  time.Time
	fails   error
	log     bytes.Buffer
	guard   *Guard
}

func newFake(sources bool) *fake {
	f := &fake{wall: time.Unix(1_700_000_000, 0)}
	f.source = f.wall
	o := Options{Now: func() time.Time { return f.wall }, Running: func() time.Duration { return f.running },
		Logger: slog.New(slog.NewTextHandler(&f.log, nil)), Registerer: prometheus.NewRegistry()}
	if sources {
		o.Sources = []Source{{"redis", func(context.Context) (time.Time, error) { return f.source, f.fails }}}
	}
	f.guard = New(o)
	return f
}

func (f *fake) pass(d time.Duration) {
	f.wall, f.running, f.source = f.wall.Add(d), f.running+d, f.source.Add(d)
}

func TestGuard(t *testing.T) {
	ask := func(f *fake) { f.guard.Ask(context.Background()) }
	tests := map[string]struct {
		sources bool
		do      func(*fake)
		want    string // part of the error; empty: the clock is trusted
	}{
		"time passes":             {false, func(f *fake) { f.pass(1000 * time.Hour) }, ""},
		"jumps ahead":             {false, func(f *fake) { f.wall = f.wall.Add(400 * 24 * time.Hour) }, "9600h0m0s ahead of its value at the start"},
		"jumps back":              {false, func(f *fake) { f.wall = f.wall.Add(-time.Hour) }, "1h0m0s behind"},
		"is corrected a little":   {false, func(f *fake) { f.wall = f.wall.Add(10 * time.Minute) }, ""},
		"and back again":          {false, func(f *fake) { f.wall = f.wall.Add(time.Hour); _, _ = f.guard.Now(); f.wall = f.wall.Add(-time.Hour) }, ""},
		"source not polled":       {true, func(*fake) {}, "no other clock"},
		"source ahead":            {true, func(f *fake) { f.source = f.source.Add(time.Hour); ask(f) }, "1h0m0s behind the clock of redis"},
		"source behind":           {true, func(f *fake) { f.source = f.source.Add(-time.Hour); ask(f) }, "1h0m0s ahead of the clock of redis"},
		"source nearly right":     {true, func(f *fake) { f.source = f.source.Add(-10 * time.Minute); ask(f) }, ""},
		"source right again":      {true, func(f *fake) { f.source = f.source.Add(-time.Hour); ask(f); f.source = f.wall; ask(f) }, ""},
		"corrected as the source": {true, func(f *fake) { f.source = f.source.Add(time.Hour); ask(f); f.wall = f.source }, ""},
		"jumps after the poll":    {true, func(f *fake) { ask(f); f.wall = f.wall.Add(time.Hour) }, "ahead of the clock of redis"},
		"source fails":            {true, func(f *fake) { f.fails = errors.New("away"); ask(f) }, "no other clock"},
		"source fails later":      {true, func(f *fake) { ask(f); f.fails = errors.New("away"); f.pass(time.Hour); ask(f) }, ""},
		"source fails after it was off": {true, func(f *fake) {
			f.source = f.source.Add(-time.Hour)
			ask(f)
			f.fails = errors.New("away")
			f.pass(time.Hour)
			ask(f)
		}, "1h0m0s ahead"},
		"source fails, jump":  {true, func(f *fake) { ask(f); f.fails = errors.New("away"); ask(f); f.wall = f.wall.Add(time.Hour) }, "of redis"},
		"seal in the future":  {false, func(f *fake) { f.guard.SawSeals(f.wall.Add(11 * time.Minute)) }, "sealed 11m0s in the future"},
		"seal slightly ahead": {false, func(f *fake) { f.guard.SawSeals(f.wall.Add(9 * time.Minute)) }, ""},
		"seal is compacted":   {false, func(f *fake) { f.guard.SawSeals(f.wall.Add(time.Hour)); f.guard.SawSeals(time.Time{}) }, ""},
		"seal in the past":    {false, func(f *fake) { f.guard.SawSeals(f.wall.Add(time.Hour)); f.pass(time.Hour) }, ""},
		"no seal":             {false, func(f *fake) { f.guard.SawSeals(time.Time{}) }, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFake(tt.sources)
			tt.do(f)
			_, err := f.guard.Now()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Now() error = %v, want %q", err, tt.want)
			}
		})
	}
}

// TestGuardLogs checks that a change of state is logged once, and checks the
// metric.
func TestGuardLogs(t *testing.T) {
	f := newFake(false)
	f.wall = f.wall.Add(time.Hour)
	for range 3 {
		if _, err := f.guard.Now(); err == nil {
			t.Fatal("no error although the clock is an hour ahead")
		}
	}
	if got := testutil.ToFloat64(f.guard.offsets.WithLabelValues("start")); got != 3600 {
		t.Errorf("offset = %v, want 3600", got)
	}
	f.wall = f.wall.Add(-time.Hour)
	for range 3 {
		if _, err := f.guard.Now(); err != nil {
			t.Fatal(err)
		}
	}
	if log := f.log.String(); strings.Count(log, "level=ERROR") != 1 || strings.Count(log, "level=INFO") != 1 {
		t.Errorf("log:\n%s", log)
	}
}

// TestGuardOfRealClocks checks that the clocks of a real process agree until one
// jumps.
func TestGuardOfRealClocks(t *testing.T) {
	var ahead time.Duration
	g := New(Options{Now: func() time.Time { return time.Now().Add(ahead) }, Running: Running()})
	if _, err := g.Now(); err != nil {
		t.Fatal(err)
	}
	ahead = time.Hour
	if _, err := g.Now(); err == nil {
		t.Error("no error although the clock is an hour ahead")
	}
}

func TestBudget(t *testing.T) {
	var b Budget
	b.Spend(0, 2)
	b.Spend(time.Hour, 1)
	b.Spend(2*time.Hour, 0)
	for at, want := range map[time.Duration]int{time.Hour: 3, 24*time.Hour - 1: 3} {
		if got := b.Spent(at); got != want {
			t.Errorf("Spent(%s) = %d, want %d", at, got, want)
		}
	}
	if got := b.Spent(24 * time.Hour); got != 1 {
		t.Errorf("Spent after a day = %d, want 1", got)
	}
	if got := b.Spent(25 * time.Hour); got != 0 || len(b.spent) != 0 {
		t.Errorf("Spent after 25 hours = %d, want 0; entries %v", got, b.spent)
	}
	for all, want := range map[int]int{0: 2, 29: 2, 30: 3, 400: 40} {
		if got := Days(all); got != want {
			t.Errorf("Days(%d) = %d, want %d", all, got, want)
		}
	}
}
