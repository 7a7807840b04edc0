package deploy

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// composition contains the fields of compose.yaml that the tests check.
type composition struct {
	Services map[string]*service
	Secrets  map[string]struct{ File string }
	Volumes  map[string]any
}

type service struct {
	Image string
	Build *struct{ Context, Dockerfile, Target string }

	Command, Ports, Secrets, Volumes []string

	Environment map[string]string
	DependsOn   yaml.Node `yaml:"depends_on"` // a list, or a map with conditions
	Healthcheck yaml.Node
}

func readComposition(t *testing.T) composition {
	t.Helper()
	var c composition
	if err := yaml.Unmarshal(read(t, "compose.yaml"), &c); err != nil {
		t.Fatal(err)
	}
	if len(c.Services) == 0 {
		t.Fatal("compose.yaml has no services")
	}
	return c
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// dependencies returns the services that a service waits for, with the conditions.
func (s *service) dependencies(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	if s.DependsOn.IsZero() {
		return out
	}
	if s.DependsOn.Kind == yaml.SequenceNode {
		var list []string
		if err := s.DependsOn.Decode(&list); err != nil {
			t.Fatal(err)
		}
		for _, name := range list {
			out[name] = "service_started"
		}
		return out
	}
	var conditions map[string]struct{ Condition string }
	if err := s.DependsOn.Decode(&conditions); err != nil {
		t.Fatal(err)
	}
	for name, c := range conditions {
		out[name] = c.Condition
	}
	return out
}

// TestCompose checks that everything to which compose.yaml refers exists.
func TestCompose(t *testing.T) {
	c := readComposition(t)
	stage := regexp.MustCompile(`(?m)^FROM \S+ AS (\S+)$`)
	for name, s := range c.Services {
		t.Run(name, func(t *testing.T) {
			for on, condition := range s.dependencies(t) {
				other := c.Services[on]
				if other == nil {
					t.Errorf("the service depends on %s, which does not exist", on)
				} else if condition == "service_healthy" && other.Healthcheck.IsZero() {
					t.Errorf("%s has no health check to wait for", on)
				}
			}
			for _, secret := range s.Secrets {
				if c.Secrets[secret].File == "" {
					t.Errorf("secret %s does not exist", secret)
				}
			}
			for _, v := range s.Volumes {
				from, _, _ := strings.Cut(v, ":")
				if strings.HasPrefix(from, "./") {
					if _, err := os.Stat(filepath.Join(root, from)); err != nil {
						t.Error(err)
					}
				} else if _, ok := c.Volumes[from]; !ok {
					t.Errorf("volume %s does not exist", from)
				}
			}
			for _, p := range s.Ports {
				if !strings.HasPrefix(p, "127.0.0.1:") {
					t.Errorf("port %s is open to other machines", p)
				}
			}
			if b := s.Build; b != nil {
				text := read(t, filepath.Join(b.Context, b.Dockerfile))
				if b.Target != "" && !slices.ContainsFunc(stage.FindAllSubmatch(text, -1), func(m [][]byte) bool { return string(m[1]) == b.Target }) {
					t.Errorf("%s has no target %s", b.Dockerfile, b.Target)
				}
			}
			if len(s.Command) > 0 && s.Command[0] == "backend" {
				s.checkSecrets(t)
			}
			if value := s.Environment["PALLIUM_ADMIN_TOKEN_FILE"]; value != "" && value != "/run/secrets/admin-token" {
				t.Errorf("admin token in %s", value)
			}
		})
	}
	for name, s := range c.Secrets {
		if text := string(read(t, s.File)); !strings.HasPrefix(text, "DEVELOPMENT-ONLY-") || len(strings.TrimSpace(text)) < 32 {
			t.Errorf("secret %s is not marked as one for development only, or too short", name)
		}
	}
}

// checkSecrets checks that a backend has the secrets that it needs, and no others.
func (s *service) checkSecrets(t *testing.T) {
	want, file, key := []string{"cluster-secret", "redis-password"}, "", ""
	if encrypts(s.targets(t)) {
		want, key = append(want, "secret-key"), "/run/secrets/secret-key"
	}
	if answers(s.targets(t)) {
		want, file = append(want, "results-redis-password"), "/run/secrets/results-redis-password"
	}
	if !slices.Equal(s.Secrets, want) {
		t.Errorf("a backend has the secrets %v, and needs %v", s.Secrets, want)
	}
	if got := s.Environment["PALLIUM_CACHE_REDIS_PASSWORD_FILE"]; got != file {
		t.Errorf("PALLIUM_CACHE_REDIS_PASSWORD_FILE is %q, want %q", got, file)
	}
	if got := s.Environment["PALLIUM_SECRET_KEY_FILE"]; got != key {
		t.Errorf("PALLIUM_SECRET_KEY_FILE is %q, want %q", got, key)
	}
}

// targets returns the roles of a backend.
func (s *service) targets(t *testing.T) map[string]bool {
	t.Helper()
	return targets(t, &container{Args: s.Command})
}

// TestComposeScrapes checks that Prometheus scrapes all processes of Pallium, and with
// their roles.
func TestComposeScrapes(t *testing.T) {
	c := readComposition(t)
	var prometheus struct {
		Scrapes []struct {
			Job    string `yaml:"job_name"`
			Static []struct {
				Targets []string
				Labels  map[string]string
			} `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal(read(t, "deploy/compose/prometheus.yaml"), &prometheus); err != nil {
		t.Fatal(err)
	}
	scraped := map[string]string{} // component by service
	for _, s := range prometheus.Scrapes {
		for _, one := range s.Static {
			for _, target := range one.Targets {
				if name, ok := strings.CutSuffix(target, ":9010"); ok && s.Job == "pallium" {
					scraped[name] = one.Labels["component"]
				}
			}
		}
	}
	for name, s := range c.Services {
		want := ""
		if len(s.Command) > 0 && s.Command[0] == "gateway" {
			want = "gateway"
		}
		if len(s.Command) > 0 && s.Command[0] == "backend" {
			want, _, _ = strings.Cut(strings.TrimPrefix(s.Command[1], "-target="), ",")
			if want == "distributor" {
				want = "backend" // with a querier
			}
		}
		if scraped[name] != want {
			t.Errorf("%s is scraped as %q, want %q", name, scraped[name], want)
		}
	}
}

// TestComposeConfigurations checks that Pallium accepts each service's configuration, and that the
// configuration matches the other services.
func TestComposeConfigurations(t *testing.T) {
	c := readComposition(t)
	zones, notifying, found, frontends := map[string]bool{}, map[string]bool{}, 0, 0
	for name, s := range c.Services {
		i := slices.Index(s.Command, "-config")
		if i < 0 {
			continue
		}
		found++
		t.Run(name, func(t *testing.T) {
			cfg := load(t, string(read(t, s.source(t, s.Command[i+1]))), s.Environment)
			for _, h := range slices.Concat(cfg.Upstream.URLs, cfg.Upstream.WriteURLs) {
				host, _, _ := strings.Cut(strings.TrimPrefix(h, "http://"), ":")
				other := c.Services[host]
				if other == nil {
					t.Fatalf("upstream %s is not a service", h)
				}
				if has := other.targets(t); !answers(has) && slices.Contains(cfg.Upstream.URLs, h) || !has["distributor"] && slices.Contains(cfg.writeURLs(), h) {
					t.Errorf("upstream %s does not have the roles", h)
				}
			}
			if s.Command[0] == "migrate" {
				return
			}
			if cfg.Cluster.Instance != name {
				t.Errorf("cluster.instance is %s", cfg.Cluster.Instance)
			}
			if s.Command[0] != "backend" {
				return
			}
			has := s.targets(t)
			if has["ingester"] {
				zones[cfg.Cluster.Zone] = true
			}
			if has["alertmanager"] {
				notifying[cfg.Cluster.Zone] = true
			}
			if has["query-frontend"] {
				frontends++
			}
			if answers(has) && (!cfg.Cluster.CacheRedis.Set() || cfg.Cluster.CacheRedis.Addresses[0] == cfg.Cluster.Redis.Addresses[0]) {
				t.Errorf("results are stored in %v, the ring in %v", cfg.Cluster.CacheRedis.Addresses, cfg.Cluster.Redis.Addresses)
			}
		})
	}
	if found != 16 || frontends != 2 || len(zones) != 3 || zones[""] || !maps.Equal(zones, notifying) {
		t.Errorf("%d services of Pallium, want 16; %d query frontends, want 2; ingesters in the zones %v, want 3, and Alertmanagers in the same, not %v",
			found, frontends, zones, notifying)
	}
}

// source returns the path in the repository of the file that a service has at a path.
func (s *service) source(t *testing.T, path string) string {
	t.Helper()
	for _, v := range s.Volumes {
		if p := strings.Split(v, ":"); p[1] == path {
			return p[0]
		}
	}
	t.Fatalf("nothing is mounted at %s", path)
	return ""
}

// TestVersions checks that versions which are written in two places are equal.
func TestVersions(t *testing.T) {
	makefile, emulators := string(read(t, "Makefile")), string(read(t, "deploy/compose/emulators.Dockerfile"))
	for variable, install := range map[string]string{
		"BIGTABLE_EMULATOR_VERSION": "cloud.google.com/go/bigtable/cmd/emulator@",
		"FAKE_GCS_SERVER_VERSION":   "github.com/fsouza/fake-gcs-server@",
	} {
		m := regexp.MustCompile(variable + ` := (\S+)`).FindStringSubmatch(makefile)
		if m == nil || !strings.Contains(emulators, install+m[1]+"\n") {
			t.Errorf("%s of the Makefile (%v) differs from emulators.Dockerfile", variable, m)
		}
	}
	gomod := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(string(read(t, "go.mod")))
	for _, f := range []string{"deploy/Dockerfile", "deploy/compose/emulators.Dockerfile"} {
		if !strings.Contains(string(read(t, f)), "FROM golang:"+gomod[1]+"-") {
			t.Errorf("%s does not build with Go %s", f, gomod[1])
		}
	}
	if a, b := read(t, "deploy/compose/redis.sh"), read(t, "deploy/kubernetes/overlays/small/redis.sh"); string(a) != string(b) {
		t.Error("the two redis.sh differ")
	}
}
