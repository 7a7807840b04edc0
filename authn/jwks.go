package authn

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// parseJWKS parses a JSON Web Key Set (RFC 7517) of public keys. Keys that are not for verifying
// signatures, and kinds of keys that are unknown, are ignored, as section 5 of the RFC recommends:
// providers publish encryption keys in the same set. A malformed signature key, which the RFC would
// also ignore, is an error for the whole set, because it is unknown whether the rest of the set is
// correct. So is a private or secret key.
func parseJWKS(data []byte) (keySet, error) {
	doc, err := parseObject(data)
	if err != nil {
		return keySet{}, err
	}
	list, ok := doc["keys"].([]any)
	if !ok || len(list) == 0 {
		return keySet{}, errors.New(`"keys" is not a list with at least one key`)
	}
	if len(list) > maxKeysPerIssuer {
		return keySet{}, fmt.Errorf("the set has %d keys; the limit is %d", len(list), maxKeysPerIssuer)
	}
	set := keySet{keys: map[string]verifyKey{}}
	for n, v := range list {
		jwk, ok := v.(map[string]any)
		if !ok {
			return keySet{}, fmt.Errorf("keys[%d] is not an object", n)
		}
		if err := set.addJWK(jwk); err != nil {
			return keySet{}, fmt.Errorf("keys[%d] (%s): %w", n, kidText(jwk), err)
		}
	}
	if len(set.keys) == 0 {
		return keySet{}, fmt.Errorf("no key of the set can verify signatures: %s", strings.Join(set.leftOut, "; "))
	}
	return set, nil
}

// kidText names a key of a JWKS in errors and logs.
func kidText(jwk map[string]any) string {
	kid, present := jwk["kid"]
	if !present {
		return "without kid"
	}
	return fmt.Sprintf("kid %.140q", fmt.Sprint(kid))
}

func (s *keySet) addJWK(jwk map[string]any) error {
	for _, secret := range []string{"d", "k"} {
		if _, there := jwk[secret]; there {
			return errors.New("this is a private or secret key: list only public keys")
		}
	}
	if why := unusable(jwk); why != "" {
		s.leftOut = append(s.leftOut, kidText(jwk)+": "+why)
		return nil
	}
	kid := ""
	if v, present := jwk["kid"]; present {
		var ok bool
		if kid, ok = v.(string); !ok || kid == "" {
			return errors.New("kid is not a string, or is empty")
		}
	}
	key, err := parseJWK(jwk)
	if err != nil {
		return err
	}
	return s.add(kid, key)
}

// unusable returns why a key cannot verify signatures, or "" if it can.
func unusable(jwk map[string]any) string {
	if use, present := jwk["use"]; present && use != "sig" {
		return fmt.Sprintf("its use is %.20q", fmt.Sprint(use))
	}
	if v, present := jwk["key_ops"]; present {
		if ops, ok := v.([]any); !ok || !slices.Contains(ops, any("verify")) {
			return "its key_ops do not contain verify"
		}
	}
	if v, present := jwk["alg"]; present {
		alg, _ := v.(string)
		if _, ok := knownAlgorithm(alg); !ok {
			return fmt.Sprintf("its alg %.20q is not a known signature algorithm", fmt.Sprint(v))
		}
	}
	curves := map[any][]any{"EC": {"P-256", "P-384", "P-521"}, "OKP": {"Ed25519"}}
	if curve, ok := curves[jwk["kty"]]; ok {
		if crv, _ := jwk["crv"].(string); !slices.Contains(curve, any(crv)) {
			return fmt.Sprintf("its curve %.20q is not supported", crv)
		}
	} else if jwk["kty"] != "RSA" {
		return fmt.Sprintf("its kty %.20q is not supported", fmt.Sprint(jwk["kty"]))
	}
	return ""
}

func parseJWK(jwk map[string]any) (verifyKey, error) {
	raw, err := jwkPublicKey(jwk)
	if err != nil {
		return verifyKey{}, err
	}
	key, err := publicKey(raw)
	if err != nil {
		return verifyKey{}, err
	}
	if v, present := jwk["alg"]; present {
		alg, _ := v.(string)
		if !key.allows(alg) {
			return verifyKey{}, fmt.Errorf("alg %v does not match the kind of key", v)
		}
		key.algs = []string{alg}
	}
	return key, nil
}

func jwkPublicKey(jwk map[string]any) (any, error) {
	switch jwk["kty"] {
	case "RSA":
		n, okN := jwkBytes(jwk, "n")
		e, okE := jwkBytes(jwk, "e")
		if !okN || !okE || len(e) > 4 {
			return nil, errors.New("n or e of the RSA key is missing or malformed, or e is longer than 4 bytes")
		}
		exp := new(big.Int).SetBytes(e).Int64()
		if exp > 1<<31-1 {
			return nil, errors.New("the RSA key has an unsafe exponent")
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exp)}, nil
	case "EC":
		return jwkECKey(jwk)
	case "OKP":
		x, ok := jwkBytes(jwk, "x")
		if !ok || jwk["crv"] != "Ed25519" || len(x) != ed25519.PublicKeySize {
			return nil, errors.New("the OKP key is not a complete Ed25519 key")
		}
		return ed25519.PublicKey(x), nil
	}
	return nil, fmt.Errorf("kty %v is not supported: use RSA, EC or OKP", jwk["kty"])
}

func jwkECKey(jwk map[string]any) (any, error) {
	var curve elliptic.Curve
	switch jwk["crv"] {
	case "P-256":
		curve = elliptic.P256()
	case "P-384":
		curve = elliptic.P384()
	case "P-521":
		curve = elliptic.P521()
	default:
		return nil, fmt.Errorf("crv %v is not supported: use P-256, P-384 or P-521", jwk["crv"])
	}
	size := (curve.Params().BitSize + 7) / 8
	x, okX := jwkBytes(jwk, "x")
	y, okY := jwkBytes(jwk, "y")
	if !okX || !okY || len(x) != size || len(y) != size {
		return nil, errors.New("x or y of the EC key is malformed or has the wrong length")
	}
	point := append(append([]byte{4}, x...), y...)
	k, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, fmt.Errorf("the EC key is not a point on its curve: %w", err)
	}
	return k, nil
}

func jwkBytes(jwk map[string]any, name string) ([]byte, bool) {
	s, _ := jwk[name].(string)
	return decodeSegment(s)
}
