package conn

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
)

// writePair writes a certificate with the serial number, and its key.
func writePair(t *testing.T, dir string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), DNSNames: []string{"edge"}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert": {Type: "CERTIFICATE", Bytes: cert}, "key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCertificate checks that a new certificate is used after Load, and that an
// unreadable one does not replace the old one.
func TestCertificate(t *testing.T) {
	dir := t.TempDir()
	c := &Certificate{CertFile: filepath.Join(dir, "cert"), KeyFile: filepath.Join(dir, "key")}
	if err := c.Load(); err == nil {
		t.Fatal("Load of missing files returned no error")
	}
	serial := func() int64 {
		t.Helper()
		pair, err := c.Get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return pair.Leaf.SerialNumber.Int64()
	}
	for i := int64(1); i <= 2; i++ {
		writePair(t, dir, i)
		if i > 1 && serial() != i-1 {
			t.Error("new files are used without Load")
		}
		if err := c.Load(); err != nil || serial() != i {
			t.Fatalf("serial number = %d, error %v; want %d", serial(), err, i)
		}
	}
	if err := os.WriteFile(c.KeyFile, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Load(); err == nil || serial() != 2 {
		t.Errorf("Load of a broken key = %v, serial number in use = %d", err, serial())
	}
}
