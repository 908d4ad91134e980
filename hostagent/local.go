package hostagent

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"decaf/api/packet"
)

// localReasons are the kernel's reasons for a drop (enum skb_drop_reason) that
// make a retransmit this host's own doing, with what dropped it in words.
// Reasons that say that a packet was no good here (checksum, sequence, no
// socket) are not among them: traces make such drops themselves.
var localReasons = map[string]string{
	"QDISC_DROP": inQueue, "QDISC_OVERLIMIT": inQueue, "QDISC_CONGESTED": inQueue, "QUEUE_PURGE": inQueue,
	"CAKE_FLOOD": inQueue, "FQ_BAND_LIMIT": inQueue, "FQ_HORIZON_LIMIT": inQueue, "FQ_FLOW_LIMIT": inQueue,
	"DUALPI2_STEP_DROP": inQueue, "CPU_BACKLOG": inQueue, "FULL_RING": inQueue,

	"NETFILTER_DROP": byFilter, "BPF_CGROUP_EGRESS": byFilter, "TC_INGRESS": byFilter, "TC_EGRESS": byFilter,
	"XDP": byFilter, "SOCKET_FILTER": byFilter, "SECURITY_HOOK": byFilter, "XFRM_POLICY": byFilter,

	"SOCKET_RCVBUFF": inSocket, "SOCKET_BACKLOG": inSocket, "PROTO_MEM": inSocket,
	"TCP_OFO_QUEUE_PRUNE": inSocket,

	"NOMEM": forMemory, "PFMEMALLOC": forMemory,

	"IP_OUTNOROUTES": forRoute, "NEIGH_CREATEFAIL": forRoute, "NEIGH_FAILED": forRoute,
	"NEIGH_QUEUEFULL": forRoute, "NEIGH_DEAD": forRoute, "DEV_READY": forRoute,
}

const (
	inQueue   = "dropped by a queue of this host"
	byFilter  = "dropped by this host's packet filter"
	inSocket  = "dropped at a full socket buffer of this host"
	forMemory = "dropped by this host for want of memory"
	forRoute  = "dropped by this host for want of a route or neighbour"
)

// localDrop is one TCP packet that this host dropped.
type localDrop struct {
	at       uint64 // ns, CLOCK_MONOTONIC
	reason   string // of enum skb_drop_reason
	flow     packet.Flow
	seq, end uint32 // sequence numbers it held, SYN and FIN included
	ack      uint32
	acks     bool // ack is one
	done     []span
}

type span struct{ from, to uint32 }

// decodeDrop reads one drop. names are the reasons by number.
func decodeDrop(b []byte, names map[uint32]string) (localDrop, error) {
	if len(b) < ldBytes {
		return localDrop{}, fmt.Errorf("local drop of %d bytes, want %d", len(b), ldBytes)
	}
	d := localDrop{
		at:     binary.NativeEndian.Uint64(b[ldTime:]),
		reason: names[binary.NativeEndian.Uint32(b[ldReason:])],
	}
	if d.reason == "" {
		return localDrop{}, fmt.Errorf("local drop for the unknown reason %d", binary.NativeEndian.Uint32(b[ldReason:]))
	}
	return d, d.packet(binary.BigEndian.Uint16(b[ldProtocol:]), b[ldHeader:ldBytes])
}

// packet reads the headers of a TCP packet, h from the IP header on.
func (d *localDrop) packet(etherType uint16, h []byte) error {
	var src, dst netip.Addr
	var total, header int
	switch etherType {
	case etherIPv4:
		header = int(h[0]&0xf) * 4
		total = int(binary.BigEndian.Uint16(h[2:]))
		src, dst = netip.AddrFrom4([4]byte(h[12:])), netip.AddrFrom4([4]byte(h[16:]))
		if h[0]>>4 != 4 || header < 20 {
			return fmt.Errorf("local drop of a packet that is no IPv4: %x", h[:20])
		}
		if binary.BigEndian.Uint16(h[6:])&0x1fff != 0 {
			return fmt.Errorf("local drop of a later fragment: %x", h[:20])
		}
	case etherIPv6:
		header = 40
		total = header + int(binary.BigEndian.Uint16(h[4:]))
		src, dst = netip.AddrFrom16([16]byte(h[8:])), netip.AddrFrom16([16]byte(h[24:]))
		if h[0]>>4 != 6 {
			return fmt.Errorf("local drop of a packet that is no IPv6: %x", h[:40])
		}
	default:
		return fmt.Errorf("local drop of EtherType %#04x", etherType)
	}
	t := h[header:]
	d.flow = packet.Flow{
		Src:   netip.AddrPortFrom(src, binary.BigEndian.Uint16(t)),
		Dst:   netip.AddrPortFrom(dst, binary.BigEndian.Uint16(t[2:])),
		Proto: packet.TCP,
	}
	d.seq, d.ack = binary.BigEndian.Uint32(t[4:]), binary.BigEndian.Uint32(t[8:])
	offset, flags := int(t[12]>>4)*4, t[13]
	d.acks = flags&flagACK != 0
	d.end = d.seq + uint32(max(0, total-header-offset))
	for _, f := range []byte{flagSYN, flagFIN} {
		if flags&f != 0 {
			d.end++
		}
	}
	return nil
}

// localDrops remembers what this host dropped lately, to explain what is sent
// again. It knows no clock and no kernel, and is for one goroutine.
type localDrops struct {
	of    map[packet.Flow][]*localDrop
	order []*localDrop // by time; some are forgotten already
	max   int
	// leftOut counts drops forgotten before their time.
	leftOut atomic.Uint64
}

// Bounds of what is remembered: a retransmit by timeout comes at most two
// minutes after the loss.
const (
	maxLocalDrops = 8192
	localDropAge  = uint64(2 * time.Minute)
)

func newLocalDrops() *localDrops {
	return &localDrops{of: make(map[packet.Flow][]*localDrop), max: maxLocalDrops}
}

// add takes one drop.
func (l *localDrops) add(d *localDrop) {
	for len(l.order) > 0 {
		if d.at-min(l.order[0].at, d.at) <= localDropAge {
			if len(l.order) < l.max {
				break
			}
			l.leftOut.Add(1)
		}
		l.forget(l.order[0])
		l.order = l.order[1:]
	}
	l.order = append(l.order, d)
	l.of[d.flow] = append(l.of[d.flow], d)
}

// forget takes the oldest drop of its flow away.
func (l *localDrops) forget(d *localDrop) {
	if rest := l.of[d.flow][1:]; len(rest) > 0 {
		l.of[d.flow] = rest
	} else {
		delete(l.of, d.flow)
	}
}

// cause says why this host itself made e necessary: it dropped the segment, or
// the acknowledgement of it. "" says it did not. Each drop explains each
// sequence number once: if it is sent yet again, that has another cause.
func (l *localDrops) cause(e *event) string {
	if len(l.of) == 0 {
		return ""
	}
	f := e.flow()
	for _, d := range l.of[f] {
		if d.at <= e.monotonic && d.explains(max32(d.seq, e.seq), min32(d.end, e.endSeq)) {
			return localReasons[d.reason] + " (" + d.reason + ")"
		}
	}
	for _, d := range l.of[f.Reverse()] {
		if d.at <= e.monotonic && d.acks && int32(d.ack-e.endSeq) >= 0 && d.explains(e.seq, e.endSeq) {
			return "acknowledgement " + localReasons[d.reason] + " (" + d.reason + ")"
		}
	}
	return ""
}

// explains notes that a retransmit from a sequence number to another is laid on
// the drop; false when that is nothing, or was done before.
func (d *localDrop) explains(from, to uint32) bool {
	if int32(to-from) <= 0 || len(d.done) >= 256 {
		return false
	}
	for _, s := range d.done {
		if int32(s.to-from) > 0 && int32(to-s.from) > 0 {
			return false
		}
	}
	d.done = append(d.done, span{from, to})
	return true
}

// max32 and min32 compare sequence numbers, which wrap.
func max32(a, b uint32) uint32 {
	if int32(a-b) > 0 {
		return a
	}
	return b
}

func min32(a, b uint32) uint32 {
	if int32(a-b) < 0 {
		return a
	}
	return b
}
