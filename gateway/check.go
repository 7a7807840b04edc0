package gateway

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/palliumhq/pallium/authn/tenant"
)

const maxParams = 1000

const pathNotCanonical = "the path is not in canonical form: remove empty segments, the segments . and .., the characters % \\ and ;, " +
	"and control characters, " +
	"escaped or not; escape only characters that need it, as UTF-8"

// checkTarget rejects a request target that is not a path.
func checkTarget(r *http.Request) *rejection {
	u := r.URL
	if u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" || !strings.HasPrefix(u.Path, "/") {
		return badRequest("path", "the request target must be a path, not an absolute URL")
	}
	return nil
}

// checkPath accepts only a path that every HTTP implementation interprets in the same
// way: encoded as Go would encode it, valid UTF-8, and without empty, "." or ".." segments,
// %, \, ; or control characters, encoded or not. Proxies clean other paths in different
// ways; the gateway rejects them and never cleans a path.
func checkPath(r *http.Request) *rejection {
	u := r.URL
	if f := checkTarget(r); f != nil {
		return f
	}
	// RawPath is set only if the encoding of the path is not canonical, for
	// example with %2e, %2f or %5c.
	if u.RawPath != "" || !canonicalPath(u.Path) {
		return badRequest("path", pathNotCanonical)
	}
	if sent, _, _ := strings.Cut(r.RequestURI, "?"); sent != "" && sent != u.EscapedPath() {
		return badRequest("path", pathNotCanonical)
	}
	return nil
}

func canonicalPath(p string) bool {
	if !utf8.ValidString(p) {
		return false
	}
	for i := 0; i < len(p); i++ {
		c := p[i]
		if c < 0x20 || c == 0x7f || c == '\\' || c == ';' || c == '%' {
			return false
		}
		if c != '/' || i == 0 {
			continue
		}
		if p[i-1] == '/' || dotSegment(p[:i]) {
			return false
		}
	}
	return !dotSegment(p) && (len(p) == 1 || p[len(p)-1] != '/' || !dotSegment(p[:len(p)-1]))
}

// dotSegment reports whether the path ends with a "." or ".." segment.
func dotSegment(p string) bool {
	return strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..")
}

// singleHeaders must not be repeated: two HTTP implementations could use different lines.
var singleHeaders = [...]string{"Authorization", "X-Scope-Orgid", "Content-Type", "Content-Encoding",
	"X-Prometheus-Remote-Write-Version", "Content-Length", "Proxy-Authorization"}

// checkRequest rejects requests that another HTTP implementation on the path, such as a
// proxy, could interpret differently.
func checkRequest(r *http.Request) *rejection {
	if !r.ProtoAtLeast(1, 0) {
		return &rejection{status: http.StatusHTTPVersionNotSupported, reason: "http_version", text: "the HTTP version is not supported: use " +
			"HTTP/1.1 or HTTP/2"}
	}
	for _, name := range singleHeaders {
		if len(r.Header[name]) > 1 {
			return badRequest("header_repeated", "header "+name+" must not be repeated: send it once")
		}
	}
	if len(r.Header["Upgrade"]) > 0 {
		return badRequest("upgrade", "protocol upgrades are not supported")
	}
	if v := r.Header["Content-Length"]; len(v) == 1 {
		// In HTTP/2, net/http treats a request whose Content-Length is not a number,
		// or whose header ends the stream, as one without a body.
		if n, err := strconv.ParseUint(v[0], 10, 63); err != nil || int64(n) != r.ContentLength {
			return badRequest("framing", "Content-Length differs from the length of the body")
		}
	}
	if len(r.TransferEncoding) > 1 || (len(r.TransferEncoding) == 1 && r.TransferEncoding[0] != "chunked") {
		return badRequest("framing", "the transfer encoding is not supported: use chunked")
	}
	return nil
}

// credentialParam reports whether other servers accept a credential or tenant in a query
// parameter of this name. Credentials in a URL leak into logs and Referer headers.
func credentialParam(name string) bool {
	switch strings.ToLower(name) {
	case "access_token", "token", "api_key", "apikey", "authorization", "jwt", "password", "x-scope-orgid":
		return true
	}
	return false
}

// canonicalQuery parses and checks the query string and returns it encoded again, so that
// the gateway and the backend interpret it in the same way.
func canonicalQuery(raw string) (string, *rejection) {
	if raw == "" {
		return "", nil
	}
	if strings.Count(raw, "&") >= maxParams {
		return "", badRequest("query_string", "the query string has more than 1000 parameters: send them as a form by POST")
	}
	values, err := url.ParseQuery(raw) // rejects ';' and broken escapes
	if err != nil {
		return "", badRequest("query_string", "the query string is malformed: check its % escapes, and encode ';' as %3B")
	}
	for name := range values {
		if credentialParam(name) {
			return "", badRequest("credential_in_query", "credentials and tenants must not be in the query string: send them in the headers "+
				"Authorization and "+tenant.HeaderOrgID+"")
		}
	}
	return values.Encode(), nil
}

// selector returns the tenant that the client selects in the header X-Scope-OrgID, or ""
// if it selects none.
func selector(h http.Header) string {
	if v := h[http.CanonicalHeaderKey(tenant.HeaderOrgID)]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func badRequest(reason, text string) *rejection {
	return &rejection{status: http.StatusBadRequest, reason: reason, text: text}
}
