package main

import (
	"context"
	"testing"
	"time"

	"github.com/palliumhq/pallium/policies/limits"
)

// TestLimitsOf checks that without the store the default retention is not used, since it may
// be shorter than the tenant's.
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
		t.Errorf("retention of an unknown tenant = %s, want the default", got)
	}
	if err := a.close(); err != nil {
		t.Error(err)
	}
	if got := a.limitsOf("acme"); got.Retention != 0 || got.MaxActiveSeries != limits.Default().MaxActiveSeries {
		t.Errorf("retention with a closed store = %s, want 0", got.Retention)
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
			t.Errorf("the URL of the edge for %+v is %s", tt, got)
		}
	}
}
