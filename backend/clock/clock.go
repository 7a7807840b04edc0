// Package clock decides whether this process's clock is reliable enough for
// deletions. Retention and sweeps use the wall clock, and a clock that is far ahead
// would delete everything. The clock is therefore compared with the running time of
// the process, with other clocks, and with the times at which packs were sealed.
package clock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

const (
	// MaxOffset is the largest accepted difference between two clocks.
	MaxOffset = 10 * time.Minute

	askEvery   = time.Minute
	askTimeout = 10 * time.Second
)

// Source is another clock.
type Source struct {
	Name string // in the metric and the log
	Now  func(context.Context) (time.Time, error)
}

// Options configure a Guard.
type Options struct {
	Now func() time.Time // the wall clock
	// Running returns the running time of the process, independent of the wall clock.
	// nil: it is derived from Now, so that jumps of Now are not detected.
	Running    func() time.Duration
	Sources    []Source // none: the wall clock is compared with its own value at the start
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Guard compares the wall clock of a process with other clocks. It is safe for
// concurrent use.
type Guard struct {
	o       Options
	offsets *prometheus.GaugeVec

	started time.Time // wall clock at running time 0

	mu    sync.Mutex
	known map[string]time.Time // source's clock at running time 0, for sources that responded
	seal  time.Time            // when the newest known pack was sealed
	off   bool                 // whether the last logged state is "not trusted"
}

// New returns a guard. Without sources the clock is trusted until it jumps; with
// sources it is not trusted until one of them has responded.
func New(o Options) *Guard {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Running == nil {
		start := wall(o.Now)
		o.Running = func() time.Duration { return wall(o.Now).Sub(start) }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	g := &Guard{o: o, started: wall(o.Now).Add(-o.Running()), known: map[string]time.Time{}}
	auto := promauto.With(o.Registerer)
	g.offsets = auto.NewGaugeVec(prometheus.GaugeOpts{
		Name: "pallium_clock_offset_seconds",
		Help: "Seconds by which this process's clock is ahead of another clock (source), negative if it is behind; without other clocks, " +
			"seconds by which it is ahead of its value at the start plus the running time (source=start).",
	}, []string{"source"})
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pallium_clock_trusted",
		Help: "1 while this process's clock is trusted; 0 if an offset (pallium_clock_offset_seconds) is more than ten minutes, if an " +
			"uploaded pack was sealed more than ten minutes in the future, or if no other clock has responded yet. While 0, nothing is " +
			"deleted by time.",
	}, func() float64 {
		if _, err := g.Now(); err != nil {
			return 0
		}
		return 1
	})
	return g
}

// wall returns the time without the monotonic reading, which Sub would use
// otherwise.
func wall(now func() time.Time) time.Time { return now().Round(0) }

// Running returns the running time of the process, independent of the wall clock.
func (g *Guard) Running() time.Duration { return g.o.Running() }

// Run polls the sources every minute until ctx is done.
func (g *Guard) Run(ctx context.Context) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		g.Ask(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Ask polls the sources once. The clock of a source that does not respond is
// extrapolated from its last response by the running time.
func (g *Guard) Ask(ctx context.Context) {
	for i := range g.o.Sources {
		s := &g.o.Sources[i]
		asked, cancel := context.WithTimeout(ctx, askTimeout)
		before := g.o.Running()
		at, err := s.Now(asked)
		after := g.o.Running()
		cancel()
		if err != nil {
			if ctx.Err() == nil {
				g.o.Logger.Warn("failed to read a reference clock; retrying", "source", s.Name, "err", err)
			}
			continue
		}
		g.mu.Lock()
		g.known[s.Name] = at.Round(0).Add(-before - (after-before)/2)
		g.mu.Unlock()
	}
	_, _ = g.Now() // logs a change of state
}

// SawSeals records the time at which the newest pack that is not compacted yet was sealed. The
// time is zero if there is no such pack.
func (g *Guard) SawSeals(newest time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seal = newest
}

// Now returns the time, and an error while the time must not be used to decide
// deletions.
func (g *Guard) Now() (time.Time, error) {
	now, running := wall(g.o.Now), g.o.Running()
	g.mu.Lock()
	defer g.mu.Unlock()
	err := g.compare(now, running)
	switch {
	case err != nil && !g.off:
		g.o.Logger.Error("clock cannot be trusted: retention and sweeps are suspended", "err", err)
	case err == nil && g.off:
		g.o.Logger.Info("clock can be trusted again: resuming retention and sweeps")
	}
	g.off = err != nil
	return now, err
}

// compare returns an error if the clock must not be trusted.
func (g *Guard) compare(now time.Time, running time.Duration) error {
	var err error
	// Other clocks take precedence over the process's own past, because its clock may
	// have been corrected since the start.
	switch {
	case len(g.o.Sources) == 0:
		err = g.differs("start", "its value at the start plus the running time of this process", now.Sub(g.started.Add(running)))
	case len(g.known) == 0:
		err = errors.New("no other clock (Redis, the bucket) has responded yet")
	}
	for i := range g.o.Sources {
		name := g.o.Sources[i].Name
		if started, ok := g.known[name]; ok {
			if e := g.differs(name, "the clock of "+name, now.Sub(started.Add(running))); err == nil {
				err = e
			}
		}
	}
	if ahead := g.seal.Sub(now); err == nil && !g.seal.IsZero() && ahead > MaxOffset {
		err = fmt.Errorf("an uploaded pack was sealed %s in the future: this clock is behind, or the ingester's clock was ahead",
			ahead.Round(time.Second))
	}
	return err
}

func (g *Guard) differs(source, what string, offset time.Duration) error {
	g.offsets.WithLabelValues(source).Set(offset.Seconds())
	switch {
	case offset > MaxOffset:
		return fmt.Errorf("this process's clock is %s ahead of %s", offset.Round(time.Second), what)
	case offset < -MaxOffset:
		return fmt.Errorf("this process's clock is %s behind %s", (-offset).Round(time.Second), what)
	}
	return nil
}
