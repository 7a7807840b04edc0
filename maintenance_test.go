package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
)

// TestNoStore checks that migrate and verify do not create a missing store, because they would report
// that the empty store is up to date or consistent.
func TestNoStore(t *testing.T) {
	o := testOptions(All, nil, nil)
	for name, run := range map[string]func(Config) error{
		"migrate up":     func(c Config) error { return Migrate(t.Context(), c, o, false, io.Discard) },
		"migrate status": func(c Config) error { return Migrate(t.Context(), c, o, true, io.Discard) },
		"verify": func(c Config) error {
			return Verify(t.Context(), c, o, VerifyOptions{}, io.Discard, newProgressBar(io.Discard, time.Now))
		},
	} {
		cfg := testConfig(t)
		if err := run(cfg); err == nil || !strings.Contains(err.Error(), "no store in the data directory "+cfg.DataDir) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(cfg.DataDir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s created the data directory (%v)", name, err)
		}
	}
}

// TestVerifyUnknownTenant checks that a mistyped tenant is an error, not a tenant without findings.
func TestVerifyUnknownTenant(t *testing.T) {
	cfg := testConfig(t)
	p, err := open(t.Context(), cfg, testOptions(All, nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.close(); err != nil {
		t.Fatal(err)
	}
	v := VerifyOptions{Tenants: []tenant.ID{"nosuch"}}
	err = Verify(t.Context(), cfg, testOptions(All, nil, nil), v, io.Discard, newProgressBar(io.Discard, time.Now))
	if err == nil || !strings.Contains(err.Error(), `tenant "nosuch" has no data`) {
		t.Errorf("verify: %v", err)
	}
}
