package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn"
	"github.com/palliumhq/pallium/gateway/conn"
)

// certificateFiles returns the settings of a self-signed certificate in files.
func certificateFiles(t *testing.T) TLS {
	t.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	pair := s.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := TLS{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	for path, block := range map[string]*pem.Block{
		c.CertFile: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, c.KeyFile: {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// TestReload checks that the log says what a SIGHUP reloaded: nothing in a backend and in a gateway
// without issuers and certificate. If only one of the two can be read, that one is reloaded.
func TestReload(t *testing.T) {
	const nothing, complete, failed = `level=INFO msg="nothing to reload`, `level=INFO msg="reload complete" reloaded=`,
		`level=ERROR msg="reload failed: the previous versions stay in use" reloaded=`
	for _, tt := range []struct {
		name        string
		backend     bool
		issuer, tls bool
		broken      string // file to remove before the signal
		want        string
	}{
		{name: "a backend", backend: true, issuer: true, tls: true, want: nothing},
		{name: "neither", want: nothing},
		{name: "an issuer", issuer: true, want: complete + `"key sets of issuers"` + "\n"},
		{name: "a certificate", tls: true, want: complete + `"certificate of the edge"` + "\n"},
		{name: "both", issuer: true, tls: true, want: complete + `"key sets of issuers, certificate of the edge"` + "\n"},
		{name: "no key file", issuer: true, tls: true, broken: "secret", want: failed + `"certificate of the edge" err="key sets of issuers: `},
		{name: "no certificate", issuer: true, tls: true, broken: "cert", want: failed + `"key sets of issuers" err="certificate of the edge: `},
		{name: "nothing can be read", tls: true, broken: "cert", want: failed + `"" err="certificate of the edge: `},
	} {
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, nil))
		p := &process{}
		secret := writeFile(t, long)
		if tt.issuer {
			p.cfg.Auth.Issuers = []authn.IssuerConfig{{Issuer: "a", Audiences: []string{"b"}, Keys: authn.KeysConfig{SecretFile: secret}}}
		}
		if tt.tls {
			p.cfg.TLS = certificateFiles(t)
		}
		if !tt.backend {
			p.edge = &edge{}
			var err error
			p.edge.auth, err = authn.New(authn.Options{Config: p.cfg.Auth, Logger: logger, Registerer: prometheus.NewRegistry(), Now: time.Now})
			if err != nil {
				t.Fatal(err)
			}
			if tt.tls {
				p.edge.cert = &conn.Certificate{CertFile: p.cfg.TLS.CertFile, KeyFile: p.cfg.TLS.KeyFile}
			}
		}
		if path := map[string]string{"secret": secret, "cert": p.cfg.TLS.CertFile}[tt.broken]; path != "" {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		hangup := make(chan os.Signal, 1)
		stop := reloadOnHangup(p.reload, hangup, logger)
		hangup <- syscall.SIGHUP
		stop()
		if got := log.String(); !strings.Contains(got, tt.want) || strings.Count(got, "reload") != strings.Count(tt.want, "reload") {
			t.Errorf("%s: %s\nwant %s", tt.name, got, tt.want)
		}
	}
}
