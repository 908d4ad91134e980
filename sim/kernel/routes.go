package kernel

import (
	"fmt"
	"net/netip"
	"slices"

	"decaf/topology"
)

// version is one of the Internet Protocol's.
type version int

const (
	ipv4 version = 4
	ipv6 version = 6
)

// versionOf is the version of an address.
func versionOf(a netip.Addr) version {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

// anywhere is the prefix of all addresses.
func (v version) anywhere() netip.Prefix {
	if v == ipv4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// at is an interface's address of that version; not valid where it has none.
func (v version) at(i *topology.Interface) netip.Prefix { return i.Of(v == ipv6) }

// versions are those that a topology's links have addresses of; [check] says that
// they all have.
func versions(t *topology.Topology) (all []version) {
	for _, v := range []version{ipv4, ipv6} {
		if slices.ContainsFunc(t.Links, func(l *topology.Link) bool { return v.at(l.From).IsValid() }) {
			all = append(all, v)
		}
	}
	return all
}

// route leads to one host address over one or more links, all of equal cost.
type route struct {
	dst  netip.Prefix
	over []*topology.Link
}

// routesOf gives each node its routes: on devices one for each address of each
// host over all shortest paths that cross devices only, save to the hosts on its
// own links; on hosts a default route over all their links.
func routesOf(t *topology.Topology) map[string][]route {
	routes := make(map[string][]route, len(t.Devices)+len(t.Hosts))
	out := make(map[string][]*topology.Link)
	in := make(map[string][]*topology.Link)
	for _, l := range t.Links {
		out[l.From.Node] = append(out[l.From.Node], l)
		in[l.To.Node] = append(in[l.To.Node], l)
	}
	isHost := make(map[string]bool, len(t.Hosts))
	for _, h := range t.Hosts {
		isHost[h.Name] = true
		if len(out[h.Name]) == 0 {
			continue
		}
		for _, v := range versions(t) {
			routes[h.Name] = append(routes[h.Name], route{dst: v.anywhere(), over: out[h.Name]})
		}
	}
	for _, h := range t.Hosts {
		// Breadth first from the host against the links' direction.
		dist := map[string]int{h.Name: 0}
		for queue := []string{h.Name}; len(queue) > 0; queue = queue[1:] {
			n := queue[0]
			for _, l := range in[n] {
				from := l.From.Node
				if _, seen := dist[from]; !seen && !isHost[from] {
					dist[from] = dist[n] + 1
					queue = append(queue, from)
				}
			}
		}
		for _, d := range t.Devices {
			far, reachable := dist[d.Name]
			if !reachable {
				continue
			}
			var over []*topology.Link
			for _, l := range out[d.Name] {
				if near, ok := dist[l.To.Node]; ok && near == far-1 {
					over = append(over, l)
				}
			}
			for _, a := range h.Addresses {
				// The interface's own prefix covers a host that is on the link.
				onLink := slices.ContainsFunc(over, func(l *topology.Link) bool {
					return l.To.Node == h.Name && l.To.Owns(a)
				})
				if !onLink {
					routes[d.Name] = append(routes[d.Name], route{dst: netip.PrefixFrom(a, a.BitLen()), over: over})
				}
			}
		}
	}
	return routes
}

// check says what of a topology this fabric cannot build.
func check(t *topology.Topology) error {
	if n := len(t.Devices) + len(t.Hosts); n > MaxNodes {
		return fmt.Errorf("%d devices and hosts: the kernel fabric builds up to %d", n, MaxNodes)
	}
	speaks := versions(t)
	for _, h := range t.Hosts {
		for _, a := range h.Addresses {
			if !slices.Contains(speaks, versionOf(a)) {
				return fmt.Errorf("host %s: address %s: no link has an address of that version to reach it by", h.Name, a)
			}
		}
	}
	for _, l := range t.Links {
		for _, i := range []*topology.Interface{l.From, l.To} {
			switch {
			case len(i.Name) == 0 || len(i.Name) > 15:
				return fmt.Errorf("interface %s:%s: Linux takes names of 1 to 15 characters", i.Node, i.Name)
			case i.Name == "lo" || i.Name == ManagementInterface:
				return fmt.Errorf("interface %s:%s: the kernel fabric keeps this name for itself", i.Node, i.Name)
			case !i.Addr.IsValid():
				return fmt.Errorf("interface %s:%s: needs an address with a prefix", i.Node, i.Name)
			case management.Overlaps(i.Addr):
				return fmt.Errorf("interface %s:%s: %s overlaps the management network %s", i.Node, i.Name, i.Addr, management)
			}
		}
		for _, v := range speaks {
			from, to := v.at(l.From), v.at(l.To)
			switch {
			case !from.IsValid() || !to.IsValid():
				return fmt.Errorf("link %s: has no IPv%d addresses and others have: give all links some, or none", l.Name, v)
			case from.Masked() != to.Masked():
				return fmt.Errorf("link %s: %s and %s are not in one subnet", l.Name, from, to)
			}
		}
	}
	return nil
}

// management is the out-of-band network: of the range for benchmarks of network
// interconnect devices (RFC 2544, RFC 6890), which no fabric uses.
var management = netip.MustParsePrefix("198.18.0.0/16")
