package flow

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"decaf/sim/scenario"
	"decaf/topology"
)

// A stage is where on a link a packet may die, in the order it meets them.
type stage uint8

const (
	stageQueue  stage = iota // at the sending end, before the wire
	stageWire                // on it
	stageDevice              // in the device at the receiving end
	stageHost                // takes no packets: what a host does late or wrongly
)

// kind is what a fault kind of a scenario does on this fabric.
type kind struct {
	name  string
	stage stage
	// all is set when it acts on all links of its device, leaving ones too; else
	// a device's fault acts on what arrives.
	all bool
	// routed faults are of a route: they leave alone what goes to a host on the
	// device's own links, and can choose packets by destination only.
	routed bool
	// forwarding faults act after the TTL was looked at: a probe whose TTL ends at
	// the device is not taken (ip_forward comes before the filter's forward hook).
	forwarding bool
	syn, full  bool // takes SYNs only; full-sized packets only
	noMatch    bool // cannot choose packets
	// What an instrumented device says of a packet, as the kernel there would; ""
	// is nothing. counted: only that a counter rose, without the packet.
	class, reason, function string
	egress                  bool // the event names the egress interface
	counted                 bool
	// With rate left at 100 %, kinds that come in bursts lose this share of packets.
	share float64
}

// kinds is every fault kind of scenario.Kinds.
var kinds = []kind{
	{name: "silent-loss", stage: stageWire},
	{name: "corrupt", stage: stageWire, class: "errors/l2/rx/crc-error", reason: "rx_crc_errors", counted: true},
	{name: "duplex", stage: stageWire, class: "errors/l2/rx/invalid-frame", reason: "rx_frame_errors", counted: true, share: 0.02},
	// What the kernel fabric's queue loses on a core link: 3.4 to 5.5 %.
	{name: "queue", stage: stageQueue, class: "no-buffer", reason: "QDISC_DROP", function: "dev_qdisc_enqueue", egress: true, share: 0.05},
	{name: "acl", stage: stageDevice, forwarding: true, class: "policy/l3/acl", reason: "NETFILTER_DROP", function: "nft_do_chain", egress: true},
	{name: "blackhole", stage: stageDevice, routed: true, class: "policy/l3/null-route", reason: "NOT_SPECIFIED", function: "ip_error"},
	{name: "no-route", stage: stageDevice, routed: true, class: "errors/l3/rx/no-route", reason: "NOT_SPECIFIED", function: "ip_error"},
	{name: "ttl-loop", stage: stageDevice, routed: true, forwarding: true, class: "errors/l3/rx/ttl-expired", reason: "IP_INHDR", function: "ip_forward", egress: true},
	{name: "mtu", stage: stageDevice, forwarding: true, full: true, class: "errors/l3/rx/mtu-exceeded", reason: "PKT_TOO_BIG", function: "ip_forward", egress: true},
	{name: "route-flap", stage: stageDevice, routed: true, class: "errors/l3/rx/no-route", reason: "NOT_SPECIFIED", function: "ip_error", share: 0.5},
	{name: "device-down", stage: stageDevice, noMatch: true},
	{name: "device-loss", stage: stageWire, all: true},
	{name: "syn-blackhole", stage: stageDevice, syn: true},
	{name: "host-slow", stage: stageHost, noMatch: true},
	{name: "server-slow", stage: stageHost, noMatch: true},
	{name: "server-reset", stage: stageHost, noMatch: true},
}

// certain is the hazard of a packet that dies for sure: its chance to live is
// e^-64.
const certain = 64

// hazard turns a chance into −ln(1−p), which adds up along a path.
func hazard(p float64) float64 {
	if p >= 1 {
		return certain
	}
	return min(-math.Log1p(-p), certain)
}

// fault is one of the scenario's, resolved on the graph.
type fault struct {
	*kind
	spec     scenario.Fault
	times    times
	hazard   float64 // of one packet that it is there for
	rate     float64 // for faults of hosts: the share of connections
	link     Link
	device   Node
	host     int
	src, dst []addressRange // nil: any
	port     uint16         // 0: any
}

// addressRange is of addresses of one version, as toAddr takes them, both ends in it.
type addressRange struct {
	v6     bool
	lo, hi uint32
}

// functionOf is the kernel's function for a version, given that for IPv4.
func functionOf(v6 bool, function string) string {
	if v6 {
		switch function {
		case "ip_forward":
			return "ip6_forward"
		case "ip_error":
			return "ip6_pkt_discard"
		}
	}
	return function
}

// resolve checks a fault against what its kind can do here.
func (g *Graph) resolve(s scenario.Fault, sc *scenario.Scenario, seed uint64) (*fault, error) {
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == s.Kind })
	if i < 0 {
		known := make([]string, len(kinds))
		for i, k := range kinds {
			known[i] = k.name
		}
		return nil, fmt.Errorf("the flow-level fabric cannot make a fault of kind %q; it can make %s", s.Kind, strings.Join(known, ", "))
	}
	f := &fault{kind: &kinds[i], spec: s, times: newTimes(s, sc.Duration), link: -1, device: -1, host: -1}
	if scenario.IsRandom(s.On) {
		return nil, fmt.Errorf("on: %q is not drawn yet; draw the scenario first", s.On)
	}
	what, name, ok := scenario.SplitComponent(s.On)
	if want := scenario.HappensOn(s.Kind); !ok || what != want {
		return nil, fmt.Errorf("on: %s happens on a %s, not on %q", s.Kind, want, s.On)
	}
	if what == "link" {
		f.link, ok = g.LookupLink(name)
	} else {
		var n Node
		if n, ok = g.Lookup(name); ok && what == "device" {
			f.device, ok = n, g.IsDevice(n)
		} else if ok {
			f.host, ok = g.HostOf(n)
		}
	}
	if !ok {
		return nil, fmt.Errorf("on: the fabric has no %s", s.On)
	}
	f.rate = s.Rate
	if f.rate == 0 {
		f.rate = 1
	}
	if !(f.rate > 0 && f.rate <= 1) {
		return nil, fmt.Errorf("rate: %v is not a share above 0 and up to 1", s.Rate)
	}
	f.hazard = hazard(f.rate)
	f.burst(seed)
	if err := f.match(g, s.Match); err != nil {
		return nil, err
	}
	return f, nil
}

// burst sets how kinds that come in bursts spread their share over time.
func (f *fault) burst(seed uint64) {
	if f.share == 0 {
		return
	}
	share := f.rate
	if share == 1 {
		share = f.share
	}
	f.times.seed = seed
	switch f.name {
	case "route-flap": // rate is the share of time that the route is gone
		f.times.slot, f.times.duty, f.times.flap = flapPeriod, share, true
		f.hazard = certain
	case "queue":
		f.times.slot, f.times.duty = queueSlot, max(0.2, share)
		f.hazard = hazard(share / f.times.duty)
	default:
		f.times.slot, f.times.duty = duplexSlot, max(0.1, share)
		f.hazard = hazard(share / f.times.duty)
	}
}

func (f *fault) match(g *Graph, m scenario.Match) error {
	if m == (scenario.Match{}) {
		return nil
	}
	if f.noMatch {
		return fmt.Errorf("match: %s takes all packets; leave it out", f.name)
	}
	if f.routed && (m.Src != "" || m.Port != 0) {
		return fmt.Errorf("match: %s is of a route, which knows destinations only; leave src and port out", f.name)
	}
	if m.Port < 0 || m.Port > 65535 {
		return fmt.Errorf("match: port %d is not in 1..65535", m.Port)
	}
	f.port = uint16(m.Port)
	var err error
	if f.src, err = g.addresses(m.Src); err != nil {
		return fmt.Errorf("match src: %w", err)
	}
	if f.dst, err = g.addresses(m.Dst); err != nil {
		return fmt.Errorf("match dst: %w", err)
	}
	return nil
}

// addresses resolves a host's name, an address or a prefix; no ranges is any, and an
// empty list none.
func (g *Graph) addresses(s string) ([]addressRange, error) {
	if s == "" {
		return nil, nil
	}
	if n, ok := g.Lookup(s); ok {
		if h, isHost := g.HostOf(n); isHost {
			var all []addressRange
			for _, v6 := range g.versions() {
				a := g.address(g.hostDown(h))
				all = append(all, addressRange{v6, a, a})
			}
			return all, nil
		}
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("%q is no host of the fabric, no address and no prefix", s)
		}
		a = a.Unmap()
		p = netip.PrefixFrom(a, a.BitLen())
	}
	p = p.Masked()
	v6, length := p.Addr().Is6(), p.Bits()
	if !g.Speaks(v6) {
		return nil, fmt.Errorf("%s: the fabric has no addresses of that version (traffic.ip)", s)
	}
	a := p.Addr()
	if v6 {
		length -= 96
		var ours bool
		switch a, ours = topology.ClosAddr4(a); {
		case length <= 0 && p.Contains(toAddr(0, true)):
			return []addressRange{{true, 0, math.MaxUint32}}, nil
		case !ours:
			return []addressRange{}, nil
		}
	}
	b := a.As4()
	lo := binary.BigEndian.Uint32(b[:])
	return []addressRange{{v6, lo, lo | uint32(1<<(32-length)-1)}}, nil
}

func within(list []addressRange, v6 bool, a uint32) bool {
	for _, r := range list {
		if r.v6 == v6 && a >= r.lo && a <= r.hi {
			return true
		}
	}
	return list == nil
}

// takes gives the hazard of the fault for a packet at a time; 0 when it has
// nothing to do with it. ends says that the packet's TTL ends at the device.
func (f *fault) takes(g *Graph, p *packetHead, t timeNS, ends bool) float64 {
	if !f.times.active(t) {
		return 0
	}
	switch {
	case f.syn && p.flags&(flagSYN|flagACK) != flagSYN,
		f.full && p.size < fullSize,
		f.forwarding && ends,
		f.routed && p.host >= 0 && g.torOf(p.host) == f.device,
		f.port != 0 && p.dstPort != f.port,
		!within(f.src, p.v6, p.src), !within(f.dst, p.v6, p.dst):
		return 0
	}
	return f.hazard
}

// acts lists the links on which the fault may take packets.
func (f *fault) acts(g *Graph) []Link {
	switch {
	case f.stage == stageHost:
		return nil
	case f.link >= 0:
		return []Link{f.link}
	}
	var list []Link
	for _, l := range g.linksFrom(f.device) {
		list = append(list, l^1)
		if f.all {
			list = append(list, l)
		}
	}
	return list
}

// component is what is to blame.
func (f *fault) component() string { return f.spec.Component() }
