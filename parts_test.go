package main

import (
	"context"
	"testing"
	"time"

	"github.com/palliumhq/pallium/policies/limits"
)

// TestLimitsOf: a store that does not answer must not make a tenant's data look
// older than its retention, which is what the defaults may do.
func TestLimitsOf(t *testing.T) {
	noLeaks(t)
	cfg := testConfig(t)
	week := limits.Duration(7 * 24 * time.Hour)
	if err := cfg.Limits.Set("retention", "7d"); err != nil {
		t.Fatal(err)
	}
	a, err := open(context.Background(), cfg, testOptions(All, nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	if got := a.limitsOf("unknown").Retention; got != week {
		t.Errorf("retention of a tenant that does not exist: %s", got)
	}
	if err := a.close(); err != nil {
		t.Error(err)
	}
	if got := a.limitsOf("acme"); got.Retention != 0 || got.MaxActiveSeries != limits.Default().MaxActiveSeries {
		t.Errorf("with a store that is closed: retention %s", got.Retention)
	}
}

func TestEdgeURL(t *testing.T) {
	tests := []struct{ external, listen, cert, want string }{
		{"", ":9009", "", "http://localhost:9009"},
		{"", "0.0.0.0:80", "", "http://localhost:80"},
		{"", "[::]:80", "", "http://localhost:80"},
		{"", "10.0.0.1:443", "c", "https://10.0.0.1:443"},
		{"", "[fe80::1]:443", "c", "https://[fe80::1]:443"},
		{"", "nonsense", "", "http://localhost:9009"},
		{"https://metrics.example.com/", ":9009", "", "https://metrics.example.com"},
	}
	for _, tt := range tests {
		a := process{cfg: Config{ExternalURL: tt.external, Listen: tt.listen, TLS: TLS{CertFile: tt.cert}}}
		if got := a.edgeURL(); got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}
