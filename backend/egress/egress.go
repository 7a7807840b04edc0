// Package egress decides to which addresses the process may connect on behalf of a tenant, for
// example to notify a receiver. By default only public addresses are allowed. Otherwise a tenant
// who configures a URL could reach services of the internal network, and the metadata service of
// the cloud, which returns credentials (server-side request forgery).
//
// Addresses are checked when a connection is opened, after DNS, for every address of a name and for
// every redirect. A check of the URL alone is not enough, because the name may resolve to another
// address later.
package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

// ErrDenied is wrapped by the error of a connection that is not allowed.
var ErrDenied = errors.New("egress is not allowed to this address")

// Rules are the addresses to which connections are allowed. The zero value allows public addresses
// only. It is safe for concurrent use.
type Rules struct {
	allowed []netip.Prefix
}

// New returns rules that allow the networks in addition to public addresses. A network is a prefix such as
// 10.0.0.0/8, or one address.
func New(networks []string) (*Rules, error) {
	r := &Rules{}
	for _, text := range networks {
		p, err := parse(text)
		if err != nil {
			return nil, err
		}
		r.allowed = append(r.allowed, p)
	}
	return r, nil
}

func parse(text string) (netip.Prefix, error) {
	if !strings.Contains(text, "/") {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q is not a network: write a prefix such as 10.0.0.0/8, or an address", text)
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a network: write a prefix such as 10.0.0.0/8, or an address", text)
	}
	if p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is an IPv4 network in IPv6 notation: write it in IPv4 notation", text)
	}
	return p.Masked(), nil
}

// Check returns an error that wraps ErrDenied if connections to the address are not allowed.
func (r *Rules) Check(a netip.Addr) error {
	a = a.WithZone("").Unmap()
	for _, p := range r.allowed {
		if p.Contains(a) {
			return nil
		}
	}
	if why := reserved(a, 0); why != "" {
		return fmt.Errorf("%w: %s is %s; the operator can allow it with egress.allow", ErrDenied, a, why)
	}
	return nil
}

// Control is a net.Dialer.Control that checks the address of each connection attempt.
func (r *Rules) Control(network, address string, _ syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return fmt.Errorf("%w: network %s", ErrDenied, network)
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDenied, address, err)
	}
	return r.Check(ap.Addr())
}

// DialContext connects like net.Dialer.DialContext, but only to allowed addresses.
func (r *Rules) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second, Control: r.Control}
	return d.DialContext(ctx, network, address)
}
