package authn

import (
	"encoding/base64"
	"strings"
)

// maxAuthorization bounds the header in bytes: Basic authentication with the longest JWT
// and the longest tenant ID, in base64.
const maxAuthorization = 12 << 10

// presented is a parsed Authorization header.
type presented struct {
	user   string // user name of Basic authentication, or ""
	secret string // API key or JWT
}

// parseAuthorization parses the only Authorization value. The scheme is case-insensitive
// (RFC 9110); everything else is taken literally.
func parseAuthorization(values []string) (presented, error) {
	if len(values) == 0 || (len(values) == 1 && values[0] == "") {
		return presented{}, &Error{Kind: Missing, Reason: "no_credential"}
	}
	if len(values) > 1 {
		return presented{}, invalid("header_repeated")
	}
	v := values[0]
	if len(v) > maxAuthorization {
		return presented{}, invalid("header_too_long")
	}
	scheme, rest, ok := strings.Cut(v, " ")
	if !ok || rest == "" {
		return presented{}, invalid("header_malformed")
	}
	switch {
	case strings.EqualFold(scheme, "bearer"):
		if !isToken68(rest) {
			return presented{}, invalid("header_malformed")
		}
		return presented{secret: rest}, nil
	case strings.EqualFold(scheme, "basic"):
		return parseBasic(rest)
	}
	return presented{}, invalid("header_scheme")
}

func parseBasic(s string) (presented, error) {
	// Checked first, because Go's decoder ignores line breaks.
	if !isToken68(s) {
		return presented{}, invalid("header_malformed")
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return presented{}, invalid("header_malformed")
	}
	user, secret, ok := strings.Cut(string(raw), ":")
	if !ok || !isToken68(secret) {
		return presented{}, invalid("header_malformed")
	}
	return presented{user: user, secret: secret}, nil
}

// isToken68 reports whether s consists only of the characters of a bearer token (RFC
// 6750). API keys and JWTs do.
func isToken68(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '-', c == '.', c == '_', c == '~', c == '+', c == '/', c == '=':
		default:
			return false
		}
	}
	return s != ""
}
