package deploy

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// environment returns the environment of a workload's container as Kubernetes creates
// it: the pod is named NAME-0, and $(NAME) is replaced by the value of an earlier
// variable.
func (c *cluster) environment(t *testing.T, m *manifest) map[string]string {
	t.Helper()
	env := map[string]string{}
	one := &m.Spec.Template.Spec.Containers[0]
	for _, e := range one.EnvFrom {
		if from := c.find("ConfigMap", e.ConfigMapRef.Name); from != nil {
			for k, v := range from.Data {
				env[k] = v
			}
		}
	}
	fields := map[string]string{"metadata.name": m.Metadata.Name + "-0", "metadata.namespace": "pallium", "status.podIP": "10.1.2.3"}
	for _, e := range one.Env {
		v := e.Value
		if e.ValueFrom != nil && e.ValueFrom.FieldRef != nil {
			v = fields[e.ValueFrom.FieldRef.FieldPath]
		}
		for k, known := range env {
			v = strings.ReplaceAll(v, "$("+k+")", known)
		}
		if strings.Contains(v, "$(") {
			t.Errorf("%s: %s=%s refers to a variable that is not set before it", m.Metadata.Name, e.Name, v)
		}
		env[e.Name] = v
	}
	return env
}

// mounted returns the volume that contains a path of a container, and the rest of the
// path.
func (m *manifest) mounted(file string) (v volume, rest string) {
	p := &m.Spec.Template.Spec
	for _, at := range p.Containers[0].VolumeMounts {
		if below, ok := strings.CutPrefix(file, at.MountPath+"/"); ok {
			i := slices.IndexFunc(p.Volumes, func(v volume) bool { return v.Name == at.Name })
			if i >= 0 {
				return p.Volumes[i], below
			}
		}
	}
	return volume{}, file
}

// config loads the configuration of a workload with Pallium.
func (c *cluster) config(t *testing.T, m *manifest) config {
	t.Helper()
	args := m.Spec.Template.Spec.Containers[0].Args
	i := slices.Index(args, "-config")
	if i < 0 || i+1 == len(args) {
		t.Fatalf("no -config in %v", args)
	}
	v, name := m.mounted(args[i+1])
	if v.ConfigMap == nil {
		t.Fatalf("%s is in no ConfigMap", args[i+1])
	}
	maps := c.find("ConfigMap", v.ConfigMap.Name)
	if maps == nil || maps.Data[name] == "" {
		t.Fatalf("ConfigMap %s has no %s", v.ConfigMap.Name, name)
	}
	return load(t, maps.Data[name], c.environment(t, m))
}

// config contains the fields of Pallium's configuration that must match the manifests.
type config struct {
	DataDir         string         `yaml:"data_dir"`
	Listen          string         `yaml:"listen"`
	AdminListen     string         `yaml:"admin_listen"`
	InternalListen  string         `yaml:"internal_listen"`
	RPCListen       string         `yaml:"rpc_listen"`
	ShutdownTimeout model.Duration `yaml:"shutdown_timeout"`
	Upstream        struct {
		URLs      []string `yaml:"urls"`
		WriteURLs []string `yaml:"write_urls"`
	} `yaml:"upstream"`
	Cluster struct {
		Instance    string `yaml:"instance"`
		Advertise   string `yaml:"advertise"`
		Zone        string `yaml:"zone"`
		Replication int    `yaml:"replication"`
		Redis       redis  `yaml:"redis"`
		CacheRedis  redis  `yaml:"cache_redis"`
	} `yaml:"cluster"`
	Store struct {
		Bigtable struct {
			Project string `yaml:"project"`
		} `yaml:"bigtable"`
		GCS struct {
			Bucket string `yaml:"bucket"`
		} `yaml:"gcs"`
	} `yaml:"store"`
}

type redis struct {
	Addresses []string `yaml:"addresses"`
}

// Set reports whether the server is configured.
func (r *redis) Set() bool { return len(r.Addresses) > 0 }

// load reads a configuration with the program and returns the effective one.
func load(t *testing.T, text string, env map[string]string) config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	binary := os.Getenv("PALLIUM")
	if binary == "" {
		t.Fatal("PALLIUM is not set: run `make deploy-check`")
	}
	cmd := exec.CommandContext(t.Context(), binary, "config", "show", "-config", file)
	cmd.Env = []string{}
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var cfg config
	if err == nil {
		err = yaml.Unmarshal(out, &cfg)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	return cfg
}

func port(address string) int {
	_, p, _ := net.SplitHostPort(address)
	n, _ := strconv.Atoi(p)
	return n
}

func TestConfigurations(t *testing.T) {
	for _, b := range complete {
		c := build(t, b)
		c.each(t, func(t *testing.T, m *manifest) {
			if m.Kind != "Job" && !m.ours() {
				return // Redis
			}
			cfg := c.config(t, m)
			one := &m.Spec.Template.Spec.Containers[0]
			if v, _ := m.mounted(cfg.DataDir + "/x"); v.EmptyDir == nil && !slices.ContainsFunc(m.Spec.VolumeClaimTemplates, func(c struct{ Metadata struct{ Name string } }) bool { return c.Metadata.Name == "data" }) {
				t.Errorf("data_dir %s is on no volume, and the root is read-only", cfg.DataDir)
			}
			switch one.Args[0] {
			case "migrate":
				if cfg.Store.Bigtable.Project == "" {
					t.Error("the workload would migrate a data directory")
				}
				return
			case "gateway":
				c.checkGateway(t, &cfg, one)
			case "backend":
				c.checkBackend(t, m, &cfg, one)
			default:
				t.Fatalf("command %q", one.Args[0])
			}
			checkStop(t, m, &cfg)
			c.checkSecrets(t, m)
			if got := one.port("admin"); got != port(cfg.AdminListen) || strings.HasPrefix(cfg.AdminListen, "127.") {
				t.Errorf("admin_listen is %s, the port %d", cfg.AdminListen, got)
			}
		}, "Deployment", "StatefulSet", "Job")
	}
}

func (c *cluster) checkGateway(t *testing.T, cfg *config, one *container) {
	if one.port("edge") != port(cfg.Listen) {
		t.Errorf("listen is %s, the port %d", cfg.Listen, one.port("edge"))
	}
	if len(cfg.Upstream.URLs) == 0 {
		t.Error("upstream.urls is empty")
	}
	if cfg.Cluster.Redis.Set() || !cfg.Cluster.CacheRedis.Set() {
		t.Error("the gateway must have the Redis for shares of rate limits, and no other")
	}
	for _, u := range cfg.Upstream.URLs {
		if err := c.serves(t, u, answers); err != nil {
			t.Errorf("upstream %s: %v", u, err)
		}
	}
	for _, u := range cfg.writeURLs() {
		if err := c.serves(t, u, func(has map[string]bool) bool { return has["distributor"] }); err != nil {
			t.Errorf("upstream of writes %s: %v", u, err)
		}
	}
}

// writeURLs returns the backends to which a gateway sends writes.
func (cfg *config) writeURLs() []string {
	if len(cfg.Upstream.WriteURLs) > 0 {
		return cfg.Upstream.WriteURLs
	}
	return cfg.Upstream.URLs
}

// answers reports whether a process with these roles answers queries, and therefore stores their
// results in Redis.
func answers(has map[string]bool) bool { return has["querier"] || has["query-frontend"] }

// encrypts reports whether a process with the roles uses secrets of receivers: to store them, or to send notifications.
func encrypts(has map[string]bool) bool { return answers(has) || has["alertmanager"] }

// serves checks that a URL refers to a service whose pods have the roles.
func (c *cluster) serves(t *testing.T, address string, can func(map[string]bool) bool) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	s := c.find("Service", u.Hostname())
	if s == nil {
		return fmt.Errorf("Service %q does not exist", u.Hostname())
	}
	if !slices.ContainsFunc(s.Spec.Ports, func(p servicePort) bool { return strconv.Itoa(p.Port) == u.Port() && p.TargetPort == "internal" }) {
		return fmt.Errorf("the service has no port %s to internal", u.Port())
	}
	for _, m := range c.servers() {
		if s.selects(t).matches(m.podLabels()) && !can(targets(t, &m.Spec.Template.Spec.Containers[0])) {
			return fmt.Errorf("%s does not have the role", m.Metadata.Name)
		}
	}
	return nil
}

func targets(t *testing.T, one *container) map[string]bool {
	t.Helper()
	for _, a := range one.Args {
		if list, ok := strings.CutPrefix(a, "-target="); ok {
			out := map[string]bool{}
			for _, name := range strings.Split(list, ",") {
				if !slices.Contains([]string{"distributor", "ingester", "compactor", "querier", "query-frontend", "ruler", "alertmanager"}, name) {
					t.Fatalf("unknown role %q", name)
				}
				out[name] = true
			}
			return out
		}
	}
	t.Fatalf("no -target in %v", one.Args)
	return nil
}

func (c *cluster) checkBackend(t *testing.T, m *manifest, cfg *config, one *container) {
	if one.port("internal") != port(cfg.InternalListen) || one.port("rpc") != port(cfg.RPCListen) || port(cfg.Cluster.Advertise) != port(cfg.RPCListen) {
		t.Errorf("internal_listen %s, rpc_listen %s, advertise %s; ports %+v", cfg.InternalListen, cfg.RPCListen, cfg.Cluster.Advertise, one.Ports)
	}
	if cfg.Cluster.Instance != m.Metadata.Name+"-0" || cfg.Cluster.Replication != 3 || !cfg.Cluster.Redis.Set() || cfg.Store.GCS.Bucket == "" || cfg.Store.Bigtable.Project == "" {
		t.Errorf("cluster %+v, store %+v", cfg.Cluster, cfg.Store)
	}
	if answers(targets(t, one)) && (!cfg.Cluster.CacheRedis.Set() || cfg.Cluster.CacheRedis.Addresses[0] == cfg.Cluster.Redis.Addresses[0]) {
		t.Errorf("results are stored in %v, the ring in %v", cfg.Cluster.CacheRedis.Addresses, cfg.Cluster.Redis.Addresses)
	}
	if !targets(t, one)["ingester"] {
		return
	}
	if m.Kind != "StatefulSet" {
		t.Error("an ingester needs a persistent disk and a stable name")
	}
	host, _, _ := net.SplitHostPort(cfg.Cluster.Advertise)
	if want := m.Metadata.Name + "-0." + m.Spec.ServiceName + ".pallium.svc"; host != want {
		t.Errorf("advertise is at %s, the pod is %s", host, want)
	}
	s := c.find("Service", m.Spec.ServiceName)
	if s == nil || s.Spec.ClusterIP != "None" {
		t.Errorf("service %s does not exist or is not headless", m.Spec.ServiceName)
	}
}

// checkStop checks that a pod is not killed while it drains and seals.
func checkStop(t *testing.T, m *manifest, cfg *config) {
	p := &m.Spec.Template.Spec
	need := time.Duration(cfg.ShutdownTimeout) + time.Duration(p.Containers[0].Lifecycle.PreStop.Sleep.Seconds)*time.Second
	if least := 10 * time.Minute; m.component() == "ingester" && time.Duration(cfg.ShutdownTimeout) < least {
		t.Errorf("shutdown_timeout is %s, sealing may take %s", cfg.ShutdownTimeout, least)
	}
	if have := time.Duration(p.TerminationGracePeriodSeconds) * time.Second; have < need {
		t.Errorf("terminationGracePeriodSeconds is %s, stopping may take %s", have, need)
	}
}

// checkSecrets checks that every secret's file is mounted, and that no pod has more
// secrets than it needs.
func (c *cluster) checkSecrets(t *testing.T, m *manifest) {
	want := []string{"PALLIUM_CLUSTER_SECRET_FILE", "PALLIUM_REDIS_PASSWORD_FILE"}
	if m.component() == "gateway" {
		want = []string{"PALLIUM_ADMIN_TOKEN_FILE", "PALLIUM_KEY_PEPPER_FILE", "PALLIUM_CLUSTER_SECRET_FILE", "PALLIUM_CACHE_REDIS_PASSWORD_FILE"}
	} else {
		has := targets(t, &m.Spec.Template.Spec.Containers[0])
		if encrypts(has) {
			want = append(want, "PALLIUM_SECRET_KEY_FILE")
		}
		if answers(has) {
			want = append(want, "PALLIUM_CACHE_REDIS_PASSWORD_FILE")
		}
	}
	env, items := c.environment(t, m), 0
	for _, name := range want {
		v, file := m.mounted(env[name])
		if v.Secret == nil || !slices.ContainsFunc(v.Secret.Items, func(i struct{ Key, Path string }) bool { return i.Path == file }) {
			t.Errorf("%s is %q, which is not mounted", name, env[name])
			continue
		}
		items = len(v.Secret.Items)
	}
	if items != len(want) {
		t.Errorf("the pod mounts %d secrets and needs %d", items, len(want))
	}
	for k, v := range env {
		if strings.HasSuffix(k, "_FILE") && strings.HasPrefix(k, "PALLIUM_") && !slices.Contains(want, k) {
			t.Errorf("the pod does not need %s=%s", k, path.Base(v))
		}
	}
}
