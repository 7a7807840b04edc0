package gateway

import (
	"net/http"
	"net/netip"
	"strings"
)

// source returns the client's address: the peer of the connection or, if the peer is a
// trusted proxy, the last address in X-Forwarded-For that is not a trusted proxy.
func source(r *http.Request, trusted []netip.Prefix) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	addr := ap.Addr().Unmap()
	if !within(addr, trusted) {
		return addr
	}
	lines := r.Header["X-Forwarded-For"]
	for i := len(lines) - 1; i >= 0; i-- {
		for rest := lines[i]; rest != ""; {
			last := rest
			if j := strings.LastIndexByte(rest, ','); j >= 0 {
				rest, last = rest[:j], rest[j+1:]
			} else {
				rest = ""
			}
			a, err := netip.ParseAddr(strings.TrimSpace(last))
			if err != nil {
				return addr // the addresses before it are untrusted, too
			}
			if addr = a.Unmap(); !within(addr, trusted) {
				return addr
			}
		}
	}
	return addr
}

func within(a netip.Addr, nets []netip.Prefix) bool {
	for _, n := range nets {
		if n.Contains(a) {
			return true
		}
	}
	return false
}
