package topology

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"decaf/topology/strictyaml"
)

// index makes every look-up a map access. Nodes are numbered, devices first.
type index struct {
	devices map[string]*Device
	hosts   map[string]*Host
	node    map[string]int // name → number
	names   []string       // number → name
	out     [][]*Link      // number → links leaving it, in file order
	to      [][]int        // number → where each of these leads
	host    []bool         // number → whether it is a host

	link    map[string]*Link
	reverse map[*Link]*Link
	between map[[2]string][]*Link
	from    map[[2]string]*Link // node, interface → the link leaving it
	into    map[[2]string]*Link // node, interface → the link entering it

	ifaceAt map[netip.Addr]*Interface
	hostAt  map[netip.Addr]*Host
}

func (t *Topology) index() *index {
	t.once.Do(func() { t.ix = newIndex(t) })
	return t.ix
}

func newIndex(t *Topology) *index {
	ix := &index{
		devices: make(map[string]*Device, len(t.Devices)),
		hosts:   make(map[string]*Host, len(t.Hosts)),
		node:    make(map[string]int, len(t.Devices)+len(t.Hosts)),
		link:    make(map[string]*Link, len(t.Links)),
		reverse: make(map[*Link]*Link, len(t.Links)),
		between: make(map[[2]string][]*Link, len(t.Links)),
		from:    make(map[[2]string]*Link, len(t.Links)),
		into:    make(map[[2]string]*Link, len(t.Links)),
		ifaceAt: make(map[netip.Addr]*Interface, len(t.Links)),
		hostAt:  make(map[netip.Addr]*Host, len(t.Hosts)),
	}
	number := func(name string) int {
		n, ok := ix.node[name]
		if !ok {
			n = len(ix.names)
			ix.node[name] = n
			ix.names = append(ix.names, name)
			ix.out = append(ix.out, nil)
			ix.to = append(ix.to, nil)
			ix.host = append(ix.host, false)
		}
		return n
	}
	for _, d := range t.Devices {
		number(d.Name)
		ix.devices[d.Name] = d
	}
	for _, h := range t.Hosts {
		ix.host[number(h.Name)] = true
		ix.hosts[h.Name] = h
		for _, a := range h.Addresses {
			ix.hostAt[a.Unmap()] = h
		}
	}
	for _, l := range t.Links {
		n, m := number(l.From.Node), number(l.To.Node)
		ix.out[n] = append(ix.out[n], l)
		ix.to[n] = append(ix.to[n], m)
		ix.link[l.Name] = l
		pair := [2]string{l.From.Node, l.To.Node}
		ix.between[pair] = append(ix.between[pair], l)
		ix.from[[2]string{l.From.Node, l.From.Name}] = l
		ix.into[[2]string{l.To.Node, l.To.Name}] = l
		if a := l.From.Addr; a.IsValid() {
			ix.ifaceAt[a.Addr().Unmap()] = l.From
			if h, ok := ix.hosts[l.From.Node]; ok {
				ix.hostAt[a.Addr().Unmap()] = h
			}
		}
	}
	for _, l := range t.Links {
		if back := ix.from[[2]string{l.To.Node, l.To.Name}]; back != nil {
			ix.reverse[l] = back
		}
	}
	return ix
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
	return t.index().between[[2]string{from, to}]
}

// LinksFrom gives all links leaving a node, in file order; nil for an unknown
// node. The slice is the topology's own: do not change it.
func (t *Topology) LinksFrom(node string) []*Link {
	ix := t.index()
	if n, ok := ix.node[node]; ok {
		return ix.out[n]
	}
	return nil
}

// Device finds a device by name.
func (t *Topology) Device(name string) (*Device, bool) {
	d, ok := t.index().devices[name]
	return d, ok
}

// Host finds a host by name.
func (t *Topology) Host(name string) (*Host, bool) {
	h, ok := t.index().hosts[name]
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
	l, ok := t.index().from[[2]string{node, ifname}]
	return l, ok
}

// LinkInto gives the link whose packets arrive on this interface (ingress).
func (t *Topology) LinkInto(node, ifname string) (*Link, bool) {
	l, ok := t.index().into[[2]string{node, ifname}]
	return l, ok
}

// HostLink says whether one end of the link is a host, and gives the host's name.
func (t *Topology) HostLink(l *Link) (host string, ok bool) {
	ix := t.index()
	if _, ok := ix.hosts[l.From.Node]; ok {
		return l.From.Node, true
	}
	if _, ok := ix.hosts[l.To.Node]; ok {
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
	if near := strictyaml.Nearest(nameOrAddr, slices.Sorted(maps.Keys(t.index().hosts))); near != "" {
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
	if d.GNMI.Address != e.GNMI.Address {
		return false
	}
	if d.GNMI.TLS == nil || e.GNMI.TLS == nil {
		return d.GNMI.TLS == e.GNMI.TLS
	}
	return *d.GNMI.TLS == *e.GNMI.TLS
}

func (h *Host) equal(g *Host) bool {
	return h.Name == g.Name && slices.Equal(h.Addresses, g.Addresses) && maps.Equal(h.Tags, g.Tags)
}

func (l *Link) equal(m *Link) bool {
	return l.Name == m.Name && *l.From == *m.From && *l.To == *m.To
}
