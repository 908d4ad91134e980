package correlator

import (
	"net/netip"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/topology"
)

// Route is a traced path as directed links.
type Route struct {
	// Links from the source host to the destination, nil where not known.
	Links []*topology.Link
	// Hops is h, the length of the whole path in links; votes are 1/h each.
	Hops int
	// Full says that every link is known, the first and last included.
	Full bool

	known int
}

// resolveRoute maps the addresses of a trace to directed links. A hop answers
// from its inbound interface, which is the end of a link; where it answers from
// another, or not at all, the link follows from its neighbours if only one
// fits. The first and last links join hosts to their switch and are in no
// answer: they come from the topology.
func resolveRoute(t *topology.Topology, flow packet.Flow, p *decafpb.Path) Route {
	if p == nil || len(p.GetHops()) == 0 {
		return Route{}
	}
	const longest = 64 // TTL is six bits of the probe's identity
	distance := int(p.GetDistance())
	sized := distance > 0
	last := 0
	for _, h := range p.GetHops() {
		if h.GetStatus() == decafpb.HopStatus_HOP_STATUS_ANSWERED && int(h.GetTtl()) > last {
			last = int(h.GetTtl())
		}
	}
	if !sized {
		distance = last
	}
	if distance < 1 || distance > longest {
		return Route{}
	}

	nodes := make([]string, distance+2) // source, switches by TTL, destination
	inbound := make([]*topology.Link, distance+2)
	if h, ok := t.HostAt(flow.Src.Addr()); ok {
		nodes[0] = h.Name
	}
	if h, ok := t.HostAt(flow.Dst.Addr()); ok {
		nodes[distance+1] = h.Name
	}
	for _, h := range p.GetHops() {
		ttl := int(h.GetTtl())
		// Several answers for one TTL mean per-packet balancing: no one link.
		if ttl < 1 || ttl > distance || h.GetStatus() != decafpb.HopStatus_HOP_STATUS_ANSWERED || len(h.GetOthers()) > 0 {
			continue
		}
		addr, ok := netip.AddrFromSlice(h.GetAddress())
		if !ok {
			continue
		}
		if iface, ok := t.InterfaceAt(addr); ok {
			nodes[ttl] = iface.Node
			if l, ok := t.LinkInto(iface.Node, iface.Name); ok {
				inbound[ttl] = l
			}
		}
	}
	// A silent hop is known if its neighbours leave one choice: the next hop's
	// inbound link names it, and a host has its one switch.
	if nodes[1] == "" {
		nodes[1] = onlyNeighbour(t, nodes[0])
	}
	if sized && nodes[distance] == "" {
		nodes[distance] = onlyNeighbour(t, nodes[distance+1])
	}
	for i := distance; i >= 1; i-- {
		if l := inbound[i]; l != nil && nodes[i-1] == "" {
			nodes[i-1] = l.From.Node
		}
	}

	r := Route{Links: make([]*topology.Link, distance+1), Hops: distance + 1}
	for i := 1; i <= distance+1; i++ {
		from, to := nodes[i-1], nodes[i]
		if from == "" || to == "" {
			continue
		}
		if l := inbound[i]; l != nil && l.From.Node == from {
			r.Links[i-1] = l
		} else if between := t.LinkBetween(from, to); len(between) == 1 {
			r.Links[i-1] = between[0]
		}
	}
	for _, l := range r.Links {
		if l != nil {
			r.known++
		}
	}
	r.Full = r.known == len(r.Links)
	return r
}

// onlyNeighbour gives the one switch a host is attached to, "" when it has
// none or several.
func onlyNeighbour(t *topology.Topology, host string) string {
	if host == "" {
		return ""
	}
	links := t.LinksFrom(host)
	if len(links) == 0 {
		return ""
	}
	for _, l := range links[1:] {
		if l.To.Node != links[0].To.Node {
			return ""
		}
	}
	return links[0].To.Node
}
