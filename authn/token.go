package authn

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"strings"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
)

const (
	maxToken    = 8 << 10 // bytes of a JWT as sent
	maxKid      = 128     // bytes
	maxSubject  = 256     // bytes
	maxTenants  = 100     // in one claim
	verifiedFor = time.Minute
	maxVerified = 20_000 // cached tokens
)

// verified is a cached token that passed every check. It holds the identity, never a
// decision.
type verified struct {
	identity tenant.Identity
	until    time.Time
}

// checkTokenShape rejects text that cannot be a JWT before anything is decoded.
func checkTokenShape(raw string) error {
	if len(raw) > maxToken {
		return invalid("jwt_too_long")
	}
	if strings.Count(raw, ".") != 2 {
		return invalid("not_a_credential")
	}
	for i := 0; i < len(raw); i++ {
		if c := raw[i]; c != '.' && !isBase64URL(c) {
			return invalid("jwt_malformed")
		}
	}
	return nil
}

func isBase64URL(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// decodeSegment decodes strict base64url: without padding, line breaks (which Go's
// decoder ignores) and stray bits at the end.
func decodeSegment(s string) ([]byte, bool) {
	if s == "" {
		return nil, false
	}
	for i := 0; i < len(s); i++ {
		if !isBase64URL(s[i]) {
			return nil, false
		}
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return b, err == nil
}

// parsedToken is a decoded token that names a configured issuer. Nothing in it is
// verified.
type parsedToken struct {
	issuer         *issuer
	header, claims map[string]any
	signed         string
	signature      []byte
}

// parse decodes a token and finds the issuer that it names by its exact iss claim. It
// costs about as much as verifying an RSA signature, and less than reading the request.
func (s *issuers) parse(raw string) (*parsedToken, error) {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return nil, invalid("jwt_malformed")
	}
	var bytes [3][]byte
	for i, p := range parts {
		b, ok := decodeSegment(p)
		if !ok {
			return nil, invalid("jwt_malformed")
		}
		bytes[i] = b
	}
	header, err := parseObject(bytes[0])
	if err != nil {
		return nil, invalid("jwt_header")
	}
	claims, err := parseObject(bytes[1])
	if err != nil {
		return nil, invalid("jwt_claims")
	}
	iss, _ := claims["iss"].(string)
	issuer, ok := s.byIss[iss]
	if !ok {
		return nil, invalid("jwt_issuer")
	}
	return &parsedToken{issuer: issuer, header: header, claims: claims,
		signed: raw[:len(parts[0])+1+len(parts[1])], signature: bytes[2]}, nil
}

// subject returns the unverified claim sub, or "" if it is missing, no string or too long.
func (t *parsedToken) subject() string {
	sub, _ := t.claims["sub"].(string)
	if len(sub) > maxSubject {
		return ""
	}
	return sub
}

// verify returns the token's identity and expiry. The order matters: the signature is
// verified with the issuer's own keys first, and only then are the claims used.
func (t *parsedToken) verify(now time.Time) (tenant.Identity, time.Time, error) {
	if reason := t.issuer.checkSignature(t.header, t.signed, t.signature); reason != "" {
		return rejectToken(reason)
	}
	exp, kind, reason := t.issuer.checkClaims(t.claims, now)
	if reason != "" {
		return tenant.Identity{}, time.Time{}, &Error{Kind: kind, Reason: reason}
	}
	id, reason := t.issuer.identity(t.claims)
	if reason != "" {
		return rejectToken(reason)
	}
	return id, exp, nil
}

func rejectToken(reason string) (tenant.Identity, time.Time, error) {
	return tenant.Identity{}, time.Time{}, invalid(reason)
}

// checkSignature returns the reason why the header or the signature is not accepted, or "".
// Keys come only from the issuer's configuration: jku, jwk, x5u and x5c are ignored.
func (i *issuer) checkSignature(header map[string]any, signed string, sig []byte) string {
	for _, name := range []string{"crit", "b64"} {
		if _, ok := header[name]; ok {
			return "jwt_crit"
		}
	}
	alg, _ := header["alg"].(string)
	method, ok := i.methods[alg]
	if !ok {
		return "jwt_alg"
	}
	if !i.typeAllowed(header) {
		return "jwt_typ"
	}
	kid, ok := keyID(header)
	if !ok {
		return "jwt_kid"
	}
	key, ok := i.keys.find(kid)
	if !ok {
		return "jwt_kid"
	}
	if !key.allows(alg) {
		return "jwt_alg"
	}
	if err := method.Verify(signed, sig, key.key); err != nil {
		return "jwt_signature"
	}
	return ""
}

// typeAllowed reports whether the header's typ, if present, is a string, and is the
// configured type, if one is configured.
func (i *issuer) typeAllowed(header map[string]any) bool {
	typ, present := header["typ"]
	s, ok := typ.(string)
	if present && !ok {
		return false
	}
	return i.typ == "" || strings.EqualFold(mediaSubtype(s), mediaSubtype(i.typ))
}

// keyID returns the kid of a header, or "" if it has none; ok is false if the kid is
// invalid.
func keyID(header map[string]any) (kid string, ok bool) {
	v, present := header["kid"]
	if !present {
		return "", true
	}
	kid, ok = v.(string)
	return kid, ok && validKid(kid)
}

// mediaSubtype removes the prefix "application/", which RFC 7515 allows a typ to omit.
func mediaSubtype(typ string) string {
	const prefix = "application/"
	if len(typ) > len(prefix) && strings.EqualFold(typ[:len(prefix)], prefix) {
		return typ[len(prefix):]
	}
	return typ
}

// validKid reports whether s may be a kid. Any non-empty name is accepted, because a kid
// is only used to find a key.
func validKid(s string) bool { return s != "" && len(s) <= maxKid }

// checkClaims checks times and audience. The reason is "" if they are valid.
func (i *issuer) checkClaims(claims map[string]any, now time.Time) (exp time.Time, kind Kind, reason string) {
	exp, ok := date(claims, "exp")
	if !ok {
		return exp, Invalid, "jwt_exp"
	}
	if !now.Before(exp.Add(i.leeway)) {
		return exp, Expired, "jwt_expired"
	}
	issued := now
	if _, present := claims["iat"]; present {
		if issued, ok = date(claims, "iat"); !ok || issued.After(now.Add(i.leeway)) {
			return exp, Invalid, "jwt_iat"
		}
	}
	if exp.Sub(issued) > i.maxLifetime {
		return exp, Invalid, "jwt_lifetime"
	}
	if _, present := claims["nbf"]; present {
		nbf, ok := date(claims, "nbf")
		if !ok || nbf.After(now.Add(i.leeway)) {
			return exp, Invalid, "jwt_nbf"
		}
	}
	auds, ok := stringList(claims["aud"])
	if !ok {
		return exp, Invalid, "jwt_audience"
	}
	for _, a := range auds {
		if i.audiences[a] {
			return exp, 0, ""
		}
	}
	return exp, Invalid, "jwt_audience"
}

// date parses a NumericDate: seconds since 1970, fractions allowed, above 0 and at most 2^40.
func date(claims map[string]any, name string) (time.Time, bool) {
	n, ok := claims[name].(json.Number)
	if !ok {
		return time.Time{}, false
	}
	f, err := n.Float64()
	if err != nil || math.IsNaN(f) || f <= 0 || f > 1<<40 {
		return time.Time{}, false
	}
	sec, frac := math.Modf(f)
	return time.Unix(int64(sec), int64(frac*1e9)), true
}

// stringList parses a claim that is a string or an array of strings. Empty strings and
// empty arrays are invalid.
func stringList(v any) ([]string, bool) {
	switch v := v.(type) {
	case string:
		return []string{v}, v != ""
	case []any:
		out := make([]string, 0, len(v))
		for _, e := range v {
			s, ok := e.(string)
			if !ok || s == "" {
				return nil, false
			}
			out = append(out, s)
		}
		return out, len(out) > 0
	}
	return nil, false
}
