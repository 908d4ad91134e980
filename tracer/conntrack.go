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

// conntrackQuestion appends to b[:0] what asks for the connection that a flow is
// one direction of.
func conntrackQuestion(b []byte, f packet.Flow, seq uint32) []byte {
	family, src, dst := byte(familyV4), uint16(ctV4Src), uint16(ctV4Dst)
	if f.Is6() {
		family, src, dst = familyV6, ctV6Src, ctV6Dst
	}
	b = append(b[:0], make([]byte, netlinkHdr)...)
	b = append(b, family, 0, 0, 0) // struct nfgenmsg
	tuple := len(b)
	b = attribute(b, nested|ctOrig, nil)
	ip := len(b)
	b = attribute(b, nested|ctIP, nil)
	b = attribute(b, src, f.Src.Addr().AsSlice())
	b = attribute(b, dst, f.Dst.Addr().AsSlice())
	holds(b, ip)
	proto := len(b)
	b = attribute(b, nested|ctProto, nil)
	b = attribute(b, ctNum, []byte{f.Proto})
	b = attribute(b, ctSrcPort, []byte{byte(f.Src.Port() >> 8), byte(f.Src.Port())})
	b = attribute(b, ctDstPort, []byte{byte(f.Dst.Port() >> 8), byte(f.Dst.Port())})
	holds(b, proto)
	holds(b, tuple)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], ctGet)
	binary.NativeEndian.PutUint16(b[6:], 1) // NLM_F_REQUEST
	binary.NativeEndian.PutUint32(b[8:], seq)
	return b
}

// attribute appends one netlink attribute, padded to 4 bytes.
func attribute(b []byte, typ uint16, data []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(data)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, data...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// holds makes the attribute that begins at an offset hold all after it.
func holds(b []byte, at int) { binary.NativeEndian.PutUint16(b[at:], uint16(len(b)-at)) }

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
