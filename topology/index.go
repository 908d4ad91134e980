package topology

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"decaf/topology/strictyaml"
)

// graph is the nodes by number, devices first, and how they are joined. Keys are
// numbers where they can be, for a network may have a million links.
type graph struct {
	devices map[string]*Device
	hosts   map[string]*Host
	node    map[string]int // name → number
	names   []string       // number → name
	out     [][]*Link      // number → links leaving it, in file order
	to      [][]int32      // number → where each of these leads
	host    []bool         // number → whether it is a host

	ends    []nodePair           // by place in Topology.Links
	several map[nodePair][]*Link // → all links, where there is more than one
}

// index makes every look-up of a link or address a map access.
type index struct {
	*graph
	link    map[string]*Link
	reverse map[*Link]*Link
	from    map[port]*Link // → the link leaving it
	into    map[port]*Link // → the link entering it, unless it is the reverse of from

	ifaceAt map[netip.Addr]*Interface
	hostAt  map[netip.Addr]*Host
}

// nodePair is two nodes by number, in the direction of a link.
type nodePair struct{ from, to int32 }

// port is an interface by its node's number.
type port struct {
	node int32
	name string
}

func (t *Topology) graph() *graph {
	t.onceGraph.Do(func() { t.g = newGraph(t) })
	return t.g
}

func (t *Topology) index() *index {
	t.onceIndex.Do(func() { t.ix = newIndex(t) })
	return t.ix
}

func newGraph(t *Topology) *graph {
	nodes := len(t.Devices) + len(t.Hosts)
	g := &graph{
		devices: make(map[string]*Device, len(t.Devices)),
		hosts:   make(map[string]*Host, len(t.Hosts)),
		node:    make(map[string]int, nodes),
		names:   make([]string, 0, nodes),
		host:    make([]bool, 0, nodes),
		ends:    make([]nodePair, len(t.Links)),
		several: make(map[nodePair][]*Link),
	}
	number := func(name string) int32 {
		n, ok := g.node[name]
		if !ok {
			n = len(g.names)
			g.node[name] = n
			g.names = append(g.names, name)
			g.host = append(g.host, false)
		}
		return int32(n)
	}
	for _, d := range t.Devices {
		number(d.Name)
		g.devices[d.Name] = d
	}
	for _, h := range t.Hosts {
		g.host[number(h.Name)] = true
		g.hosts[h.Name] = h
	}
	for i, l := range t.Links {
		if comesBack(t.Links, i-1) {
			g.ends[i] = nodePair{g.ends[i-1].to, g.ends[i-1].from}
		} else {
			g.ends[i] = nodePair{number(l.From.Node), number(l.To.Node)}
		}
	}
	g.join(t.Links)
	return g
}

func newIndex(t *Topology) *index {
	ix := &index{
		graph:   t.graph(),
		link:    make(map[string]*Link, len(t.Links)),
		reverse: make(map[*Link]*Link, len(t.Links)),
		from:    make(map[port]*Link, len(t.Links)),
		into:    make(map[port]*Link),
		ifaceAt: make(map[netip.Addr]*Interface, len(t.Links)),
		hostAt:  make(map[netip.Addr]*Host, len(t.Hosts)),
	}
	for _, h := range t.Hosts {
		for _, a := range h.Addresses {
			ix.hostAt[a.Unmap()] = h
		}
	}
	for i, l := range t.Links {
		n := ix.ends[i].from
		ix.link[l.Name] = l
		ix.from[port{n, l.From.Name}] = l
		for _, a := range [...]netip.Prefix{l.From.Addr, l.From.Addr6} {
			if !a.IsValid() {
				continue
			}
			ix.ifaceAt[a.Addr().Unmap()] = l.From
			if ix.host[n] {
				ix.hostAt[a.Addr().Unmap()] = ix.hosts[l.From.Node]
			}
		}
	}
	for i, l := range t.Links {
		switch {
		case comesBack(t.Links, i):
			ix.reverse[l] = t.Links[i+1]
			continue
		case comesBack(t.Links, i-1):
			ix.reverse[l] = t.Links[i-1]
			continue
		}
		at := port{ix.ends[i].to, l.To.Name}
		back := ix.from[at]
		if back != nil {
			ix.reverse[l] = back
		}
		if back == nil || back.To.Node != l.From.Node || back.To.Name != l.From.Name {
			ix.into[at] = l
		}
	}
	return ix
}

// comesBack says whether the link after link i is its way back, as [New] lays
// them: that spares looking it up.
func comesBack(links []*Link, i int) bool {
	return i >= 0 && i+1 < len(links) && links[i+1].From == links[i].To && links[i+1].To == links[i].From
}

// join lays the links of each node side by side, in two arrays for all.
func (g *graph) join(links []*Link) {
	degree := make([]int, len(g.names))
	for _, e := range g.ends {
		degree[e.from]++
	}
	out, to := make([]*Link, len(links)), make([]int32, len(links))
	g.out, g.to = make([][]*Link, len(degree)), make([][]int32, len(degree))
	at := 0
	for n, d := range degree {
		if d > 0 {
			g.out[n], g.to[n] = out[at:at:at+d], to[at:at:at+d]
			at += d
		}
	}
	for i, e := range g.ends {
		g.out[e.from] = append(g.out[e.from], links[i])
		g.to[e.from] = append(g.to[e.from], e.to)
	}
	last := make([]int32, len(degree)) // the node that led here last, and 1
	for n := range g.to {
		for _, m := range g.to[n] {
			if last[m] == int32(n)+1 {
				g.several[nodePair{int32(n), m}] = nil
			}
			last[m] = int32(n) + 1
		}
	}
	if len(g.several) == 0 {
		return
	}
	for i, e := range g.ends {
		if all, ok := g.several[e]; ok {
			g.several[e] = append(all, links[i])
		}
	}
}

// port gives the key of an interface; false when there is no such node.
func (ix *index) port(node, name string) (port, bool) {
	n, ok := ix.node[node]
	return port{int32(n), name}, ok
}

// Link finds a directed link by its name.
func (t *Topology) Link(name string) (*Link, bool) {
	l, ok := t.index().link[name]
	return l, ok
}

// Reverse gives the other direction of the same cable; nil for a link that is
// not of this topology.
func (t *Topology) Reverse(l *Link) *Link { return t.index().reverse[l] }

// LinkBetween gives all links from one node to another, in file order; nil when
// there is none. The slice is the topology's own: do not change it.
func (t *Topology) LinkBetween(from, to string) []*Link {
	g := t.graph()
	n, okN := g.node[from]
	m, okM := g.node[to]
	if !okN || !okM {
		return nil
	}
	if all := g.several[nodePair{int32(n), int32(m)}]; all != nil {
		return all
	}
	if i := slices.Index(g.to[n], int32(m)); i >= 0 {
		return g.out[n][i : i+1 : i+1]
	}
	return nil
}

// LinksFrom gives all links leaving a node, in file order; nil for an unknown
// node. The slice is the topology's own: do not change it.
func (t *Topology) LinksFrom(node string) []*Link {
	g := t.graph()
	if n, ok := g.node[node]; ok {
		return g.out[n]
	}
	return nil
}

// Device finds a device by name.
func (t *Topology) Device(name string) (*Device, bool) {
	d, ok := t.graph().devices[name]
	return d, ok
}

// Host finds a host by name.
func (t *Topology) Host(name string) (*Host, bool) {
	h, ok := t.graph().hosts[name]
	return h, ok
}

// InterfaceAt finds the interface that owns an address. IPv4-mapped IPv6
// addresses count as IPv4.
func (t *Topology) InterfaceAt(a netip.Addr) (*Interface, bool) {
	i, ok := t.index().ifaceAt[a.Unmap()]
	return i, ok
}

// HostAt finds the host that owns an address, listed or on one of its interfaces.
func (t *Topology) HostAt(a netip.Addr) (*Host, bool) {
	h, ok := t.index().hostAt[a.Unmap()]
	return h, ok
}

// InterfaceOf finds an interface by its node's and its own name.
func (t *Topology) InterfaceOf(node, ifname string) (*Interface, bool) {
	if l, ok := t.LinkFrom(node, ifname); ok {
		return l.From, true
	}
	return nil, false
}

// LinkFrom gives the link whose packets leave by this interface (egress).
func (t *Topology) LinkFrom(node, ifname string) (*Link, bool) {
	at, ok := t.index().port(node, ifname)
	if !ok {
		return nil, false
	}
	l, ok := t.ix.from[at]
	return l, ok
}

// LinkInto gives the link whose packets arrive on this interface (ingress).
func (t *Topology) LinkInto(node, ifname string) (*Link, bool) {
	at, ok := t.index().port(node, ifname)
	if !ok {
		return nil, false
	}
	if l, ok := t.ix.into[at]; ok {
		return l, true
	}
	l, ok := t.ix.reverse[t.ix.from[at]]
	return l, ok
}

// HostLink says whether one end of the link is a host, and gives the host's name.
func (t *Topology) HostLink(l *Link) (host string, ok bool) {
	g := t.graph()
	if _, ok := g.hosts[l.From.Node]; ok {
		return l.From.Node, true
	}
	if _, ok := g.hosts[l.To.Node]; ok {
		return l.To.Node, true
	}
	return "", false
}

// ResolveHost finds a host by name or by address. The error says which hosts
// come near, so that it can be shown to whoever typed the name.
func (t *Topology) ResolveHost(nameOrAddr string) (*Host, error) {
	if h, ok := t.Host(nameOrAddr); ok {
		return h, nil
	}
	if a, err := netip.ParseAddr(nameOrAddr); err == nil {
		if h, ok := t.HostAt(a); ok {
			return h, nil
		}
		if i, ok := t.InterfaceAt(a); ok {
			return nil, fmt.Errorf("address %s belongs to device %s (%s), not to a host", a, i.Node, i.Name)
		}
		return nil, fmt.Errorf("address %s belongs to no host of the topology", a)
	}
	if _, ok := t.Device(nameOrAddr); ok {
		return nil, fmt.Errorf("%q is a device, not a host", nameOrAddr)
	}
	if near := strictyaml.Nearest(nameOrAddr, slices.Sorted(maps.Keys(t.graph().hosts))); near != "" {
		return nil, fmt.Errorf("no host named %q in the topology; did you mean %q?", nameOrAddr, near)
	}
	return nil, fmt.Errorf("no host named %q in the topology", nameOrAddr)
}

func (d *Device) equal(e *Device) bool {
	if d.Name != e.Name || d.Tier != e.Tier || d.Pod != e.Pod || !maps.Equal(d.Tags, e.Tags) {
		return false
	}
	if d.GNMI == nil || e.GNMI == nil {
		return d.GNMI == e.GNMI
	}
	g, h := *d.GNMI, *e.GNMI
	if g.TLS != nil && h.TLS != nil && *g.TLS == *h.TLS {
		g.TLS, h.TLS = nil, nil
	}
	return g == h
}

func (h *Host) equal(g *Host) bool {
	return h.Name == g.Name && slices.Equal(h.Addresses, g.Addresses) && maps.Equal(h.Tags, g.Tags)
}

func (l *Link) equal(m *Link) bool {
	return l.Name == m.Name && *l.From == *m.From && *l.To == *m.To
}
