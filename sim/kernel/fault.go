package kernel

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"decaf/sim/scenario"
	"decaf/topology"
)

// Truth is what a fault did, from counters that are not decaf's own.
type Truth struct {
	Fault scenario.Fault
	// Component is the one to blame, "link a>b" or "device d".
	Component string
	// From and To are when the fault came and went; To is zero while it is active.
	From, To time.Time
	// Source names the counter: "xdp", "nftables", "tbf", or the kernel's own name.
	Source string
	// Packets were lost; Seen is how many passed by that the fault could have
	// taken, 0 where the counter does not tell.
	Packets, Seen uint64
	// Connections were slowed down or reset by a fault of a host.
	Connections uint64
	// Drops are the packets, oldest first, of kinds that no device sees: silent-loss,
	// corrupt, device-loss, syn-blackhole. LeftOut is how many more were lost than are
	// listed.
	Drops   []Drop
	LeftOut uint64
	// Err says why the figures are not whole, nil when they are.
	Err error
}

// Drop is one packet that a fault took on a link.
type Drop struct {
	Time     time.Time
	Link     string         // the directed link
	Src, Dst netip.AddrPort // port 0 where the protocol has none
	Protocol uint8          // IP protocol number
	IPID     uint16         // 0 for IPv6
	TTL      uint8          // or hop limit
	// Of TCP only: the header's sequence number and flags, and the payload's length.
	Seq     uint32
	Flags   uint8
	Payload int
}

// maxDrops bounds the packets that one fault lists.
const maxDrops = 1 << 17

// A record of one packet in a wire's ring: the time, the IP header without options
// (20 bytes of IPv4 or 40 of IPv6), and 20 bytes from behind it and its options.
const (
	recordIP   = 8
	recordL4   = recordIP + 40
	recordSize = recordL4 + 20 + 4 // a multiple of 8
)

// parseDrop reads a record; boot is the wall-clock time at which the kernel's
// monotonic clock was 0.
func parseDrop(b []byte, boot time.Time) (Drop, error) {
	if len(b) < recordSize {
		return Drop{}, fmt.Errorf("record of %d bytes, want %d", len(b), recordSize)
	}
	ip, l4 := b[recordIP:recordL4], b[recordL4:recordSize]
	d := Drop{Time: boot.Add(time.Duration(binary.NativeEndian.Uint64(b)))}
	var src, dst netip.Addr
	var carried int // bytes behind the IP header
	switch ip[0] >> 4 {
	case 4:
		d.Protocol, d.IPID, d.TTL = ip[9], binary.BigEndian.Uint16(ip[4:]), ip[8]
		src, dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
		carried = int(binary.BigEndian.Uint16(ip[2:])) - int(ip[0]&0xf)*4
	case 6:
		d.Protocol, d.TTL = ip[6], ip[7]
		src, dst = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
		carried = int(binary.BigEndian.Uint16(ip[4:]))
	default:
		return Drop{}, fmt.Errorf("record of IP version %d", ip[0]>>4)
	}
	var sport, dport uint16
	const tcp, udp = 6, 17
	if d.Protocol == tcp || d.Protocol == udp {
		sport, dport = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	}
	d.Src, d.Dst = netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
	if d.Protocol == tcp {
		d.Seq, d.Flags = binary.BigEndian.Uint32(l4[4:]), l4[13]
		d.Payload = max(0, carried-int(l4[12]>>4)*4)
	}
	return d, nil
}

// CheckFault says why a fault cannot be made on the kernel fabric of a topology;
// nil if it can.
func CheckFault(t *topology.Topology, f scenario.Fault) error {
	_, err := resolve(t, f)
	return err
}

// target is a fault resolved on the topology.
type target struct {
	fault    scenario.Fault
	rate     float64
	below    uint32         // a random number of 32 bits below it is a hit
	all      bool           // every packet is one
	link     *topology.Link // for faults of links
	device   string         // for faults of devices
	host     string         // for faults of hosts
	src, dst []netip.Prefix // nil: any
	port     uint16         // 0: any
	// towards are the addresses of hosts that a fault of routes takes packets to.
	towards []netip.Prefix
}

// kind is what a fault kind takes, and why it takes no more.
type kind struct {
	on     string // the kind of component
	rate   bool   // may hit a share of the packets
	noRate string // why not
	// match are the keys it can choose packets by; noMatch says why not by others.
	match   []string
	noMatch string
	// near, of faults of a device's routes: packets to hosts on the device's own links
	// are hit too.
	routed, near bool
}

var (
	anyPacket = []string{"src", "dst", "port"}
	byRoute   = []string{"dst"}
)

const knowsDestinations = "a route knows destinations only"

var kinds = map[string]kind{
	"silent-loss": {on: "link", rate: true, match: anyPacket},
	"corrupt":     {on: "link", rate: true, match: anyPacket},
	"queue":       {on: "link", noRate: "how much overflows is up to the traffic", noMatch: "all packets wait in one queue"},

	"acl":           {on: "device", rate: true, match: anyPacket},
	"no-route":      {on: "device", noRate: "a route is gone for all packets", match: byRoute, noMatch: knowsDestinations, routed: true},
	"route-flap":    {on: "device", rate: true, match: byRoute, noMatch: knowsDestinations, routed: true}, // rate: of the time
	"blackhole":     {on: "device", rate: true, match: byRoute, noMatch: knowsDestinations, routed: true},
	"ttl-loop":      {on: "device", noRate: "a packet that loops comes by again and again", match: byRoute, noMatch: knowsDestinations, routed: true, near: true},
	"mtu":           {on: "device", rate: true, match: anyPacket, routed: true, near: true},
	"device-down":   {on: "device", noRate: "its links are down for all packets", noMatch: "its links are down for all packets"},
	"device-loss":   {on: "device", rate: true, match: anyPacket},
	"syn-blackhole": {on: "device", rate: true, match: anyPacket},

	"host-slow":    {on: "host", noRate: "all that it sends waits in one queue", noMatch: "all that it sends waits in one queue"},
	"server-slow":  {on: "host", noRate: "its processes stand still for all connections", noMatch: "its processes stand still for all connections"},
	"server-reset": {on: "host", rate: true, match: []string{"src", "port"}, noMatch: "the host is the destination"}, // rate: of the connections
}

// resolve checks what a fault asks for against what its kind can do on this
// fabric.
func resolve(t *topology.Topology, f scenario.Fault) (*target, error) {
	kind, ok := kinds[f.Kind]
	if !ok {
		return nil, fmt.Errorf("the kernel fabric cannot make a fault of kind %q; it can make %s",
			f.Kind, strings.Join(slices.Sorted(maps.Keys(kinds)), ", "))
	}
	what, name, ok := scenario.SplitComponent(f.On)
	if !ok {
		return nil, fmt.Errorf("on: %q names no component; write %q", f.On, kind.on+" NAME")
	}
	if what != kind.on {
		return nil, fmt.Errorf("on: %s happens on a %s, not on a %s", f.Kind, kind.on, what)
	}
	g := &target{fault: f, rate: f.Rate}
	switch what {
	case "link":
		if g.link, ok = t.Link(name); !ok {
			return nil, fmt.Errorf("on: no link %q in the topology", name)
		}
	case "device":
		if _, ok = t.Device(name); !ok {
			return nil, fmt.Errorf("on: no device %q in the topology", name)
		}
		g.device = name
	case "host":
		if _, ok = t.Host(name); !ok {
			return nil, fmt.Errorf("on: no host %q in the topology", name)
		}
		g.host = name
	}
	if err := g.setRate(kind); err != nil {
		return nil, err
	}
	if err := g.setMatch(t, kind); err != nil {
		return nil, err
	}
	return g, g.setRoutes(t, kind)
}

// setRate checks and sets the share of packets.
func (g *target) setRate(k kind) error {
	if g.rate == 0 {
		g.rate = 1
	}
	if !(g.rate > 0 && g.rate <= 1) {
		return fmt.Errorf("rate: %v is not a share above 0 and up to 1", g.rate)
	}
	if g.rate != 1 && !k.rate {
		return fmt.Errorf("rate: %s cannot hit a share of the packets: %s; leave it out", g.fault.Kind, k.noRate)
	}
	if g.rate == 1 {
		g.all = true
		return nil
	}
	if g.below = uint32(g.rate * (1 << 32)); g.below == 0 {
		return fmt.Errorf("rate: %v is below 2^-32, the smallest that can be drawn", g.rate)
	}
	return nil
}

// setMatch checks and sets which packets are meant.
func (g *target) setMatch(t *topology.Topology, k kind) (err error) {
	m := g.fault.Match
	for _, key := range []struct {
		name  string
		given bool
	}{{"src", m.Src != ""}, {"dst", m.Dst != ""}, {"port", m.Port != 0}} {
		if key.given && !slices.Contains(k.match, key.name) {
			return fmt.Errorf("match: %s cannot choose packets by %s: %s; leave it out", g.fault.Kind, key.name, k.noMatch)
		}
	}
	if m.Port < 0 || m.Port > 65535 {
		return fmt.Errorf("match: port %d is not in 1..65535", m.Port)
	}
	g.port = uint16(m.Port)
	if g.src, g.dst, err = m.Prefixes(t); err != nil {
		return err
	}
	speaks := versions(t)
	for _, p := range slices.Concat(g.src, g.dst) {
		if !slices.Contains(speaks, versionOf(p.Addr())) {
			return fmt.Errorf("match: %s: the fabric has no addresses of IPv%d", p, versionOf(p.Addr()))
		}
	}
	if len(choices(g.src, g.dst)) == 0 {
		return fmt.Errorf("match: src %s and dst %s have no version of the Internet Protocol in common", m.Src, m.Dst)
	}
	return nil
}

// choice is a source and a destination of packets, of one version; not valid is any.
type choice struct{ src, dst netip.Prefix }

// choices pairs prefixes of sources and destinations of one version; an empty list is
// any. No packet fits two.
func choices(src, dst []netip.Prefix) (all []choice) {
	for _, src := range orAny(src) {
		for _, dst := range orAny(dst) {
			if !src.IsValid() || !dst.IsValid() || versionOf(src.Addr()) == versionOf(dst.Addr()) {
				all = append(all, choice{src, dst})
			}
		}
	}
	return all
}

// orAny gives one invalid prefix, any, for an empty list.
func orAny(list []netip.Prefix) []netip.Prefix {
	if len(list) == 0 {
		return []netip.Prefix{{}}
	}
	return list
}

// only gives the prefixes of one version, or any if the list is empty; false if
// there are others only.
func (v version) only(list []netip.Prefix) ([]netip.Prefix, bool) {
	if len(list) == 0 {
		return nil, true
	}
	list = slices.DeleteFunc(slices.Clone(list), func(p netip.Prefix) bool { return versionOf(p.Addr()) != v })
	return list, len(list) > 0
}

// takes says whether the fault may be about packets of a version.
func (g *target) takes(v version) bool {
	_, src := v.only(g.src)
	_, dst := v.only(g.dst)
	return src && dst
}

// setRoutes finds the addresses that a fault of a device's routes is about.
func (g *target) setRoutes(t *topology.Topology, k kind) error {
	if !k.routed {
		return nil
	}
	g.towards = hostAddresses(t, g.device, g.dst, k.near)
	if len(g.towards) == 0 {
		which := "host"
		if g.fault.Match.Dst != "" {
			which = fmt.Sprintf("host in %q", g.fault.Match.Dst)
		}
		if !k.near {
			which += " that is not on its own links"
		}
		return fmt.Errorf("match: %s on %s takes nothing: there is no %s", g.fault.Kind, g.device, which)
	}
	if g.fault.Kind == "ttl-loop" && len(deviceLinks(t, g.device)) == 0 {
		return fmt.Errorf("on: ttl-loop needs another device next to it, %s has none", g.device)
	}
	return nil
}

// hostAddresses lists the addresses of hosts that lie in one of the prefixes, nil
// standing for all; near says whether those on the device's own links are among them.
func hostAddresses(t *topology.Topology, device string, list []netip.Prefix, near bool) []netip.Prefix {
	var all []netip.Prefix
	for _, h := range t.Hosts {
		if !near && slices.ContainsFunc(t.LinksFrom(h.Name), func(l *topology.Link) bool { return l.To.Node == device }) {
			continue
		}
		for _, a := range h.Addresses {
			if list == nil || slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) }) {
				all = append(all, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	return all
}

// deviceLinks lists a device's links to other devices.
func deviceLinks(t *topology.Topology, device string) []*topology.Link {
	return slices.DeleteFunc(slices.Clone(t.LinksFrom(device)), func(l *topology.Link) bool {
		_, isDevice := t.Device(l.To.Node)
		return !isDevice
	})
}
