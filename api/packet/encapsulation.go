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
	// VLAN tags.
	maxLabels = 16
	maxTags   = 2
)

// Inner reads the headers of the packet that another one carries: in VXLAN (RFC
// 7348), in GRE (RFC 2784, 2890), or under MPLS labels (RFC 3032), alone or in GRE
// or UDP. header begins at the network header, as for [Decode]; etherType is that
// of the frame, 0 when it is IP. Without one, or where the bytes end first, it
// returns nil and "". One layer is opened: the inner packet of a tunnel in a
// tunnel is a tunnel's.
//
// The inner packet's Header is left empty: its bytes are among the outer's. The
// result shares no memory with header.
func Inner(etherType uint16, header []byte) (inner *decafpb.Packet, encapsulation string) {
	if isMPLS(etherType) {
		return named(readPayload(etherType, header), MPLS)
	}
	ip, err := readIP(header)
	if err != nil || ip.payload == nil {
		return nil, ""
	}
	b := ip.payload
	switch ip.proto {
	case gre:
		return named(readGRE(b), GRE)
	case UDP:
		if len(b) < 8 {
			return nil, ""
		}
		switch binary.BigEndian.Uint16(b[2:]) {
		case portVXLAN, portLinuxVXLAN:
			// The I flag says that there is a network identifier: else it is
			// none.
			if b = b[8:]; len(b) < 8 || b[0]&0x08 == 0 {
				return nil, ""
			}
			return named(readFrame(b[8:]), VXLAN)
		case portMPLS:
			return named(readPayload(etherMPLS, b[8:]), MPLS)
		}
	}
	return nil, ""
}

func named(p *decafpb.Packet, encapsulation string) (*decafpb.Packet, string) {
	if p == nil {
		return nil, ""
	}
	return p, encapsulation
}

func isMPLS(etherType uint16) bool { return etherType == etherMPLS || etherType == etherMPLSM }

// readGRE reads what stands behind a GRE header; nil for one of another version
// (PPTP's) or with source routes.
func readGRE(b []byte) *decafpb.Packet {
	const (
		checksum, routing, key, sequence = 0x8000, 0x4000, 0x2000, 0x1000
		version                          = 0x0007
	)
	if len(b) < 4 {
		return nil
	}
	flags := binary.BigEndian.Uint16(b)
	if flags&(routing|version) != 0 {
		return nil
	}
	size := 4
	for _, f := range []uint16{checksum, key, sequence} {
		if flags&f != 0 {
			size += 4
		}
	}
	if size > len(b) {
		return nil
	}
	return readPayload(binary.BigEndian.Uint16(b[2:]), b[size:])
}

// readFrame reads an Ethernet frame.
func readFrame(b []byte) *decafpb.Packet {
	if len(b) < 14 {
		return nil
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
	p := readPayload(kind, rest)
	if p == nil {
		return nil
	}
	p.DstMac, p.SrcMac, p.Vlan = append([]byte(nil), b[0:6]...), append([]byte(nil), b[6:12]...), vlan
	return p
}

// readPayload reads what an EtherType says is there.
func readPayload(etherType uint16, b []byte) *decafpb.Packet {
	switch etherType {
	case etherFrame:
		return readFrame(b)
	case etherMPLS, etherMPLSM:
		if b = skipLabels(b); b == nil {
			return nil
		}
		if b[0]>>4 == 0 { // a pseudowire's control word (RFC 4385), and a frame
			if len(b) < 4 {
				return nil
			}
			return readFrame(b[4:])
		}
	case etherIPv4, etherIPv6, etherARP:
	default:
		return nil
	}
	p, err := Decode(b)
	if err != nil {
		return nil
	}
	p.Header = nil
	return p
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
