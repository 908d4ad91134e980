package flow

import (
	"encoding/binary"
	"net/netip"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// Sizes in bytes from the IP header on, of IPv4: a full segment of an Ethernet frame,
// an acknowledgement with timestamps, a probe. The header of IPv6 is moreHeader longer,
// and a full segment carries that much less.
const (
	mss        = 1448
	fullSize   = 20 + 32 + mss
	smallSize  = 20 + 32
	synSize    = 20 + 40
	probeSize  = 20 + 20
	moreHeader = 20
)

// segmentOf is the data of a full segment.
func segmentOf(v6 bool) uint32 {
	if v6 {
		return mss - moreHeader
	}
	return mss
}

// sizeOf is a packet's size, given that over IPv4.
func sizeOf(v6 bool, size uint16) uint16 {
	if v6 {
		return min(size+moreHeader, fullSize)
	}
	return size
}

// TCP flags, RFC 9293 section 3.1.
const (
	flagFIN = 0x01
	flagSYN = 0x02
	flagPSH = 0x08
	flagACK = 0x10
)

// firstTTL is what hosts and switches send with.
const firstTTL = 64

// packetHead is one packet, as far as anybody looks at it.
type packetHead struct {
	v6               bool
	src, dst         uint32 // as toAddr takes them
	host             int    // it goes to
	srcPort, dstPort uint16
	proto            uint8
	flags            uint8
	ttl              uint8
	size             uint16
	id               uint16
	seq, ack         uint32
	probe            bool
	quotes           *packetHead // of an ICMP time exceeded: the probe
}

// tuple is the packet's five-tuple, of ICMP as packet.Decode has it.
func (p *packetHead) tuple() packet.Flow {
	return packet.Flow{
		Src:   netip.AddrPortFrom(toAddr(p.src, p.v6), p.srcPort),
		Dst:   netip.AddrPortFrom(toAddr(p.dst, p.v6), p.dstPort),
		Proto: p.proto,
	}
}

// ipHeader is the length of its IP header.
func (p *packetHead) ipHeader() int {
	if p.v6 {
		return 20 + moreHeader
	}
	return 20
}

// tcpHeader is the length of its TCP header: SYNs have 20 bytes of options, other
// segments timestamps, probes none.
func (p *packetHead) tcpHeader() int {
	switch {
	case p.probe:
		return 20
	case p.flags&flagSYN != 0:
		return 40
	}
	return 32
}

// payload is how many bytes of data it carries.
func (p *packetHead) payload() int {
	if p.proto != packet.TCP {
		return 0
	}
	return int(p.size) - p.ipHeader() - p.tcpHeader()
}

// header writes the packet from its IP header on, as far as drop events show it.
// What nobody reads is 0: windows, timestamps, TCP checksums.
func (p *packetHead) header() []byte {
	b := make([]byte, p.ipHeader(), 136)
	if p.v6 {
		b[0] = 6 << 4
		binary.BigEndian.PutUint16(b[4:], p.size-uint16(len(b)))
		b[6], b[7] = p.proto, p.ttl
		copy(b[8:], toAddr(p.src, true).AsSlice())
		copy(b[24:], toAddr(p.dst, true).AsSlice())
	} else {
		b[0] = 4<<4 | 5
		binary.BigEndian.PutUint16(b[2:], p.size)
		binary.BigEndian.PutUint16(b[4:], p.id)
		b[6] = 0x40 // don't fragment
		b[8], b[9] = p.ttl, p.proto
		binary.BigEndian.PutUint32(b[12:], p.src)
		binary.BigEndian.PutUint32(b[16:], p.dst)
		var sum uint32
		for i := 0; i < 20; i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		sum = sum>>16 + sum&0xffff
		binary.BigEndian.PutUint16(b[10:], ^uint16(sum+sum>>16))
	}
	if p.proto != packet.TCP {
		b = append(b, timeExceeded(p.v6), 0, 0, 0, 0, 0, 0, 0) // in transit
		return append(b, p.quotes.header()...)
	}
	l := p.tcpHeader()
	t := make([]byte, l)
	binary.BigEndian.PutUint16(t, p.srcPort)
	binary.BigEndian.PutUint16(t[2:], p.dstPort)
	binary.BigEndian.PutUint32(t[4:], p.seq)
	binary.BigEndian.PutUint32(t[8:], p.ack)
	t[12], t[13] = byte(l/4)<<4, p.flags
	for i := 20; i < l; i++ {
		t[i] = 1 // no-operation
	}
	return append(b, t...)
}

// timeExceeded is the ICMP message's type.
func timeExceeded(v6 bool) uint8 {
	if v6 {
		return 3
	}
	return 11
}

// icmp is the protocol's number.
func icmp(v6 bool) uint8 {
	if v6 {
		return packet.ICMPv6
	}
	return packet.ICMP
}

// evidence is the packet as a device's event shows it, having come in over a link;
// -1 where the device made it or that is not told.
func (p *packetHead) evidence(ttl uint8, in Link) *decafpb.Packet {
	q := *p
	q.ttl = ttl
	out, err := packet.Decode(q.header())
	if err != nil {
		return nil // cannot be: the header was made here
	}
	if in >= 0 {
		out.SrcMac, out.DstMac = mac(in^1), mac(in)
	}
	return out
}

// mac is the address of the interface at a link's receiving end, locally
// administered.
func mac(l Link) []byte {
	return []byte{2, 0, byte(l >> 24), byte(l >> 16), byte(l >> 8), byte(l)}
}
