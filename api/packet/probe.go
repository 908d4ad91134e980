package packet

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/gopacket"
)

// TCP flag bits, as in Packet.tcp_flags (RFC 9293 section 3.1).
const (
	FIN uint8 = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// Probe is one TCP segment without data, with the five-tuple of the flow that
// is traced.
type Probe struct {
	Flow     Flow // Proto must be TCP
	TTL      uint8
	Seq, Ack uint32
	// ID is the IPv4 identification, ignored for IPv6. It must not be 0: the
	// kernel would put one of its own choice in a raw packet's place.
	ID        uint16
	FlowLabel uint32 // IPv6 only, 20 bits; routers may hash it (RFC 6438)
	Flags     uint8  // 0 means ACK: a segment in the middle of a connection
	// BadChecksum makes the TCP checksum wrong, so that a destination that gets
	// the probe all the same drops it unanswered and the connection traced is
	// not disturbed (007, section 4.2).
	BadChecksum bool
}

// Marshal appends the whole IP packet to buf[:0] and returns it; a buf of 60
// bytes of capacity is enough to avoid an allocation for it.
// Errors: a flow that is not TCP, addresses of two families, TTL 0, ID 0 with
// IPv4.
func (p Probe) Marshal(buf []byte) ([]byte, error) {
	src, dst := p.Flow.Src.Addr().Unmap(), p.Flow.Dst.Addr().Unmap()
	switch {
	case p.Flow.Proto != TCP:
		return nil, fmt.Errorf("probe of %s: only TCP flows can be probed", p.Flow)
	case !src.IsValid() || !dst.IsValid() || src.Is4() != dst.Is4():
		return nil, fmt.Errorf("probe of %s: source and destination must be of one address family", p.Flow)
	case p.TTL == 0:
		return nil, fmt.Errorf("probe of %s: TTL 0", p.Flow)
	case src.Is4() && p.ID == 0:
		return nil, fmt.Errorf("probe of %s: IP ID 0 would be replaced by the kernel", p.Flow)
	}
	flags := p.Flags
	if flags == 0 {
		flags = ACK
	}
	ip := p.ipv4(src, dst)
	if src.Is6() {
		ip = p.ipv6(src, dst)
	}
	out := gopacket.NewSerializeBufferExpectedSize(60, 0)
	if err := gopacket.SerializeLayers(out, gopacket.SerializeOptions{}, ip, p.tcp(src, dst, flags)); err != nil {
		return nil, fmt.Errorf("probe of %s: %w", p.Flow, err)
	}
	buf = append(buf[:0], out.Bytes()...)
	if p.BadChecksum {
		// Flipping some bits, not all: in ones' complement all of them flipped
		// would turn 0x0000 into 0xffff, which is the same number.
		sum := buf[len(buf)-4 : len(buf)-2]
		binary.BigEndian.PutUint16(sum, binary.BigEndian.Uint16(sum)^wrongBits)
	}
	return buf, nil
}

// wrongBits are those of a checksum that a probe has wrong, where it has.
const wrongBits = 0x5555

// A probe is its headers, without options, and of a window no system begins with.
const (
	probeTCP    = 20
	probeWindow = 1024
)

// IsProbe says of the first bytes of a dropped packet, from the IP header on, whether
// it was a probe with a checksum made wrong: then it is known for one before any
// record claims it. Of other packets that look like probes one in 65,536 is taken for
// one; one that was translated on its way is not known.
func IsProbe(b []byte) bool {
	ip, addresses := 20, []byte(nil)
	switch {
	case len(b) >= 40 && b[0] == 4<<4|5 && b[9] == TCP && binary.BigEndian.Uint16(b[2:]) == 20+probeTCP:
		addresses = b[12:20]
	case len(b) >= 60 && b[0]>>4 == 6 && b[6] == TCP && binary.BigEndian.Uint16(b[4:]) == probeTCP:
		ip, addresses = 40, b[8:40]
	default:
		return false
	}
	tcp := b[ip : ip+probeTCP]
	if binary.BigEndian.Uint16(tcp[14:]) != probeWindow {
		return false
	}
	whole := append(make([]byte, 0, 60), addresses...)
	whole = append(whole, 0, TCP, 0, probeTCP)
	whole = append(whole, tcp...)
	sum := whole[len(whole)-4 : len(whole)-2]
	told := binary.BigEndian.Uint16(sum)
	clear(sum)
	return told^wrongBits == checksum(whole)
}

// header writes one header before what is in the buffer already: our own layers
// of gopacket. Those of its package layers would cost every program that holds
// them 6 MB of tables, filled at its start and searched through at each garbage
// collection.
type header struct {
	length int
	write  func(h []byte, payload int)
}

// SerializeTo is that of gopacket.SerializableLayer.
func (l header) SerializeTo(b gopacket.SerializeBuffer, _ gopacket.SerializeOptions) error {
	payload := len(b.Bytes())
	h, err := b.PrependBytes(l.length)
	if err != nil {
		return err
	}
	clear(h)
	l.write(h, payload)
	return nil
}

// LayerType is that of gopacket.SerializableLayer.
func (l header) LayerType() gopacket.LayerType { return gopacket.LayerTypePayload }

// tcp is RFC 9293 section 3.1.
func (p Probe) tcp(src, dst netip.Addr, flags uint8) header {
	const length, window = probeTCP, probeWindow
	return header{length, func(h []byte, _ int) {
		binary.BigEndian.PutUint16(h[0:], p.Flow.Src.Port())
		binary.BigEndian.PutUint16(h[2:], p.Flow.Dst.Port())
		binary.BigEndian.PutUint32(h[4:], p.Seq)
		binary.BigEndian.PutUint32(h[8:], p.Ack)
		h[12] = length / 4 << 4
		h[13] = flags
		binary.BigEndian.PutUint16(h[14:], window)
		// The pseudo header is summed like the rest, its zeroes left out.
		sum := append(make([]byte, 0, 60), src.AsSlice()...)
		sum = append(sum, dst.AsSlice()...)
		sum = append(sum, 0, TCP, 0, length)
		binary.BigEndian.PutUint16(h[16:], checksum(append(sum, h...)))
	}}
}

// ipv4 is RFC 791 section 3.1.
func (p Probe) ipv4(src, dst netip.Addr) header {
	const length, dontFragment = 20, 1 << 14
	return header{length, func(h []byte, payload int) {
		h[0] = 4<<4 | length/4
		binary.BigEndian.PutUint16(h[2:], uint16(length+payload))
		binary.BigEndian.PutUint16(h[4:], p.ID)
		binary.BigEndian.PutUint16(h[6:], dontFragment)
		h[8], h[9] = p.TTL, TCP
		copy(h[12:], src.AsSlice())
		copy(h[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(h[10:], checksum(h))
	}}
}

// ipv6 is RFC 8200 section 3.
func (p Probe) ipv6(src, dst netip.Addr) header {
	return header{40, func(h []byte, payload int) {
		binary.BigEndian.PutUint32(h, 6<<28|p.FlowLabel&0xfffff)
		binary.BigEndian.PutUint16(h[4:], uint16(payload))
		h[6], h[7] = TCP, p.TTL
		copy(h[8:], src.AsSlice())
		copy(h[24:], dst.AsSlice())
	}}
}
