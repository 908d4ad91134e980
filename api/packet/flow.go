package packet

import (
	"fmt"
	"net/netip"
	"strconv"

	"decaf/api/decafpb"
)

// IANA protocol numbers of the transports we read.
const (
	ICMP   uint8 = 1
	TCP    uint8 = 6
	UDP    uint8 = 17
	ICMPv6 uint8 = 58
	SCTP   uint8 = 132
)

// Flow is a five-tuple in the direction of the packets meant. It is comparable
// and serves as a map key: addresses are always unmapped (never ::ffff:a.b.c.d)
// when made by this package. Ports are 0 for protocols without ports; for ICMP
// see [Decode].
type Flow struct {
	Src, Dst netip.AddrPort
	Proto    uint8 // IANA protocol number
}

// Reverse returns the flow of the packets going the other way.
func (f Flow) Reverse() Flow { return Flow{Src: f.Dst, Dst: f.Src, Proto: f.Proto} }

// Is6 reports whether the flow runs over IPv6. An IPv4-mapped address is IPv4.
func (f Flow) Is6() bool { return f.Src.Addr().Is6() && !f.Src.Addr().Is4In6() }

// String gives "10.0.0.1:5->10.0.0.2:80/tcp", "[2001:db8::1]:5->…/udp"; a
// protocol without a name here shows as its number.
func (f Flow) String() string {
	return f.Src.String() + "->" + f.Dst.String() + "/" + protocolName(f.Proto)
}

func protocolName(p uint8) string {
	switch p {
	case ICMP:
		return "icmp"
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ICMPv6:
		return "icmpv6"
	case SCTP:
		return "sctp"
	}
	return strconv.Itoa(int(p))
}

// FlowFromPB reads the wire form. Errors: an address that is neither 4 nor 16
// bytes, two address families, a port above 65535, a protocol above 255.
func FlowFromPB(m *decafpb.Flow) (Flow, error) {
	if m == nil {
		return Flow{}, fmt.Errorf("flow: none given")
	}
	src, err := addressFromBytes("source", m.GetSrc())
	if err != nil {
		return Flow{}, err
	}
	dst, err := addressFromBytes("destination", m.GetDst())
	if err != nil {
		return Flow{}, err
	}
	if src.Is4() != dst.Is4() {
		return Flow{}, fmt.Errorf("flow: source %s and destination %s are of different address families", src, dst)
	}
	if m.GetSrcPort() > 65535 || m.GetDstPort() > 65535 {
		return Flow{}, fmt.Errorf("flow: ports %d and %d: a port is at most 65535", m.GetSrcPort(), m.GetDstPort())
	}
	if m.GetProtocol() > 255 {
		return Flow{}, fmt.Errorf("flow: protocol %d: at most 255", m.GetProtocol())
	}
	return Flow{
		Src:   netip.AddrPortFrom(src, uint16(m.GetSrcPort())),
		Dst:   netip.AddrPortFrom(dst, uint16(m.GetDstPort())),
		Proto: uint8(m.GetProtocol()),
	}, nil
}

func addressFromBytes(which string, b []byte) (netip.Addr, error) {
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.Addr{}, fmt.Errorf("flow: %s address of %d bytes: want 4 or 16", which, len(b))
	}
	return a.Unmap(), nil
}

// PB gives the wire form: addresses of 4 or 16 bytes, IPv4-mapped ones as 4.
func (f Flow) PB() *decafpb.Flow {
	return &decafpb.Flow{
		Src:      f.Src.Addr().Unmap().AsSlice(),
		Dst:      f.Dst.Addr().Unmap().AsSlice(),
		SrcPort:  uint32(f.Src.Port()),
		DstPort:  uint32(f.Dst.Port()),
		Protocol: uint32(f.Proto),
	}
}

// Unmapped returns the flow with IPv4-mapped IPv6 addresses as plain IPv4, as
// a dual-stack socket's addresses must be before they are compared.
func (f Flow) Unmapped() Flow {
	return Flow{
		Src:   netip.AddrPortFrom(f.Src.Addr().Unmap(), f.Src.Port()),
		Dst:   netip.AddrPortFrom(f.Dst.Addr().Unmap(), f.Dst.Port()),
		Proto: f.Proto,
	}
}
