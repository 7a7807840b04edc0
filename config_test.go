package main

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
)

func environment(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := vars[name]
		return v, ok
	}
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pallium.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMalformedConfig checks the errors for mistakes in the file: they must contain the key, and
// how to correct the mistake.
func TestMalformedConfig(t *testing.T) {
	tests := []struct {
		name, text string
		say        []string
	}{
		{"unknown key", "listne: :1", []string{"line 1", "listne"}},
		{"unknown key below", "log:\n  lvl: info", []string{"line 2", "lvl"}},
		{"unknown limit", "limits:\n  max_series: 5", []string{"max_series", "did you mean"}},
		{"limit out of range", "limits:\n  max_active_series: -1", []string{"max_active_series", "-1"}},
		{"not a number", "ingester:\n  memory_bytes: lots", []string{"line 2", "lots"}},
		{"not a duration", "shutdown_timeout: soon", []string{"soon"}},
		{"not YAML", "a: [", []string{"line 1"}},
		{"not a mapping", "- a", []string{"line 1"}},
		{"twice", "listen: :1\nlisten: :2", []string{"line 2: listen appears twice, first in line 1"}},
		{"second document", "listen: :1\n---\nlog: {}", []string{"one", "---"}},
		{"variable", "listen: ${NOT_SET}\ndata_dir: ${NOR_THIS}", []string{"NOT_SET is not set", "NOR_THIS is not set"}},
		{"no data_dir", "data_dir: ''", []string{"data_dir is empty"}},
		{"no listen", "listen: ''", []string{"listen is empty", ":9009"}},
		{"no admin_listen", "admin_listen: ''", []string{"admin_listen is empty", "127.0.0.1:9010"}},
		{"half of TLS", "tls:\n  cert_file: x", []string{"cert_file and key_file"}},
		{"memory", "ingester:\n  memory_bytes: -1", []string{"ingester.memory_bytes is -1"}},
		{"interval", "self_monitoring:\n  interval: 10ms", []string{"self_monitoring.interval is 10ms", "at least 1s"}},
		{"shutdown", "shutdown_timeout: 0s", []string{"shutdown_timeout is 0s, it must be above zero"}},
		{"log level", "log:\n  level: loud", []string{`log.level is "loud"`, "debug, info, warn or error"}},
		{"log format", "log:\n  format: xml", []string{`log.format is "xml"`, "text or json"}},
		{"misspelt", "listen: :1\nlgo:\n  level: info", []string{`line 2: unknown key "lgo"; did you mean "log"?`}},
		{"misspelt below", "cluster:\n  redis:\n    adresses: [a]", []string{`line 3: unknown key "cluster.redis.adresses"; did you mean "addresses"?`}},
		{"nothing near", "log:\n  colour: red", []string{`line 2: unknown key "log.colour"; allowed here: level, format`}},
		{"nothing near on top", "prometheus: {}", []string{"line 1", `unknown key "prometheus"; allowed here: data_dir, listen`}},
		{"in a list", "auth:\n  issuers:\n    - issuer: a\n      audience: [b]", []string{"line 4", `unknown key "auth.issuers[0].audience"; did you mean "audiences"?`}},
		{"key of another section", "memory_bytes: 5", []string{"line 1", `unknown key "memory_bytes"`}},
		{"removed", "querier:\n  experimental_functions: true", []string{"line 2: querier.experimental_functions was removed",
			"limit promql_experimental_functions", "pallium limits set"}},
		{"two mistakes", "lsiten: :1\nlog:\n  level: info\n  fromat: json", []string{`line 1: unknown key "lsiten"`, `line 4: unknown key "log.fromat"`}},
		{"a section that is a list", "log: [info]", []string{"line 1: log must have keys (level, format), not a list"}},
		{"a section that is text", "store: gcs", []string{`line 1: store must have keys (bigtable, gcs, page_cache_bytes`, `not "gcs"`}},
		{"all is text", "hello", []string{"line 1: the configuration must have keys (data_dir,", `not "hello"`}},
		{"text that is a list", "listen: [a]", []string{"line 1: listen must be text, not a list"}},
		{"text that is keys", "listen: {port: 1}", []string{"line 1: listen must be text, not keys"}},
		{"a list that is text", "upstream:\n  urls: http://a", []string{`line 2: upstream.urls is "http://a"; it must be a list, such as [a, b]`}},
		{"a fraction", "ingester:\n  memory_bytes: 1.5", []string{`line 2: ingester.memory_bytes is "1.5"; it must be a whole number`}},
		{"a size with a unit", "ingester:\n  memory_bytes: 2GiB", []string{`line 2: ingester.memory_bytes is "2GiB"; it must be a whole number`}},
		{"not a switch", "self_monitoring:\n  disabled: maybe", []string{`line 2: self_monitoring.disabled is "maybe"; it must be true or false`}},
		{"a duration without a unit", "shutdown_timeout: 30", []string{`line 1: shutdown_timeout is "30"; it must be a duration such as 30s, 5m or 1h30m`}},
		{"a duration below", "compactor:\n  interval: often", []string{`line 2: compactor.interval is "often"; it must be a duration`}},
		{"a duration in a list", "auth:\n  issuers:\n    - leeway: soon", []string{`line 3: auth.issuers[0].leeway is "soon"; it must be a duration`}},
		{"limit that is no number", "limits:\n  retention: 5d\n  max_active_series: many", []string{"line 3", "limits: ", "max_active_series", "many", "whole number"}},
		{"limit without a unit", "limits:\n  retention: 5", []string{"line 2", "retention", "duration such as 90s"}},
		{"limit in camelCase", "limits:\n  maxActiveSeries: 5", []string{"line 2", `did you mean "max_active_series"?`}},
		{"limits that are a list", "limits: [retention]", []string{"line 1: limits must be limits with their values", "pallium limits describe"}},
		{"a key twice below", "log:\n  level: info\n  level: warn", []string{"log.level appears twice, first in line 2", "line 3"}},
		{"a tab", "log:\n\tlevel: info", []string{"line 2"}},
		{"an open quote", "listen: \":1\nlog: {}", []string{"line"}},
		{"log level with its line", "listen: :1\nlog:\n  level: loud", []string{`line 3: log.level is "loud"`}},
		{"cluster with its line", "listen: :1\ncluster:\n  replication: 2", []string{"line 3", "replication"}},
		{"variable with its line", "listen: :1\n\ndata_dir: ${NOT_SET}", []string{"line 3: environment variable NOT_SET is not set"}},
		{"two values out of range", "shutdown_timeout: 0s\nlog:\n  level: loud\n  format: xml", []string{"line 1: shutdown_timeout", "line 3: log.level", "line 4: log.format"}},
		{"an alias to itself", "log: &a\n  level: info\n  <<: *a", []string{"log contains itself"}},
		{"aliases in a circle", "log: &a\n  <<: &b\n    <<: *a\n    level: info", []string{"log contains itself"}},
		{"negative in gateway", "gateway:\n  max_queued: -1\n  max_tenants: -2", []string{"line 2: gateway: max_queued", "line 3: gateway: max_tenants"}},
		{"proxies", "gateway:\n  trusted_proxies: [abc]", []string{"line 2: gateway: trusted_proxies", "10.0.0.0/8"}},
		{"header bytes", "gateway:\n  max_header_bytes: 1", []string{"line 2: gateway: max_header_bytes is 1"}},
		{"memory limit", "memory:\n  limit_bytes: 5", []string{"line 1: memory: the process has", "give it at least"}},
		{"listen without a port", "listen: foo", []string{`line 1: listen is "foo", it must be an address such as :9009`}},
		{"listen on no port", "listen: :70000", []string{`listen is ":70000"`}},
		{"the same address twice", "listen: :9010\nadmin_listen: :9010", []string{`line 2: admin_listen and listen are both ":9010"`}},
		{"external_url", "external_url: foo", []string{`line 1: external_url is "foo"`, "http(s)://host"}},
		{"external_url with a password", "external_url: ftp://u:hunter2@h", []string{`external_url is "ftp://u:xxxxx@h"`}},
		{"gcs alone", "store:\n  gcs:\n    bucket: b", []string{"store.gcs needs store.bigtable"}},
		{"items that are keys", "upstream:\n  write_urls: [{a: b}]", []string{"line 2: upstream.write_urls: the items must be text"}},
		{"URLs that are text, with a password", "upstream:\n  urls: http://u:hunter2@h", []string{`upstream.urls is "http://u:xxxxx@h"; it must be a list`}},
		{"a URL in the place of keys", "upstream: http://u:hunter2@h", []string{`not "http://u:xxxxx@h"`}},
		{"redis with a password", "cluster:\n  redis:\n    addresses: [\"redis://u:hunter2@h:1\"]", []string{"addresses", `"h:1"`}},
		{"a variable that is not a number", "ingester:\n  memory_bytes: ${SECRET}", []string{`line 2: ingester.memory_bytes is "${SECRET}"; it must be a whole number`}},
		{"a variable in the place of keys", "log: ${SECRET}", []string{`not "${SECRET}"`}},
		{"a variable that adds keys", "data_dir: ${LINES}\nlog:\n  level: loud", []string{"line 3: log.level"}},
		{"negative memory of requests", "memory:\n  limit_bytes: 0\n  request_bytes: -5", []string{"line 3: memory.request_bytes is -5"}},
		{"negative memory", "memory:\n  request_bytes: -5\n  limit_bytes: -6", []string{"line 2: memory.request_bytes is -5", "line 3: memory.limit_bytes is -6"}},
		{"negative caches", "store:\n  page_cache_bytes: 1\n  table_cache_bytes: -2\n  max_query_bytes: -3", []string{"line 3: store.table_cache_bytes is -2", "line 4: store.max_query_bytes is -3"}},
		{"negative cache and half a table", "store:\n  frame_cache_bytes: -1\n  bigtable: {project: p}", []string{"line 2: store.frame_cache_bytes is -1", "line 3: store.bigtable needs"}},
		{"negative cache of results", "frontend:\n  cache_bytes: -1", []string{"line 2: frontend.cache_bytes is -1"}},
		{"negative concurrency", "querier:\n  concurrency: -1", []string{"line 2: querier.concurrency is -1"}},
		{"negative connections", "gateway:\n  connections:\n    max: 5\n    per_network: -1", []string{"line 4: gateway: connections: per_network is -1"}},
		{"the default address again", "listen: 127.0.0.1:9010", []string{`line 1: listen and admin_listen are both "127.0.0.1:9010"`}},
		{"negative aside", "ingester:\n  aside_bytes: -5", []string{"line 2: ingester.aside_bytes is -5"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := writeFile(t, tt.text)
			c, err := LoadConfig(path, environment(map[string]string{"SECRET": "hunter2", "LINES": "a\nlog: {level: loud}\n# "}))
			if err == nil {
				err = c.Check()
			} else if !strings.Contains(err.Error(), path) {
				t.Errorf("%q does not name the file", err)
			}
			if err == nil {
				t.Fatal("the configuration was accepted")
			}
			for _, part := range tt.say {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q lacks %q", err, part)
				}
			}
			for _, internal := range []string{"main.", "authn.", "!!", "int64", "unmarshal", "struct", " yaml: ", "hunter2"} {
				if strings.Contains(err.Error(), internal) {
					t.Errorf("%q must not contain %q", err, internal)
				}
			}
		})
	}
	if _, err := LoadConfig(filepath.Join(t.TempDir(), "none"), environment(nil)); err == nil {
		t.Error("a file that does not exist is accepted")
	}
}

// TestTakenAddress checks that a start that fails because an address is in use writes nothing.
func TestTakenAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, set := range map[string]func(*Config){
		"edge": func(c *Config) { c.Listen = l.Addr().String() }, "admin": func(c *Config) { c.AdminListen = l.Addr().String() },
	} {
		cfg := testConfig(t)
		set(&cfg)
		if _, err := open(t.Context(), cfg, testOptions(All, nil, nil)); err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(cfg.DataDir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the data directory was created (%v)", name, err)
		}
	}
}

// TestVariables checks that variables are replaced in values and not in comments, and that $${
// becomes ${.
func TestVariables(t *testing.T) {
	env := environment(map[string]string{"DIR": "/data", "N": "7", "LIST": "[a, b]", "HASH": "x #y", "LINES": "/d\nlog: {level: debug}"})
	for name, text := range map[string]string{
		"in a comment after an apostrophe": "external_url: it's # ${OLD}\n",
		"lines":                            "data_dir: ${LINES}\n", "lines in quotes": "data_dir: \"${LINES}\"\n", "a comment sign": "data_dir: ${HASH}\n",
	} {
		c, err := LoadConfig(writeFile(t, text), env)
		if err != nil || c.Log.Level != "info" || strings.Contains(name, "lines") && c.DataDir != "/d\nlog: {level: debug}" ||
			strings.Contains(name, "sign") && c.DataDir != "x #y" {
			t.Errorf("%s: %+v %v", name, c, err)
		}
	}
	c, err := LoadConfig(writeFile(t, `# data_dir: ${OLD}
data_dir: "${DIR}/x" # was ${OLD}
ingester: {memory_bytes: ${N}}
admin_hosts: ${LIST}
external_url: 'http://a#b'
upstream: {urls: ["http://u/$${x}#${N}"]} #${OLD}
`), env)
	if err != nil || c.DataDir != "/data/x" || c.Ingester.MemoryBytes != 7 || len(c.AdminHosts) != 2 || c.ExternalURL != "http://a#b" ||
		c.Upstream.URLs[0] != "http://u/${x}#7" {
		t.Errorf("the configuration is %+v (%v)", c, err)
	}
}

func TestConfig(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "comment": "# nothing", "no file": "-"} {
		path := ""
		if text != "-" {
			path = writeFile(t, text)
		}
		c, err := LoadConfig(path, environment(nil))
		if err != nil || c.Check() != nil || c.Listen != ":9009" || c.AdminListen != "127.0.0.1:9010" || c.DataDir != "./data" {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	path := writeFile(t, "listen: ${HOST}:${PORT}\nlog: {level: debug}\nlimits: {max_active_series: 7, retention: 30d}\nself_monitoring: {interval: 1m}\n")
	c, err := LoadConfig(path, environment(map[string]string{"HOST": "localhost", "PORT": "80"}))
	if err != nil || c.Check() != nil {
		t.Fatal(err, c.Check())
	}
	if c.Listen != "localhost:80" || c.Log.Level != "debug" || c.Log.Format != "text" || c.Self.Interval != model.Duration(time.Minute) {
		t.Errorf("read %+v", c)
	}
}

// TestRejectedAtStart checks that a process with a mistake in its configuration does not start, and leaves nothing
// running or open.
func TestRejectedAtStart(t *testing.T) {
	table := Bigtable{Project: "p", Instance: "i"}
	tests := []struct {
		name string
		role Role
		set  func(*Config)
		env  map[string]string
		say  []string
	}{
		{"gateway without upstream", Gateway, func(*Config) {}, nil, []string{"upstream.urls is empty"}},
		{"upstream of all", All, func(c *Config) { c.Upstream.URLs = []string{"http://x"} }, nil, []string{"upstream.urls is set", "pallium gateway"}},
		{"upstream that is none", Gateway, func(c *Config) { c.Upstream.URLs = []string{"x:y:z"} }, secrets(), []string{"backend URL"}},
		{"gateway without admin token", Gateway, func(c *Config) { c.Upstream.URLs = []string{"http://x"} }, nil, []string{"admin token", "PALLIUM_ADMIN_TOKEN or PALLIUM_ADMIN_TOKEN_FILE"}},
		{"gateway without pepper", Gateway, func(c *Config) { c.Upstream.URLs = []string{"http://x"} }, map[string]string{"PALLIUM_ADMIN_TOKEN": long}, []string{"key pepper", "PALLIUM_KEY_PEPPER"}},
		{"token with a space", All, func(*Config) {}, map[string]string{"PALLIUM_ADMIN_TOKEN": long + " x"}, []string{"admin token", "contains a space"}},
		{"trusted proxies", All, func(c *Config) { c.Gateway.TrustedProxies = []string{"here"} }, nil, []string{"trusted_proxies", "here"}},
		{"certificate", All, func(c *Config) { c.TLS = TLS{CertFile: "/none", KeyFile: "/none"} }, nil, []string{"tls", "/none"}},
		{"data_dir is a file", All, func(c *Config) { c.DataDir = writeFile(t, "") }, nil, []string{"data_dir"}},
		{"backend without stores", Backend, func(*Config) {}, secrets(), []string{"store.bigtable and store.gcs", "no other process sees", "pallium all"}},
		{"backend without store.gcs", Backend, func(c *Config) { c.Store.Bigtable = table }, secrets(), []string{"store.bigtable and store.gcs"}},
		{"backend without store.bigtable", Backend, func(c *Config) { c.Store.GCS.Bucket = "b" }, secrets(), []string{"store.bigtable and store.gcs"}},
		{"all without store.gcs", All, func(c *Config) { c.Store.Bigtable = table }, nil, []string{"store.bigtable needs store.gcs"}},
		{"all without store.bigtable", All, func(c *Config) { c.Store.GCS.Bucket = "b" }, nil, []string{"store.gcs needs store.bigtable"}},
		{"gateway without store.bigtable", Gateway, func(c *Config) { c.Upstream.URLs, c.Store.GCS.Bucket = []string{"http://x"}, "b" }, secrets(), []string{"store.gcs needs store.bigtable"}},
		{"gateway of a cluster by its secret", Gateway, func(c *Config) { c.Upstream.URLs = []string{"http://x"} }, map[string]string{"PALLIUM_CLUSTER_SECRET": long}, []string{"gateway of a cluster", "store.bigtable"}},
		{"gateway of a cluster by its secret's file", Gateway, func(c *Config) { c.Upstream.URLs = []string{"http://x"} }, map[string]string{"PALLIUM_CLUSTER_SECRET_FILE": "/x"}, []string{"gateway of a cluster", "store.bigtable"}},
		{"gateway of a cluster by certificates", Gateway, func(c *Config) { c.Upstream.URLs, c.Cluster.TLS.CertFile = []string{"http://x"}, "/x" }, secrets(), []string{"gateway of a cluster", "store.bigtable"}},
		{"no address to listen on", All, func(c *Config) { c.Listen = "" }, nil, []string{"listen"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			noLeaks(t)
			cfg := testConfig(t)
			tt.set(&cfg)
			o := testOptions(tt.role, tt.env, nil)
			o.Targets = Targets{TargetCompactor: true}
			a, err := open(context.Background(), cfg, o)
			if err == nil {
				_ = a.close()
				t.Fatal("the process started")
			}
			if strings.Contains(err.Error(), "store.") {
				if _, err := os.Stat(cfg.DataDir); err == nil {
					t.Error("a data directory was created")
				}
			}
			for _, part := range tt.say {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q lacks %q", err, part)
				}
			}
			for _, internal := range []string{"main.", "authn.", "!!", "int64", "unmarshal", "struct", " yaml: "} {
				if strings.Contains(err.Error(), internal) {
					t.Errorf("%q must not contain %q", err, internal)
				}
			}
		})
	}
}

const long = "0123456789abcdef0123456789abcdef"

func TestSecrets(t *testing.T) {
	s := secret{name: "X", file: "x", make: true}
	file := func(text string) string { return writeFile(t, text) }
	tests := []struct {
		name   string
		stored string // in the data directory's file; "" means no file
		env    map[string]string
		make   bool
		value  string
		say    []string // of the error
	}{
		{"environment", "", map[string]string{"X": long}, true, long, nil},
		{"environment before file", long + "file", map[string]string{"X": long}, true, long, nil},
		{"environment, short", "", map[string]string{"X": "brief"}, true, "", []string{"in X has 5 bytes", "at least 32", "openssl"}},
		{"environment, empty", "", map[string]string{"X": ""}, true, "", []string{"in X has 0 bytes"}},
		{"_FILE", "", map[string]string{"X_FILE": file(long + "\n")}, true, long, nil},
		{"_FILE, short", "", map[string]string{"X_FILE": file("brief\n")}, true, "", []string{"has 5 bytes"}},
		{"_FILE, missing", "", map[string]string{"X_FILE": "/none"}, true, "", []string{"X_FILE", "/none"}},
		{"environment before _FILE", "", map[string]string{"X": long, "X_FILE": "/none"}, true, long, nil},
		{"data directory", long + "\n", nil, false, long, nil},
		{"data directory, short", "brief", nil, true, "", []string{"has 5 bytes"}},
		{"none, and not to be generated", "", nil, false, "", []string{"set X or X_FILE"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if tt.stored != "" {
				if err := os.WriteFile(filepath.Join(dir, "x"), []byte(tt.stored), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			s.make = tt.make
			value, _, made, err := s.load(dir, environment(tt.env))
			if made || value != tt.value || (err == nil) != (len(tt.say) == 0) {
				t.Fatalf("%q, made %v, %v", value, made, err)
			}
			for _, part := range tt.say {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q lacks %q", err, part)
				}
			}
			if err != nil && strings.Contains(err.Error(), "brief") {
				t.Errorf("%q contains the secret", err)
			}
		})
	}
}

// TestSecretIsGenerated checks that a secret is generated once, in a file that only its owner
// can read, even if a temporary file exists.
func TestSecretIsGenerated(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x.tmp"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	s := secret{name: "X", file: "x", make: true}
	value, path, made, err := s.load(dir, environment(nil))
	if err != nil || !made || len(value) < minSecretBytes || path != filepath.Join(dir, "x") {
		t.Fatalf("path %q, made %v, %v", path, made, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	again, _, made, err := s.load(dir, environment(nil))
	if err != nil || made || again != value {
		t.Errorf("second time: made %v, %v", made, err)
	}
	other, _, _, err := s.load(t.TempDir(), environment(nil))
	if err != nil || other == value {
		t.Errorf("two secrets are the same, or %v", err)
	}
	_ = fs.WalkDir(os.DirFS(dir), ".", func(p string, d fs.DirEntry, _ error) error {
		if !d.IsDir() && p != "x" {
			t.Errorf("unexpected file %s", p)
		}
		return nil
	})
}

// secrets returns an environment with both secrets of an edge.
func secrets() map[string]string {
	return map[string]string{"PALLIUM_ADMIN_TOKEN": long + "token", "PALLIUM_KEY_PEPPER": long + "pepper"}
}
