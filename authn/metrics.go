package authn

import "github.com/prometheus/client_golang/prometheus"

// register registers the gauges of requests that wait because of their credential.
func (a *Authenticator) register(reg prometheus.Registerer) {
	if reg == nil {
		return
	}
	for _, w := range []struct {
		what string
		load func() int
	}{{"delay", a.attempts.delayed.load}, {"lookup", a.lookups.load}, {"signature", a.signatures.load}} {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pallium_gateway_auth_waiting_requests",
			Help: "Requests that wait because of their credential: delayed after failures, or queued for the lookup of an API key " +
				"or the check of a JWT's signature.",
			ConstLabels: prometheus.Labels{"for": w.what},
		}, func() float64 { return float64(w.load()) }))
	}
}
