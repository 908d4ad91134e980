package kernel

import (
	"encoding/binary"
	"fmt"
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
	// Source names the counter: "xdp", "nftables", "IpExtInNoRoutes", "tbf".
	Source string
	// Packets were dropped; Seen is how many passed by that the fault could have
	// taken, 0 where the counter does not tell.
	Packets, Seen uint64
	// Drops are the packets, oldest first, of silent-loss only; LeftOut is how
	// many more were dropped than are listed.
	Drops   []Drop
	LeftOut uint64
	// Err says why the figures are not whole, nil when they are.
	Err error
}

// Drop is one packet that a silent-loss fault took.
type Drop struct {
	Time     time.Time
	Src, Dst netip.AddrPort // port 0 where the protocol has none
	Protocol uint8          // IP protocol number
	IPID     uint16
	TTL      uint8
	// Of TCP only: the header's sequence number and flags, and the payload's length.
	Seq     uint32
	Flags   uint8
	Payload int
}

// maxDrops bounds the packets that one fault lists.
const maxDrops = 1 << 17

// recordSize is one packet in a silent-loss fault's ring: the time, 20 bytes of
// IP header and 20 from behind its options.
const recordSize = 8 + 20 + 20

// parseDrop reads a record; boot is the wall-clock time at which the kernel's
// monotonic clock was 0.
func parseDrop(b []byte, boot time.Time) (Drop, error) {
	if len(b) < recordSize {
		return Drop{}, fmt.Errorf("record of %d bytes, want %d", len(b), recordSize)
	}
	ip, l4 := b[8:28], b[28:48]
	d := Drop{
		Time:     boot.Add(time.Duration(binary.NativeEndian.Uint64(b))),
		Protocol: ip[9],
		IPID:     binary.BigEndian.Uint16(ip[4:]),
		TTL:      ip[8],
	}
	var sport, dport uint16
	const tcp, udp = 6, 17
	if d.Protocol == tcp || d.Protocol == udp {
		sport, dport = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	}
	d.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[12:16])), sport)
	d.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[16:20])), dport)
	if d.Protocol == tcp {
		d.Seq, d.Flags = binary.BigEndian.Uint32(l4[4:]), l4[13]
		headers := int(ip[0]&0xf)*4 + int(l4[12]>>4)*4
		d.Payload = max(0, int(binary.BigEndian.Uint16(ip[2:]))-headers)
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
	link     *topology.Link // for faults of links
	device   string         // for faults of devices
	src, dst []netip.Prefix // nil: any
	port     uint16         // 0: any
}

// resolve checks what a fault asks for against what its kind can do on this
// fabric.
func resolve(t *topology.Topology, f scenario.Fault) (*target, error) {
	kind, ok := kinds[f.Kind]
	if !ok {
		known := make([]string, 0, len(kinds))
		for k := range kinds {
			known = append(known, k)
		}
		slices.Sort(known)
		return nil, fmt.Errorf("the kernel fabric cannot make a fault of kind %q; it can make %s", f.Kind, strings.Join(known, ", "))
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
	}
	if g.rate == 0 {
		g.rate = 1
	}
	if !(g.rate > 0 && g.rate <= 1) {
		return nil, fmt.Errorf("rate: %v is not a share above 0 and up to 1", f.Rate)
	}
	if g.rate != 1 && !kind.rate {
		return nil, fmt.Errorf("rate: %s cannot hit a share of the packets; leave it out", f.Kind)
	}
	for _, key := range []struct {
		name  string
		given bool
	}{{"src", f.Match.Src != ""}, {"dst", f.Match.Dst != ""}, {"port", f.Match.Port != 0}} {
		if key.given && !slices.Contains(kind.match, key.name) {
			return nil, fmt.Errorf("match: %s cannot choose packets by %s; leave it out", f.Kind, key.name)
		}
	}
	if f.Match.Port < 0 || f.Match.Port > 65535 {
		return nil, fmt.Errorf("match: port %d is not in 1..65535", f.Match.Port)
	}
	g.port = uint16(f.Match.Port)
	if _, _, err := g.threshold(); err != nil {
		return nil, err
	}
	var err error
	if g.src, g.dst, err = f.Match.Prefixes(t); err != nil {
		return nil, err
	}
	for _, p := range slices.Concat(g.src, g.dst) {
		if !p.Addr().Is4() {
			return nil, fmt.Errorf("match: %s: the kernel fabric speaks IPv4 only", p)
		}
	}
	return g, nil
}

// kind is what a fault kind takes.
type kind struct {
	on    string   // the kind of component
	rate  bool     // may hit a share of the packets
	match []string // keys it can choose packets by
}

var kinds = map[string]kind{
	"silent-loss": {on: "link", rate: true, match: []string{"src", "dst", "port"}},
	"acl":         {on: "device", rate: true, match: []string{"src", "dst", "port"}},
	"no-route":    {on: "device", match: []string{"dst"}},
	"queue":       {on: "link"},
}

// threshold tells chance apart from certainty: a random number of 32 bits below the
// threshold is a hit; all is true when every packet is one.
func (g *target) threshold() (below uint32, all bool, err error) {
	if g.rate >= 1 {
		return 0, true, nil
	}
	n := uint64(g.rate * (1 << 32))
	if n == 0 {
		return 0, false, fmt.Errorf("rate: %v is below 2^-32, the smallest that can be drawn", g.rate)
	}
	return uint32(n), false, nil
}
