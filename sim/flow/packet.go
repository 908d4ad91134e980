package flow

import (
	"encoding/binary"
	"net/netip"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// Sizes in bytes from the IP header on: a full segment of an Ethernet frame, an
// acknowledgement with timestamps, a probe.
const (
	mss       = 1448
	fullSize  = 20 + 32 + mss
	smallSize = 20 + 32
	synSize   = 20 + 40
	probeSize = 20 + 20
)

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
	src, dst         uint32
	host             int // it goes to
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

func toAddr(a uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)})
}

// tuple is the packet's five-tuple, of ICMP as packet.Decode has it.
func (p *packetHead) tuple() packet.Flow {
	return packet.Flow{
		Src:   netip.AddrPortFrom(toAddr(p.src), p.srcPort),
		Dst:   netip.AddrPortFrom(toAddr(p.dst), p.dstPort),
		Proto: p.proto,
	}
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
	return int(p.size) - 20 - p.tcpHeader()
}

// header writes the packet from its IP header on, as far as drop events show it.
// What nobody reads is 0: windows, timestamps, TCP checksums.
func (p *packetHead) header() []byte {
	b := make([]byte, 20, 96)
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
	if p.proto == packet.ICMP {
		b = append(b, 11, 0, 0, 0, 0, 0, 0, 0) // time exceeded in transit
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
