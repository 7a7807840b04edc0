// Package clock tells whether the clock of this process can be trusted with
// deletions. Retention and sweeps go by the wall clock, and one that is far ahead
// would delete everything; so it is compared with the time for which the process
// has been running, with the clocks of others, and with the times of what they
// sealed.
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
	// MaxOffset is how far a clock may be off.
	MaxOffset = 10 * time.Minute

	askEvery   = time.Minute
	askTimeout = 10 * time.Second
)

// Source is another clock.
type Source struct {
	Name string // in the metric and the log
	Now  func(context.Context) (time.Time, error)
}

// Options of a Guard.
type Options struct {
	Now func() time.Time // the wall clock
	// Running tells for how long the process has been running, whatever the wall
	// clock says. nil: it follows Now, and jumps of Now are not seen.
	Running    func() time.Duration
	Sources    []Source // none: the wall clock is compared with itself, as it was at the start
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Guard compares the wall clock of a process with others. It is safe for
// concurrent use.
type Guard struct {
	o       Options
	offsets *prometheus.GaugeVec

	started time.Time // the wall clock when the process had been running for no time

	mu    sync.Mutex
	known map[string]time.Time // started by the sources that answered
	seal  time.Time            // the newest that was seen
	off   bool                 // what was logged last
}

// New returns a guard. Without sources it takes the clock for right until it moves,
// else for wrong until a source has answered.
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
		Help: "How far this process's clock is ahead of another one (source), below zero: behind it; " +
			"without other clocks, of itself at the start.",
	}, []string{"source"})
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pallium_clock_trusted",
		Help: "1 while this process's clock is within ten minutes of all that it is compared with; at 0 nothing is deleted by its time.",
	}, func() float64 {
		if _, err := g.Now(); err != nil {
			return 0
		}
		return 1
	})
	return g
}

// wall reads a clock without its monotonic reading, which differences would be of
// otherwise.
func wall(now func() time.Time) time.Time { return now().Round(0) }

// Running is for how long the process has been running, whatever the wall clock
// says.
func (g *Guard) Running() time.Duration { return g.o.Running() }

// Run asks the sources every minute until ctx is done.
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

// Ask asks the sources what time it is. One that does not answer is taken to have
// gone on since it did, as the process has.
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
				g.o.Logger.Warn("could not compare the clock with another one; retrying", "source", s.Name, "err", err)
			}
			continue
		}
		g.mu.Lock()
		g.known[s.Name] = at.Round(0).Add(-before - (after-before)/2)
		g.mu.Unlock()
	}
	_, _ = g.Now() // it logs a change
}

// SawSeals tells the time of the newest of all packs that others sealed and that
// are not compacted yet; zero when there is none.
func (g *Guard) SawSeals(newest time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seal = newest
}

// Now is the time, with an error while it must not decide what is deleted.
func (g *Guard) Now() (time.Time, error) {
	now, running := wall(g.o.Now), g.o.Running()
	g.mu.Lock()
	defer g.mu.Unlock()
	err := g.compare(now, running)
	switch {
	case err != nil && !g.off:
		g.o.Logger.Error("clock cannot be trusted: retention and sweeps stop until it is right again", "err", err)
	case err == nil && g.off:
		g.o.Logger.Info("clock is right again: retention and sweeps go on")
	}
	g.off = err != nil
	return now, err
}

// compare returns what says that the clock is off.
func (g *Guard) compare(now time.Time, running time.Duration) error {
	var err error
	// The other clocks say more than the process's own past: its clock may have been
	// corrected since the start.
	switch {
	case len(g.o.Sources) == 0:
		err = g.differs("start", "the time that passed since the start of this process", now.Sub(g.started.Add(running)))
	case len(g.known) == 0:
		err = errors.New("no other clock has answered yet")
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
		err = fmt.Errorf("an uploaded pack was sealed %s in the future: this clock is behind, or that of its ingester was ahead",
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
