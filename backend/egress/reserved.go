package egress

import "net/netip"

// network is a network that is not public, with its purpose.
type network struct {
	prefix netip.Prefix
	why    string
}

// networks returns the networks of the special-purpose registries of IANA (RFC 6890 and its
// updates) that are not public. It also returns addresses in public ranges at which cloud providers
// offer services to the machine.
func networks() []network {
	n := func(prefix, why string) network { return network{netip.MustParsePrefix(prefix), why} }
	return []network{
		n("0.0.0.0/8", "an address of this host"),
		n("10.0.0.0/8", "a private address"),
		n("100.64.0.0/10", "a shared address of a provider (RFC 6598)"),
		n("127.0.0.0/8", "a loopback address"),
		n("168.63.129.16/32", "a service address of Azure"),
		n("169.254.0.0/16", "a link-local address, such as the metadata service of a cloud"),
		n("172.16.0.0/12", "a private address"),
		n("192.0.0.0/24", "a reserved address"),
		n("192.0.2.0/24", "an address for documentation"),
		n("192.88.99.0/24", "a reserved address"),
		n("192.168.0.0/16", "a private address"),
		n("198.18.0.0/15", "an address for benchmarks"),
		n("198.51.100.0/24", "an address for documentation"),
		n("203.0.113.0/24", "an address for documentation"),
		n("224.0.0.0/4", "a multicast address"),
		n("240.0.0.0/4", "a reserved address"),

		n("::/128", "an address of this host"),
		n("::1/128", "a loopback address"),
		n("64:ff9b:1::/48", "a private translated address"),
		n("100::/64", "a discard address"),
		n("2001::/23", "a reserved address"),
		n("2001:db8::/32", "an address for documentation"),
		n("3fff::/20", "an address for documentation"),
		n("5f00::/16", "a reserved address"),
		n("fc00::/7", "a private address"),
		n("fe80::/10", "a link-local address"),
		n("fec0::/10", "a private address"),
		n("ff00::/8", "a multicast address"),
	}
}

// translations returns the prefixes of IPv6 addresses that contain an IPv4 address, with the byte offset of the IPv4
// address. If the network has a gateway for them, it sends their packets on to the IPv4 address.
func translations() map[netip.Prefix]int {
	return map[netip.Prefix]int{
		netip.MustParsePrefix("::/96"):        12, // IPv4-compatible, obsolete
		netip.MustParsePrefix("64:ff9b::/96"): 12, // NAT64, RFC 6052
		netip.MustParsePrefix("2002::/16"):    2,  // 6to4, RFC 3056
	}
}

// reserved returns the reason for which an address is not public, or "". depth is the number of
// translations that led to the address.
func reserved(a netip.Addr, depth int) string {
	if !a.IsValid() {
		return "not a valid address"
	}
	for _, n := range networks() {
		if n.prefix.Contains(a) {
			return n.why
		}
	}
	if depth > 0 || !a.Is6() {
		return ""
	}
	bytes := a.As16()
	for prefix, at := range translations() {
		if !prefix.Contains(a) {
			continue
		}
		inner := netip.AddrFrom4([4]byte(bytes[at : at+4]))
		if why := reserved(inner, depth+1); why != "" {
			return "translated to " + inner.String() + ", " + why
		}
	}
	return ""
}
