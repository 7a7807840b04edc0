package deploy

import (
	"testing"
)

// TestNetwork decides about connections as the network policies do.
func TestNetwork(t *testing.T) {
	for _, b := range complete {
		c := build(t, b)
		for _, to := range c.servers() {
			for _, one := range []struct {
				name      string
				namespace string // of another namespace, by its name
				from      map[string]string
				port      int
				allowed   bool
			}{
				{"anybody", "elsewhere", map[string]string{}, 9009, to.component() == "gateway"},
				{"gateway", "", c.labels(t, "gateway"), 9011, to.ours() && to.component() != "gateway"},
				{"gateway", "", c.labels(t, "gateway"), 9012, false},
				{"gateway", "", c.labels(t, "gateway"), 9010, false},
				{"gateway", "", c.labels(t, "gateway"), 6379, to.component() == "redis"},
				{"backend", "", c.labels(t, "compactor"), 9011, false},
				{"backend", "", c.labels(t, "compactor"), 9012, to.ours() && to.component() != "gateway"},
				{"backend", "", c.labels(t, "ingester"), 6379, to.component() == "redis"},
				{"stranger", "", map[string]string{"app": "other"}, 9011, false},
				{"stranger", "", map[string]string{"app": "other"}, 9012, false},
				{"stranger", "", map[string]string{"app": "other"}, 6379, false},
				{"stranger", "elsewhere", map[string]string{}, 9010, false},
				{"gateway elsewhere", "elsewhere", c.labels(t, "gateway"), 9011, false},
				{"monitoring", "monitoring", map[string]string{}, 9010, to.ours()},
				{"monitoring", "monitoring", map[string]string{}, 9011, false},
			} {
				if got := c.allows(one.namespace, one.from, to.podLabels(), one.port); got != one.allowed {
					t.Errorf("%s: %s to port %d of %s: %v", b, one.name, one.port, to.Metadata.Name, got)
				}
			}
		}
	}
}

func (c *cluster) labels(t *testing.T, component string) map[string]string {
	t.Helper()
	for _, m := range c.servers() {
		if m.component() == component {
			return m.podLabels()
		}
	}
	t.Fatalf("there is no %s", component)
	return nil
}

// allows decides about a connection from a pod of the same namespace, or of the
// named one.
func (c *cluster) allows(namespace string, from, to map[string]string, port int) bool {
	guarded := false
	for i := range c.manifests {
		p := &c.manifests[i]
		if p.Kind != "NetworkPolicy" || !p.Spec.PodSelector.matches(to) {
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
