package malformed

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/kit/programs"
)

// check compares exit code and output of a process with the expected ones.
func check(t *testing.T, code, want int, out, says string) {
	t.Helper()
	if code != want {
		t.Errorf("exit code = %d, want %d: %s", code, want, out)
	}
	for _, word := range strings.Split(says, "|") {
		if !strings.Contains(out, word) {
			t.Errorf("the output does not contain %q: %s", word, out)
		}
	}
	if strings.Contains(out, "goroutine") {
		t.Errorf("the process panicked: %s", out)
	}
}

// TestConfiguration starts servers with wrong configuration files: none may start.
func TestConfiguration(t *testing.T) {
	rows := []struct {
		name, yaml string
		code       int
		says       string
	}{
		{"unknown key", "colour: red", 2, "colour|line 1"},
		{"unknown nested key", "gateway:\n  max_queud: 5", 2, "max_queud|line 2"},
		{"key twice", "listen: ':1'\nlisten: ':2'", 2, "listen|line 2"},
		{"wrong type", "gateway: {max_in_flight: many}", 2, "gateway.max_in_flight|many|a whole number"},
		{"a list for a map", "gateway: [1]", 2, "line 1"},
		{"text for a list", "upstream: {urls: {a: b}}", 2, "line 1"},
		{"bad YAML", "listen: [", 2, "yaml"},
		{"tabs", "gateway:\n\tmax_queued: 1", 2, "line 2"},
		{"binary", "\x00\x01\x02", 2, "control characters"},
		{"only text", "hello", 2, "line 1"},
		{"missing variable", "external_url: ${PALLIUM_NOWHERE}", 2, "PALLIUM_NOWHERE|not set"},
		{"bad duration", "shutdown_timeout: soon", 2, "soon"},
		{"zero duration", "shutdown_timeout: 0s", 2, "shutdown_timeout"},
		{"negative memory", "ingester: {memory_bytes: -1}", 2, "ingester.memory_bytes|-1"},
		{"bad level", "log: {level: loud}", 2, "log.level|loud|debug"},
		{"bad format", "log: {format: xml}", 2, "log.format|xml|json"},
		{"half of TLS", "tls: {cert_file: a.pem}", 2, "cert_file|key_file"},
		{"TLS without files", "tls: {cert_file: /nowhere/a.pem, key_file: /nowhere/a.key}", 1, "/nowhere/a.pem"},
		{"unknown limit", "limits: {max_actve_series: 5}", 2, "max_actve_series|max_active_series"},
		{"negative limit", "limits: {max_active_series: -5}", 2, "max_active_series|-5"},
		{"limit of a wrong type", "limits: {retention: 5}", 2, "retention"},
		{"too short monitoring interval", "self_monitoring: {interval: 1ms}", 2, "self_monitoring.interval|1s"},
		{"bad proxy", "gateway: {trusted_proxies: [everyone]}", 2, "trusted_proxies|everyone"},
		{"issuer without keys", "auth: {issuers: [{issuer: https://a, audiences: [b]}]}", 1, "https://a|keys"},
		{"issuer without audience", "auth: {issuers: [{issuer: https://a, keys: {jwks_file: x}}]}", 1, "audience"},
		{"issuer with no algorithm", "auth: {issuers: [{issuer: https://a, audiences: [b], algorithms: [none], keys: {jwks_file: x}}]}", 1, "none"},
		{"issuer with a missing file", "auth: {issuers: [{issuer: https://a, audiences: [b], keys: {jwks_file: /nowhere/jwks.json}}]}", 1, "/nowhere/jwks.json"},
		{"bad listen", "listen: nowhere", 2, "listen|nowhere"},
		{"bad admin_listen", "admin_listen: '127.0.0.1:99999999'", 2, "admin_listen|99999999"},
		{"data_dir that is a file", "data_dir: /dev/null", 1, "data_dir|/dev/null"},
		{"empty data_dir", "data_dir: ''", 2, "data_dir"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "pallium.yaml")
			if err := os.WriteFile(path, []byte(r.yaml+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			args := []string{"all", "-config", path}
			for flag, value := range map[string]string{"data_dir": filepath.Join(dir, "data"), "listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0"} {
				if !strings.HasPrefix(r.yaml, flag+":") {
					args = append(args, "-"+strings.ReplaceAll(flag, "_", "-"), value)
				}
			}
			code, out := programs.RunPallium(t, 30*time.Second, nil, args...)
			check(t, code, r.code, out, r.says)
		})
	}
}

// TestStart checks the errors of servers with wrong arguments, secrets and files.
func TestStart(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	rows := []struct {
		name, env, args string
		code            int
		says            string
	}{
		{"unknown command", "", "frobnicate", 2, "frobnicate|pallium help"},
		{"unknown flag", "", "all -colour red", 2, "-colour"},
		{"too many arguments", "", "all now", 2, `"now"`},
		{"no such file", "", "all -config " + dir + "/nowhere.yaml", 2, "nowhere.yaml"},
		{"a directory", "", "all -config " + dir, 2, "is a directory"},
		{"gateway without upstream", "", "gateway -data-dir " + data, 1, "upstream.urls"},
		{"short admin token", "PALLIUM_ADMIN_TOKEN=short", "all -data-dir " + data, 1, "PALLIUM_ADMIN_TOKEN|32"},
		{"empty admin token", "PALLIUM_ADMIN_TOKEN=", "all -data-dir " + data, 1, "PALLIUM_ADMIN_TOKEN|32"},
		{"missing token file", "PALLIUM_ADMIN_TOKEN_FILE=/nowhere/token", "all -data-dir " + data, 1, "/nowhere/token"},
		{"short pepper", "PALLIUM_KEY_PEPPER=short", "all -data-dir " + data, 1, "PALLIUM_KEY_PEPPER|32"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			args := strings.Fields(r.args)
			if args[0] == "all" && !strings.Contains(r.args, "-data-dir") {
				args = append(args[:1:1], append([]string{"-data-dir", data}, args[1:]...)...)
			}
			env := []string(nil)
			if r.env != "" {
				env = []string{r.env}
			}
			code, out := programs.RunPallium(t, 30*time.Second, env, args...)
			check(t, code, r.code, out, r.says)
		})
	}
}

// commands runs admin commands with wrong arguments. The wrong token comes last: the server
// limits clients that guess.
func commands(t *testing.T, b *bench) {
	rows := []struct {
		name, env, args string
		code            int
		says            string
	}{
		{"no verb", "", "tenant", 2, "needs a command|tenant create"},
		{"unknown verb", "", "tenant destroy x", 2, "tenant destroy|tenant list"},
		{"unknown flag", "", "tenant list -colour", 2, "unknown flag -colour|tenant list -h"},
		{"missing argument", "", "tenant create", 2, "NAME"},
		{"too many arguments", "", "tenant create a b", 2, "unexpected argument|after NAME"},
		{"bad output", "", "tenant list -o xml", 2, "xml|json"},
		{"quiet and JSON", "", "tenant list -q -o json", 2, "-q"},
		{"bad tenant", "", "tenant create a/b", 1, "a/b"},
		{"existing tenant", "", "tenant create team", 1, "exists"},
		{"unknown tenant", "", "tenant show nobody", 1, "nobody"},
		{"delete an unknown tenant", "", "tenant delete nobody", 1, "nobody"},
		{"unknown limit", "", "tenant create x -limit max_actve_series=5", 2, "max_active_series"},
		{"limit without a value", "", "limits set team retention", 2, "key=value"},
		{"bad limit", "", "limits set team retention=soon", 2, "retention|soon"},
		{"key without a name", "", "token issue -tenant team -scopes metrics:read", 2, "-name"},
		{"key without scopes", "", "token issue -tenant team -name x", 2, "-scopes"},
		{"key with a bad scope", "", "token issue -tenant team -name x -scopes metrics:all", 1, "metrics:all"},
		{"key with a bad expiry", "", "token issue -tenant team -name x -scopes metrics:read -expires soon", 2, "-expires|soon"},
		{"rotate an unknown token", "", "token rotate tk_nothing", 1, "tk_nothing"},
		{"bad grace", "", "token rotate tk_nothing -grace soon", 2, "-grace|soon"},
		{"revoke an unknown token", "", "token revoke tk_nothing", 1, "tk_nothing"},
		{"unknown policy", "", "policy show nothing", 1, "nothing"},
		{"bad URL", "", "tenant list -admin-url nonsense", 2, "-admin-url|nonsense"},
		{"no server", "", "tenant list -admin-url http://127.0.0.1:1", 1, "cannot be reached|-admin-url"},
		{"the edge for the admin API", "", "tenant list -admin-url " + b.p.Edge, 1, "admin listener"},
		{"no token file", "", "tenant list -data-dir /nowhere", 1, "PALLIUM_ADMIN_TOKEN|/nowhere"},
		{"wrong token", "PALLIUM_ADMIN_TOKEN=" + strings.Repeat("x", 43), "tenant list", 1, "PALLIUM_ADMIN_TOKEN"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			args := strings.Fields(r.args)
			if !strings.Contains(r.args, "-admin-url") {
				args = append(args, "-admin-url", b.p.Admin)
			}
			if !strings.Contains(r.args, "-data-dir") {
				args = append(args, "-data-dir", b.p.DataDir)
			}
			var env []string
			if r.env != "" {
				env = append(env, r.env)
			}
			code, out := programs.RunPallium(t, 30*time.Second, env, args...)
			check(t, code, r.code, out, r.says)
		})
	}
}
