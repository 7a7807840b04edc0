package ruler

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	due, done, missed, late prometheus.Counter
	evaluations             prometheus.Counter
	failures                *prometheus.CounterVec
	takeovers               *prometheus.CounterVec
	syncFailures            prometheus.Counter
	delay                   prometheus.Histogram
}

// Values of the label reason.
const (
	reasonUser     = "user"
	reasonOperator = "operator"
)

func newMetrics(reg prometheus.Registerer, r *Ruler) metrics {
	auto := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return auto.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_ruler_groups", Help: "Rule groups that this ruler evaluates."},
		func() float64 { return float64(r.size()) })
	m := metrics{
		due: counter("pallium_ruler_group_evaluations_due_total", "Scheduled evaluations of rule groups that were due, whether they took "+
			"place or were missed."),
		done: counter("pallium_ruler_group_evaluations_done_total",
			"Evaluations of rule groups that ended, whether their rules failed or not."),
		missed: counter("pallium_ruler_group_evaluations_missed_total",
			"Scheduled evaluations of rule groups that were skipped because the previous evaluation, or the wait for one that may "+
				"begin, took too long."),
		late: counter("pallium_ruler_group_evaluations_late_total",
			"Evaluations of rule groups that began late, by more than a quarter of their interval."),
		evaluations:  counter("pallium_ruler_rule_evaluations_total", "Evaluations of rules."),
		syncFailures: counter("pallium_ruler_sync_failures_total", "Failed reads of rules, of their versions, or of deletions of tenants."),
		failures: auto.NewCounterVec(prometheus.CounterOpts{Name: "pallium_ruler_rule_failures_total",
			Help: "Failed evaluations of rules, by reason: user (the tenant's rules, data or limits) or operator (data that was unavailable)."},
			[]string{"reason"}),
		takeovers: auto.NewCounterVec(prometheus.CounterOpts{Name: "pallium_ruler_group_takeovers_total",
			Help: "Rule groups taken over from another ruler or an earlier process: continued exactly, restored after a longer gap, " +
				"or failed and tried again."}, []string{"result"}),
	}
	m.delay = auto.NewHistogram(prometheus.HistogramOpts{Name: "pallium_ruler_group_evaluation_delay_seconds",
		Help:    "Time between the scheduled and the actual start of evaluations of rule groups, without takeovers.",
		Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}})
	for _, reason := range []string{reasonUser, reasonOperator} {
		m.failures.WithLabelValues(reason)
	}
	return m
}

// size returns the number of groups that are evaluated.
func (r *Ruler) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, t := range r.tenants {
		for _, g := range t.groups {
			if g.evaluated() {
				n++
			}
		}
	}
	return n
}
