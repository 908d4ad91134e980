package hostagent

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"

	"decaf/api/decafpb"
	"decaf/tracer"

	"golang.org/x/sys/unix"
)

// what is the tracepoint an event came from.
type what uint8

const (
	whatRetransmit what = 1 // tcp_retransmit_skb
	whatSynAck     what = 2 // tcp_retransmit_synack
	whatClosed     what = 3 // tcp_destroy_sock, of a socket that retransmitted
	whatSample     what = 4 // a look at a socket that retransmitted lately
	whatDropped    what = 5 // kfree_skb, of a packet this host should have kept; by a way of its own
	whatDuplicate  what = 6 // tcp_probe: the other end reports that it had seq to endSeq already
	whatEchoed     what = 7 // tcp_probe: it acknowledges seq, by a packet with timestamp ts
)

// An event's bytes in the ring buffer, in the machine's byte order but for
// addresses and remote port, which stay as the kernel holds them: in network
// order. program.go writes them, decodeEvent reads them.
const (
	evTime         = 0   // u64, CLOCK_MONOTONIC
	evCookie       = 8   // u64
	evSrc6         = 16  // 16 bytes
	evDst6         = 32  // 16 bytes
	evSrc4         = 48  // 4 bytes
	evDst4         = 52  // 4 bytes
	evSeq          = 56  // u32
	evEndSeq       = 60  // u32
	evTotalRetrans = 64  // u32
	evDSACKDups    = 68  // u32
	evErr          = 72  // s32
	evSegments     = 76  // u32
	evSrcPort      = 80  // u16, host order
	evDstPort      = 82  // u16, network order
	evFamily       = 84  // u16
	evWhat         = 86  // u8
	evFlags        = 87  // u8
	evState        = 88  // u8
	evCAState      = 89  // u8, still with its neighbours in the bit field
	evRetransmits  = 90  // u8
	evSettled      = 91  // u8, of a sample: the kernel expects no more word of it
	evNetNS        = 92  // u32, inode number of the network namespace
	evCgroup       = 96  // u64, id of the control group, version 2
	evPID          = 104 // u32
	evQuiet        = 108 // u8, 1: wakes nobody
	evAutoLabel    = 109 // u8, net.ipv6.auto_flowlabels of its namespace
	evStateLabel   = 110 // u8, net.ipv6.flowlabel_state_ranges of its namespace, and 1 of padding
	evComm         = 112 // 16 bytes
	evTS           = 128 // u32, a timestamp of this connection (RFC 7323)
	evHash         = 132 // u32, that the kernel drew for its packets (sk_txhash)
	evHashBefore   = 136 // u32, the one before, 0: not known
	evLabel        = 140 // u32, network order: the IPv6 flow label that it was given, 0: none
	evUnacked      = 144 // u32, the first byte not acknowledged
	evNext         = 148 // u32, the next byte that it expects
	evBytes        = 152
)

// event is what a program saw of one socket.
type event struct {
	what         what
	monotonic    uint64 // ns, CLOCK_MONOTONIC
	cookie       uint64
	src, dst     netip.AddrPort // from this host's point of view; IPv4-mapped addresses unmapped
	seq, endSeq  uint32         // of the buffer sent again
	segments     uint32
	flags        uint8 // TCP flags of the buffer sent again
	err          int32 // 0, or why it could not be sent: a negative errno
	state        uint8 // TCP_ESTABLISHED …, include/net/tcp_states.h
	caState      uint8 // TCP_CA_Open …, include/uapi/linux/tcp.h
	retransmits  uint8 // consecutive timeouts
	totalRetrans uint32
	dsackDups    uint32
	settled      bool       // of a sample: nothing more is to be learnt of what was sent again
	netns        uint32     // inode number; 0: not known
	cgroup       uint64     // id; 0: not known
	pid          uint32     // 0: not known
	process      string     // "": not known
	drop         *localDrop // of whatDropped alone
	quiet        bool       // its socket had woken the reader a moment before
	over         bool       // it came when no trace could be afforded
	ts           uint32     // of whatRetransmit: the timestamp it was sent with, if the connection has them; of whatEchoed
	// Of retransmits over IPv6: the flow label with which the packets were sent that
	// are taken for lost, 0 for none. relabelled says that this is not known, for the
	// kernel has just drawn another, which label is then.
	label      uint32
	relabelled bool
	// Of retransmits: where the connection stands on this host.
	unacked, next uint32
}

// TCP flags, RFC 9293 section 3.1.
const (
	flagFIN = 0x01
	flagSYN = 0x02
	flagACK = 0x10
)

// payload is how many bytes of data the buffer holds: SYN and FIN take a
// sequence number each.
func (e *event) payload() uint32 {
	n := e.endSeq - e.seq
	if e.flags&flagSYN != 0 && n > 0 {
		n--
	}
	if e.flags&flagFIN != 0 && n > 0 {
		n--
	}
	return n
}

// decodeEvent reads one ring buffer sample. caState is the bit field of that
// name.
func decodeEvent(b []byte, caState field) (event, error) {
	if len(b) < evBytes {
		return event{}, fmt.Errorf("kernel event of %d bytes, want %d", len(b), evBytes)
	}
	u32 := func(at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
	u64 := func(at int) uint64 { return binary.NativeEndian.Uint64(b[at:]) }

	e := event{
		what:         what(b[evWhat]),
		monotonic:    u64(evTime),
		cookie:       u64(evCookie),
		seq:          u32(evSeq),
		endSeq:       u32(evEndSeq),
		segments:     u32(evSegments),
		flags:        b[evFlags],
		err:          int32(u32(evErr)),
		state:        b[evState],
		caState:      b[evCAState],
		retransmits:  b[evRetransmits],
		totalRetrans: u32(evTotalRetrans),
		dsackDups:    u32(evDSACKDups),
		settled:      b[evSettled] != 0,
		netns:        u32(evNetNS),
		cgroup:       u64(evCgroup),
		pid:          u32(evPID),
		process:      names(nil).text(b[evComm : evComm+16]),
		quiet:        b[evQuiet] != 0,
		ts:           u32(evTS),
		unacked:      u32(evUnacked),
		next:         u32(evNext),
	}
	if caState.mask != 0 {
		e.caState = e.caState >> caState.shift & caState.mask
	}
	switch e.what {
	case whatSample, whatDuplicate, whatEchoed: // the cookie names the connection
		return e, nil
	case whatRetransmit, whatSynAck, whatClosed:
	default:
		return event{}, fmt.Errorf("kernel event of unknown sort %d", e.what)
	}
	var err error
	if e.src, e.dst, err = decodeEnds(b); err == nil && e.src.Addr().Is6() {
		e.label, e.relabelled = decodeLabel(b, e.kind())
	}
	return e, err
}

// decodeLabel finds the flow label of the packets that an event takes for lost. A
// timeout has the kernel draw another before it sends again (sk_rethink_txhash),
// and so has each SYN and SYN-ACK that goes unanswered: what was lost had the one
// before. Of the first of these that is known to nobody: theirs is the label of the
// one sent again, and they are doubtful evidence in any case (wayBack).
func decodeLabel(b []byte, kind decafpb.RetransmitKind) (label uint32, relabelled bool) {
	hash, before := binary.NativeEndian.Uint32(b[evHash:]), binary.NativeEndian.Uint32(b[evHashBefore:])
	given := binary.BigEndian.Uint32(b[evLabel:])
	label = flowLabel(given, hash, b[evAutoLabel], b[evStateLabel] != 0)
	switch kind {
	case decafpb.RetransmitKind_RETRANSMIT_KIND_RTO, decafpb.RetransmitKind_RETRANSMIT_KIND_SYN, decafpb.RetransmitKind_RETRANSMIT_KIND_SYN_ACK:
	default:
		return label, false
	}
	if before != 0 {
		return flowLabel(given, before, b[evAutoLabel], b[evStateLabel] != 0), false
	}
	return label, label != 0 && given&maxFlowLabel == 0 && kind == decafpb.RetransmitKind_RETRANSMIT_KIND_RTO
}

const maxFlowLabel = 1<<20 - 1

// flowLabel is the IPv6 flow label of a socket's packets, as ip6_make_flowlabel has
// it (include/net/ipv6.h): the one that the socket was given, else one made of the
// hash of its packets where the namespace's sysctls auto_flowlabels and
// flowlabel_state_ranges ask for it. Sockets that set IPV6_AUTOFLOWLABEL for
// themselves are taken for such as do not.
func flowLabel(given, hash uint32, auto uint8, stateRanges bool) uint32 {
	const optOut, forced, stateless = 1, 3, 0x80000
	if label := given & maxFlowLabel; label != 0 {
		return label
	}
	if auto != optOut && auto != forced || hash == 0 {
		return 0
	}
	var b [4]byte // the kernel takes the number for one in network order
	binary.NativeEndian.PutUint32(b[:], bits.RotateLeft32(hash, 16))
	label := binary.BigEndian.Uint32(b[:]) & maxFlowLabel
	if stateRanges {
		label |= stateless
	}
	return label
}

// sequence is where the connection of a retransmit stands, nil where it is not
// established or its source does not tell.
func (e *event) sequence() *tracer.Sequence {
	if e.what != whatRetransmit || e.flags&flagSYN != 0 || e.unacked == 0 && e.next == 0 {
		return nil
	}
	return &tracer.Sequence{Unacked: e.unacked, Next: e.next}
}

// decodeEnds reads addresses and ports of an event or a flow sample.
func decodeEnds(b []byte) (src, dst netip.AddrPort, err error) {
	var from, to netip.Addr
	switch family := binary.NativeEndian.Uint16(b[evFamily:]); family {
	case unix.AF_INET:
		from = netip.AddrFrom4([4]byte(b[evSrc4:]))
		to = netip.AddrFrom4([4]byte(b[evDst4:]))
	case unix.AF_INET6:
		// IPv4 over a dual-stack socket shows as ::ffff:a.b.c.d.
		from = netip.AddrFrom16([16]byte(b[evSrc6:])).Unmap()
		to = netip.AddrFrom16([16]byte(b[evDst6:])).Unmap()
	default:
		return src, dst, fmt.Errorf("kernel event of unknown address family %d", family)
	}
	return netip.AddrPortFrom(from, binary.NativeEndian.Uint16(b[evSrcPort:])),
		netip.AddrPortFrom(to, binary.BigEndian.Uint16(b[evDstPort:])), nil
}
