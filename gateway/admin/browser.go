package admin

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// This file protects the admin listener from other sites that are open in a browser
// that knows the operator's password.

// CheckHosts returns an error if one of the configured names is not a host name.
func CheckHosts(names []string) error {
	for _, n := range names {
		if n == "" || strings.ContainsAny(n, ":/@*, ") {
			return fmt.Errorf("admin_hosts: %q is not a host name: write a name such as pallium.example.com, without scheme and port", n)
		}
	}
	return nil
}

// RequireHost accepts only requests whose Host is missing, an IP address, localhost or one
// of the names. It sets headers on every response that keep other sites from using the
// response. Without the check, a site that makes its own name resolve to this listener (DNS
// rebinding) would have the same origin as the listener and could read /metrics.
func RequireHost(names []string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", ContentSecurityPolicy)
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		if !hostAllowed(r.Host, names) {
			http.Error(w, fmt.Sprintf("host %.100q is not an accepted name of this listener: use an IP address or localhost, "+
				"or add the name to admin_hosts in the configuration", r.Host), http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ContentSecurityPolicy is sent with every response, except that the overview page has a less
// strict policy: a page may not load anything and may not be framed.
const ContentSecurityPolicy = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

// hostAllowed also accepts a missing Host: browsers always send one, old probes do not.
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

// RejectCrossSite is middleware for routes with Basic authentication, whose credential a
// browser also sends with requests that other sites cause. It checks Sec-Fetch-Site,
// which browsers send over TLS and to localhost, and Origin, which they send with every
// POST.
func RejectCrossSite(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if crossSite(r) {
			http.Error(w, "the request was made by another site: open this address directly in the browser", http.StatusForbidden)
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
		// The scheme is not compared: a proxy may terminate TLS.
		u, err := url.Parse(origin)
		if err != nil || u.Host == "" || !strings.EqualFold(u.Host, r.Host) {
			return true
		}
	}
	return false
}
