package progress

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// TestWorker runs tasks step by step, and checks the gauge and the log after each
// step.
func TestWorker(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	var log bytes.Buffer
	reg := prometheus.NewRegistry()
	w := NewWorker(Options{Metric: "test_stalled_seconds", Help: "h", Message: "no progress", Now: func() time.Time { return now },
		Logger: slog.New(slog.NewTextHandler(&log, nil)), Registerer: reg})
	var one, two, part context.Context
	var first, second, third *Task
	steps := []struct {
		what string
		wait time.Duration
		act  func()
		want float64 // seconds
		logs string  // part of the line logged in this step; empty: nothing is logged
	}{
		{"idle", time.Hour, func() {}, 0, ""},
		{"begun", 0, func() { one, first = w.Begin(context.Background(), "first") }, 0, ""},
		{"less than a minute", 59 * time.Second, func() {}, 0, ""},
		{"a minute", time.Second, func() {}, 60, "at=first"},
		{"a few seconds more", 5 * time.Second, func() {}, 65, ""},
		{"another minute", 55 * time.Second, func() {}, 120, "at=first"},
		{"a step", 0, func() { Step(one) }, 0, ""},
		{"a step with a derived context", 59 * time.Second, func() { c, end := context.WithCancel(one); Step(c); end() }, 0, ""},
		{"next step", 59 * time.Second, func() { At(one, "second part") }, 0, ""},
		{"stalls again", 61 * time.Second, func() {}, 61, `at="second part"`},
		{"one more task", 0, func() { two, second = w.Begin(context.Background(), "second") }, 61, ""},
		{"the longest stall counts", 10 * time.Second, func() { Step(two) }, 71, ""},
		{"the first ends", 0, func() { first.End() }, 0, ""},
		{"steps of an ended task", 0, func() { Step(one); At(one, "x") }, 0, ""},
		{"the second stalls", 2 * time.Minute, func() {}, 120, "at=second"},
		{"a part of the second", 0, func() { part, third = w.Begin(two, "part") }, 0, ""},
		{"the task waits for its part", 59 * time.Second, func() { Step(part) }, 0, ""},
		{"the part stalls, and not the task", 61 * time.Second, func() {}, 61, "at=part"},
		{"the part ends, which is a step of the task", 0, func() { third.End() }, 0, ""},
		{"the second stalls again", 2 * time.Minute, func() {}, 120, "at=second"},
		{"the second ends", 0, func() { second.End() }, 0, ""},
		{"idle again", time.Hour, func() { Step(context.Background()); At(context.Background(), "x") }, 0, ""},
	}
	for _, s := range steps {
		now = now.Add(s.wait)
		s.act()
		log.Reset()
		w.Check()
		if got := w.Stalled().Seconds(); got != s.want {
			t.Errorf("%s: stalled for %g s, want %g", s.what, got, s.want)
		}
		if got, err := reg.Gather(); err != nil || got[0].GetName() != "test_stalled_seconds" || got[0].GetMetric()[0].GetGauge().GetValue() != s.want {
			t.Errorf("%s: gathered %v, %v", s.what, got, err)
		}
		if got := log.String(); (s.logs == "") != (got == "") || !strings.Contains(got, s.logs) || strings.Count(got, "\n") > 1 {
			t.Errorf("%s: logged %q, want %q", s.what, got, s.logs)
		}
	}
}
