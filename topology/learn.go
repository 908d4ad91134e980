package topology

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Walk is one path that was traced: the addresses that answered, by TTL, between
// two hosts. Each is the interface by which packets came in (RFC 5837, or
// answers from inbound addresses); other walks do not go together into links.
type Walk struct {
	Src, Dst netip.Addr
	// Hops are the switches' addresses; an invalid one did not answer.
	Hops []netip.Addr
	// Names are the routers' own names of these interfaces, where known; nil or as
	// long as Hops.
	Names []string
}

// Learning is what Learn could not use or had to assume.
type Learning struct {
	// Cut counts walks of which only a part was used, for a hop that did not answer.
	Cut int
	// Looped counts walks left out since an address was in them twice.
	Looped int
	// Through counts walks left out since more hosts walked through the address they
	// begin at than say that it is an end.
	Through int
	// Alone counts interfaces of which no other of the same device is known: each
	// makes a device of its own, also where it is in truth one of another's.
	Alone int
	// Doubted counts steps from one hop to the next that few walks show where many
	// others say otherwise: walks that were under way while routes changed.
	Doubted int
	// Unaddressed counts cables without addresses, since they are no /31 or /127:
	// traces do not tell that they went over these.
	Unaddressed int
}

// Learn makes a topology out of traced paths, for a network of which no file
// tells. Hosts are named by hosts where it has a name, else by their address,
// devices by the lowest of their addresses.
//
// Which interfaces belong to one device follows from three things: on a link
// with a /31 or /127 the other address is the previous device's; a host has one
// link, so the last switches before it are one, and the first behind it; and
// what two walks, there and back, say of the same addresses. An address that
// shows up on both sides of a would-be link is not believed.
//
// No address is both a host's and a switch's. Where walks say both, as of a host that
// forwards for others or by one that lies, it is what more hosts say, and a host where
// as many say so: then it counts as a hop that did not answer.
//
// The result is a topology as any other: written by [Topology.Marshal] it is a file
// for `decaf topology check` and `decaf serve`. It has no tiers, pods and tags, and as
// many links as were walked: walks from several hosts, and both ways, make it whole.
// Walks of one version of the Internet Protocol only, since nothing in them says
// which IPv6 address stands beside which IPv4 one.
// Errors: no usable walk, or those of [New].
func Learn(site string, walks []Walk, hosts map[netip.Addr]string) (*Topology, Learning, error) {
	l := learner{walks: walks, hosts: maps.Clone(hosts), parent: make(map[netip.Addr]netip.Addr), inbound: make(map[netip.Addr]bool), iface: make(map[netip.Addr]string), ends: make(map[netip.Addr]bool), walked: make(map[step]int)}
	l.tellApart()
	l.read()
	if len(l.steps) == 0 {
		return nil, l.Learning, fmt.Errorf("learn a topology: none of %d walks has two neighbouring hops that answered", len(walks))
	}
	l.join()
	t, err := l.build(site)
	return t, l.Learning, err
}

// step is a link of a walk: from an address, or a host, to the next.
type step struct {
	from, to   netip.Addr
	first, end bool // from is a host; to is one
}

type learner struct {
	Learning
	walks   []Walk
	hosts   map[netip.Addr]string
	steps   []step
	inbound map[netip.Addr]bool       // addresses of switches that answered
	parent  map[netip.Addr]netip.Addr // union-find over the switches' addresses
	iface   map[netip.Addr]string
	ends    map[netip.Addr]bool // hosts' addresses, those of walks' ends
	walked  map[step]int        // by how many walks
}

// tellApart finds which addresses are hosts': of one that is an end of some walks and
// on the way of others, those who made them have a vote each.
func (l *learner) tellApart() {
	for _, w := range l.walks {
		l.ends[w.Src.Unmap()] = true
		if w.Dst.IsValid() {
			l.ends[w.Dst.Unmap()] = true
		}
	}
	type votes struct{ end, way map[string]bool }
	both := make(map[netip.Addr]votes)
	for _, w := range l.walks {
		for _, a := range w.Hops {
			if a = a.Unmap(); l.ends[a] && both[a].end == nil {
				both[a] = votes{make(map[string]bool), make(map[string]bool)}
			}
		}
	}
	if len(both) == 0 {
		return
	}
	for _, w := range l.walks {
		by := l.host(w.Src.Unmap())
		for _, a := range []netip.Addr{w.Src.Unmap(), w.Dst.Unmap()} {
			if v, ok := both[a]; ok {
				v.end[by] = true
			}
		}
		for _, a := range w.Hops {
			if v, ok := both[a.Unmap()]; ok {
				v.way[by] = true
			}
		}
	}
	for a, v := range both {
		if len(v.way) > len(v.end) {
			delete(l.ends, a)
			delete(l.hosts, a)
		}
	}
}

// read takes the walks apart.
func (l *learner) read() {
	seen := make(map[step]bool)
	for _, w := range l.walks {
		src, dst := w.Src.Unmap(), w.Dst.Unmap()
		if !l.ends[src] {
			l.Through++
			continue
		}
		if !l.ends[dst] {
			dst = netip.Addr{} // a switch's, or the walk did not reach it
		}
		once := make(map[netip.Addr]bool)
		hops := make([]netip.Addr, len(w.Hops))
		looped, cut := false, false
		for i, a := range w.Hops {
			if a = a.Unmap(); a.IsValid() && !l.ends[a] {
				hops[i] = a
				looped = looped || once[a]
				once[a] = true
			}
		}
		if looped {
			l.Looped++
			continue
		}
		before := step{from: src, first: true}
		add := func(s step) {
			if !s.from.IsValid() || !s.to.IsValid() {
				cut = true
				return
			}
			if l.walked[s]++; !seen[s] {
				seen[s] = true
				l.steps = append(l.steps, s)
			}
		}
		for i, a := range hops {
			if a.IsValid() {
				l.inbound[a] = true
				l.find(a)
				if i < len(w.Names) && w.Names[i] != "" && named(w.Names[i], ifaceMarks) {
					l.iface[a] = w.Names[i]
				}
			}
			before.to = a
			add(before)
			before = step{from: a}
		}
		before.to, before.end = dst, true
		add(before)
		if cut {
			l.Cut++
		}
	}
}

// find gives the one address that stands for a device.
func (l *learner) find(a netip.Addr) netip.Addr {
	p, ok := l.parent[a]
	if !ok {
		l.parent[a] = a
		return a
	}
	if p != a {
		p = l.find(p)
		l.parent[a] = p
	}
	return p
}

func (l *learner) union(a, b netip.Addr) {
	a, b = l.find(a), l.find(b)
	if b.Less(a) {
		a, b = b, a
	}
	l.parent[b] = a
}

// mate is the other address of a link of two.
func mate(a netip.Addr) netip.Addr {
	b := a.AsSlice()
	b[len(b)-1] ^= 1
	m, _ := netip.AddrFromSlice(b)
	return m
}

// join finds the addresses that are of one device.
func (l *learner) join() {
	before := make(map[netip.Addr][]netip.Addr) // inbound address → where packets came from
	lastOf := make(map[netip.Addr]netip.Addr)   // host → a switch's address next to it
	for _, s := range l.steps {
		switch {
		case s.first && s.end:
		case s.first:
			// The switch's side of the host's link is the address that answered.
			l.next(lastOf, s.from, s.to)
		case s.end:
			l.next(lastOf, s.to, s.from)
			if m := mate(s.to); l.inbound[m] {
				l.union(m, s.from)
			}
		default:
			before[s.to] = append(before[s.to], s.from)
		}
	}
	var doubtful []step
	for to, from := range before {
		m := mate(to)
		if _, host := l.hosts[m]; host || l.ends[m] {
			continue
		}
		// On a link of two both ends see each other. Should the mate answer behind
		// another switch than this one, it is no such link.
		believed := true
		if l.inbound[m] {
			for _, f := range before[m] {
				if !slices.Contains(from, m) && l.inbound[f] && f == m {
					believed = false
				}
			}
		}
		if slices.Contains(from, m) {
			believed = false // both on one way: not the two ends of one link
		}
		if !believed {
			continue
		}
		l.find(m)
		most := 0
		for _, f := range from {
			most = max(most, l.walked[step{from: f, to: to}])
		}
		for _, f := range from {
			if s := (step{from: f, to: to}); l.walked[s]*doubt >= most {
				l.union(m, f)
			} else {
				doubtful = append(doubtful, s)
			}
		}
	}
	l.doubtful(doubtful)
}

// doubt is how many walks by other ways into an interface make one walk by its own
// way doubtful.
const doubt = 10

// doubtful decides about steps that few walks show: one is believed if its ends are
// known to be of one link by then, or if nothing else is known of where it comes
// from. Any other would make two devices one.
func (l *learner) doubtful(steps []step) {
	most := make(map[netip.Addr]int) // out of an interface
	for s, n := range l.walked {
		if !s.first {
			most[s.from] = max(most[s.from], n)
		}
	}
	no := make(map[step]bool)
	slices.SortFunc(steps, func(a, b step) int { return cmp.Or(a.to.Compare(b.to), a.from.Compare(b.from)) })
	for _, s := range steps {
		switch m := mate(s.to); {
		case l.find(m) == l.find(s.from):
		case l.walked[s]*doubt >= most[s.from]:
			l.union(m, s.from)
		default:
			no[s] = true
		}
	}
	l.Doubted = len(no)
	l.steps = slices.DeleteFunc(l.steps, func(s step) bool { return no[s] })
}

// next joins the switches next to a host: it has one link.
func (l *learner) next(lastOf map[netip.Addr]netip.Addr, host, at netip.Addr) {
	if other, ok := lastOf[host]; ok {
		l.union(other, at)
	}
	lastOf[host] = at
}

// name of a node that has none, of the marks that names may have.
func addressName(prefix string, a netip.Addr) string {
	return prefix + strings.Trim(strings.NewReplacer(".", "-", ":", "-").Replace(a.StringExpanded()), "-")
}

// host names the one at an address.
func (l *learner) host(a netip.Addr) string {
	if n := l.hosts[a]; n != "" {
		return n
	}
	return addressName("h", a)
}

// build makes devices, hosts and cables.
func (l *learner) build(site string) (*Topology, error) {
	device := func(a netip.Addr) string { return addressName("r", l.find(a)) }
	members := make(map[netip.Addr]int)
	for a := range l.parent {
		members[l.find(a)]++
	}
	names := make(map[string]bool)
	hostAt := make(map[netip.Addr]bool)
	for _, s := range l.steps {
		for _, e := range []struct {
			a    netip.Addr
			host bool
		}{{s.from, s.first}, {s.to, s.end}} {
			if e.host {
				hostAt[e.a] = true
			} else {
				names[device(e.a)] = true
			}
		}
	}
	for a := range l.inbound {
		if members[l.find(a)] == 1 {
			l.Alone++
		}
	}
	var devices []*Device
	for n := range names {
		devices = append(devices, &Device{Name: n})
	}
	slices.SortFunc(devices, func(a, b *Device) int { return cmp.Compare(a.Name, b.Name) })
	var hosts []*Host
	for a := range hostAt {
		hosts = append(hosts, &Host{Name: l.host(a), Addresses: []netip.Addr{a}})
	}
	slices.SortFunc(hosts, func(a, b *Host) int { return cmp.Compare(a.Name, b.Name) })
	hosts = mergeHosts(hosts)
	return New(site, devices, hosts, l.cables(device, hostAt))
}

// mergeHosts puts hosts of one name together: they have several addresses.
func mergeHosts(hosts []*Host) (out []*Host) {
	for _, h := range hosts {
		if n := len(out); n > 0 && out[n-1].Name == h.Name {
			out[n-1].Addresses = append(out[n-1].Addresses, h.Addresses...)
			continue
		}
		out = append(out, h)
	}
	for _, h := range out {
		slices.SortFunc(h.Addresses, netip.Addr.Compare)
	}
	return out
}

// cables joins what followed each other. A link seen both ways is one cable.
func (l *learner) cables(device func(netip.Addr) string, hostAt map[netip.Addr]bool) []Cable {
	steps := slices.Clone(l.steps)
	slices.SortFunc(steps, func(a, b step) int {
		return cmp.Or(a.to.Compare(b.to), a.from.Compare(b.from))
	})
	var out []Cable
	used := make(map[string]bool) // interfaces that have their cable
	for _, s := range steps {
		if s.first && s.end {
			continue // no switch between: nothing was traced
		}
		m := mate(s.to)
		to := Interface{Node: device(s.to), Name: l.ifaceName(s.to)}
		from := Interface{Node: device(s.from), Name: "to-" + addressName("", s.to)}
		if s.end {
			to = Interface{Node: l.host(s.to), Name: "eth0"}
		}
		paired := !hostAt[m] && l.parent[m].IsValid() && l.find(m) == l.find(s.from)
		switch {
		case s.first:
			from = Interface{Node: l.host(s.from), Name: "eth0"}
			paired = s.from == m
		case paired:
			from.Name = l.ifaceName(m)
		}
		if paired {
			from.Addr, to.Addr = netip.PrefixFrom(m, m.BitLen()-1), netip.PrefixFrom(s.to, s.to.BitLen()-1)
		}
		if from.Node == to.Node || used[from.String()] || used[to.String()] {
			continue
		}
		used[from.String()], used[to.String()] = true, true
		if !paired {
			l.Unaddressed++
		}
		out = append(out, Cable{A: from, B: to})
	}
	return out
}

// ifaceName is the router's own name of an interface, else one made of its address.
func (l *learner) ifaceName(a netip.Addr) string {
	if n := l.iface[a]; n != "" {
		return n
	}
	return addressName("if", a)
}
