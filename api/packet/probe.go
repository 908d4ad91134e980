package packet

import (
	"encoding/binary"
	"fmt"
	"net"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
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
	tcp := layers.TCP{
		SrcPort: layers.TCPPort(p.Flow.Src.Port()),
		DstPort: layers.TCPPort(p.Flow.Dst.Port()),
		Seq:     p.Seq,
		Ack:     p.Ack,
		FIN:     flags&FIN != 0,
		SYN:     flags&SYN != 0,
		RST:     flags&RST != 0,
		PSH:     flags&PSH != 0,
		ACK:     flags&ACK != 0,
		URG:     flags&URG != 0,
		ECE:     flags&ECE != 0,
		CWR:     flags&CWR != 0,
		Window:  1024,
	}
	var ip gopacket.SerializableLayer
	var network gopacket.NetworkLayer
	if src.Is4() {
		h := &layers.IPv4{Version: 4, TTL: p.TTL, Id: p.ID, Protocol: layers.IPProtocolTCP,
			Flags: layers.IPv4DontFragment, SrcIP: net.IP(src.AsSlice()), DstIP: net.IP(dst.AsSlice())}
		ip, network = h, h
	} else {
		h := &layers.IPv6{Version: 6, HopLimit: p.TTL, FlowLabel: p.FlowLabel & 0xfffff,
			NextHeader: layers.IPProtocolTCP, SrcIP: net.IP(src.AsSlice()), DstIP: net.IP(dst.AsSlice())}
		ip, network = h, h
	}
	if err := tcp.SetNetworkLayerForChecksum(network); err != nil {
		return nil, fmt.Errorf("probe of %s: %w", p.Flow, err)
	}
	out := gopacket.NewSerializeBufferExpectedSize(60, 0)
	if err := gopacket.SerializeLayers(out, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, &tcp); err != nil {
		return nil, fmt.Errorf("probe of %s: %w", p.Flow, err)
	}
	buf = append(buf[:0], out.Bytes()...)
	if p.BadChecksum {
		// Flipping some bits, not all: in ones' complement all of them flipped
		// would turn 0x0000 into 0xffff, which is the same number.
		sum := buf[len(buf)-4 : len(buf)-2]
		binary.BigEndian.PutUint16(sum, binary.BigEndian.Uint16(sum)^0x5555)
	}
	return buf, nil
}
