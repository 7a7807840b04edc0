package admin

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// What stands between a browser that knows the operator's password and other
// sites that it has open.

// CheckHosts reports which of the configured names is no host name.
func CheckHosts(names []string) error {
	for _, n := range names {
		if n == "" || strings.ContainsAny(n, ":/@*, ") {
			return fmt.Errorf("admin_hosts: %q is not a host name such as pallium.example.com, without scheme and port", n)
		}
	}
	return nil
}

// RequireHost lets only requests in whose Host is an IP address, localhost or one
// of the names, and gives every answer headers against use by other sites. A site
// whose own name is made to resolve to this listener (DNS rebinding) would otherwise
// be of one origin with it, and could read /metrics.
func RequireHost(names []string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", ContentSecurityPolicy)
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		if !hostAllowed(r.Host, names) {
			http.Error(w, fmt.Sprintf("host %.100q is not a name of this listener: use an IP address or localhost, "+
				"or add the name to admin_hosts", r.Host), http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ContentSecurityPolicy is that of every answer: nothing is loaded or framed.
const ContentSecurityPolicy = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

// hostAllowed takes a missing Host, too: browsers send one, old probes do not.
func hostAllowed(host string, names []string) bool {
	if host == "" {
		return true
	}
	name := strings.TrimSuffix(strings.ToLower((&url.URL{Host: host}).Hostname()), ".")
	if _, err := netip.ParseAddr(name); err == nil || name == "localhost" {
		return true
	}
	return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(strings.TrimSuffix(n, "."), name) })
}

// RejectCrossSite is middleware for what takes Basic authentication, which a browser
// sends along with requests of any site. It goes by Sec-Fetch-Site, which browsers
// send over TLS and to localhost, and by Origin, which they send with every POST.
func RejectCrossSite(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if crossSite(r) {
			http.Error(w, "the request comes from another site: open the address itself", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func crossSite(r *http.Request) bool {
	for _, site := range r.Header.Values("Sec-Fetch-Site") {
		if site != "same-origin" && site != "none" { // same-site is another port or subdomain
			return true
		}
	}
	for _, origin := range r.Header.Values("Origin") {
		// The scheme is not compared: a proxy may have ended TLS.
		u, err := url.Parse(origin)
		if err != nil || u.Host == "" || !strings.EqualFold(u.Host, r.Host) {
			return true
		}
	}
	return false
}
