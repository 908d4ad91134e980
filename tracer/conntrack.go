package tracer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"decaf/api/packet"
)

// The wire form of ctnetlink (linux/netfilter/nfnetlink_conntrack.h), as far as
// it takes to ask for one connection. Attributes are in the host's byte order,
// what they hold in network order.
const (
	ctGet      = 1<<8 | 1 // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
	ctNew      = 1 << 8   // the same, IPCTNL_MSG_CT_NEW
	ctOrig     = 1        // CTA_TUPLE_ORIG
	ctReply    = 2        // CTA_TUPLE_REPLY
	ctIP       = 1        // CTA_TUPLE_IP
	ctProto    = 2        // CTA_TUPLE_PROTO
	ctV4Src    = 1
	ctV4Dst    = 2
	ctV6Src    = 3
	ctV6Dst    = 4
	ctNum      = 1 // CTA_PROTO_NUM
	ctSrcPort  = 2
	ctDstPort  = 3
	nested     = 1 << 15
	netlinkHdr = 16
	familyV4   = 2
	familyV6   = 10
)

// conntrackQuestion asks for the connection that a flow is one direction of.
func conntrackQuestion(f packet.Flow, seq uint32) []byte {
	family, src, dst := byte(familyV4), uint16(ctV4Src), uint16(ctV4Dst)
	if f.Is6() {
		family, src, dst = familyV6, ctV6Src, ctV6Dst
	}
	port := func(p uint16) []byte { return []byte{byte(p >> 8), byte(p)} }
	ip := append(attribute(src, f.Src.Addr().AsSlice()), attribute(dst, f.Dst.Addr().AsSlice())...)
	proto := append(append(attribute(ctNum, []byte{f.Proto}), attribute(ctSrcPort, port(f.Src.Port()))...), attribute(ctDstPort, port(f.Dst.Port()))...)
	tuple := attribute(nested|ctOrig, append(attribute(nested|ctIP, ip), attribute(nested|ctProto, proto)...))

	b := make([]byte, netlinkHdr, netlinkHdr+4+len(tuple))
	b = append(append(b, family, 0, 0, 0), tuple...) // struct nfgenmsg
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], ctGet)
	binary.NativeEndian.PutUint16(b[6:], 1) // NLM_F_REQUEST
	binary.NativeEndian.PutUint32(b[8:], seq)
	return b
}

// attribute is one netlink attribute, padded to 4 bytes.
func attribute(typ uint16, data []byte) []byte {
	b := make([]byte, 4, 4+len(data)+3)
	binary.NativeEndian.PutUint16(b, uint16(4+len(data)))
	binary.NativeEndian.PutUint16(b[2:], typ)
	b = append(b, data...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// attributes walks over netlink attributes; ok is false when they do not add up.
func attributes(b []byte, each func(typ uint16, data []byte)) (ok bool) {
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return false
		}
		each(binary.NativeEndian.Uint16(b[2:])&^nested, b[4:n])
		b = b[min((n+3)&^3, len(b)):]
	}
	return len(b) == 0
}

// errConntrack is a netlink error: its number, as in errno(3).
type errConntrack int32

func (e errConntrack) Error() string { return fmt.Sprintf("ctnetlink: errno %d", int32(e)) }

var errOther = errors.New("ctnetlink: an answer to another question")

// conntrackAnswer reads the answer to question seq: the two directions of the
// connection.
func conntrackAnswer(b []byte, seq uint32) (orig, reply packet.Flow, err error) {
	if len(b) < netlinkHdr+4 {
		return orig, reply, fmt.Errorf("ctnetlink: answer of %d bytes", len(b))
	}
	if binary.NativeEndian.Uint32(b[8:]) != seq {
		return orig, reply, errOther
	}
	n := int(binary.NativeEndian.Uint32(b))
	if n < netlinkHdr+4 || n > len(b) {
		return orig, reply, fmt.Errorf("ctnetlink: answer of %d bytes says it has %d", len(b), n)
	}
	switch typ := binary.NativeEndian.Uint16(b[4:]); typ {
	case 2: // NLMSG_ERROR
		return orig, reply, errConntrack(-int32(binary.NativeEndian.Uint32(b[netlinkHdr:])))
	case ctNew:
	default:
		return orig, reply, fmt.Errorf("ctnetlink: answer of type %d", typ)
	}
	ok := attributes(b[netlinkHdr+4:n], func(typ uint16, data []byte) {
		switch typ {
		case ctOrig:
			orig = conntrackTuple(data)
		case ctReply:
			reply = conntrackTuple(data)
		}
	})
	if !ok || !orig.Src.IsValid() || !orig.Dst.IsValid() || !reply.Src.IsValid() || !reply.Dst.IsValid() {
		return orig, reply, errors.New("ctnetlink: an answer without two whole tuples")
	}
	return orig, reply, nil
}

func conntrackTuple(b []byte) (f packet.Flow) {
	var src, dst netip.Addr
	var from, to uint16
	attributes(b, func(typ uint16, data []byte) {
		attributes(data, func(part uint16, data []byte) {
			switch {
			case typ == ctIP && (part == ctV4Src || part == ctV6Src):
				src, _ = netip.AddrFromSlice(data)
			case typ == ctIP && (part == ctV4Dst || part == ctV6Dst):
				dst, _ = netip.AddrFromSlice(data)
			case typ == ctProto && part == ctNum && len(data) == 1:
				f.Proto = data[0]
			case typ == ctProto && part == ctSrcPort && len(data) == 2:
				from = binary.BigEndian.Uint16(data)
			case typ == ctProto && part == ctDstPort && len(data) == 2:
				to = binary.BigEndian.Uint16(data)
			}
		})
	})
	f.Src, f.Dst = netip.AddrPortFrom(src, from), netip.AddrPortFrom(dst, to)
	return f
}

// onWire is what packets of one direction of a connection become: what the
// other direction's come back to.
func onWire(f, orig, reply packet.Flow) packet.Flow {
	if f == reply {
		return orig.Reverse()
	}
	return reply.Reverse()
}
