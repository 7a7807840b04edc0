package redisconn

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	goredis "github.com/redis/go-redis/v9"
)

func TestCheck(t *testing.T) {
	one, two := []string{"redis:6379"}, []string{"a:1", "b:1"}
	for _, tt := range []struct {
		name string
		c    Config
		says string // "" means valid
	}{
		{"nothing", Config{}, ""},
		{"one server", Config{Addresses: one, Username: "u", DB: 2}, ""},
		{"sentinels", Config{Addresses: two, MasterName: "m"}, ""},
		{"a cluster", Config{Addresses: two, Cluster: true}, ""},
		{"TLS", Config{Addresses: one, TLS: TLS{Enabled: true}}, ""},
		{"no port", Config{Addresses: []string{"redis"}}, "must be host:port"},
		{"a user without a server", Config{Username: "u"}, "addresses is empty"},
		{"a database without a server", Config{DB: 1}, "addresses is empty"},
		{"TLS without a server", Config{TLS: TLS{Enabled: true}}, "addresses is empty"},
		{"sentinels of a cluster", Config{Addresses: two, MasterName: "m", Cluster: true}, "mutually exclusive"},
		{"two servers", Config{Addresses: two}, "more than one address"},
		{"a database of a cluster", Config{Addresses: two, Cluster: true, DB: 1}, "db must be 0"},
		{"negative database", Config{Addresses: one, DB: -1}, "db must not be negative"},
		{"no key", Config{Addresses: one, TLS: TLS{Enabled: true, CertFile: "c"}}, "both cert_file and key_file"},
		{"files without TLS", Config{Addresses: one, TLS: TLS{CAFile: "c"}}, "enabled is false"},
	} {
		err := tt.c.Check()
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if _, openErr := Open(tt.c, ""); err != nil && openErr == nil {
			t.Errorf("%s: Open succeeded", tt.name)
		}
	}
}

// TestOpen checks the options of clients: user and password, and that calls end with their
// context.
func TestOpen(t *testing.T) {
	c, err := Open(Config{Addresses: []string{"127.0.0.1:1"}, Username: "u", DB: 3}, "secret")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	o := c.(*goredis.Client).Options()
	if o.Username != "u" || o.Password != "secret" || o.DB != 3 || o.ReadTimeout != callTimeout || !o.ContextTimeoutEnabled || o.TLSConfig != nil {
		t.Errorf("options %+v", o)
	}
	if c, err := Open(Config{Addresses: []string{"a:1", "b:1"}, Cluster: true}, ""); err != nil {
		t.Error(err)
	} else if _, ok := c.(*goredis.ClusterClient); !ok {
		t.Errorf("client of a cluster is a %T", c)
	} else {
		_ = c.Close()
	}
}

func TestTLSFiles(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		tls  TLS
		says string
	}{
		"no file":        {TLS{Enabled: true, CAFile: "/none"}, "/none"},
		"no certificate": {TLS{Enabled: true, CAFile: empty}, "contains no certificate"},
		"no pair":        {TLS{Enabled: true, CertFile: empty, KeyFile: empty}, "redis: tls"},
	} {
		if _, err := Open(Config{Addresses: []string{"a:1"}, TLS: tt.tls}, ""); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
