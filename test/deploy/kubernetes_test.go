package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestSchemas(t *testing.T) {
	tool := os.Getenv("KUBECTL_VALIDATE")
	if tool == "" {
		t.Fatal("KUBECTL_VALIDATE is not set: run make deploy-check")
	}
	dir := t.TempDir()
	for _, b := range built {
		c := build(t, b)
		if err := os.WriteFile(filepath.Join(dir, strings.ReplaceAll(b, "/", "-")+".yaml"), c.text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(tool, "--version", "1.30", "--local-crds", filepath.Join(root, "deploy/kubernetes/crds"), dir).CombinedOutput()
	if err != nil || strings.Count(string(out), "OK") != len(built) {
		t.Errorf("kubectl-validate: %v\n%s", err, out)
	}
}

func TestWorkloads(t *testing.T) {
	for _, b := range built {
		c := build(t, b)
		c.each(t, func(t *testing.T, m *manifest) {
			if s := m.Spec.Selector; m.Kind != "Job" && s.IsZero() {
				t.Fatal("spec.selector is missing")
			}
			if m.Kind != "Job" && !m.selects(t).matches(m.podLabels()) {
				t.Errorf("the selector does not match the pods' labels %v", m.podLabels())
			}
			p := &m.Spec.Template.Spec
			checkPod(t, p)
			for i := range p.Containers {
				checkContainer(t, &p.Containers[i], m.Kind == "Job")
			}
			c.checkReferences(t, p)
			if m.Kind == "StatefulSet" {
				if s := c.find("Service", m.Spec.ServiceName); s == nil || !s.selects(t).matches(m.podLabels()) {
					t.Errorf("service %q is missing or does not select the pods", m.Spec.ServiceName)
				}
			}
		}, "Deployment", "StatefulSet", "Job")
	}
}

func checkPod(t *testing.T, p *pod) {
	s := &p.SecurityContext
	if !s.RunAsNonRoot || s.RunAsUser == 0 || s.SeccompProfile.Type != "RuntimeDefault" {
		t.Errorf("securityContext of the pod: %+v", *s)
	}
	if p.AutomountServiceAccountToken == nil || *p.AutomountServiceAccountToken {
		t.Error("automountServiceAccountToken is not false")
	}
	if len(p.InitContainers) > 0 || len(p.Containers) != 1 {
		t.Errorf("%d containers; the checks support only one", len(p.Containers)+len(p.InitContainers))
	}
}

func checkContainer(t *testing.T, c *container, job bool) {
	s := &c.SecurityContext
	if s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.Privileged || !s.ReadOnlyRootFilesystem ||
		!slices.Equal(s.Capabilities.Drop, []string{"ALL"}) || len(s.Capabilities.Add) > 0 {
		t.Errorf("securityContext of the container: %+v", *s)
	}
	r := &c.Resources
	if r.Requests["cpu"] == "" || r.Requests["memory"] == "" || r.Limits["memory"] == "" {
		t.Errorf("resources: %+v", *r)
	}
	if job {
		return
	}
	for name, p := range map[string]*probe{"startup": c.StartupProbe, "readiness": c.ReadinessProbe, "liveness": c.LivenessProbe} {
		if p == nil {
			t.Errorf("no %s probe", name)
			continue
		}
		port := ""
		switch {
		case p.HTTPGet != nil:
			port = p.HTTPGet.Port
		case p.TCPSocket != nil:
			port = p.TCPSocket.Port
		}
		if port != "" && c.port(port) == 0 {
			t.Errorf("the %s probe uses port %q, which does not exist", name, port)
		}
		// While a process starts, only its admin listener is open, and /ready returns 503
		// as long as the log is replayed: a liveness probe of /ready would kill the
		// process during every long replay.
		want := "/healthy"
		if name == "readiness" {
			want = "/ready"
		}
		if h := p.HTTPGet; h != nil && c.port("admin") != 0 && (h.Port != "admin" || h.Path != want) {
			t.Errorf("the %s probe uses %s on port %s, want %s on port admin", name, h.Path, h.Port, want)
		}
	}
}

func (c *container) port(name string) int {
	for _, p := range c.Ports {
		if p.Name == name {
			return p.ContainerPort
		}
	}
	return 0
}

// checkReferences checks that the account, volumes and config maps to which a pod
// refers exist.
func (c *cluster) checkReferences(t *testing.T, p *pod) {
	if a := p.ServiceAccountName; a != "" && c.find("ServiceAccount", a) == nil {
		t.Errorf("ServiceAccount %q does not exist", a)
	}
	for _, v := range p.Volumes {
		if v.ConfigMap != nil && !v.ConfigMap.Optional && c.find("ConfigMap", v.ConfigMap.Name) == nil {
			t.Errorf("volume %s: ConfigMap %q does not exist", v.Name, v.ConfigMap.Name)
		}
		if v.Secret != nil && (v.Secret.SecretName != "pallium" || len(v.Secret.Items) == 0) {
			t.Errorf("volume %s: secret %+v; the docs create one named pallium, from which each pod mounts the keys that it needs", v.Name, *v.Secret)
		}
		if v.EmptyDir != nil && v.EmptyDir.SizeLimit == "" {
			t.Errorf("volume %s has no sizeLimit", v.Name)
		}
	}
	for _, e := range p.Containers[0].EnvFrom {
		if c.find("ConfigMap", e.ConfigMapRef.Name) == nil {
			t.Errorf("envFrom: ConfigMap %q does not exist", e.ConfigMapRef.Name)
		}
	}
}

func TestServices(t *testing.T) {
	for _, b := range complete {
		c := build(t, b)
		c.each(t, func(t *testing.T, s *manifest) {
			if err := c.checkService(t, s); err != nil {
				t.Error(err)
			}
		}, "Service")
	}
}

func (c *cluster) checkService(t *testing.T, s *manifest) error {
	found := false
	for _, m := range c.servers() {
		if !s.selects(t).matches(m.podLabels()) {
			continue
		}
		found = true
		for _, p := range s.Spec.Ports {
			if got := m.Spec.Template.Spec.Containers[0].port(p.TargetPort); got != p.Port {
				return fmt.Errorf("port %d refers to %q of %s, which is port %d", p.Port, p.TargetPort, m.Metadata.Name, got)
			}
		}
	}
	if !found {
		return fmt.Errorf("the service selects no pods")
	}
	return nil
}

// TestDisruptionBudgets checks that each pod has exactly one disruption budget: a pod with two
// cannot be evicted, and pods without one may all be evicted at once.
func TestDisruptionBudgets(t *testing.T) {
	for _, b := range complete {
		c := build(t, b)
		used := map[string]bool{}
		for _, m := range c.servers() {
			var over []string
			c.each(t, func(t *testing.T, p *manifest) {
				if p.Spec.MaxUnavailable != 1 {
					t.Errorf("maxUnavailable is %d", p.Spec.MaxUnavailable)
				}
				if p.selects(t).matches(m.podLabels()) {
					over = append(over, p.Metadata.Name)
					used[p.Metadata.Name] = true
				}
			}, "PodDisruptionBudget")
			if len(over) != 1 {
				t.Errorf("%s: %s is selected by the budgets %v", b, m.Metadata.Name, over)
			}
		}
		c.each(t, func(t *testing.T, p *manifest) {
			if !used[p.Metadata.Name] {
				t.Error("the budget selects no pods")
			}
		}, "PodDisruptionBudget")
	}
}

func TestZones(t *testing.T) {
	c := build(t, "overlays/production")
	zones, places := map[string]bool{}, map[string]bool{}
	for _, m := range c.servers() {
		if m.component() != "ingester" {
			continue
		}
		p := &m.Spec.Template.Spec
		zone := m.podLabels()["zone"]
		zones[zone], places[p.NodeSelector["topology.kubernetes.io/zone"]] = true, true
		if env := c.environment(t, m); env["ZONE"] != zone || zone == "" {
			t.Errorf("%s: ZONE is %q, the label zone %q", m.Metadata.Name, env["ZONE"], zone)
		}
		if m.Spec.UpdateStrategy.Type != "OnDelete" {
			t.Errorf("%s: a change restarts one pod of every zone at once (updateStrategy %q)", m.Metadata.Name, m.Spec.UpdateStrategy.Type)
		}
		budget := c.find("PodDisruptionBudget", "ingester")
		if budget == nil || !budget.selects(t).matches(m.podLabels()) {
			t.Errorf("%s: no disruption budget named ingester selects it", m.Metadata.Name)
		}
	}
	if len(zones) != 3 || len(places) != 3 || places[""] {
		t.Errorf("zones %v at %v, want three of each, because there are three replicas", zones, places)
	}
}

// TestFrontends checks that there are at least two query frontends, and that they do not run in the
// processes of queriers: a query may crash a querier, and frontends remember which queries did.
func TestFrontends(t *testing.T) {
	for _, b := range complete {
		c := build(t, b)
		found := 0
		for _, m := range c.servers() {
			if !m.ours() || m.component() == "gateway" {
				continue
			}
			has := targets(t, &m.Spec.Template.Spec.Containers[0])
			if !has["query-frontend"] {
				continue
			}
			found++
			if has["querier"] {
				t.Errorf("%s: %s has queriers in the processes of query frontends", b, m.Metadata.Name)
			}
			if m.Spec.Replicas == nil || *m.Spec.Replicas < 2 {
				t.Errorf("%s: %s has fewer than two replicas", b, m.Metadata.Name)
			}
		}
		if found != 1 {
			t.Errorf("%s: %d workloads have the role query-frontend", b, found)
		}
	}
}

// TestAlertmanagers checks that there are at least three Alertmanager replicas, spread over zones and nodes, and that
// they are not stopped together.
func TestAlertmanagers(t *testing.T) {
	for _, b := range complete {
		c := build(t, b)
		m := c.find("Deployment", "alertmanager")
		if m == nil || !targets(t, &m.Spec.Template.Spec.Containers[0])["alertmanager"] {
			t.Fatalf("%s: no deployment alertmanager has the role", b)
		}
		if m.Spec.Replicas == nil || *m.Spec.Replicas < 3 {
			t.Errorf("%s: fewer than three replicas", b)
		}
		if len(m.Spec.Template.Spec.Spread) < 2 {
			t.Errorf("%s: replicas are not spread over zones and nodes", b)
		}
	}
}

func TestAutoscalers(t *testing.T) {
	c := build(t, "overlays/production")
	c.each(t, func(t *testing.T, h *manifest) {
		m := c.find(h.Spec.ScaleTargetRef.Kind, h.Spec.ScaleTargetRef.Name)
		if m == nil {
			t.Fatalf("the target %+v does not exist", h.Spec.ScaleTargetRef)
		}
		if m.Spec.Replicas != nil {
			t.Errorf("the target sets %d replicas: each apply would reset the scaling", *m.Spec.Replicas)
		}
		if m.component() == "ingester" {
			t.Error("ingesters must not be scaled automatically")
		}
	}, "HorizontalPodAutoscaler")
}

func TestMonitor(t *testing.T) {
	c := build(t, "overlays/production")
	c.each(t, func(t *testing.T, m *manifest) {
		s := c.find("Service", "metrics")
		if s == nil || !m.selects(t).matches(s.Metadata.Labels) {
			t.Fatal("the service metrics does not exist, or the monitor does not select it")
		}
		for _, e := range m.Spec.Endpoints {
			if !slices.ContainsFunc(s.Spec.Ports, func(p servicePort) bool { return p.Name == e.Port }) {
				t.Errorf("the service has no port %q", e.Port)
			}
		}
		for _, w := range c.servers() {
			if w.ours() && !s.selects(t).matches(w.podLabels()) {
				t.Errorf("%s is not scraped", w.Metadata.Name)
			}
		}
		c.each(t, func(t *testing.T, other *manifest) {
			if other != s && m.selects(t).matches(other.Metadata.Labels) {
				t.Error("the pods are scraped twice")
			}
		}, "Service")
	}, "ServiceMonitor")
}

var secretName = regexp.MustCompile(`TOKEN|SECRET|PASSWORD|PEPPER`)

func TestNoSecrets(t *testing.T) {
	for _, b := range built {
		c := build(t, b)
		if i := slices.IndexFunc(c.manifests, func(m manifest) bool { return m.Kind == "Secret" }); i >= 0 {
			t.Errorf("%s contains the Secret %s", b, c.manifests[i].Metadata.Name)
		}
		c.each(t, func(t *testing.T, m *manifest) {
			for _, e := range m.Spec.Template.Spec.Containers[0].Env {
				if secretName.MatchString(e.Name) && !strings.HasSuffix(e.Name, "_FILE") {
					t.Errorf("environment variable %s", e.Name)
				}
			}
		}, "Deployment", "StatefulSet", "Job")
		c.each(t, func(t *testing.T, m *manifest) {
			for k := range m.Data {
				if secretName.MatchString(k) {
					t.Errorf("key %s", k)
				}
			}
		}, "ConfigMap")
	}
}
