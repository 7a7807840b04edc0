// Package cluster is how processes of one cluster know each other: by secrets
// that all of them have, by certificates of an authority of their own, or both.
// A Member proves on each connection that its process belongs to the cluster, and
// signs what processes tell each other through places that others can write to.
// docs/cluster-trust.md has the protocol and what it protects against.
package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"os"
	"time"
)

// TLSFiles are the files of a process's certificate, its key, and the authority
// that signs those of all processes.
type TLSFiles struct {
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	CAFile   string `yaml:"ca_file"`
}

// Options say what makes a process a member. Secrets or TLS must be given.
type Options struct {
	Secrets *Secrets // may be nil
	TLS     TLSFiles
	// PlainText connects without encryption. Who can read or change what passes
	// between the processes reads and changes everything.
	PlainText bool
	// Now is the time by which certificates are valid.
	Now func() time.Time
}

// Member is this process as a member of its cluster.
type Member struct {
	secrets   *Secrets // nil with certificates only
	now       func() time.Time
	plain     bool
	cert      tls.Certificate
	authority *x509.CertPool // nil without certificates of one
}

// ErrNoProof is returned for a process of a cluster that has neither secrets nor
// certificates.
var ErrNoProof = errors.New("processes of a cluster must prove to each other who they are: " +
	"set PALLIUM_CLUSTER_SECRET (or _FILE) to the same value of 32 bytes or more everywhere, or cluster.tls to certificates of one authority")

// New reads the certificates, or makes one.
func New(o Options) (*Member, error) {
	m := &Member{secrets: o.Secrets, now: o.Now, plain: o.PlainText}
	if m.now == nil {
		m.now = time.Now
	}
	var err error
	switch {
	case o.TLS == (TLSFiles{}) && o.Secrets == nil:
		return nil, ErrNoProof
	case o.TLS == (TLSFiles{}):
		m.cert, err = selfSigned(m.now())
	case o.PlainText:
		return nil, errors.New("cluster.tls is set and cluster.insecure_plain_text is true: choose one of them")
	default:
		err = m.readFiles(o.TLS)
	}
	if err != nil {
		return nil, fmt.Errorf("cluster.tls: %w", err)
	}
	return m, nil
}

func (m *Member) readFiles(files TLSFiles) error {
	if files.CertFile == "" || files.KeyFile == "" || files.CAFile == "" {
		return errors.New("cert_file, key_file and ca_file are needed")
	}
	var err error
	if m.cert, err = tls.LoadX509KeyPair(files.CertFile, files.KeyFile); err != nil {
		return err
	}
	pem, err := os.ReadFile(files.CAFile)
	if err != nil {
		return err
	}
	m.authority = x509.NewCertPool()
	if !m.authority.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s has no certificate", files.CAFile)
	}
	return nil
}

// selfSigned makes a certificate that nobody can verify: it encrypts, and the
// proof by the secret is bound to the connection that it encrypts.
func selfSigned(now time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	// Its times are not looked at: clocks may be wrong.
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pallium process"},
		NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(50, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// config is that of connections in either direction. Only TLS 1.3 has keying
// material that two connections never share, whatever a peer does (RFC 9266).
func (m *Member) config(protocols []string) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{m.cert}, NextProtos: protocols,
		Time: m.now, SessionTicketsDisabled: true}
	if m.authority == nil {
		c.InsecureSkipVerify = true // the proof by the secret is what counts
		return c
	}
	c.RootCAs, c.ClientCAs, c.ClientAuth = m.authority, m.authority, tls.RequireAndVerifyClientCert
	return c
}
