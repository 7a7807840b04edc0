package deploy

import (
	"net/netip"
	"slices"
	"testing"
)

// TestNetwork checks which connections to the servers the network policies allow.
func TestNetwork(t *testing.T) {
	for _, b := range complete {
		c := build(t, b)
		for _, to := range c.servers() {
			for _, one := range []struct {
				name      string
				namespace string // namespace of the client; empty: the same one
				from      map[string]string
				port      int
				allowed   bool
			}{
				{"any client", "elsewhere", map[string]string{}, 9009, to.component() == "gateway"},
				{"gateway", "", c.labels(t, "gateway"), 9011, to.ours() && to.component() != "gateway"},
				{"gateway", "", c.labels(t, "gateway"), 9012, false},
				{"gateway", "", c.labels(t, "gateway"), 9010, false},
				{"gateway", "", c.labels(t, "gateway"), 6379, to.component() == "redis-cache"},
				{"backend", "", c.labels(t, "compactor"), 9011, false},
				{"backend", "", c.labels(t, "compactor"), 9012, to.ours() && to.component() != "gateway"},
				{"backend", "", c.labels(t, "ingester"), 6379, !to.ours()},
				{"query frontend", "", c.labels(t, "query-frontend"), 9012, to.ours() && to.component() != "gateway"},
				{"query frontend", "", c.labels(t, "query-frontend"), 6379, !to.ours()},
				{"other pod", "", map[string]string{"app": "other"}, 9011, false},
				{"other pod", "", map[string]string{"app": "other"}, 9012, false},
				{"other pod", "", map[string]string{"app": "other"}, 6379, false},
				{"other pod", "elsewhere", map[string]string{}, 9010, false},
				{"gateway elsewhere", "elsewhere", c.labels(t, "gateway"), 9011, false},
				{"monitoring", "monitoring", map[string]string{}, 9010, to.ours()},
				{"monitoring", "monitoring", map[string]string{}, 9011, false},
			} {
				if got := c.allows(one.namespace, one.from, to.podLabels(), one.port); got != one.allowed {
					t.Errorf("%s: %s to port %d of %s: allowed = %t, want %t", b, one.name, one.port, to.Metadata.Name, got, one.allowed)
				}
			}
		}
	}
}

// TestEgress checks that the network policies allow the connections that the servers need, and no
// others.
func TestEgress(t *testing.T) {
	for _, b := range complete {
		c := build(t, b)
		redis := b == "overlays/small"
		for _, from := range c.servers() {
			of := from.component()
			for _, one := range []struct {
				name    string
				pod     map[string]string // nil: an address
				address string
				port    int
				allowed bool
			}{
				{"backend's API", c.labels(t, "compactor"), "", 9011, of == "gateway"},
				{"backend's calls", c.labels(t, "compactor"), "", 9012, from.ours() && of != "gateway"},
				{"a gateway", c.labels(t, "gateway"), "", 9009, false},
				{"a gateway's admin listener", c.labels(t, "gateway"), "", 9010, false},
				{"Google's APIs", nil, "142.250.1.1", 443, from.ours()},
				{"metadata server", nil, "169.254.169.254", 80, from.ours()},
				{"Memorystore", nil, "10.0.0.3", 6378, from.ours() && !redis},
				{"another host of the network", nil, "10.9.9.9", 443, false},
				{"the internet", nil, "142.250.1.1", 80, of == "alertmanager"},
				{"a mail server", nil, "142.250.1.1", 587, of == "alertmanager"},
				{"a mail server of the network", nil, "192.168.3.4", 25, false},
				{"a receiver on another node", nil, "100.64.1.2", 80, false},
				{"an Alertmanager elsewhere", nil, "142.250.1.1", 9093, false},
				{"another pod", map[string]string{"app": "other"}, "", 443, false},
			} {
				if got := c.reaches(from.podLabels(), one.pod, one.address, one.port); got != one.allowed {
					t.Errorf("%s: %s to %s, port %d: allowed = %t, want %t", b, from.Metadata.Name, one.name, one.port, got, one.allowed)
				}
			}
			for name, want := range map[string]bool{"redis": from.ours() && of != "gateway", "redis-cache": from.ours()} {
				got := c.reaches(from.podLabels(), map[string]string{"app.kubernetes.io/name": name}, "", 6379)
				if got != (redis && want) {
					t.Errorf("%s: %s to %s: allowed = %t, want %t", b, from.Metadata.Name, name, got, redis && want)
				}
			}
		}
		if !c.reaches(map[string]string{"app.kubernetes.io/name": "pallium-migrate"}, nil, "142.250.1.1", 443) {
			t.Errorf("%s: the migration job cannot reach Bigtable", b)
		}
	}
}

// reaches reports whether the policies allow a connection to a pod of the same
// namespace, or to an address.
func (c *cluster) reaches(from, to map[string]string, address string, port int) bool {
	for i := range c.manifests {
		p := &c.manifests[i]
		if p.Kind != "NetworkPolicy" || !p.Spec.PodSelector.matches(from) {
			continue
		}
		for _, r := range p.Spec.Egress {
			if r.passes(to, address, port) {
				return true
			}
		}
	}
	return false
}

func (r *egressRule) passes(to map[string]string, address string, port int) bool {
	if !slices.ContainsFunc(r.Ports, func(p struct{ Port int }) bool { return p.Port == port }) {
		return false
	}
	for _, t := range r.To {
		switch {
		case t.IPBlock != nil && to == nil && within(t.IPBlock.CIDR, address):
			if !slices.ContainsFunc(t.IPBlock.Except, func(x string) bool { return within(x, address) }) {
				return true
			}
		case t.PodSelector != nil && t.NamespaceSelector == nil && to != nil && t.PodSelector.matches(to):
			return true
		}
	}
	return false
}

func within(cidr, address string) bool {
	p, err := netip.ParsePrefix(cidr)
	return err == nil && p.Contains(netip.MustParseAddr(address))
}

func (c *cluster) labels(t *testing.T, component string) map[string]string {
	t.Helper()
	for _, m := range c.servers() {
		if m.component() == component {
			return m.podLabels()
		}
	}
	t.Fatalf("no pod has the component %s", component)
	return nil
}

// allows reports whether the policies allow a connection from a pod of the same
// namespace, or of the named one.
func (c *cluster) allows(namespace string, from, to map[string]string, port int) bool {
	guarded := false
	for i := range c.manifests {
		p := &c.manifests[i]
		if p.Kind != "NetworkPolicy" || !p.Spec.PodSelector.matches(to) || !slices.Contains(p.Spec.PolicyTypes, "Ingress") {
			continue
		}
		guarded = true
		for _, r := range p.Spec.Ingress {
			if r.passes(namespace, from, port) {
				return true
			}
		}
	}
	return !guarded
}

func (r *rule) passes(namespace string, from map[string]string, port int) bool {
	open := len(r.Ports) == 0
	for _, p := range r.Ports {
		open = open || p.Port == port
	}
	if !open || len(r.From) == 0 {
		return open
	}
	for _, f := range r.From {
		if f.NamespaceSelector == nil && namespace != "" {
			continue
		}
		if f.NamespaceSelector != nil && !f.NamespaceSelector.matches(map[string]string{"kubernetes.io/metadata.name": namespace}) {
			continue
		}
		if f.PodSelector == nil || f.PodSelector.matches(from) {
			return true
		}
	}
	return false
}
