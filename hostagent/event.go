package hostagent

import (
	"encoding/binary"
	"fmt"
	"net/netip"

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
	evQuiet        = 108 // u8, 1: wakes nobody, and 3 of padding
	evComm         = 112 // 16 bytes
	evTS           = 128 // u32, a timestamp of this connection (RFC 7323), and 4 of padding
	evBytes        = 136
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
	e.src, e.dst, err = decodeEnds(b)
	return e, err
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
