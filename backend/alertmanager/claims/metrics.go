package claims

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// NewMetrics returns the metrics of a process.
func NewMetrics(r prometheus.Registerer) *Metrics {
	auto := promauto.With(r)
	return &Metrics{
		unclaimed: auto.NewCounter(prometheus.CounterOpts{Name: "pallium_alertmanager_unclaimed_notifications_total",
			Help: "Notifications sent without a claim, because the row store did not answer for 10 seconds. Other replicas may have " +
				"sent them, too."}),
		taken: auto.NewCounter(prometheus.CounterOpts{Name: "pallium_alertmanager_claim_takeovers_total",
			Help: "Notifications whose claim was taken over from another replica, which may have sent them."}),
		waited: auto.NewCounter(prometheus.CounterOpts{Name: "pallium_alertmanager_claim_waits_total",
			Help: "Notifications that were not sent at once, because another replica was sending them."}),
		lost: auto.NewCounter(prometheus.CounterOpts{Name: "pallium_alertmanager_claims_lost_total",
			Help: "Notifications whose sending was stopped, because the claim could not be renewed or another replica had sent them."}),
		unwritten: auto.NewGauge(prometheus.GaugeOpts{Name: "pallium_alertmanager_unrecorded_notifications",
			Help: "Notifications that were sent, but could not be recorded in the row store yet."}),
	}
}
