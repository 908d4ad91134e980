package flow

import (
	"net/netip"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/topology"
)

// TCP's times, as Linux has them by default.
const (
	roundTrip   = 500 * time.Microsecond
	minRTO      = 204 * time.Millisecond // TCP_RTO_MIN and a jiffy
	window      = 10                     // initial, in segments, RFC 6928
	connectTime = 10 * time.Second       // an application waits to connect,
	giveUp      = 20 * time.Second       // and for the transfer
	finTries    = 5
	// longest is how long a connection may live: nothing that happens later matters
	// to one that begins now.
	longest = connectTime + giveUp + 10*time.Second
)

// synAgain are the times of a SYN and its repetitions.
var synAgain = [synTries]time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second}

const (
	kindSYN    = decafpb.RetransmitKind_RETRANSMIT_KIND_SYN
	kindSynAck = decafpb.RetransmitKind_RETRANSMIT_KIND_SYN_ACK
	kindTLP    = decafpb.RetransmitKind_RETRANSMIT_KIND_TLP
	kindFast   = decafpb.RetransmitKind_RETRANSMIT_KIND_FAST
	kindRTO    = decafpb.RetransmitKind_RETRANSMIT_KIND_RTO
)

// conn is one direction of a connection, seen from the host that sends.
type conn struct {
	src, dst int
	v6       bool
	srcAddr  uint32 // of src, as toAddr takes it
	flow     packet.Flow
	cookie   uint64
	isn      uint32
	id       uint16
	path     Path
	back     *conn // the other direction

	resent   uint64 // segments
	spurious uint64 // of these, had arrived before
}

// head is a packet of this direction. seq is relative to the first of the sender.
func (c *conn) head(size uint16, flags uint8, seq, ack uint32) packetHead {
	return packetHead{
		v6: c.v6, src: c.srcAddr, dst: c.back.srcAddr, host: c.dst,
		srcPort: c.flow.Src.Port(), dstPort: c.flow.Dst.Port(),
		proto: packet.TCP, flags: flags, ttl: firstTTL, size: sizeOf(c.v6, size), id: c.id, seq: seq, ack: ack,
	}
}

// connect makes one connection, from its first packet to its last.
func (f *Fabric) connect(t time.Duration) {
	d, g := f.dice, f.graph
	src := d.below(g.hosts)
	dst := f.pattern.to(d, src)
	n := f.scenario.Traffic.PacketsMin + d.below(f.scenario.Traffic.PacketsMax-f.scenario.Traffic.PacketsMin+1)
	f.ports[src] = max(f.ports[src], 32767) + 1
	if f.ports[src] >= 61000 {
		f.ports[src] = 32768
	}
	f.cookie += 2
	v6 := f.v6(d)
	fl := packet.Flow{
		Src: netip.AddrPortFrom(g.HostAddress(src, v6), f.ports[src]), Dst: netip.AddrPortFrom(g.HostAddress(dst, v6), Port), Proto: packet.TCP,
	}
	c := &conn{src: src, dst: dst, v6: v6, srcAddr: g.address(g.hostDown(src)), flow: fl, cookie: f.cookie, isn: d.rng.Uint32(), id: uint16(d.below(1 << 16))}
	c.back = &conn{src: dst, dst: src, v6: v6, srcAddr: g.address(g.hostDown(dst)), flow: fl.Reverse(), cookie: f.cookie + 1, isn: d.rng.Uint32(), id: uint16(d.below(1 << 16)), back: c}
	f.route(d, g.HostNode(src), dst, &c.path)
	f.route(d, g.HostNode(dst), src, &c.back.path)
	f.truth.Connections++
	l := life{Fabric: f, c: c, n: n, begin: t, now: t, finAlone: d.below(2) == 0}
	if l.concerned() || !l.quiet() {
		l.run()
	}
}

// v6 draws the version of the Internet Protocol of a connection.
func (f *Fabric) v6(d *dice) bool {
	switch f.graph.spec.IP {
	case topology.IPv6:
		return true
	case topology.IPBoth:
		return d.below(2) == 1
	}
	return false
}

// life is a connection at work: a client that sends n packets and closes, and a
// server that reads them and closes.
type life struct {
	*Fabric
	c        *conn
	n        int
	begin    time.Duration
	now      time.Duration
	finAlone bool          // the client's FIN comes by itself, not with the last data
	lag      time.Duration // the client's host reads its acknowledgements this late
	shut     time.Duration // the server reads nothing for this long
}

// concerned says whether a fault may touch the connection.
func (l *life) concerned() bool {
	until := l.begin + longest
	for _, p := range []*Path{&l.c.path, &l.c.back.path} {
		for _, link := range p.Links() {
			for _, k := range l.faultsOn(link) {
				if l.faults[k].times.touches(l.begin, until) {
					return true
				}
			}
		}
	}
	for _, ft := range l.faults {
		if ft.stage == stageHost && (ft.host == l.c.src || ft.host == l.c.dst) && ft.times.touches(l.begin, until) {
			return true
		}
	}
	return false
}

// quiet lets all packets of a connection without faults meet the noise at once; false
// when one of them dies, and the connection has to be played.
func (l *life) quiet() bool {
	forth, back := 0.0, 0.0
	for _, link := range l.c.path.Links() {
		forth += l.noise[link]
		l.used[link] = true
	}
	for _, link := range l.c.back.path.Links() {
		back += l.noise[link]
		l.used[link] = true
	}
	ahead := 3 + l.n // SYN, its last ACK, the data, the last ACK of all
	if l.finAlone {
		ahead++
	}
	all := float64(ahead)*forth + float64(2+(l.n+1)/2)*back
	if l.dice.left < all {
		return false
	}
	l.dice.left -= all
	l.now += 3 * roundTrip
	l.closed()
	return true
}

// run plays the connection packet by packet. What it sends with nothing lost is what
// quiet counts.
func (l *life) run() {
	c := l.c
	if !l.shake() {
		l.truth.Failed++
		l.record(decafpb.FlowRecord_STATE_FAILED, errTimedOut, l.begin+connectTime)
		return
	}
	l.ack(c, l.now, 1, 1)
	if l.hosts() {
		return
	}
	at, lost := l.stream()
	if l.lag > 0 { // it probes a tail that had arrived
		l.now += l.lag
		c.spurious++
		l.repeat(l.n-1, l.now, kindTLP)
	}
	if !l.repair(at, lost) {
		l.truth.Failed++
		l.record(decafpb.FlowRecord_STATE_TERMINATED, errTimedOut, l.now)
		return
	}
	l.close()
	l.closed()
	if c.resent > 0 && c.spurious == c.resent && (l.lag > 0 || unit(l.dice.src.Uint64()) < 0.15) {
		// Of tail probes that only lost acknowledgements called for, DSACK gives away
		// few (measured: 2 of 13); of those of a host that was late itself, all.
		l.push(l.now+roundTrip, &retransmission{c: c, undone: true})
	}
}

// shake is the handshake.
func (l *life) shake() bool {
	c, b := l.c, l.c.back
	answer := func(t time.Duration) bool {
		p := b.head(synSize, flagSYN|flagACK, b.isn, c.isn+1)
		return l.send(b.path.Links(), &p, t)
	}
	for try, after := range synAgain {
		t := l.begin + after
		if try > 0 {
			l.again(c, t, kindSYN, c.isn, 1, flagSYN)
		}
		p := c.head(synSize, flagSYN, c.isn, 0)
		if !l.send(c.path.Links(), &p, t) {
			continue
		}
		if answer(t) {
			l.now = t + roundTrip
			return true
		}
		// The server's own timer runs out as the client's does.
		if again := t + time.Second; try < len(synAgain)-1 {
			l.again(b, again, kindSynAck, b.isn, 1, flagSYN|flagACK)
			if answer(again) {
				l.now = again + roundTrip
				return true
			}
		}
	}
	return false
}

// data sends the i-th packet.
func (l *life) data(i int, t time.Duration) bool {
	c := l.c
	p := c.head(fullSize, l.flags(i), l.seq(i), c.back.isn+1)
	return l.send(c.path.Links(), &p, t)
}

func (l *life) flags(i int) uint8 {
	flags := uint8(flagACK)
	if i == l.n-1 {
		flags |= flagPSH
		if !l.finAlone {
			flags |= flagFIN
		}
	}
	return flags
}

func (l *life) seq(i int) uint32 { return l.c.isn + 1 + uint32(i)*segmentOf(l.c.v6) }

// ack sends an acknowledgement from a direction's sender; both numbers are relative
// to the first ones.
func (l *life) ack(from *conn, t time.Duration, seq, ack uint32) bool {
	p := from.head(smallSize, flagACK, from.isn+seq, from.back.isn+ack)
	return l.send(from.path.Links(), &p, t)
}

// ackData acknowledges the first i packets.
func (l *life) ackData(i int, t time.Duration) bool {
	return l.ack(l.c.back, t, 1, 1+uint32(i)*segmentOf(l.c.v6))
}

// repeat sends packet i again.
func (l *life) repeat(i int, t time.Duration, kind decafpb.RetransmitKind) bool {
	l.again(l.c, t, kind, l.seq(i), segmentOf(l.c.v6), l.flags(i))
	return l.data(i, t)
}

// stream sends the data for the first time, in slow start's rounds. It gives when
// each packet went out, and which were lost.
func (l *life) stream() (at []time.Duration, lost []int) {
	at = make([]time.Duration, l.n)
	room, sent := window, 0
	for sent < l.n {
		for range min(room, l.n-sent) {
			at[sent] = l.now + time.Duration(sent%room)*12*time.Microsecond
			if !l.data(sent, at[sent]) {
				lost = append(lost, sent)
			}
			sent++
			// Every second packet is acknowledged; a lost acknowledgement is made up
			// for by the next.
			if sent%2 == 0 && sent < l.n {
				l.ackData(sent, at[sent-1])
			}
		}
		l.now = at[sent-1] + roundTrip
		room *= 2
	}
	return at, lost
}

// repair sends again what was lost; false when the connection is given up.
//
//   - what later packets arrived after: at once, when their acknowledgements come
//   - the tail, which nothing came after: a tail loss probe (RFC 8985 section 7),
//     and the rest when the probe's answer shows the gap
//   - what is lost once more, or when the probe is: by timeout, again and again
func (l *life) repair(at []time.Duration, lost []int) bool {
	run := len(lost)
	for run > 0 && lost[run-1] == l.n-1-(len(lost)-run) {
		run--
	}
	middle, tail := lost[:run], lost[run:]
	for _, i := range middle {
		if !l.deliver(i, at[i]+roundTrip*5/4, kindFast) {
			return false
		}
	}
	if len(tail) > 0 {
		probe := l.now + roundTrip
		l.now = max(l.now, probe)
		if l.repeat(l.n-1, probe, kindTLP) {
			for _, i := range tail[:len(tail)-1] {
				if !l.deliver(i, probe+roundTrip, kindFast) {
					return false
				}
			}
		} else if !l.timeouts(tail[0], probe) {
			return false
		} else {
			for _, i := range tail[1:] {
				if !l.deliver(i, l.now, kindRTO) {
					return false
				}
			}
		}
	}
	if l.ackData(l.n, l.now) {
		return true
	}
	// All arrived, but the sender does not know: it probes the tail, and lives on
	// timeouts if the answer is lost as well.
	l.now += roundTrip
	l.c.spurious++
	if l.repeat(l.n-1, l.now, kindTLP) && l.ackData(l.n, l.now) {
		l.now += roundTrip
		return true
	}
	l.c.spurious++
	return l.timeouts(l.n-1, l.now)
}

// deliver sends packet i again, by timeouts if need be.
func (l *life) deliver(i int, t time.Duration, kind decafpb.RetransmitKind) bool {
	if !l.repeat(i, t, kind) {
		return l.timeouts(i, t)
	}
	l.now = max(l.now, t+roundTrip)
	return true
}

// timeouts sends packet i again until it arrives and its answer does.
func (l *life) timeouts(i int, t time.Duration) bool {
	for wait := minRTO; t+wait < l.begin+giveUp; wait *= 2 {
		t += wait
		if l.repeat(i, t, kindRTO) && l.ackData(i+1, t) {
			l.now = max(l.now, t+roundTrip)
			return true
		}
	}
	l.now = max(l.now, l.begin+giveUp)
	return false
}

// close ends both directions.
func (l *life) close() {
	c, b := l.c, l.c.back
	end := 1 + uint32(l.n)*segmentOf(c.v6)
	if l.finAlone {
		l.fin(c, end, func(t time.Duration) bool {
			// Answered by the server's own FIN, below, in the common case.
			return true
		})
	}
	l.fin(b, 1, func(t time.Duration) bool { return l.ack(c, t, end+1, 2) })
}

// fin sends a direction's FIN until it arrives and is answered.
func (l *life) fin(from *conn, seq uint32, answered func(time.Duration) bool) {
	t := l.now
	for try := range finTries {
		p := from.head(smallSize, flagFIN|flagACK, from.isn+seq, from.back.isn+1)
		if l.send(from.path.Links(), &p, t) && answered(t) {
			break
		}
		kind := kindTLP
		if try > 0 {
			kind = kindRTO
			t += minRTO << (try - 1)
		} else {
			t += 2 * roundTrip
		}
		l.again(from, t, kind, from.isn+seq, 1, flagFIN|flagACK)
	}
	l.now = max(l.now, t+roundTrip)
}

// hosts lets the faults of the two hosts act; true when the connection is over.
func (l *life) hosts() bool {
	for i, ft := range l.faults {
		if ft.stage != stageHost || !ft.times.active(l.begin) {
			continue
		}
		switch {
		case ft.name == "host-slow" && ft.host == l.c.src:
			if unit(l.dice.src.Uint64()) >= ft.rate {
				continue
			}
			l.truth.Faults[i].Connections++
			l.lag = hostSlow + time.Duration(unit(l.dice.src.Uint64())*4*float64(hostSlow))
		case ft.name == "server-slow" && ft.host == l.c.dst:
			if unit(l.dice.src.Uint64()) >= ft.rate {
				continue
			}
			l.truth.Faults[i].Connections++
			l.shut = serverSlow + time.Duration(unit(l.dice.src.Uint64())*4*float64(serverSlow))
		case ft.name == "server-reset" && ft.host == l.c.dst:
			if unit(l.dice.src.Uint64()) >= ft.rate {
				continue
			}
			l.truth.Faults[i].Connections++
			l.truth.Failed++
			l.now += roundTrip
			l.record(decafpb.FlowRecord_STATE_TERMINATED, errReset, l.now)
			return true
		}
	}
	return false
}

// The least time that a slow host and a slow server take; the most is five times
// that.
const (
	hostSlow   = 100 * time.Millisecond
	serverSlow = 500 * time.Millisecond
)

// again tells of a segment sent again, to be seen by the agent of its sender.
func (l *life) again(c *conn, t time.Duration, kind decafpb.RetransmitKind, seq, length uint32, flags uint8) {
	c.resent++
	l.push(t, &retransmission{c: c, kind: kind, seq: seq, length: length, flags: flags})
}
