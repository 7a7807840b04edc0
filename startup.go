package main

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// replayLogInterval is how often the progress of the replay is logged.
const replayLogInterval = 10 * time.Second

// startup is the progress of a process until it serves. It is shown by /ready, the log and metrics.
// The log also names the current step if the start is canceled and does not end within
// shutdown_timeout. It is safe for concurrent use.
type startup struct {
	now    func() time.Time
	logger *slog.Logger
	ending *ending // of the start

	mu          sync.Mutex
	doing       string
	since       time.Time // when the current step began
	replaying   bool
	done, total int64     // bytes of the write-ahead log
	logged      time.Time // when the progress was last logged
}

func newStartup(o *Options) *startup {
	s := &startup{now: o.Now, logger: o.Logger, ending: newEnding()}
	s.step("reading the configuration")
	return s
}

// step sets the current step, in the form "opening the row store".
func (s *startup) step(doing string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin(doing)
	s.replaying = false
}

// begin is step for callers that hold s.mu.
func (s *startup) begin(doing string) {
	s.doing, s.since = doing, s.now()
	s.ending.waitFor("the start: " + doing)
}

// replay sets the progress of the replay in bytes of the write-ahead log.
func (s *startup) replay(done, total int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.replaying {
		s.begin("replaying the write-ahead log")
		s.replaying, s.logged = true, s.since
	}
	s.done, s.total = done, total
	if now := s.now(); now.Sub(s.logged) >= replayLogInterval {
		s.logged = now
		s.logger.Info("replaying the write-ahead log", "done", done, "total", total, "percent", percent(done, total))
	}
}

// String returns the text of /ready.
func (s *startup) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	doing := s.doing
	if s.replaying {
		doing += fmt.Sprintf(": %d%% (%s)", percent(s.done, s.total), ofBytes(s.done, s.total))
	}
	return fmt.Sprintf("starting: %s, %s so far", doing, s.now().Sub(s.since).Truncate(time.Second))
}

// collectors returns the metrics of a replay.
func (s *startup) collectors() []prometheus.Collector {
	gauge := func(name, help string, value *int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			s.mu.Lock()
			defer s.mu.Unlock()
			return float64(*value)
		})
	}
	return []prometheus.Collector{
		gauge("pallium_ingester_replay_bytes", "Bytes of the write-ahead log replayed since the process started.", &s.done),
		gauge("pallium_ingester_replay_total_bytes", "Bytes of the write-ahead log to replay when the process started.", &s.total),
	}
}

// percent returns the percentage of `done`, rounded down; 100 for an empty log.
func percent(done, total int64) int64 {
	if done >= total {
		return 100
	}
	return int64(float64(max(done, 0)) / float64(total) * 100)
}

// ofBytes returns a text such as "2.1 of 4.9 GB", in the unit of the total.
func ofBytes(done, total int64) string {
	unit, name := int64(1), "bytes"
	for _, larger := range []string{"kB", "MB", "GB", "TB"} {
		if total < 1000*unit {
			break
		}
		unit, name = 1000*unit, larger
	}
	if unit == 1 {
		return fmt.Sprintf("%d of %d bytes", done, total)
	}
	return fmt.Sprintf("%.1f of %.1f %s", float64(done)/float64(unit), float64(total)/float64(unit), name)
}
