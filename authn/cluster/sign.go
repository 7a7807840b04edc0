package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// The first byte of a signature is its kind.
const (
	byMAC         = 'm'
	byCertificate = 'c'
)

// ErrNotSigned is returned for data without a valid signature of a member of this cluster.
var ErrNotSigned = errors.New("not signed by a member of this cluster: the writer has a different PALLIUM_CLUSTER_SECRET or cluster.tls, " +
	"or does not belong to the cluster")

// ErrExpired is an ErrNotSigned: the data was signed with a certificate of the cluster that
// has expired.
var ErrExpired error = expiredError{}

// expiredError has a different text than ErrNotSigned, since the signer is a member of the cluster.
type expiredError struct{}

func (expiredError) Error() string {
	return "the certificate of the signing process has expired: renew it and restart that process"
}

// Is makes ErrExpired match ErrNotSigned.
func (expiredError) Is(target error) bool { return target == ErrNotSigned }

// maxChain bounds the number of certificates in a signature.
const maxChain = 8

// Sign signs the parts for a purpose: by a MAC if there are secrets, otherwise with this
// process's certificate. The result is printable.
func (m *Member) Sign(purpose string, parts ...string) (string, error) {
	if m.secrets != nil {
		return string(byMAC) + base64.RawURLEncoding.EncodeToString(m.secrets.MAC(purpose, parts...)), nil
	}
	signer, ok := m.cert.PrivateKey.(crypto.Signer)
	if !ok {
		return "", errors.New("sign: the certificate's key cannot sign")
	}
	message := joined(purpose, parts)
	var sig []byte
	var err error
	switch signer.Public().(type) {
	case ed25519.PublicKey:
		sig, err = signer.Sign(rand.Reader, message, crypto.Hash(0))
	case *rsa.PublicKey:
		sum := sha256.Sum256(message)
		sig, err = signer.Sign(rand.Reader, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256})
	default:
		sum := sha256.Sum256(message)
		sig, err = signer.Sign(rand.Reader, sum[:], crypto.SHA256)
	}
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	fields := []string{string(byCertificate) + base64.RawURLEncoding.EncodeToString(sig)}
	for _, der := range m.cert.Certificate {
		fields = append(fields, base64.RawURLEncoding.EncodeToString(der))
	}
	return strings.Join(fields, "."), nil
}

// Verify returns nil if a member of this cluster has signed the parts. If members have
// only certificates and host is not empty, the signer's certificate must be valid for
// host; an expired certificate is ErrExpired. The result `aged` reports that the signature
// was made with a secret other than the first one.
func (m *Member) Verify(signature, host, purpose string, parts ...string) (aged bool, err error) {
	if signature == "" {
		return false, ErrNotSigned
	}
	fields := strings.Split(signature[1:], ".")
	if len(fields) > 1+maxChain {
		return false, ErrNotSigned
	}
	raw := make([][]byte, len(fields))
	for i, f := range fields {
		if raw[i], err = base64.RawURLEncoding.Strict().DecodeString(f); err != nil {
			return false, fmt.Errorf("%w: %w", ErrNotSigned, err)
		}
	}
	switch {
	case m.secrets != nil && signature[0] == byMAC && len(fields) == 1:
		which := m.secrets.Verify(raw[0], purpose, parts...)
		if which < 0 {
			return false, ErrNotSigned
		}
		return which > 0, nil
	case m.secrets == nil && signature[0] == byCertificate && len(fields) > 1:
		return false, m.verifyCertificate(raw[0], raw[1:], host, joined(purpose, parts))
	}
	return false, ErrNotSigned
}

func (m *Member) verifyCertificate(sig []byte, chain [][]byte, host string, message []byte) error {
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotSigned, err)
	}
	between := x509.NewCertPool()
	for _, der := range chain[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(c)
		}
	}
	at := m.now()
	expired := at.After(leaf.NotAfter)
	if expired {
		at = leaf.NotAfter
	}
	_, err = leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: m.authority, Intermediates: between, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotSigned, err)
	}
	algorithm := x509.ECDSAWithSHA256
	switch leaf.PublicKey.(type) {
	case ed25519.PublicKey:
		algorithm = x509.PureEd25519
	case *rsa.PublicKey:
		algorithm = x509.SHA256WithRSAPSS
	case *ecdsa.PublicKey:
	default:
		return fmt.Errorf("%w: the certificate has a key of an unsupported kind", ErrNotSigned)
	}
	if err := leaf.CheckSignature(algorithm, message, sig); err != nil {
		return fmt.Errorf("%w: %w", ErrNotSigned, err)
	}
	if expired {
		return ErrExpired
	}
	return nil
}

// joined returns the message that a certificate signs: purpose and parts with their
// lengths.
func joined(purpose string, parts []string) []byte {
	out := []byte("pallium cluster 1: ")
	for _, p := range append([]string{purpose}, parts...) {
		out = binary.BigEndian.AppendUint64(out, uint64(len(p)))
		out = append(out, p...)
	}
	return out
}
