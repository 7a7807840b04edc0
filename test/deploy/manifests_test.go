// Package deploy checks deploy/ and compose.yaml beyond their schemas: Pallium itself
// must read the configuration files, names, ports and labels must match each other,
// and no secret may be in the repository. `make deploy-check` names the required
// tools.
package deploy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"go.yaml.in/yaml/v3"
)

const root = "../.."

// built contains the directories that are built and checked.
var built = []string{"base", "overlays/small", "overlays/production"}

// complete contains the directories that define whole clusters.
var complete = []string{"overlays/small", "overlays/production"}

// manifest is one Kubernetes object.
type manifest struct {
	Kind     string
	Metadata struct {
		Name        string
		Labels      map[string]string
		Annotations map[string]string
	}
	Data map[string]string
	Spec spec
}

// spec contains the fields of all kinds that the tests check.
type spec struct {
	Replicas       *int
	ServiceName    string                `yaml:"serviceName"`
	ClusterIP      string                `yaml:"clusterIP"`
	UpdateStrategy struct{ Type string } `yaml:"updateStrategy"`
	Selector       yaml.Node             // a map in a Service; other kinds have matchLabels
	Template       struct {
		Metadata struct{ Labels map[string]string }
		Spec     pod
	}
	Ports          []servicePort
	MaxUnavailable int                         `yaml:"maxUnavailable"`
	ScaleTargetRef struct{ Kind, Name string } `yaml:"scaleTargetRef"`
	PodSelector    selector                    `yaml:"podSelector"`
	PolicyTypes    []string                    `yaml:"policyTypes"`
	Ingress        []rule
	Egress         []egressRule
	Endpoints      []struct{ Port string }

	VolumeClaimTemplates []struct{ Metadata struct{ Name string } } `yaml:"volumeClaimTemplates"`
}

type selector struct {
	MatchLabels      map[string]string `yaml:"matchLabels"`
	MatchExpressions []struct {
		Key, Operator string
		Values        []string
	} `yaml:"matchExpressions"`
}

func (s selector) matches(labels map[string]string) bool {
	for _, e := range s.MatchExpressions {
		if e.Operator != "In" || !slices.Contains(e.Values, labels[e.Key]) {
			return false
		}
	}
	for k, v := range s.MatchLabels {
		if labels[k] != v {
			return false
		}
	}
	return true
}

type servicePort struct {
	Name       string
	Port       int
	TargetPort string `yaml:"targetPort"`
}

// rule is an ingress rule of a network policy.
type rule struct {
	From []struct {
		PodSelector       *selector `yaml:"podSelector"`
		NamespaceSelector *selector `yaml:"namespaceSelector"`
	}
	Ports []struct{ Port int }
}

// egressRule is an egress rule of a network policy.
type egressRule struct {
	To []struct {
		PodSelector       *selector `yaml:"podSelector"`
		NamespaceSelector *selector `yaml:"namespaceSelector"`
		IPBlock           *struct {
			CIDR   string
			Except []string
		} `yaml:"ipBlock"`
	}
	Ports []struct{ Port int }
}

type pod struct {
	ServiceAccountName            string            `yaml:"serviceAccountName"`
	AutomountServiceAccountToken  *bool             `yaml:"automountServiceAccountToken"`
	TerminationGracePeriodSeconds int               `yaml:"terminationGracePeriodSeconds"`
	Spread                        []struct{}        `yaml:"topologySpreadConstraints"`
	NodeSelector                  map[string]string `yaml:"nodeSelector"`
	SecurityContext               struct {
		RunAsNonRoot   bool                  `yaml:"runAsNonRoot"`
		RunAsUser      int                   `yaml:"runAsUser"`
		SeccompProfile struct{ Type string } `yaml:"seccompProfile"`
	} `yaml:"securityContext"`
	InitContainers []container `yaml:"initContainers"`
	Containers     []container
	Volumes        []volume
}

type volume struct {
	Name      string
	ConfigMap *struct {
		Name     string
		Optional bool
	} `yaml:"configMap"`
	Secret *struct {
		SecretName string `yaml:"secretName"`
		Items      []struct{ Key, Path string }
	}
	EmptyDir *struct {
		SizeLimit string `yaml:"sizeLimit"`
	} `yaml:"emptyDir"`
}

type container struct {
	Name, Image   string
	Command, Args []string
	Env           []struct {
		Name, Value string
		ValueFrom   *struct {
			FieldRef *struct {
				FieldPath string `yaml:"fieldPath"`
			} `yaml:"fieldRef"`
		} `yaml:"valueFrom"`
	}
	EnvFrom []struct {
		ConfigMapRef struct{ Name string } `yaml:"configMapRef"`
	} `yaml:"envFrom"`
	Ports []struct {
		Name          string
		ContainerPort int `yaml:"containerPort"`
	}
	StartupProbe   *probe `yaml:"startupProbe"`
	LivenessProbe  *probe `yaml:"livenessProbe"`
	ReadinessProbe *probe `yaml:"readinessProbe"`
	Lifecycle      struct {
		PreStop struct{ Sleep struct{ Seconds int } } `yaml:"preStop"`
	}
	Resources       struct{ Requests, Limits map[string]string }
	SecurityContext struct {
		AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
		ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
		Privileged               bool
		Capabilities             struct{ Drop, Add []string }
	} `yaml:"securityContext"`
	VolumeMounts []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
		ReadOnly  bool   `yaml:"readOnly"`
	} `yaml:"volumeMounts"`
}

type probe struct {
	PeriodSeconds    int                          `yaml:"periodSeconds"`
	FailureThreshold int                          `yaml:"failureThreshold"`
	HTTPGet          *struct{ Path, Port string } `yaml:"httpGet"`
	TCPSocket        *struct{ Port string }       `yaml:"tcpSocket"`
	Exec             *struct{ Command []string }
}

// cluster contains the objects that one directory builds.
type cluster struct {
	text      []byte
	manifests []manifest
}

// build runs kustomize on a directory under deploy/kubernetes.
func build(t *testing.T, directory string) cluster {
	t.Helper()
	c, err := kustomize(directory)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func kustomize(directory string) (cluster, error) {
	tool := os.Getenv("KUSTOMIZE")
	if tool == "" {
		return cluster{}, errors.New("KUSTOMIZE is not set: run make deploy-check")
	}
	var stderr bytes.Buffer
	cmd := exec.Command(tool, "build", filepath.Join(root, "deploy/kubernetes", directory))
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		return cluster{}, fmt.Errorf("build %s: %w\n%s", directory, err, &stderr)
	}
	c := cluster{text: text}
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var m manifest
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			return c, nil
		} else if err != nil {
			return cluster{}, fmt.Errorf("decode the objects of %s: %w", directory, err)
		}
		c.manifests = append(c.manifests, m)
	}
}

func (c *cluster) each(t *testing.T, fn func(*testing.T, *manifest), kinds ...string) {
	t.Helper()
	found := false
	for i := range c.manifests {
		for _, k := range kinds {
			if m := &c.manifests[i]; m.Kind == k {
				found = true
				t.Run(m.Kind+"/"+m.Metadata.Name, func(t *testing.T) { fn(t, m) })
			}
		}
	}
	if !found {
		t.Errorf("no object has one of the kinds %v", kinds)
	}
}

// find returns an object, or nil.
func (c *cluster) find(kind, name string) *manifest {
	for i := range c.manifests {
		if m := &c.manifests[i]; m.Kind == kind && m.Metadata.Name == name {
			return m
		}
	}
	return nil
}

// servers returns the workloads that run permanently.
func (c *cluster) servers() []*manifest {
	var out []*manifest
	for i := range c.manifests {
		if m := &c.manifests[i]; m.Kind == "Deployment" || m.Kind == "StatefulSet" {
			out = append(out, m)
		}
	}
	return out
}

func (m *manifest) podLabels() map[string]string { return m.Spec.Template.Metadata.Labels }

func (m *manifest) component() string { return m.podLabels()["app.kubernetes.io/component"] }

// ours reports whether a workload runs Pallium.
func (m *manifest) ours() bool { return m.podLabels()["app.kubernetes.io/name"] == "pallium" }

// selects returns the selector of a Service or of any other kind.
func (m *manifest) selects(t *testing.T) selector {
	t.Helper()
	var s selector
	into := any(&s)
	if m.Kind == "Service" {
		into = &s.MatchLabels
	}
	if err := m.Spec.Selector.Decode(into); err != nil || len(s.MatchLabels) == 0 {
		t.Fatalf("%s %s selects nothing: %v", m.Kind, m.Metadata.Name, err)
	}
	return s
}
