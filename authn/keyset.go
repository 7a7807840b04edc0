package authn

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

const (
	minSecret        = 32 // bytes of an HMAC secret
	minRSABits       = 2048
	maxRSABits       = 8192    // larger keys take milliseconds per check
	maxKeyFile       = 1 << 20 // bytes
	maxKeysPerIssuer = 100
)

// keySet holds the keys of one issuer.
type keySet struct {
	keys      map[string]verifyKey // by kid; "" if the only key has none
	symmetric bool
	leftOut   []string // ignored keys of a JWKS, each with the reason
}

type verifyKey struct {
	key  any      // in the type that golang-jwt's methods expect
	algs []string // the algorithms that the key supports
}

func (k verifyKey) allows(alg string) bool { return slices.Contains(k.algs, alg) }

// find returns the key for a kid; kid is "" for a token without one. Such a token can
// only be verified if there is exactly one key. A key without a kid, which is always the
// only one, verifies tokens with any kid.
func (s keySet) find(kid string) (verifyKey, bool) {
	if k, ok := s.keys[kid]; ok {
		return k, true
	}
	if len(s.keys) != 1 {
		return verifyKey{}, false
	}
	if k, ok := s.keys[""]; ok {
		return k, true
	}
	if kid == "" {
		for _, k := range s.keys {
			return k, true
		}
	}
	return verifyKey{}, false
}

func (s *keySet) add(kid string, k verifyKey) error {
	if kid != "" && !validKid(kid) {
		return fmt.Errorf("kid has %d bytes; the limit is %d bytes", len(kid), maxKid)
	}
	if _, dup := s.keys[kid]; dup && kid == "" {
		return errors.New("two keys have no kid: set a kid for each")
	} else if dup {
		return fmt.Errorf("two keys have the kid %q", kid)
	}
	s.keys[kid] = k
	if _, bare := s.keys[""]; bare && len(s.keys) > 1 {
		return errors.New("there are several keys, and one of them has no kid: set a kid for each")
	}
	return nil
}

// loadKeys loads the keys from the configured source.
func loadKeys(c KeysConfig) (keySet, error) {
	sources := 0
	for _, set := range []bool{len(c.PEM) > 0, c.JWKSFile != "", c.SecretFile != "", c.SecretEnv != ""} {
		if set {
			sources++
		}
	}
	if sources != 1 {
		return keySet{}, errors.New("keys must set exactly one of pem, jwks_file, secret_file and secret_env")
	}
	switch {
	case len(c.PEM) > 0:
		return loadPEM(c.PEM)
	case c.JWKSFile != "":
		data, err := readBounded(c.JWKSFile)
		if err != nil {
			return keySet{}, err
		}
		set, err := parseJWKS(data)
		if err != nil {
			return keySet{}, fmt.Errorf("jwks_file %s: %w", c.JWKSFile, err)
		}
		return set, nil
	case c.SecretFile != "":
		data, err := readBounded(c.SecretFile)
		if err != nil {
			return keySet{}, err
		}
		return secretKey("secret_file "+c.SecretFile, bytes.TrimRight(data, "\r\n"))
	}
	secret, set := os.LookupEnv(c.SecretEnv)
	if !set {
		return keySet{}, fmt.Errorf("secret_env: environment variable %s is not set", c.SecretEnv)
	}
	return secretKey("secret_env "+c.SecretEnv, []byte(secret))
}

// secretKey returns a key set with a secret, for the algorithms for which it is long
// enough: RFC 7518 3.2 requires at least the size of the hash. `source` is the name of the
// file or of the environment variable.
func secretKey(source string, secret []byte) (keySet, error) {
	var algs []string
	for _, a := range []struct {
		alg   string
		bytes int
	}{{"HS256", minSecret}, {"HS384", 48}, {"HS512", 64}} {
		if len(secret) >= a.bytes {
			algs = append(algs, a.alg)
		}
	}
	if len(algs) == 0 {
		return keySet{}, fmt.Errorf("%s contains %d bytes, at least %d are required", source, len(secret), minSecret)
	}
	return keySet{symmetric: true, keys: map[string]verifyKey{"": {key: secret, algs: algs}}}, nil
}

func loadPEM(files []PEMKey) (keySet, error) {
	set := keySet{keys: map[string]verifyKey{}}
	for _, f := range files {
		data, err := readBounded(f.File)
		if err != nil {
			return keySet{}, err
		}
		k, err := parsePEM(data)
		if err != nil {
			return keySet{}, fmt.Errorf("pem file %s: %w", f.File, err)
		}
		if err := set.add(f.Kid, k); err != nil {
			return keySet{}, fmt.Errorf("pem file %s: %w", f.File, err)
		}
	}
	return set, nil
}

func parsePEM(data []byte) (verifyKey, error) {
	block, rest := pem.Decode(data)
	if block == nil {
		return verifyKey{}, errors.New("the file contains no PEM block")
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return verifyKey{}, errors.New("the file contains data after the PEM block: put each key in a file of its own")
	}
	switch block.Type {
	case "PUBLIC KEY":
		k, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return verifyKey{}, fmt.Errorf("parse public key: %w", err)
		}
		return publicKey(k)
	case "RSA PUBLIC KEY":
		k, err := x509.ParsePKCS1PublicKey(block.Bytes)
		if err != nil {
			return verifyKey{}, fmt.Errorf("parse public key: %w", err)
		}
		return publicKey(k)
	}
	return verifyKey{}, fmt.Errorf("the PEM block is a %s: a PUBLIC KEY or RSA PUBLIC KEY is required", block.Type)
}

// publicKey checks a public key and determines the algorithms that it supports.
func publicKey(k any) (verifyKey, error) {
	switch k := k.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSABits || n > maxRSABits {
			return verifyKey{}, fmt.Errorf("the RSA key has %d bits: use a key of %d to %d bits", n, minRSABits, maxRSABits)
		}
		if k.E < 3 || k.E%2 == 0 {
			return verifyKey{}, errors.New("the RSA key has an unsafe exponent")
		}
		return verifyKey{key: k, algs: []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}}, nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return verifyKey{key: k, algs: []string{"ES256"}}, nil
		case elliptic.P384():
			return verifyKey{key: k, algs: []string{"ES384"}}, nil
		case elliptic.P521():
			return verifyKey{key: k, algs: []string{"ES512"}}, nil
		}
		return verifyKey{}, errors.New("the curve of the EC key is not supported: use P-256, P-384 or P-521")
	case ed25519.PublicKey:
		return verifyKey{key: k, algs: []string{"EdDSA"}}, nil
	}
	return verifyKey{}, fmt.Errorf("keys of type %T are not supported", k)
}

// readBounded reads a key file of at most maxKeyFile bytes.
func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open key file: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	if len(data) > maxKeyFile {
		return nil, fmt.Errorf("key file %s is larger than %d bytes", name, maxKeyFile)
	}
	return data, nil
}
