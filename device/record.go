package device

import (
	"encoding/binary"
	"fmt"
)

// The layout of what the kernel program sends up, in the machine's byte order.
// program.go writes at these offsets, parseRecord reads.
const (
	recTime      = 0   // u64 ns since boot, CLOCK_MONOTONIC
	recCause     = 8   // the next seven lie as in the key of the causes map
	recLocation  = 8   // u64 return address into the function that dropped
	recReason    = 16  // u32 enum skb_drop_reason
	recInIf      = 20  // u32 skb->skb_iif
	recDevIf     = 24  // u32 skb->dev->ifindex
	recDstIf     = 28  // u32 of the route's device
	recDstFlags  = 32  // u32 its IFF_… flags
	recDstError  = 36  // i16 of the route: an errno, of either sign
	recProtocol  = 38  // u16 big-endian, skb->protocol
	recLen       = 40  // u32 skb->len
	recNetwork   = 44  // u16 offset of the network header
	recMAC       = 46  // u16 offset of the MAC header, 0xffff when there is none
	recData      = 48  // u32 offset of skb->data
	recCaptured  = 52  // u32 bytes in recHeader
	recQueue     = 56  // u16 skb->queue_mapping
	recVLAN      = 58  // u16 skb->vlan_tci
	recSegments  = 60  // u16 gso_segs, 0 for one packet
	recLinkLayer = 64  // 14 bytes from the MAC header
	recHeader    = 80  // 128 bytes from the network header
	recSize      = 208 // a multiple of 8
)

const maxHeader = 128

// record is one freed packet as the kernel program saw it.
type record struct {
	cause     []byte // key of the causes map; shares the raw record's memory
	time      uint64
	location  uint64
	reason    uint32
	inIf      uint32
	devIf     uint32
	dstIf     uint32
	dstFlags  uint32
	dstErrno  errno
	protocol  uint16 // skb->protocol, an EtherType
	length    uint32 // from the network header on
	queue     uint16
	vlan      uint16
	packets   uint64 // on the wire: a segmentation offload packet is several
	linkLayer []byte // 14 bytes, nil when not known
	header    []byte // from the network header on; shares the raw record's memory
}

// parseRecord takes apart what the kernel program sent. It trusts nothing that
// was read from a packet.
func parseRecord(b []byte) (record, error) {
	if len(b) < recSize {
		return record{}, fmt.Errorf("kernel record of %d bytes, want %d", len(b), recSize)
	}
	ne := binary.NativeEndian
	captured := ne.Uint32(b[recCaptured:])
	if captured > maxHeader {
		return record{}, fmt.Errorf("kernel record claims %d header bytes, at most %d fit", captured, maxHeader)
	}
	r := record{
		cause:    b[recCause : recCause+causeKeySize],
		time:     ne.Uint64(b[recTime:]),
		location: ne.Uint64(b[recLocation:]),
		reason:   ne.Uint32(b[recReason:]),
		inIf:     ne.Uint32(b[recInIf:]),
		devIf:    ne.Uint32(b[recDevIf:]),
		dstIf:    ne.Uint32(b[recDstIf:]),
		dstFlags: ne.Uint32(b[recDstFlags:]),
		dstErrno: routeErrno(ne.Uint16(b[recDstError:])),
		protocol: binary.BigEndian.Uint16(b[recProtocol:]),
		queue:    ne.Uint16(b[recQueue:]),
		vlan:     ne.Uint16(b[recVLAN:]) & 0x0fff, // VID of the TCI, IEEE 802.1Q
		packets:  max(1, uint64(ne.Uint16(b[recSegments:]))),
		header:   b[recHeader : recHeader+captured],
	}
	network, data := uint32(ne.Uint16(b[recNetwork:])), ne.Uint32(b[recData:])
	// skb->len counts from skb->data, which may stand at the MAC header, the
	// network header or beyond it.
	if length := int64(ne.Uint32(b[recLen:])) + int64(data) - int64(network); length > 0 && length < 1<<31 {
		r.length = uint32(length)
	}
	mac := uint32(ne.Uint16(b[recMAC:]))
	if gap := int64(network) - int64(mac); mac != 0xffff && (gap == 14 || gap == 18) {
		r.linkLayer = b[recLinkLayer : recLinkLayer+14]
	}
	return r, nil
}

// routeErrno reads the error of a route: an errno, positive in IPv4's routes
// (ip_route_input_slow), negative in IPv6's (ip6_rt_type_to_error).
func routeErrno(raw uint16) errno {
	if e := int(int16(raw)); e > -4096 && e < 4096 {
		return errno(max(e, -e))
	}
	return 0
}
