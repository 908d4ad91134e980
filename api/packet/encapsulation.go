package packet

import (
	"encoding/binary"

	"decaf/api/decafpb"
)

// EtherTypes of what we read (IEEE 802 numbers).
const (
	etherIPv4  = 0x0800
	etherARP   = 0x0806
	etherVLAN  = 0x8100 // 802.1Q
	etherQinQ  = 0x88a8 // 802.1ad
	etherIPv6  = 0x86dd
	etherMPLS  = 0x8847
	etherMPLSM = 0x8848 // with upstream-assigned labels
	etherFrame = 0x6558 // transparent Ethernet bridging, in GRE
)

// Names of encapsulations, DropEvent.encapsulation.
const (
	VXLAN = "vxlan"
	GRE   = "gre"
	MPLS  = "mpls"
)

const (
	gre = 47 // IP protocol number

	// UDP ports: VXLAN's own (RFC 7348), the one that Linux takes by default,
	// and that of MPLS (RFC 7510).
	portVXLAN      = 4789
	portLinuxVXLAN = 8472
	portMPLS       = 6635

	// maxLabels bounds the walk along an MPLS label stack, maxTags that along
	// VLAN tags, and maxTunnels how many tunnels in tunnels are opened.
	maxLabels  = 16
	maxTags    = 2
	maxTunnels = 4
)

// Inner reads the headers of the packet that another one carries: in VXLAN (RFC
// 7348), in GRE (RFC 2784, 2890), or under MPLS labels (RFC 3032), alone or in GRE
// or UDP. header begins at the network header, as for [Decode]; etherType is that
// of the frame, 0 when it is IP. Without one, or where the bytes end first, it
// returns nil and "".
//
// Of tunnels in tunnels the innermost packet that can be read is returned, and their
// names from the outside in, "gre/vxlan": it is the user's. Four are opened; where
// there are more the packet is itself a tunnel's, as its flow shows.
//
// The inner packet's Header is left empty: its bytes are among the outer's. The
// result shares no memory with header.
func Inner(etherType uint16, header []byte) (inner *decafpb.Packet, encapsulation string) {
	for range maxTunnels {
		c, kind := openTunnel(etherType, header)
		p := c.packet()
		if p == nil {
			break
		}
		inner = p
		if encapsulation != "" {
			encapsulation += "/"
		}
		encapsulation += kind
		etherType, header = c.etherType, c.network
	}
	return inner, encapsulation
}

// carried is a packet in a tunnel; without network there is none.
type carried struct {
	etherType uint16 // of network
	network   []byte // from its network header on
	frame     []byte // its Ethernet header, nil where it came without one
	vlan      uint32
}

// packet reads its headers, nil where there are none.
func (c *carried) packet() *decafpb.Packet {
	if c.network == nil {
		return nil
	}
	p, err := Decode(c.network)
	if err != nil {
		return nil
	}
	p.Header = nil
	if c.frame != nil {
		p.DstMac, p.SrcMac, p.Vlan = append([]byte(nil), c.frame[0:6]...), append([]byte(nil), c.frame[6:12]...), c.vlan
	}
	return p
}

// openTunnel finds what a packet carries, and says in what.
func openTunnel(etherType uint16, header []byte) (carried, string) {
	if isMPLS(etherType) {
		return openPayload(etherType, header), MPLS
	}
	ip, err := readIP(header)
	if err != nil || ip.payload == nil {
		return carried{}, ""
	}
	b := ip.payload
	switch ip.proto {
	case gre:
		return openGRE(b), GRE
	case UDP:
		if len(b) < 8 {
			return carried{}, ""
		}
		switch binary.BigEndian.Uint16(b[2:]) {
		case portVXLAN, portLinuxVXLAN:
			// The I flag says that there is a network identifier: else it is
			// none.
			if b = b[8:]; len(b) < 8 || b[0]&0x08 == 0 {
				return carried{}, ""
			}
			return openFrame(b[8:]), VXLAN
		case portMPLS:
			return openPayload(etherMPLS, b[8:]), MPLS
		}
	}
	return carried{}, ""
}

func isMPLS(etherType uint16) bool { return etherType == etherMPLS || etherType == etherMPLSM }

// openGRE finds what stands behind a GRE header; nothing behind one of another
// version (PPTP's) or with source routes.
func openGRE(b []byte) carried {
	const (
		checksum, routing, key, sequence = 0x8000, 0x4000, 0x2000, 0x1000
		version                          = 0x0007
	)
	if len(b) < 4 {
		return carried{}
	}
	flags := binary.BigEndian.Uint16(b)
	if flags&(routing|version) != 0 {
		return carried{}
	}
	size := 4
	for _, f := range []uint16{checksum, key, sequence} {
		if flags&f != 0 {
			size += 4
		}
	}
	if size > len(b) {
		return carried{}
	}
	return openPayload(binary.BigEndian.Uint16(b[2:]), b[size:])
}

// openFrame finds what an Ethernet frame carries.
func openFrame(b []byte) carried {
	if len(b) < 14 {
		return carried{}
	}
	kind, rest := binary.BigEndian.Uint16(b[12:]), b[14:]
	vlan := uint32(0)
	for range maxTags {
		if kind != etherVLAN && kind != etherQinQ || len(rest) < 4 {
			break
		}
		vlan = uint32(binary.BigEndian.Uint16(rest)) & 0x0fff // the innermost: the customer's
		kind, rest = binary.BigEndian.Uint16(rest[2:]), rest[4:]
	}
	if kind == etherFrame { // a frame in a frame there is in GRE only
		return carried{}
	}
	c := openPayload(kind, rest)
	if c.frame == nil { // else the one under labels is the user's
		c.frame, c.vlan = b[:14], vlan
	}
	return c
}

// openPayload finds what an EtherType says is there.
func openPayload(etherType uint16, b []byte) carried {
	switch etherType {
	case etherFrame:
		return openFrame(b)
	case etherMPLS, etherMPLSM:
		if b = skipLabels(b); b == nil {
			return carried{}
		}
		switch b[0] >> 4 {
		case 0: // a pseudowire's control word (RFC 4385), and a frame
			if len(b) < 4 {
				return carried{}
			}
			return openFrame(b[4:])
		case 4:
			return carried{etherType: etherIPv4, network: b}
		case 6:
			return carried{etherType: etherIPv6, network: b}
		}
	case etherIPv4, etherIPv6, etherARP:
		return carried{etherType: etherType, network: b}
	}
	return carried{}
}

// skipLabels returns what stands behind an MPLS label stack, nil when its end or
// what follows is not there.
func skipLabels(b []byte) []byte {
	for range maxLabels {
		if len(b) <= 4 {
			return nil
		}
		bottom := b[2]&1 != 0
		if b = b[4:]; bottom {
			return b
		}
	}
	return nil
}

// arpStart begins each ARP packet for IPv4 over Ethernet (RFC 826): an IP version
// of 0, so it cannot be taken for IP.
var arpStart = [6]byte{0, 1, 8, 0, 6, 4}

const arpSize = 28

// readARP reads an ARP packet: who asks, or answers, whom. It is nil for what is
// none.
func readARP(b []byte) *decafpb.Packet {
	if len(b) < arpSize || [6]byte(b[:6]) != arpStart {
		return nil
	}
	return &decafpb.Packet{
		Flow:   &decafpb.Flow{Src: append([]byte(nil), b[14:18]...), Dst: append([]byte(nil), b[24:28]...)},
		SrcMac: append([]byte(nil), b[8:14]...),
		Length: arpSize,
		Header: append([]byte(nil), b[:min(len(b), maxHeader)]...),
	}
}
