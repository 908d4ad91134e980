package flow

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// How long evidence is under way: a device's through gNMI and the collector, a
// host's through the bus; each waits for its batch besides.
const (
	deviceDelay = 2 * time.Millisecond
	hostDelay   = time.Millisecond
	batchDelay  = 10 * time.Millisecond
)

// errno of Linux, as FlowRecord.error has it.
const (
	errReset    = 104
	errTimedOut = 110
)

// sequence numbers the records of one kind from one producer.
type sequence struct {
	from Node
	kind byte
}

// clock gives a time of the run as wire time.
func (f *Fabric) clock(t time.Duration) uint64 { return uint64(f.options.Start.Add(t).UnixNano()) }

// arrives is when a record sent at t has reached its place.
func (f *Fabric) arrives(t, delay time.Duration) time.Duration {
	return t + delay + time.Duration(f.dice.below(int(batchDelay)))
}

// stamp gives a record its origin and makes it a batch.
func (f *Fabric) stamp(r *ready) *decafpb.Batch {
	b := new(decafpb.Batch)
	origin := func(kind byte) *decafpb.Origin {
		s := sequence{r.from, kind}
		f.seqs[s]++
		// 53 bits, as agents draw them.
		boot := max(1, mix(f.seed^uint64(r.from)<<8^0xb007)>>11)
		return &decafpb.Origin{Producer: f.graph.Name(r.from), BootId: boot, Seq: f.seqs[s]}
	}
	switch x := r.record.(type) {
	case *decafpb.DropEvent:
		x.Origin = origin(1)
		b.Drops = []*decafpb.DropEvent{x}
	case *decafpb.LossAggregate:
		x.Origin = origin(2)
		b.Aggregates = []*decafpb.LossAggregate{x}
	case *decafpb.RouteEvent:
		x.Origin = origin(3)
		b.Routes = []*decafpb.RouteEvent{x}
	case *decafpb.FlowRecord:
		x.Origin = origin(4)
		b.Flows = []*decafpb.FlowRecord{x}
	case []*decafpb.FlowRecord:
		for _, fr := range x {
			fr.Origin = origin(4)
		}
		b.Flows = x
	case *decafpb.Retransmit:
		x.Origin = origin(5)
		b.Retransmits = []*decafpb.Retransmit{x}
	case *decafpb.Exchange:
		x.Origin = origin(6)
		b.Exchanges = []*decafpb.Exchange{x}
	case *decafpb.Heartbeat:
		x.Origin = origin(7)
		b.Heartbeats = []*decafpb.Heartbeat{x}
	}
	return b
}

// count adds to what a producer's heartbeats show.
func (f *Fabric) count(n Node, name string, by uint64) {
	if f.counts[n] == nil {
		f.counts[n] = make(map[string]uint64)
	}
	f.counts[n][name] += by
}

// cross sends a packet over links and notes which it used.
func (f *Fabric) cross(path []Link, p *packetHead, t time.Duration, ends bool) (hop int, cause int32) {
	hop, cause = f.walk(f.dice, path, p, t, ends)
	for _, l := range path[:min(hop+1, len(path))] {
		f.used[l] = true
	}
	return hop, cause
}

// send takes a packet to the end of its path; false when it dies, which whoever saw
// it will tell.
func (f *Fabric) send(path []Link, p *packetHead, t time.Duration) bool {
	hop, cause := f.cross(path, p, t, false)
	if cause == byNone {
		return true
	}
	f.die(path, hop, cause, p, t)
	return false
}

// die is the end of a packet on a link of its path: the truth, and what the device
// says of it.
func (f *Fabric) die(path []Link, hop int, cause int32, p *packetHead, t time.Duration) {
	l := path[hop]
	f.lost(p, l, cause, t)
	if cause < 0 || t < f.late {
		return
	}
	ft := f.faults[cause]
	g := f.graph
	if ft.class == "" {
		return
	}
	if ft.counted {
		if f.tells(g.to[l]) {
			f.push(t, portError{errorCount{l, cause}})
		}
		return
	}
	e := &decafpb.DropEvent{Class: ft.class, Reason: ft.reason, Function: functionOf(p.v6, ft.function)}
	in, out := l, Link(-1)
	if hop+1 < len(path) {
		out = path[hop+1]
	}
	n, ttl := g.to[l], int(p.ttl)-hop
	switch {
	case ft.stage == stageQueue:
		n, in, out = g.from[l], -1, l
		if hop > 0 {
			in = path[hop-1]
		}
	case ft.name == "ttl-loop":
		m := f.loop(path, hop, ttl)
		n, in, out, ttl = g.to[m.in], m.in, m.out, 1
	case ft.name == "acl":
		ttl-- // the filter's forward hook comes after ip_forward has counted
	}
	if !f.tells(n) {
		return
	}
	if !ft.egress {
		out = -1
	}
	e.Packet = p.evidence(uint8(max(ttl, 1)), in)
	f.publish(n, e, in, out, t)
}

// bounce is where in a loop a packet's TTL ends.
type bounce struct{ in, out Link }

// loop finds that place for a packet that reaches a looping device with a TTL to go.
// The device and the next one on the path, or the one before, send it to each other.
func (f *Fabric) loop(path []Link, hop, ttl int) bounce {
	g := f.graph
	in := path[hop]
	var there Link // from the device to its partner
	switch {
	case hop+1 < len(path) && g.IsDevice(g.to[path[hop+1]]):
		there = path[hop+1]
	case g.IsDevice(g.from[in]):
		there = in ^ 1
	default:
		return bounce{in, in ^ 1}
	}
	switch {
	case ttl <= 1:
		return bounce{in, there}
	case ttl%2 == 0: // an odd number of times across
		return bounce{there, there ^ 1}
	}
	return bounce{there ^ 1, there}
}

// publish sends a device's event. in and out are the links it came by and was to
// leave by; -1 for none.
func (f *Fabric) publish(n Node, e *decafpb.DropEvent, in, out Link, t time.Duration) {
	if f.agents[n] == agentAstray {
		if out >= 0 {
			out = f.stray(out)
		} else if in >= 0 {
			in = f.stray(in^1) ^ 1
		}
	}
	if in >= 0 {
		e.Ingress = f.graph.ingress(in)
	}
	if out >= 0 {
		e.Egress = f.graph.egress(out)
	}
	if e.Source == "" {
		e.Source = "kernel"
	}
	e.TimeNs = f.clock(t)
	at := f.arrives(t, deviceDelay)
	e.ReceivedNs = f.clock(at)
	f.count(n, "events", 1)
	f.push(at, &ready{n, e})
}

// portErrors is what a device says a second after its counter of a port rose: a loss
// without the packet, with the addresses behind the port, and how many there were.
func (f *Fabric) portErrors(c errorCount, t time.Duration) {
	packets := f.errors[c]
	delete(f.errors, c)
	if packets == 0 {
		return
	}
	g, ft := f.graph, f.faults[c.fault]
	n, in := g.to[c.link], c.link
	e := &decafpb.DropEvent{Class: ft.class, Reason: ft.reason, Source: "counters", Prefixes: g.behind(in ^ 1)}
	f.publish(n, e, in, -1, t)
	at := f.arrives(t, deviceDelay)
	f.push(at, &ready{n, &decafpb.LossAggregate{
		StartNs: f.clock(t - time.Second), EndNs: f.clock(t), Class: ft.class, Reason: ft.reason,
		Ingress: e.Ingress, Packets: packets, ReceivedNs: f.clock(at),
	}})
}

// maxPrefixes bounds the addresses listed for a port.
const maxPrefixes = 64

// prefix is a range of addresses, by the IPv4 one.
func prefix(v6 bool, length uint32, a uint32) *decafpb.Prefix {
	if v6 {
		length += 96
	}
	return &decafpb.Prefix{Address: toAddr(a, v6).AsSlice(), Length: length}
}

// behind lists the addresses that a device reaches by a link: a ToR's hosts as one
// prefix, a pod's as another.
func (g *Graph) behind(l Link) (all []*decafpb.Prefix) {
	add := func(length uint32, a, b, c, d int) {
		for _, v6 := range g.versions() {
			if len(all) < maxPrefixes {
				all = append(all, prefix(v6, length, uint32(a<<24|b<<16|c<<8|d)))
			}
		}
	}
	if h, ok := g.HostOf(g.to[l]); ok {
		a := int(g.address(g.hostDown(h)))
		add(32, a>>24, a>>16&0xff, a>>8&0xff, a&0xff)
		return all
	}
	tier, pod, i := g.tier(g.to[l])
	from, fromPod, _ := g.tier(g.from[l])
	switch {
	case tier == "tor":
		add(24, 10, pod, i, 0)
		return all
	case from == "t2":
		add(16, 10, pod, 0, 0)
		return all
	}
	for p := range g.spec.Pods { // all that is not below the device itself
		if p != fromPod {
			add(16, 10, p, 0, 0)
		}
	}
	return all
}

// routeChange is one edge of a flapping route.
func (f *Fabric) routeChange(fault int, t time.Duration) {
	ft := f.faults[fault]
	if t >= ft.times.run {
		return
	}
	gone := ft.times.active(t)
	if t >= f.late {
		f.flaps[fault]++
		change := decafpb.RouteChange_ROUTE_CHANGE_CHANGED
		switch {
		case f.flaps[fault] > 3:
			change = decafpb.RouteChange_ROUTE_CHANGE_FLAPPING
		case gone:
			change = decafpb.RouteChange_ROUTE_CHANGE_WITHDRAWN
		}
		for _, v6 := range f.graph.versions() {
			e := &decafpb.RouteEvent{TimeNs: f.clock(t), Change: change, Prefix: prefix(v6, 8, 10<<24)}
			if ft.dst != nil {
				k := slices.IndexFunc(ft.dst, func(r addressRange) bool { return r.v6 == v6 })
				if k < 0 {
					continue
				}
				e.Prefix = prefix(v6, 32-uint32(bits.Len32(ft.dst[k].hi-ft.dst[k].lo)), ft.dst[k].lo)
			}
			hops := [][]byte{}
			for _, l := range f.graph.linksFrom(ft.device) {
				if len(hops) < 8 && f.graph.IsDevice(f.graph.to[l]) {
					hops = append(hops, f.graph.Address(l, v6).AsSlice())
				}
			}
			if gone {
				e.OldNextHops = hops
			} else {
				e.NewNextHops = hops
			}
			at := f.arrives(t, deviceDelay)
			e.ReceivedNs = f.clock(at)
			f.push(at, &ready{ft.device, e})
		}
	}
	// The next edge: of this period, of the next one, or of the next window.
	first := time.Duration(ft.times.duty * float64(flapPeriod))
	into := (t - ft.times.at) % flapPeriod
	next := t - into + flapPeriod
	if into < first {
		next = t - into + first
	}
	for next < ft.times.run && ft.times.every > 0 && !ft.times.inWindow(next) {
		next += flapPeriod
	}
	if next < ft.times.run && ft.times.inWindow(next) {
		f.push(next, routeTick{fault})
	}
}

// retransmission is a segment sent again, or the news that all of them had arrived.
type retransmission struct {
	c      *conn
	kind   decafpb.RetransmitKind
	seq    uint32
	length uint32
	flags  uint8
	undone bool
}

// retransmit is what the agent of the sending host makes of it.
func (f *Fabric) retransmit(x *retransmission, t time.Duration) {
	if t < f.late {
		return
	}
	n := f.graph.HostNode(x.c.src)
	r := &decafpb.Retransmit{TimeNs: f.clock(t), Flow: x.c.flow.PB(), Cookie: x.c.cookie}
	if x.undone {
		r.Undone = true
		f.count(n, "connections_undone", 1)
		after := t
		if known := f.traces.paths[x.c.flow]; known != nil {
			after = max(t, known.done)
		}
		f.push(after+hostDelay+batchDelay, &ready{n, r})
		return
	}
	r.Segments = 1
	r.TcpSeq, r.TcpEndSeq, r.TcpFlags = x.seq, x.seq+x.length, uint32(x.flags)
	r.Kind = x.kind
	r.WayBackSuspect = x.flags&flagSYN != 0
	var done time.Duration
	r.Path, done = f.pathOf(x.c, t)
	f.count(n, "events", 1)
	f.count(n, "retransmits", 1)
	f.count(n, "segments", 1)
	f.count(n, pathCounters[r.Path.GetStatus()], 1)
	f.push(f.arrives(done, hostDelay), &ready{n, r})
}

// pathCounters are the host agent's counters of records by path status.
var pathCounters = map[decafpb.PathStatus]string{
	decafpb.PathStatus_PATH_STATUS_COMPLETE: "paths_complete",
	decafpb.PathStatus_PATH_STATUS_PARTIAL:  "paths_partial",
	decafpb.PathStatus_PATH_STATUS_REFUSED:  "paths_refused",
	decafpb.PathStatus_PATH_STATUS_FAILED:   "paths_failed",
	decafpb.PathStatus_PATH_STATUS_CACHED:   "paths_cached",
}

// heartbeat is a sign of life, with the counters.
func (f *Fabric) heartbeat(n Node, t time.Duration) *decafpb.Heartbeat {
	f.count(n, "heartbeats", 1)
	h := &decafpb.Heartbeat{
		TimeNs: f.clock(t), Version: f.options.Version, Source: "tp_btf", Role: "host",
		Counters: maps.Clone(f.counts[n]),
	}
	if f.graph.IsDevice(n) {
		h.Role, h.ReceivedNs = "device", h.TimeNs
		h.Counters["boot_id"] = max(1, mix(f.seed^uint64(n)<<8^0xb007)>>11)
	}
	return h
}

// flowRow is what a host counts of the loss-free flows to one other.
type flowRow struct {
	flows, packets, rttSum, rttMax, shut uint64
}

// rowOf is the key of a connection's row: its destination, doubled, and 1 more for IPv6.
func rowOf(c *conn) int32 {
	if c.v6 {
		return int32(2*c.dst + 1)
	}
	return int32(2 * c.dst)
}

// closed ends a connection well.
func (l *life) closed() {
	if l.now < l.late {
		return
	}
	c := l.c
	if l.options.Exchanges {
		at := l.arrives(l.now+l.shut, hostDelay)
		l.push(at, &ready{l.graph.HostNode(c.src), &decafpb.Exchange{
			TimeNs: l.clock(l.now + l.shut), Flow: c.flow.PB(), RequestBytes: uint64(l.n) * uint64(segmentOf(c.v6)), ThinkNs: uint64(roundTrip/10 + l.shut),
		}})
	}
	if c.resent > 0 {
		l.record(decafpb.FlowRecord_STATE_CLOSED, 0, l.now)
		return
	}
	if l.options.Rows <= 0 {
		return
	}
	rows := &l.rows[c.src]
	if *rows == nil {
		*rows = make(map[int32]*flowRow)
	}
	to := rowOf(c)
	r := (*rows)[to]
	if r == nil {
		r = new(flowRow)
		(*rows)[to] = r
	}
	rtt := uint64(roundTrip)
	r.flows++
	r.packets += uint64(l.n)
	r.rttSum += rtt
	r.rttMax = max(r.rttMax, rtt)
	r.shut += uint64(l.shut)
}

// record is the flow record of one connection: one that lost something, or failed.
func (l *life) record(state decafpb.FlowRecord_State, errno int32, t time.Duration) {
	if t < l.late || l.options.Rows <= 0 {
		return
	}
	c := l.c
	segment := uint64(segmentOf(c.v6))
	r := &decafpb.FlowRecord{
		StartNs: l.clock(l.begin), EndNs: l.clock(t), Flow: c.flow.PB(), State: state, Error: errno,
		Packets: uint64(l.n) + c.resent, BytesSent: uint64(l.n) * segment, BytesPosted: uint64(l.n) * segment, Retransmits: c.resent,
		RttMeanNs: uint64(roundTrip + l.lag/2), RttMaxNs: uint64(roundTrip + l.lag), ZeroWindowNs: uint64(l.shut),
	}
	switch {
	case state == decafpb.FlowRecord_STATE_FAILED:
		r.Packets, r.BytesSent, r.BytesPosted = 1+c.resent, 0, 0
		r.RttMeanNs, r.RttMaxNs = 0, 0
	case errno == errReset:
		r.Packets, r.BytesSent, r.ResetsReceived = 1, segment, 1
	}
	n := l.graph.HostNode(c.src)
	l.push(l.arrives(t, hostDelay), &ready{n, r})
}

// maxRows bounds the rows of one batch.
const maxRows = 500

// report is what a host counted since its last report.
func (f *Fabric) report(host int, t time.Duration) *decafpb.Batch {
	rows := f.rows[host]
	if len(rows) == 0 {
		return nil
	}
	f.rows[host] = nil
	var all []*decafpb.FlowRecord
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		r, dst, v6 := rows[key], int(key/2), key%2 == 1
		segment := uint64(segmentOf(v6))
		all = append(all, &decafpb.FlowRecord{
			StartNs: f.clock(max(t-f.options.Rows, 0)), EndNs: f.clock(t),
			Flow:  &decafpb.Flow{Src: f.graph.HostAddress(host, v6).AsSlice(), Dst: f.graph.HostAddress(dst, v6).AsSlice(), Protocol: uint32(packet.TCP)},
			State: decafpb.FlowRecord_STATE_CLOSED,
			Flows: r.flows, Packets: r.packets, BytesSent: r.packets * segment, BytesPosted: r.packets * segment,
			RttMeanNs: r.rttSum / r.flows, RttMaxNs: r.rttMax, ZeroWindowNs: r.shut,
		})
	}
	n := f.graph.HostNode(host)
	for len(all) > maxRows {
		f.push(t, &ready{n, all[:maxRows]})
		all = all[maxRows:]
	}
	return f.stamp(&ready{n, all})
}

// String names the fabric for messages.
func (f *Fabric) String() string {
	s := f.graph.spec
	return fmt.Sprintf("clos of %d pods, %d tors, %d t1, %d t2, %d hosts per tor: %d directed links", s.Pods, s.ToRs, s.T1s, s.T2s, s.Hosts, f.graph.Links())
}
