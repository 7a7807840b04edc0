package authn

import "github.com/prometheus/client_golang/prometheus"

// register adds the gauges of requests that wait before their credential is
// checked.
func (a *Authenticator) register(reg prometheus.Registerer) {
	if reg == nil {
		return
	}
	for _, w := range []struct {
		what string
		load func() int
	}{{"delay", a.attempts.room.load}, {"lookup", a.lookups.load}, {"signature", a.signatures.load}} {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pallium_gateway_auth_waiting_requests",
			Help: "Requests whose credential waits: for the delay after failures, for a look-up of an API key, " +
				"for a check of a JWT's signature.",
			ConstLabels: prometheus.Labels{"for": w.what},
		}, func() float64 { return float64(w.load()) }))
	}
}
