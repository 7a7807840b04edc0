// Package cluster authenticates the processes of one cluster to each other: by secrets
// that all of them share, by certificates of the cluster's own authority, or by both. A
// Member proves on each connection that its process belongs to the cluster, and signs
// messages that processes exchange through stores that others can write to.
// docs/cluster-trust.md describes the protocol and the attacks that it prevents.
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

// TLSFiles are the files of a process's certificate, its key, and the certificate of the
// authority that signs the certificates of all processes.
type TLSFiles struct {
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	CAFile   string `yaml:"ca_file"`
}

// Options are the options of New. Secrets or TLS must be set.
type Options struct {
	Secrets *Secrets // may be nil
	TLS     TLSFiles
	// PlainText disables encryption. Anyone who can read or change the traffic
	// between the processes can then read and change all data.
	PlainText bool
	// Now returns the time at which certificates must be valid; nil: time.Now.
	Now func() time.Time
}

// Member is this process as a member of its cluster.
type Member struct {
	secrets   *Secrets // nil with certificates only
	now       func() time.Time
	plain     bool
	cert      tls.Certificate
	authority *x509.CertPool // nil without cluster.tls
}

// ErrNoProof is returned if a process of a cluster has neither secrets nor certificates.
var ErrNoProof = errors.New("processes of a cluster must authenticate each other: " +
	"set PALLIUM_CLUSTER_SECRET (or _FILE) to the same value of at least 32 bytes for all processes, or cluster.tls to certificates of " +
	"one authority")

// New returns a Member. It reads the certificates, or generates a self-signed one.
func New(o Options) (*Member, error) {
	m := &Member{secrets: o.Secrets, now: o.Now, plain: o.PlainText}
	if m.now == nil {
		m.now = time.Now
	}
	switch {
	case o.TLS == (TLSFiles{}) && o.Secrets == nil:
		return nil, ErrNoProof
	case o.TLS == (TLSFiles{}):
		var err error
		if m.cert, err = selfSigned(m.now()); err != nil {
			return nil, fmt.Errorf("generate a self-signed certificate: %w", err)
		}
	case o.PlainText:
		return nil, errors.New("cluster.tls is set and cluster.insecure_plain_text is true: remove one of them")
	default:
		if err := m.readFiles(o.TLS); err != nil {
			return nil, fmt.Errorf("cluster.tls: %w", err)
		}
	}
	return m, nil
}

func (m *Member) readFiles(files TLSFiles) error {
	if files.CertFile == "" || files.KeyFile == "" || files.CAFile == "" {
		return errors.New("cert_file, key_file and ca_file must all be set")
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
		return fmt.Errorf("%s contains no PEM certificate", files.CAFile)
	}
	return nil
}

// selfSigned returns a certificate that nobody can verify: it only encrypts. The proof by
// the secret is bound to the encrypted connection.
func selfSigned(now time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	// The validity is never checked, because clocks may be wrong.
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pallium process"},
		NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(50, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// config returns the TLS configuration of both directions. It requires TLS 1.3, because
// only its exported keying material is unique to a connection regardless of the peer (RFC
// 9266).
func (m *Member) config(protocols []string) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{m.cert}, NextProtos: protocols,
		Time: m.now, SessionTicketsDisabled: true}
	if m.authority == nil {
		c.InsecureSkipVerify = true // the peer is authenticated by its proof of the secret
		return c
	}
	c.RootCAs, c.ClientCAs, c.ClientAuth = m.authority, m.authority, tls.RequireAndVerifyClientCert
	return c
}
