package tracer

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/bpf"

	"decaf/api/packet"
)

// heard is what the TCP packets that come in tell a trace: how far their sender
// is, and where a connection stands.
type heard struct {
	flow     packet.Flow // as received: from the other end to this one
	ttl      uint8
	flags    uint8
	seq, ack uint32
	data     uint32 // bytes of payload
}

// watchFor is what to overhear: packets of an address family that a socket
// filter lets through.
type watchFor struct {
	v6     bool
	filter func(v6 bool) ([]bpf.RawInstruction, error)
	// sampled says that what comes is a sample, which is read when it is needed and
	// else now and then (Tracer.sample).
	sampled bool
	// flow, where it is valid, is the only one wanted, as it is received. Then a
	// raw socket will do, which costs every TCP packet of the host a copy and
	// nothing to close; a packet socket costs next to nothing for each packet and
	// some 10 ms to close.
	flow packet.Flow
}

// watchFlow overhears what comes of one flow from the other end.
func watchFlow(f packet.Flow) watchFor {
	return watchFor{v6: f.Is6(), flow: f.Reverse(), filter: func(v6 bool) ([]bpf.RawInstruction, error) {
		return watchPorts(v6, f.Dst.Port(), f.Src.Port())
	}}
}

// minHeard is what a filter has to hand over: IPv6 and TCP headers.
const minHeard = 60

// parseHeard reads a packet from its IP header on. Packets that are not whole
// in their headers, fragments, and IPv6 ones with extension headers are not read.
func parseHeard(b []byte) (h heard, ok bool) {
	var src, dst netip.Addr
	var length int // of the transport part
	if len(b) < 20 {
		return h, false
	}
	switch b[0] >> 4 {
	case 4:
		header := int(b[0]&0xf) * 4
		total := int(binary.BigEndian.Uint16(b[2:]))
		if header < 20 || len(b) < header || total < header || b[9] != packet.TCP || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return h, false
		}
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		h.ttl, length, b = b[8], total-header, b[header:]
	case 6:
		if len(b) < 40 || b[6] != packet.TCP {
			return h, false
		}
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		h.ttl, length, b = b[7], int(binary.BigEndian.Uint16(b[4:])), b[40:]
	default:
		return h, false
	}
	if len(b) < 20 {
		return h, false
	}
	header := int(b[12]>>4) * 4
	if header < 20 || length < header {
		return h, false
	}
	h.flow = packet.Flow{
		Src:   netip.AddrPortFrom(src, binary.BigEndian.Uint16(b)),
		Dst:   netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:])),
		Proto: packet.TCP,
	}
	h.seq, h.ack, h.flags = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:]), b[13]
	h.data = uint32(length - header)
	return h, true
}

// sequence is where the connection stands on this end, by what the other sent.
// ok is false for packets that do not say.
func (h *heard) sequence() (s Sequence, ok bool) {
	if h.flags&packet.ACK == 0 || h.flags&packet.RST != 0 {
		return s, false
	}
	next := h.seq + h.data
	if h.flags&(packet.SYN|packet.FIN) != 0 {
		next++
	}
	return Sequence{Unacked: h.ack, Next: next}, true
}

// switchesFrom gives the number of switches a packet crossed, which began with
// the least of the TTLs that systems begin with: 64 (Linux, BSD), 128 (Windows),
// 255 (routers). 0 when it was not more than 30 below one of them: no network
// that we trace is that wide, and something changed it.
func switchesFrom(ttl uint8) int {
	for _, initial := range []int{64, 128, 255} {
		if d := initial - int(ttl); d >= 0 {
			if d > 30 {
				return 0
			}
			return d
		}
	}
	return 0
}

// maxDistances bounds the destinations whose distance is remembered.
const maxDistances = 8192

// distances remembers how far away the hosts are that packets came from.
type distances struct {
	mu   sync.Mutex
	at   map[netip.Addr]uint8
	full uint64 // forgotten for want of room
}

func (d *distances) learn(a netip.Addr, switches int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.at == nil {
		d.at = make(map[netip.Addr]uint8)
	}
	if _, known := d.at[a]; !known && len(d.at) >= maxDistances {
		for other := range d.at { // any: the one forgotten is learnt again from its next packet
			delete(d.at, other)
			d.full++
			break
		}
	}
	d.at[a] = uint8(switches)
}

// of gives the number of switches to a, 0 if not known.
func (d *distances) of(a netip.Addr) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return int(d.at[a])
}

func (d *distances) forgotten() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.full
}

// sampleEvery is how often the sample is read where nobody asks for it: to be woken
// up by each packet would cost more than all else that this process does.
const sampleEvery = 200 * time.Millisecond

// sampled is the share of packets, one in so many, that the filter lets through
// besides those that open a connection.
const sampled = 256

// watchAll is watchFilter for no flow above others.
func watchAll(v6 bool) ([]bpf.RawInstruction, error) { return watchFilter(v6, 0, 0) }

// watchFilter lets through TCP packets with SYN, those between two ports, and one
// in so many of the others, cut to their headers.
func watchFilter(v6 bool, from, to uint16) ([]bpf.RawInstruction, error) {
	pass := []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: uint32(packet.SYN), SkipTrue: 3},
		bpf.LoadExtension{Num: bpf.ExtRand},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: 1<<32/sampled - 1, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: minHeard + 60},
	}
	if v6 {
		return bpf.Assemble(append([]bpf.Instruction{
			bpf.LoadAbsolute{Off: 6, Size: 1},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(packet.TCP), SkipTrue: 1},
			bpf.RetConstant{Val: 0},
			bpf.LoadAbsolute{Off: 40, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(from)<<16 | uint32(to), SkipTrue: 1},
			bpf.RetConstant{Val: minHeard + 60},
			bpf.LoadAbsolute{Off: 40 + 13, Size: 1},
		}, pass...))
	}
	return bpf.Assemble(append([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(packet.TCP), SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.LoadMemShift{Off: 0},
		bpf.LoadIndirect{Off: 0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(from)<<16 | uint32(to), SkipTrue: 1},
		bpf.RetConstant{Val: minHeard + 60},
		bpf.LoadIndirect{Off: 13, Size: 1},
	}, pass...))
}

// watchPorts lets through what a raw TCP socket gets between two ports: IPv4
// with its header, IPv6 without.
func watchPorts(v6 bool, from, to uint16) ([]bpf.RawInstruction, error) {
	var list []bpf.Instruction
	if v6 {
		list = append(list, bpf.LoadAbsolute{Off: 0, Size: 4})
	} else {
		list = append(list, bpf.LoadMemShift{Off: 0}, bpf.LoadIndirect{Off: 0, Size: 4})
	}
	return bpf.Assemble(append(list,
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(from)<<16 | uint32(to), SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: minHeard + 60},
	))
}

// header6 is an IPv6 header as parseHeard reads it, for a packet that came
// without.
func header6(b []byte, src, dst netip.Addr, ttl uint8, length int) {
	clear(b[:40])
	b[0], b[6], b[7] = 6<<4, packet.TCP, ttl
	binary.BigEndian.PutUint16(b[4:], uint16(length))
	from, to := src.As16(), dst.As16()
	copy(b[8:], from[:])
	copy(b[24:], to[:])
}
