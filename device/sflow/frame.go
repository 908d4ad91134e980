package sflow

import "encoding/binary"

// Frame is what a sampled header holds below IP.
type Frame struct {
	DstMAC, SrcMAC []byte // 6 bytes, or nil without Ethernet
	VLAN           uint16 // outermost 802.1Q VLAN id, 0 when untagged
	// Network is from the IP header on, nil when the frame holds no IP that can
	// be found.
	Network []byte
	// Length is that of the packet on the wire from the IP header on, or, where
	// there is none, from behind the Ethernet header.
	Length uint32
}

// Values of header_protocol that are read.
const (
	protocolEthernet = 1
	protocolIPv4     = 11
	protocolIPv6     = 12
	protocolMPLS     = 13
)

// EtherTypes (IEEE 802 numbers).
const (
	etherIPv4        = 0x0800
	etherVLAN        = 0x8100
	etherIPv6        = 0x86dd
	etherMPLS        = 0x8847
	etherMPLSUp      = 0x8848 // upstream-assigned labels, RFC 5332
	etherServiceVLAN = 0x88a8
	etherOldQinQ     = 0x9100
)

// maxLayers bounds the VLAN tags and MPLS labels stepped over.
const maxLayers = 8

// Frame reads the sampled header. Its slices are parts of it.
func (d *Drop) Frame() Frame {
	var f Frame
	b, gone := d.Header, 0
	switch d.HeaderProtocol {
	case protocolIPv4, protocolIPv6:
		f.Network = b
	case protocolMPLS:
		f.Network, gone = belowLabels(b)
	case protocolEthernet:
		if len(b) < 14 {
			break
		}
		f.DstMAC, f.SrcMAC = b[0:6:6], b[6:12:12]
		kind := binary.BigEndian.Uint16(b[12:])
		b, gone = b[14:], 14
		for range maxLayers {
			if kind != etherVLAN && kind != etherServiceVLAN && kind != etherOldQinQ || len(b) < 4 {
				break
			}
			if f.VLAN == 0 {
				f.VLAN = binary.BigEndian.Uint16(b) & 0x0fff
			}
			kind = binary.BigEndian.Uint16(b[2:])
			b, gone = b[4:], gone+4
		}
		switch kind {
		case etherIPv4, etherIPv6:
			f.Network = b
		case etherMPLS, etherMPLSUp:
			var labels int
			f.Network, labels = belowLabels(b)
			gone += labels
		}
	}
	if below := uint64(gone) + uint64(d.Stripped); uint64(d.FrameLength) > below {
		f.Length = d.FrameLength - uint32(below)
	}
	return f
}

// belowLabels steps over an MPLS label stack (RFC 3032) and returns the IP
// packet below it, nil when what is there is no IP.
func belowLabels(b []byte) (network []byte, gone int) {
	for range maxLayers {
		if len(b) < 4 {
			return nil, gone
		}
		bottom := b[2]&1 != 0
		b, gone = b[4:], gone+4
		if !bottom {
			continue
		}
		if len(b) > 0 && (b[0]>>4 == 4 || b[0]>>4 == 6) {
			return b, gone
		}
		return nil, gone
	}
	return nil, gone
}
