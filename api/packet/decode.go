package packet

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"decaf/api/decafpb"
)

// maxHeader is how much of a packet Packet.header holds (decaf.proto).
const maxHeader = 128

// maxExtensions bounds the walk along IPv6 extension headers. RFC 8200 section
// 4.1 lists seven in a sensible packet.
const maxExtensions = 8

// Decode reads the headers of one packet, from the IP header on, IPv4 or IPv6; of
// an ARP packet it gives sender and target as a flow of protocol 0.
// It goes as far as the bytes do: a packet cut short or with a broken header
// still gives what stands before the cut, and what could not be read stays zero,
// which is "not known". Only when not even the addresses are there is it an
// error.
//
// Of ICMP it keeps type and code where IPFIX does: destination port = type·256 +
// code, source port 0 (RFC 7012, icmpTypeCodeIPv4). Later fragments have no
// ports. length is that of the IP header's length field, 0 when that is 0 (a
// segmentation offload packet above 64 KiB, a jumbogram).
//
// The result shares no memory with header.
func Decode(header []byte) (*decafpb.Packet, error) {
	if p := readARP(header); p != nil {
		return p, nil
	}
	ip, err := readIP(header)
	if err != nil {
		return nil, err
	}
	p := &decafpb.Packet{
		Header: append([]byte(nil), header[:min(len(header), maxHeader)]...),
		IpId:   uint32(ip.id),
		Ttl:    uint32(ip.ttl),
		Length: uint32(ip.length),
	}
	tr := readTransport(ip.proto, ip.payload)
	p.Flow = ip.flow(tr).PB()
	p.TcpSeq = tr.seq
	p.TcpAck = tr.ack
	p.TcpFlags = uint32(tr.flags)
	return p, nil
}

// ipHeader is what we use of an IPv4 or IPv6 header. payload starts at the
// transport header and is nil when that cannot be found: a later fragment, an
// encrypted or an unknown extension, a broken header length.
type ipHeader struct {
	v6        bool
	src, dst  netip.Addr
	proto     uint8
	id        uint16 // IPv4 only
	ttl       uint8
	flowLabel uint32 // IPv6 only
	length    int    // of the whole packet, from the length field
	payload   []byte
}

func (ip *ipHeader) flow(tr transport) Flow {
	return Flow{
		Src:   netip.AddrPortFrom(ip.src, tr.srcPort),
		Dst:   netip.AddrPortFrom(ip.dst, tr.dstPort),
		Proto: ip.proto,
	}
}

func readIP(b []byte) (ipHeader, error) {
	if len(b) == 0 {
		return ipHeader{}, fmt.Errorf("packet header: empty")
	}
	switch v := b[0] >> 4; v {
	case 4:
		return readIPv4(b)
	case 6:
		return readIPv6(b)
	default:
		return ipHeader{}, fmt.Errorf("packet header: IP version %d: want 4 or 6; the bytes must start at the IP header", v)
	}
}

func readIPv4(b []byte) (ipHeader, error) {
	if len(b) < 20 {
		return ipHeader{}, fmt.Errorf("packet header: %d bytes of IPv4: want 20 for the addresses", len(b))
	}
	ip := ipHeader{
		src:    netip.AddrFrom4([4]byte(b[12:16])),
		dst:    netip.AddrFrom4([4]byte(b[16:20])),
		proto:  b[9],
		id:     binary.BigEndian.Uint16(b[4:]),
		ttl:    b[8],
		length: int(binary.BigEndian.Uint16(b[2:])),
	}
	headerLen := int(b[0]&0xf) * 4
	fragment := binary.BigEndian.Uint16(b[6:]) & 0x1fff
	if headerLen >= 20 && headerLen <= len(b) && fragment == 0 {
		ip.payload = b[headerLen:]
		// Padding after the packet (Ethernet's minimum of 60 bytes) is none of it.
		if n := ip.length - headerLen; n >= 0 && n < len(ip.payload) && ip.length != 0 {
			ip.payload = ip.payload[:n]
		}
	}
	return ip, nil
}

func readIPv6(b []byte) (ipHeader, error) {
	if len(b) < 40 {
		return ipHeader{}, fmt.Errorf("packet header: %d bytes of IPv6: want 40 for the addresses", len(b))
	}
	ip := ipHeader{
		v6:        true,
		src:       netip.AddrFrom16([16]byte(b[8:24])),
		dst:       netip.AddrFrom16([16]byte(b[24:40])),
		proto:     b[6],
		ttl:       b[7],
		flowLabel: binary.BigEndian.Uint32(b) & 0xfffff,
	}
	rest := b[40:]
	if n := int(binary.BigEndian.Uint16(b[4:])); n != 0 {
		ip.length = 40 + n
		rest = rest[:min(n, len(rest))]
	}
	ip.proto, ip.payload = skipExtensions(ip.proto, rest)
	return ip, nil
}

// skipExtensions walks the IPv6 extension headers (RFC 8200 section 4) to the
// transport. Where the bytes end first it returns the last next-header value
// known and no payload.
func skipExtensions(next uint8, b []byte) (proto uint8, payload []byte) {
	for range maxExtensions {
		var size int
		switch next {
		case 0, 43, 60, 135, 139, 140: // hop-by-hop, routing, destination, mobility, HIP, shim6
			if len(b) < 2 {
				return next, nil
			}
			size = (int(b[1]) + 1) * 8
		case 44: // fragment
			if len(b) < 8 {
				return next, nil
			}
			if binary.BigEndian.Uint16(b[2:])>>3 != 0 {
				return b[0], nil // a later fragment: no transport header
			}
			size = 8
		case 51: // authentication header: its length is in 32-bit words, less 2 (RFC 4302)
			if len(b) < 2 {
				return next, nil
			}
			size = (int(b[1]) + 2) * 4
		default:
			return next, b
		}
		if size > len(b) {
			return b[0], nil
		}
		next, b = b[0], b[size:]
	}
	return next, nil
}

// transport is what we use of a TCP, UDP, SCTP or ICMP header; has says how many of
// its bytes were there, so that a zero can be told from a cut.
type transport struct {
	srcPort, dstPort uint16
	seq, ack         uint32
	flags            uint8
	has              int
}

func readTransport(proto uint8, b []byte) transport {
	t := transport{has: len(b)}
	switch proto {
	case TCP, UDP, SCTP:
		if len(b) >= 4 {
			t.srcPort = binary.BigEndian.Uint16(b)
			t.dstPort = binary.BigEndian.Uint16(b[2:])
		}
	case ICMP, ICMPv6:
		if len(b) >= 2 {
			t.dstPort = binary.BigEndian.Uint16(b) // type·256 + code
		}
	}
	if proto == TCP {
		if len(b) >= 8 {
			t.seq = binary.BigEndian.Uint32(b[4:])
		}
		if len(b) >= 12 {
			t.ack = binary.BigEndian.Uint32(b[8:])
		}
		if len(b) >= 14 {
			t.flags = b[13]
		}
	}
	return t
}
