package correlator

import (
	"math/rand/v2"
	"sort"
	"testing"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/topology"
	"net/netip"
)

// A fabric of the mind: connections over ECMP paths with the losses of a few
// faults, and the records that host and device agents would send of them, at
// the times they would arrive. It knows TCP as far as the kinds of retransmit
// go: what is repeated fast, by a tail probe, by a timeout, and what only
// because an acknowledgement was lost.

const second = int64(1e9)

// smallClos is the fabric of the project's goal: 48 directed links, 8 hosts.
func smallClos(t testing.TB) *topology.Topology {
	t.Helper()
	topo, err := topology.Clos(topology.ClosSpec{Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2})
	if err != nil {
		t.Fatal(err)
	}
	return topo
}

// fault is something that loses packets from at to end.
type fault struct {
	link    *topology.Link // silent loss on it, or the queue before it
	device  string         // drops at this device
	class   string         // "" for silent
	rate    float64
	at, end int64
	match   func(f packet.Flow) bool
	syn     bool // takes SYNs only
	down    bool // the device has gone; with a class its neighbours tell of what they drop at their ports to it
}

type arrival struct {
	at    int64
	batch *decafpb.Batch
}

type fabric struct {
	topo   *topology.Topology
	rng    *rand.Rand
	faults []fault
	// rates, per second over the whole fabric
	connections float64
	tlpNoise    float64 // tail probes for no loss
	rtoNoise    float64 // timeouts for no loss, that DSACK does not undo
	lossNoise   float64 // connections that really lose a packet somewhere
	stallEvery  float64 // seconds between stalls of the whole machine; 0 none
	pick        func(rng *rand.Rand, hosts []*topology.Host) (src, dst *topology.Host)

	arrivals []arrival
	seqs     map[string]uint64
	port     uint16
	cookie   uint64
	paths    map[[2]string][]topology.Path
	traced   map[FlowKey]*decafpb.Path

	// truth
	lossyFlows int
}

func newFabric(topo *topology.Topology, seed uint64, faults ...fault) *fabric {
	return &fabric{
		topo: topo, rng: rand.New(rand.NewPCG(seed, 7)), faults: faults,
		connections: 80, tlpNoise: 0.2, rtoNoise: 0.02, lossNoise: 0.02,
		seqs: map[string]uint64{}, port: 20000, paths: map[[2]string][]topology.Path{},
		traced: map[FlowKey]*decafpb.Path{},
		pick: func(rng *rand.Rand, hosts []*topology.Host) (src, dst *topology.Host) {
			src = hosts[rng.IntN(len(hosts))]
			for dst = src; dst == src; {
				dst = hosts[rng.IntN(len(hosts))]
			}
			return
		},
	}
}

func (fb *fabric) origin(producer, record string) *decafpb.Origin {
	fb.seqs[producer+record]++
	return &decafpb.Origin{Producer: producer, BootId: 1, Seq: fb.seqs[producer+record]}
}

func (fb *fabric) path(src, dst string) topology.Path {
	k := [2]string{src, dst}
	if fb.paths[k] == nil {
		if len(fb.paths) >= 1000 { // on a large fabric all pairs' paths are gigabytes
			clear(fb.paths)
		}
		fb.paths[k] = fb.topo.Paths(src, dst)
	}
	return fb.paths[k][fb.rng.IntN(len(fb.paths[k]))]
}

// run makes all arrivals of connections begun in [from, to).
func (fb *fabric) run(from, to int64) []arrival {
	for t := from + int64(fb.rng.ExpFloat64()/fb.connections*1e9); t < to; t += int64(fb.rng.ExpFloat64() / fb.connections * 1e9) {
		fb.connection(t)
	}
	noise := func(rate float64, kind decafpb.RetransmitKind) {
		if rate <= 0 {
			return
		}
		for t := from + int64(fb.rng.ExpFloat64()/rate*1e9); t < to; t += int64(fb.rng.ExpFloat64() / rate * 1e9) {
			c := fb.newConn(t)
			fb.retransmit(c, t, kind, 1000, 1448, flagACK, false)
		}
	}
	noise(fb.tlpNoise, decafpb.RetransmitKind_RETRANSMIT_KIND_TLP)
	noise(fb.rtoNoise, decafpb.RetransmitKind_RETRANSMIT_KIND_RTO)
	noise(fb.lossNoise, decafpb.RetransmitKind_RETRANSMIT_KIND_FAST)
	if fb.stallEvery > 0 {
		for t := from + int64(fb.rng.ExpFloat64()*fb.stallEvery*1e9); t < to; t += int64(fb.rng.ExpFloat64() * fb.stallEvery * 1e9) {
			for range 4 + fb.rng.IntN(10) {
				fb.retransmit(fb.newConn(t), t+int64(fb.rng.IntN(20e6)), decafpb.RetransmitKind_RETRANSMIT_KIND_RTO, 1000, 1448, flagACK, false)
			}
		}
	}
	sort.SliceStable(fb.arrivals, func(i, j int) bool { return fb.arrivals[i].at < fb.arrivals[j].at })
	return fb.arrivals
}

type conn struct {
	key      FlowKey
	src, dst string
	fwd, rev topology.Path
	isn      uint32
}

func (c *conn) back() *conn {
	return &conn{key: FlowKey{Flow: c.key.Flow.Reverse(), Cookie: c.key.Cookie + 1<<32}, src: c.dst, dst: c.src, fwd: c.rev, rev: c.fwd, isn: c.isn + 77777}
}

func (fb *fabric) newConn(t int64) *conn {
	src, dst := fb.pick(fb.rng, fb.topo.Hosts)
	fb.port++
	if fb.port < 20000 {
		fb.port = 20000
	}
	fb.cookie++
	return &conn{
		key: FlowKey{Flow: packet.Flow{
			Src: netip.AddrPortFrom(src.Addresses[0], fb.port), Dst: netip.AddrPortFrom(dst.Addresses[0], 5201), Proto: packet.TCP,
		}, Cookie: fb.cookie},
		src: src.Name, dst: dst.Name, fwd: fb.path(src.Name, dst.Name), rev: fb.path(dst.Name, src.Name), isn: fb.rng.Uint32(),
	}
}

// send walks a packet along a path; false when it is lost on the way.
func (fb *fabric) send(path topology.Path, flow packet.Flow, t int64, seq, ack, flags uint32, id uint32) bool {
	for i, l := range path {
		for k := range fb.faults {
			f := &fb.faults[k]
			if t < f.at || t >= f.end || f.match != nil && !f.match(flow) || f.syn && flags != flagSYN {
				continue
			}
			if f.down && l.To.Node == f.device {
				if _, ok := fb.topo.Device(l.From.Node); ok && f.class != "" {
					fb.dropped(&decafpb.DropEvent{
						Origin: fb.origin(l.From.Node, "drop"), TimeNs: uint64(t), Class: f.class, Reason: "X", Egress: l.From.Name, Source: "kernel",
						Packet: &decafpb.Packet{Flow: flow.PB(), TcpSeq: seq, TcpAck: ack, TcpFlags: flags, IpId: id, Ttl: 60},
					})
				}
				return false
			}
			var at *topology.Link // the link by which it came to the device that drops
			switch {
			case f.link == l && f.class == "":
				if fb.rng.Float64() < f.rate {
					return false
				}
				continue
			case f.link == l && i > 0:
				at = path[i-1]
			case f.syn && l.To.Node == f.device:
				if fb.rng.Float64() < f.rate {
					return false
				}
				continue
			case f.device != "" && l.To.Node == f.device:
				at = l
			default:
				continue
			}
			if fb.rng.Float64() < f.rate {
				e := &decafpb.DropEvent{
					Origin: fb.origin(at.To.Node, "drop"), TimeNs: uint64(t), Class: f.class, Reason: "X",
					Ingress: at.To.Name, Source: "kernel",
					Packet: &decafpb.Packet{Flow: flow.PB(), TcpSeq: seq, TcpAck: ack, TcpFlags: flags, IpId: id, Ttl: 60},
				}
				if f.link != nil {
					e.Egress = f.link.From.Name
				}
				fb.dropped(e)
				return false
			}
		}
	}
	return true
}

func (fb *fabric) dropped(e *decafpb.DropEvent) {
	at := int64(e.TimeNs) + 2e6 + int64(fb.rng.ExpFloat64()*30e6)
	e.ReceivedNs = uint64(at)
	fb.arrivals = append(fb.arrivals, arrival{at, &decafpb.Batch{Drops: []*decafpb.DropEvent{e}}})
}

// trace probes the path: per TTL up to five tries, each of which may be lost on
// the way there or back. A probe that a fault lets pass dies at its switch and
// makes a drop event there.
func (fb *fabric) trace(c *conn, t int64) *decafpb.Path {
	if p := fb.traced[c.key]; p != nil {
		return &decafpb.Path{Status: decafpb.PathStatus_PATH_STATUS_CACHED, Hops: p.Hops, Distance: p.Distance, ProbeSeq: p.ProbeSeq, ProbeId: p.ProbeId}
	}
	p := &decafpb.Path{
		Status: decafpb.PathStatus_PATH_STATUS_COMPLETE, Distance: uint32(len(c.fwd) - 1),
		ProbeSeq: fb.rng.Uint32(), ProbeId: uint32(1+fb.rng.IntN(1022)) << 6,
		StartNs: uint64(t),
	}
	for ttl := 1; ttl < len(c.fwd); ttl++ {
		h := &decafpb.Hop{Ttl: uint32(ttl), Status: decafpb.HopStatus_HOP_STATUS_SILENT}
		for try := 0; try < 5 && h.Status == decafpb.HopStatus_HOP_STATUS_SILENT; try++ {
			id := p.ProbeId | uint32(ttl)
			if !fb.send(c.fwd[:ttl], c.key.Flow, t, p.ProbeSeq, 0, flagACK, id) {
				continue
			}
			in := c.fwd[ttl-1].To
			fb.dropped(&decafpb.DropEvent{
				Origin: fb.origin(in.Node, "drop"), TimeNs: uint64(t), Class: classTTL, Reason: "IP_INHDR", Ingress: in.Name,
				Packet: &decafpb.Packet{Flow: c.key.Flow.PB(), TcpSeq: p.ProbeSeq, IpId: id, Ttl: 1, TcpFlags: flagACK},
			})
			back := fb.path(c.dst, c.src)
			if !fb.send(back[len(back)-ttl:], packet.Flow{Src: c.key.Dst, Dst: c.key.Src, Proto: packet.ICMP}, t, 0, 0, 0, 0) {
				continue
			}
			h.Status = decafpb.HopStatus_HOP_STATUS_ANSWERED
			h.Address = in.Addr.Addr().AsSlice()
		}
		if h.Status != decafpb.HopStatus_HOP_STATUS_ANSWERED {
			p.Status, p.Why = decafpb.PathStatus_PATH_STATUS_PARTIAL, "some hops silent"
		}
		p.Hops = append(p.Hops, h)
	}
	fb.traced[c.key] = p
	return p
}

func (fb *fabric) retransmit(c *conn, t int64, kind decafpb.RetransmitKind, seq, length, flags uint32, suspect bool) {
	r := &decafpb.Retransmit{
		Origin: fb.origin(c.src, "retransmit"), TimeNs: uint64(t), Flow: c.key.Flow.PB(), Cookie: c.key.Cookie, Segments: 1,
		TcpSeq: c.isn + seq, TcpEndSeq: c.isn + seq + length, TcpFlags: flags, Kind: kind, WayBackSuspect: suspect,
		Path: fb.trace(c, t),
	}
	at := t + 12e6 + int64(fb.rng.ExpFloat64()*20e6)
	if r.Path.Status == decafpb.PathStatus_PATH_STATUS_PARTIAL {
		at += 50e6
	}
	fb.arrivals = append(fb.arrivals, arrival{at, &decafpb.Batch{Retransmits: []*decafpb.Retransmit{r}}})
}

func (fb *fabric) undone(c *conn, t int64) {
	r := &decafpb.Retransmit{Origin: fb.origin(c.src, "retransmit"), TimeNs: uint64(t), Flow: c.key.Flow.PB(), Cookie: c.key.Cookie, Undone: true}
	fb.arrivals = append(fb.arrivals, arrival{t + 10e6, &decafpb.Batch{Retransmits: []*decafpb.Retransmit{r}}})
}

// concerned says whether any fault can touch the connection.
func (fb *fabric) concerned(c *conn) bool {
	for _, p := range []topology.Path{c.fwd, c.rev} {
		for _, l := range p {
			for k := range fb.faults {
				if f := &fb.faults[k]; f.link == l || f.device != "" && (l.To.Node == f.device) {
					return true
				}
			}
		}
	}
	return false
}

const (
	kindSYN  = decafpb.RetransmitKind_RETRANSMIT_KIND_SYN
	kindTLP  = decafpb.RetransmitKind_RETRANSMIT_KIND_TLP
	kindFAST = decafpb.RetransmitKind_RETRANSMIT_KIND_FAST
	kindRTO  = decafpb.RetransmitKind_RETRANSMIT_KIND_RTO
)

const mss = 1448

// connection lives one connection through: handshake, n packets, close.
func (fb *fabric) connection(t int64) {
	c := fb.newConn(t)
	if !fb.concerned(c) {
		return
	}
	before := len(fb.arrivals)
	data := func(t int64, i int) bool { // the i-th packet
		return fb.send(c.fwd, c.key.Flow, t, c.isn+1+uint32(i)*mss, 1, flagACK, 1)
	}
	ack := func(t int64, upTo int) bool {
		return fb.send(c.rev, c.key.Flow.Reverse(), t, 1, c.isn+1+uint32(upTo)*mss, flagACK, 1)
	}
	const rtt, rto = int64(200e3), int64(204e6)

	// SYN: again after 1, 3 s, then the client gives up.
	for try, at := range []int64{0, second, 3 * second} {
		if try > 0 {
			fb.retransmit(c, t+at, kindSYN, 0, 1, flagSYN, true)
		}
		if fb.send(c.fwd, c.key.Flow, t+at, c.isn, 0, flagSYN, 1) &&
			fb.send(c.rev, c.key.Flow.Reverse(), t+at, 0, c.isn+1, flagSYN|flagACK, 1) {
			t += at + rtt
			break
		}
		if try == 2 {
			return
		}
	}

	// repeat sends packet i again by timeout until it arrives and is acked.
	repeat := func(t int64, i int) int64 {
		for wait := rto; wait < 4*second; wait *= 2 {
			t += wait
			fb.retransmit(c, t, kindRTO, 1+uint32(i)*mss, mss, flagACK, false)
			if data(t, i) && ack(t, i+1) {
				return t + rtt
			}
		}
		return t
	}
	n := 1 + fb.rng.IntN(100)
	at := make([]int64, n)
	var lost []int
	for i := range n {
		at[i] = t + int64(i/10)*rtt
		if !data(at[i], i) {
			lost = append(lost, i)
		}
	}
	t = at[n-1] + rtt
	spurious := 0 // retransmits of what had arrived
	sent := 0
	tail := len(lost) > 0 && lost[len(lost)-1] == n-1
	again := func(i int, t int64) int64 {
		sent++
		fb.retransmit(c, t, kindFAST, 1+uint32(i)*mss, mss, flagACK, false)
		if !data(t, i) {
			return repeat(t, i)
		}
		return t + rtt
	}
	for _, i := range lost {
		if tail && i == n-1 {
			continue
		}
		// Known lost by what comes after it; in a lost tail only once the
		// probe has arrived.
		behind := n - 1
		for j := len(lost) - 1; j >= 0 && lost[j] == behind; j-- {
			behind--
		}
		if i > behind {
			continue
		}
		t = max(t, again(i, at[i]+rtt*3/2))
	}
	if tail {
		sent++
		t += 2 * rtt
		fb.retransmit(c, t, kindTLP, 1+uint32(n-1)*mss, mss, flagACK, false)
		run := 1
		for run < len(lost) && lost[len(lost)-1-run] == n-1-run {
			run++
		}
		if data(t, n-1) {
			for k := 2; k <= run; k++ {
				t = max(t, again(n-k, t+rtt))
			}
		} else {
			t = repeat(t, n-run)
			sent++
		}
	} else if !ack(t, n) {
		// All arrived, the last acknowledgement did not: a tail probe, and if
		// its answer is lost as well, a timeout.
		sent++
		spurious++
		t += 2 * rtt
		fb.retransmit(c, t, kindTLP, 1+uint32(n-1)*mss, mss, flagACK, false)
		if !data(t, n-1) || !ack(t, n) {
			sent += 2
			t = repeat(t, n-1)
		}
	}
	// finish sends a FIN until it is acknowledged, and says how often again.
	finish := func(c *conn, seq uint32, done func() bool) int {
		for try := range 5 {
			if done() {
				return try
			}
			kind := kindTLP
			if try > 0 {
				kind = kindRTO
				t += rto << try
			} else {
				t += 2 * rtt
			}
			fb.retransmit(c, t, kind, seq, 1, flagFIN|flagACK, false)
		}
		return 5
	}
	// Close: FIN alone, in half of the cases; answered by the server's FIN.
	if fb.rng.IntN(2) == 0 {
		sent += finish(c, 1+uint32(n)*mss, func() bool {
			return fb.send(c.fwd, c.key.Flow, t, c.isn+1+uint32(n)*mss, 1, flagFIN|flagACK, 1) && ack(t, n)
		})
	}
	b := c.back()
	finish(b, 0, func() bool {
		return fb.send(b.fwd, b.key.Flow, t, b.isn, 1, flagFIN|flagACK, 1) && fb.send(b.rev, b.key.Flow.Reverse(), t, 1, b.isn+1, flagACK, 1)
	})
	// Of spurious tail probes DSACK gives away few (host notes 2.6, trap 10).
	if sent > 0 && spurious == sent && fb.rng.Float64() < 0.15 {
		fb.undone(c, t+rtt)
	}
	if len(fb.arrivals) > before {
		fb.lossyFlows++
	}
}

func addrPort(h *topology.Host, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(h.Addresses[0], port)
}

func addrPortString(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
