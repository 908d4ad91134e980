package hostagent

import (
	"net/netip"

	"decaf/api/decafpb"
	"decaf/api/packet"

	"golang.org/x/sys/unix"
)

// rules decide what becomes of an event. They do no I/O.
type rules struct {
	// ignored says that an address belongs to a network that is no evidence.
	ignored func(netip.Addr) bool
	// known says that an address is that of a host in the topology.
	known func(netip.Addr) bool
	// own is the network namespace that traces start in; anywhere: those of flows
	// of others start in these.
	own      uint32
	anywhere bool
}

// verdict is what the rules make of one retransmit.
type verdict struct {
	// drop names the counter of events that become no record; "" keeps it.
	drop string
	// skip is why a record goes without a trace; "" traces it.
	skip string
	// local is why this host itself could not send the segment again.
	local string
	// wayBack: the answer may be what was lost, not the segment.
	wayBack bool
}

// judge decides about a retransmit.
func (r *rules) judge(e *event) verdict {
	if r.ignored(e.src.Addr()) || r.ignored(e.dst.Addr()) {
		return verdict{drop: countIgnored}
	}
	v := verdict{}
	switch e.err {
	case 0:
	case -int32(unix.EBUSY), -int32(unix.EAGAIN):
		// Nothing left the socket and nothing is said about the network: the
		// first copy still waits in this host's own queue (EBUSY), or the
		// other end closed its window (EAGAIN). __tcp_retransmit_skb.
		return verdict{drop: countNotSent}
	default:
		v.local = localCause(e.err)
		v.skip = "this host could not send it: " + v.local
	}

	switch e.kind() {
	case decafpb.RetransmitKind_RETRANSMIT_KIND_SYN, decafpb.RetransmitKind_RETRANSMIT_KIND_SYN_ACK:
		v.wayBack = true
		// A SYN may go to an address where nothing ever was: probing for it
		// would trace towards whatever a user mistyped (007, section 4.2).
		if v.skip == "" && !r.known(e.dst.Addr()) {
			v.skip = "connection was never established, and its destination is not in the topology"
		}
	}
	if v.skip == "" && r.elsewhere(e) != 0 && !r.anywhere {
		v.skip = "the flow is of another network namespace, from which nothing is traced"
	}
	if v.skip == "" && (e.dst.Addr().IsLoopback() || e.dst.Addr() == e.src.Addr()) {
		v.skip = "the flow does not leave this host"
	}
	return v
}

// elsewhere is the network namespace of an event that is not of the agent's own,
// else 0.
func (r *rules) elsewhere(e *event) uint32 {
	if e.netns == r.own {
		return 0
	}
	return e.netns
}

// localCauses are errors of ip_queue_xmit and below, in words.
var localCauses = map[int32]string{
	1:                         "dropped by the queue of the interface (NET_XMIT_DROP)",
	-int32(unix.EPERM):        "dropped by the host's own packet filter",
	-int32(unix.ENOMEM):       "no memory for the copy",
	-int32(unix.ENOBUFS):      "dropped by the interface, out of buffers",
	-int32(unix.ENETUNREACH):  "no route to the network",
	-int32(unix.EHOSTUNREACH): "no route to the host",
	-int32(unix.ENETDOWN):     "the interface is down",
	-int32(unix.EINVAL):       "the socket has no valid route",
}

func localCause(err int32) string {
	if s, ok := localCauses[err]; ok {
		return s
	}
	if err < 0 {
		return unix.Errno(-err).Error()
	}
	return "dropped below TCP"
}

// undone says whether everything a closed connection sent again had arrived
// before: then the other end reported each of these segments as a duplicate
// (D-SACK, RFC 2883 section 4), and nothing was lost on the way there. Both
// counts are of segments (tcp_dsack_seen).
func undone(e *event) bool {
	return e.what == whatClosed && e.totalRetrans > 0 && e.dsackDups >= e.totalRetrans
}

// flow is the five-tuple of what this host sends.
func (e *event) flow() packet.Flow {
	return packet.Flow{Src: e.src, Dst: e.dst, Proto: packet.TCP}
}
