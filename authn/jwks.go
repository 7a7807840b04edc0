package authn

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
)

// parseJWKS reads a JSON Web Key Set (RFC 7517) of public signature keys. One key
// that is not as it should be refuses the set: half a set is a guess.
func parseJWKS(data []byte) (keySet, error) {
	doc, err := parseObject(data)
	if err != nil {
		return keySet{}, err
	}
	list, ok := doc["keys"].([]any)
	if !ok || len(list) == 0 {
		return keySet{}, errors.New(`"keys" is not a list with at least one key`)
	}
	if len(list) > maxKeysOfIs {
		return keySet{}, fmt.Errorf("%d keys, at most %d are allowed", len(list), maxKeysOfIs)
	}
	set := keySet{keys: map[string]verifyKey{}}
	for n, v := range list {
		jwk, ok := v.(map[string]any)
		if !ok {
			return keySet{}, fmt.Errorf("key %d is not an object", n)
		}
		kid := ""
		if v, present := jwk["kid"]; present {
			if kid, ok = v.(string); !ok || kid == "" {
				return keySet{}, fmt.Errorf("key %d: kid is not a string", n)
			}
		}
		key, err := parseJWK(jwk)
		if err != nil {
			return keySet{}, fmt.Errorf("key %d (kid %q): %w", n, kid, err)
		}
		if err := set.add(kid, key); err != nil {
			return keySet{}, err
		}
	}
	return set, nil
}

func parseJWK(jwk map[string]any) (verifyKey, error) {
	if _, private := jwk["d"]; private {
		return verifyKey{}, errors.New("this is a private key; only public keys belong here")
	}
	if use, present := jwk["use"]; present && use != "sig" {
		return verifyKey{}, errors.New(`use is not "sig"`)
	}
	if ops, present := jwk["key_ops"]; present {
		if l, ok := ops.([]any); !ok || len(l) != 1 || l[0] != "verify" {
			return verifyKey{}, errors.New(`key_ops is not ["verify"]`)
		}
	}
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
			return verifyKey{}, fmt.Errorf("alg %v does not fit the key", v)
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
			return nil, errors.New("n or e of the RSA key cannot be read")
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
			return nil, errors.New("the OKP key is not a whole Ed25519 key")
		}
		return ed25519.PublicKey(x), nil
	}
	return nil, fmt.Errorf("kty %v is not allowed; there are RSA, EC and OKP", jwk["kty"])
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
		return nil, fmt.Errorf("crv %v is not allowed; there are P-256, P-384 and P-521", jwk["crv"])
	}
	size := (curve.Params().BitSize + 7) / 8
	x, okX := jwkBytes(jwk, "x")
	y, okY := jwkBytes(jwk, "y")
	if !okX || !okY || len(x) != size || len(y) != size {
		return nil, errors.New("x or y of the EC key cannot be read or has the wrong length")
	}
	point := append(append([]byte{4}, x...), y...)
	k, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, fmt.Errorf("the EC key is not a point of its curve: %w", err)
	}
	return k, nil
}

func jwkBytes(jwk map[string]any, name string) ([]byte, bool) {
	s, _ := jwk[name].(string)
	return decodeSegment(s)
}
