package hostagent

import (
	"bytes"
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// tables are the flow table and the closed-connections table of US 10,778,507
// (tables 1 to 3), and its sums per service: what each connection did in an
// interval, how those ended that did, and for each pair of addresses and service
// port how many there were. flowTable says which connections there are and when
// they come and go; the telemetry lies with its flows. It knows no clock and no
// kernel, and is for one goroutine.
//
// Its records are told from the rows of flowTable by what they name: a record
// with a cookie is one connection; one with flows and a port sums up a service;
// rows have flows and no port.
type tables struct {
	settings tableSettings
	limits   tableLimits
	// container names a control group; nil knows none.
	container func(cgroup uint64) string

	closedOnes []*entryOfFlow
	byCookie   map[uint64]*entryOfFlow // of closedOnes
	services   map[serviceKey]*serviceSum
	left       int     // connections for which there is room in this interval
	early      tidings // heldup.go

	dumps     uint32
	begun     uint64 // ns, CLOCK_MONOTONIC: when the latest dump was
	record    flowRecord
	listening map[listener]uint32 // the latest dump that showed it
	listed    uint32              // the latest dump that showed all of these
	stats     tableStats
}

// tableLimits bound the tables, per interval.
type tableLimits struct {
	records  int // of connections published, and of closed ones kept
	services int // sums kept, and published; as many more may be told ahead (heldup.go)
}

// tableStats count what the tables did since they were made, above all what
// they left out.
type tableStats struct {
	records, services        uint64 // published
	created, ended           uint64 // connections that came and went
	failed, terminated       uint64 // of those that went
	recordsLeftOut           uint64 // for which there was no room: still in the sums
	closedLeftOut            uint64 // likewise, closed ones
	servicesLeftOut          uint64 // connections in no sum: too many services
	unsampled, filteredFlows uint64 // connections with nothing to say but that they are there; not tracked
}

// entryOfFlow is a connection in the flow table, later in the closed one.
type entryOfFlow struct {
	cookie       uint64
	src, dst     netip.AddrPort
	process      string
	cgroup       uint64
	inbound      bool
	connecting   bool // not established yet
	fresh        bool // established in this interval
	repaired     bool // it sent something again in the interval before
	sampled      bool
	untracked    bool // filtered out
	finishedPeer bool // of a closed one: the other end's FIN had come
	seen         tally
	did          telemetry
	opened       uint64
	ended        uint64                   // of a closed one, ns, CLOCK_MONOTONIC; 0: not known
	state        decafpb.FlowRecord_State // of a closed one
	err          int32
	uid          uint32

	// Until the next dump that has news, all that follow would say the same. There is
	// an entry for each socket, so these are as small as may be: bytes, and µs.
	dump                uint32 // the latest that is in did
	cwnd, rwnd, ownRwnd uint32
	cwndBefore          uint32 // at the end of the interval before, or when first seen; 0: not yet
	rttVar, rttMin      uint32
	rtt                 time.Duration
}

// tally is what a socket counts from its start; differences are what happened.
type tally struct {
	sent, posted, received, read       uint64
	held                               time.Duration
	packets, retransmits, timeouts     uint32
	duplicates, outOfOrder, reductions uint32
	resetsSent, resetsReceived         uint32
	reorderings                        uint32
}

// telemetry is what happened on a connection, or several, in an interval.
type telemetry struct {
	packets, sent, posted, received, read uint64
	retransmits, timeouts, duplicates     uint32
	outOfOrder, reductions                uint32
	resetsSent, resetsReceived            uint32
	reorderings, probes                   uint32
	held                                  time.Duration

	rttMax, rttSum           time.Duration
	cwndSum, rwndSum, ownSum uint64
	rtts, windows            uint32 // samples in the sums
}

// serviceKey is whom a service is for: this end and the other, and the service's
// port, this end's for connections that came in.
type serviceKey struct {
	hostPair
	port    uint16
	inbound bool
}

type serviceSum struct {
	flows, created, closed, terminated, failed uint64
	did                                        telemetry

	shrunk uint64 // flows whose congestion window shrank
	grown  int64  // bytes: by how much all of these grew
	rttMin uint32 // µs, of any; 0: not known
	heldUp bool   // in tidings
}

// listener is where connections come in.
type listener struct {
	netns uint32
	port  uint16
}

func newTables(l tableLimits, s tableSettings) *tables {
	return &tables{
		limits: l, settings: s, left: l.records,
		byCookie:  make(map[uint64]*entryOfFlow),
		services:  make(map[serviceKey]*serviceSum),
		listening: make(map[listener]uint32),
	}
}

// tracks says whether connections are recorded.
func (t *tables) tracks() bool { return t != nil && t.settings.Tracking }

func (t *tables) beginDump(n uint32, now uint64) { t.dumps, t.begun = n, now }

// endListeners is after a dump that showed all who listen: forgotten is who was in
// neither of the latest two.
func (t *tables) endListeners() {
	for l, seen := range t.listening {
		if seen < t.listed {
			delete(t.listening, l)
		}
	}
	t.listed = t.dumps
}

// listener takes the sample of a socket that waits for connections. They come
// first in a dump.
func (t *tables) listener(s *flowSample) {
	t.listening[listener{s.netns, s.src.Port()}] = t.dumps
}

// live takes a sample of a connection: e is its entry, made where there is none.
// whole says of such a one that all it did belongs to this interval.
func (t *tables) live(e **entryOfFlow, s *flowSample, whole bool) {
	if !t.settings.Tracking {
		*e = nil
		return
	}
	if *e == nil {
		// What one did before it was tracked belongs to no interval.
		*e = t.enter(s, whole)
		if !whole {
			s.peakRTT = 0
		}
	}
	t.quiet(*e, t.dumps-1)
	before := (*e).did.held
	t.take1(*e, s)
	(*e).dump = t.dumps
	if before < heldLeast && (*e).did.held >= heldLeast {
		t.early.waits(*e, t.limits)
	}
}

// quiet adds what the dumps up to one would have said of a connection that they
// did not show, since there was no news of it.
func (t *tables) quiet(e *entryOfFlow, until uint32) {
	n := int32(until - e.dump)
	if n <= 0 {
		return
	}
	e.dump = until
	d := &e.did
	if e.rtt > 0 {
		d.rttSum += time.Duration(n) * e.rtt
		d.rtts += uint32(n)
		d.rttMax = max(d.rttMax, e.rtt)
	}
	if !e.connecting {
		d.cwndSum += uint64(n) * uint64(e.cwnd)
		d.rwndSum += uint64(n) * uint64(e.rwnd)
		d.ownSum += uint64(n) * uint64(e.ownRwnd)
		d.windows += uint32(n)
	}
}

// enter makes the entry of a connection. Without whole it did nothing yet.
func (t *tables) enter(s *flowSample, whole bool) *entryOfFlow {
	e := &entryOfFlow{
		cookie: s.cookie, src: s.src, dst: s.dst, cgroup: s.cgroup,
		connecting: s.state == tcpSynSent, inbound: s.inbound, opened: s.opened,
	}
	if s.opened == 0 && !e.connecting {
		_, e.inbound = t.listening[listener{s.netns, s.src.Port()}]
	}
	e.untracked = !t.settings.tracked(e)
	e.sampled = t.settings.Sample.Takes(s.cookie)
	if e.untracked {
		t.stats.filteredFlows++
	}
	e.process, e.dump = s.process, t.dumps
	if whole {
		t.stats.created++
		e.fresh = !e.connecting
	} else {
		e.seen = tallyOf(s)
	}
	return e
}

// take1 adds what a connection did since its sample before.
func (t *tables) take1(e *entryOfFlow, s *flowSample) {
	if e.connecting && s.state != tcpSynSent {
		e.connecting, e.fresh = false, s.opened != 0
	}
	if e.opened != s.opened {
		e.opened, e.inbound = s.opened, s.inbound
	}
	if e.process == "" {
		e.process = s.process
	}
	now := tallyOf(s)
	before := e.seen
	if now.sent < before.sent || now.received < before.received {
		before = tally{} // its owner connected it anew (tcp_disconnect)
		e.fresh, e.cwndBefore = !e.connecting, 0
	}
	e.seen = now
	d := &e.did
	d.packets += uint64(now.packets - before.packets)
	d.sent += now.sent - before.sent
	d.posted += now.posted - min(before.posted, now.posted)
	d.received += now.received - before.received
	d.read += now.read - min(before.read, now.read)
	d.held += max(0, now.held-before.held)
	d.retransmits += since(before.retransmits, now.retransmits)
	d.timeouts += since(before.timeouts, now.timeouts)
	d.duplicates += since(before.duplicates, now.duplicates)
	d.outOfOrder += since(before.outOfOrder, now.outOfOrder)
	d.reductions += since(before.reductions, now.reductions)
	d.resetsSent += since(before.resetsSent, now.resetsSent)
	d.resetsReceived += since(before.resetsReceived, now.resetsReceived)
	d.reorderings += since(before.reorderings, now.reorderings)
	d.probes = max(d.probes, uint32(s.probes))
	e.shows(s)
	if s.rtt > 0 {
		d.rttSum += s.rtt
		d.rtts++
	}
	d.rttMax = max(d.rttMax, s.rtt, s.peakRTT)
	if !e.connecting {
		d.cwndSum += s.cwnd
		d.rwndSum += s.rwnd
		d.ownSum += s.ownRwnd
		d.windows++
	}
}

// shows takes from a sample how a connection is, whatever it did.
func (e *entryOfFlow) shows(s *flowSample) {
	e.rtt, e.rttVar = s.rtt, atMost32(uint64(s.rttVar.Microseconds()))
	e.cwnd, e.rwnd, e.ownRwnd = atMost32(s.cwnd), atMost32(s.rwnd), atMost32(s.ownRwnd)
	if s.uid != 0 { // older kernels forget it when the socket is closed
		e.uid = s.uid
	}
	if s.rttMin > 0 {
		e.rttMin = atMost32(uint64(s.rttMin.Microseconds()))
	}
	if e.cwndBefore == 0 && s.state != tcpSynSent {
		e.cwndBefore = e.cwnd
	}
}

// atMost32 is n, or the most there is room for.
func atMost32(n uint64) uint32 { return uint32(min(n, math.MaxUint32)) }

// grown is by how many bytes the congestion window grew in the interval.
func (e *entryOfFlow) grown() int64 {
	if e.cwndBefore == 0 {
		return 0
	}
	return int64(e.cwnd) - int64(e.cwndBefore)
}

// duration is for how long a connection was established by the kernel's monotonic
// clock, in ns; 0: not yet, or nobody knows when that was.
func (e *entryOfFlow) duration(now uint64) time.Duration {
	if e.ended != 0 {
		now = e.ended
	}
	if e.opened == 0 || now < e.opened {
		return 0
	}
	return time.Duration(now - e.opened)
}

// since is how much a count grew; one that began anew grew by what it is.
func since(before, now uint32) uint32 {
	if now < before {
		return now
	}
	return now - before
}

func tallyOf(s *flowSample) tally {
	return tally{
		sent: s.bytes, posted: s.posted, received: s.received, read: s.read, held: s.held,
		packets: s.packets, retransmits: s.retransmits, timeouts: s.timeouts,
		duplicates: s.duplicates, outOfOrder: s.outOfOrder, reductions: s.reductions,
		resetsSent: s.resetsSent, resetsReceived: s.resetsReceived, reorderings: s.reorderings,
	}
}

// closed takes the last sample of a connection; e is nil for one that came and
// went between two dumps, and then all it did belongs to this interval.
func (t *tables) closed(e *entryOfFlow, s *flowSample) {
	if !t.settings.Tracking {
		return
	}
	if e == nil {
		e = t.enter(s, true)
	}
	t.quiet(e, t.dumps)
	t.take1(e, s)
	e.err, e.finishedPeer, e.ended = s.err, s.finished, s.ended
	e.state = endState(s)
	t.stats.ended++
	t.shut(e)
}

// endState says how a connection ended, by its last sample.
func endState(s *flowSample) decafpb.FlowRecord_State {
	switch {
	case s.state == tcpSynSent && (s.err != 0 || s.retransmits > 0):
		return decafpb.FlowRecord_STATE_FAILED
	case s.state == tcpSynSent:
		// Its owner took the SYN back before anybody could have missed the
		// answer: that says nothing about the network.
		return decafpb.FlowRecord_STATE_CLOSED
	case s.err != 0, s.resetsSent+s.resetsReceived > 0 && !s.finished:
		return decafpb.FlowRecord_STATE_TERMINATED
	}
	return decafpb.FlowRecord_STATE_CLOSED
}

// aborted takes the word that a connection which ended just before ended by a
// reset of this end's.
func (t *tables) aborted(s *flowSample) {
	e, ok := t.byCookie[s.cookie]
	if !ok || e.did.resetsSent > 0 {
		return
	}
	e.did.resetsSent = 1
	sum := t.services[e.service()]
	if sum != nil {
		sum.did.resetsSent++
	}
	if e.state == decafpb.FlowRecord_STATE_CLOSED && !e.finishedPeer && !e.connecting {
		e.state = decafpb.FlowRecord_STATE_TERMINATED
		t.stats.terminated++
		if sum != nil && sum.closed > 0 { // else it was told of between its two words
			sum.closed--
			sum.terminated++
		}
	}
}

// vanished is for a connection that is gone without a last word.
func (t *tables) vanished(e *entryOfFlow) {
	if e != nil {
		t.shut(e)
	}
}

// movedOut is for an inactive connection that made room for another: it goes to
// the closed table, open as it is.
func (t *tables) movedOut(e *entryOfFlow) {
	if e != nil {
		t.quiet(e, t.dumps-1)
		e.state = decafpb.FlowRecord_STATE_OPEN
		t.shut(e)
	}
}

// shut puts a connection into the closed table, and into the sum of its
// service.
func (t *tables) shut(e *entryOfFlow) {
	switch e.state {
	case decafpb.FlowRecord_STATE_FAILED:
		t.stats.failed++
	case decafpb.FlowRecord_STATE_TERMINATED:
		t.stats.terminated++
	}
	if e.untracked {
		return
	}
	t.sum(e)
	if len(t.closedOnes) >= t.limits.records {
		t.stats.closedLeftOut++
		return
	}
	t.closedOnes = append(t.closedOnes, e)
	t.byCookie[e.cookie] = e
}

// service is what the connection is for.
func (e *entryOfFlow) service() serviceKey {
	k := serviceKey{hostPair: hostPair{src: e.src.Addr().As16(), dst: e.dst.Addr().As16()}, port: e.dst.Port(), inbound: e.inbound}
	if e.inbound {
		k.port = e.src.Port()
	}
	return k
}

// sum adds a connection to its service.
func (t *tables) sum(e *entryOfFlow) {
	k := e.service()
	s := t.services[k]
	if s == nil {
		if len(t.services) >= t.limits.services {
			t.stats.servicesLeftOut++
			return
		}
		s = new(serviceSum)
		t.services[k] = s
	}
	s.flows++
	if e.fresh {
		s.created++
	}
	switch e.state {
	case decafpb.FlowRecord_STATE_CLOSED:
		s.closed++
	case decafpb.FlowRecord_STATE_TERMINATED:
		s.terminated++
	case decafpb.FlowRecord_STATE_FAILED:
		s.failed++
	}
	s.grown += e.grown()
	s.shrunk += uint64(btoi(e.grown() < 0))
	if e.rttMin > 0 && (s.rttMin == 0 || e.rttMin < s.rttMin) {
		s.rttMin = e.rttMin
	}
	if !s.heldUp && s.did.held+e.did.held >= heldLeast {
		s.heldUp = true
		t.early.services = append(t.early.services, k)
	}
	did := e.did
	if e.repaired || did.retransmits > 0 {
		// The round trip of what was lost, or whose acknowledgement was, lasts until
		// it is repaired: that tells nothing of the way, nor of this host.
		did.rttSum, did.rtts = 0, 0
	}
	s.did.add(&did)
}

func (d *telemetry) add(o *telemetry) {
	d.packets += o.packets
	d.sent += o.sent
	d.posted += o.posted
	d.received += o.received
	d.read += o.read
	d.retransmits += o.retransmits
	d.timeouts += o.timeouts
	d.duplicates += o.duplicates
	d.outOfOrder += o.outOfOrder
	d.reductions += o.reductions
	d.resetsSent += o.resetsSent
	d.resetsReceived += o.resetsReceived
	d.reorderings += o.reorderings
	d.probes = max(d.probes, o.probes)
	d.held += o.held
	d.rttMax = max(d.rttMax, o.rttMax)
	d.rttSum += o.rttSum
	d.rtts += o.rtts
	d.cwndSum += o.cwndSum
	d.rwndSum += o.rwndSum
	d.ownSum += o.ownSum
	d.windows += o.windows
}

// moved says that data moved: keep-alives and SYNs carry none.
func (d *telemetry) moved() bool {
	return d.packets > 0 || d.sent > 0 || d.received > 0 || d.posted > 0 || d.read > 0
}

// into writes telemetry into a record.
func (d *telemetry) into(r *decafpb.FlowRecord) {
	r.Packets, r.BytesSent, r.BytesPosted = d.packets, d.sent, d.posted
	r.BytesReceived, r.BytesRead = d.received, d.read
	r.Retransmits, r.Timeouts, r.DuplicatesReported, r.OutOfOrder = uint64(d.retransmits), uint64(d.timeouts), uint64(d.duplicates), uint64(d.outOfOrder)
	r.ResetsSent, r.ResetsReceived = uint64(d.resetsSent), uint64(d.resetsReceived)
	r.CwndReductions = uint64(d.reductions)
	r.ZeroWindowNs, r.ZeroWindowProbes = uint64(d.held), uint64(d.probes)
	r.RttMaxNs = uint64(d.rttMax)
	r.Reorderings = uint64(d.reorderings)
	if d.rtts > 0 {
		r.RttMeanNs = uint64(d.rttSum) / uint64(d.rtts)
	}
	if d.windows > 0 {
		r.CwndMeanBytes, r.RwndMeanBytes = d.cwndSum/uint64(d.windows), d.rwndSum/uint64(d.windows)
		r.OwnRwndMeanBytes = d.ownSum / uint64(d.windows)
	}
}

// take hands out the records of the interval from start to end, both ns UTC, and
// begins the next: the closed table, the flow table, the services. flows are
// those of the flow table; where there is no room for all, those are listed
// first that are new or lost something. A record is publish's until that returns.
func (t *tables) take(start, end int64, flows map[uint64]flowState, publish func(*decafpb.FlowRecord)) {
	for _, e := range t.closedOnes {
		t.list(e, e.state, start, end, publish)
	}

	open := make([]*entryOfFlow, 0, len(flows))
	for _, f := range flows {
		if f.entry != nil {
			open = append(open, f.entry)
		}
	}
	slices.SortFunc(open, func(a, b *entryOfFlow) int {
		return cmp.Or(cmp.Compare(btoi(b.notable()), btoi(a.notable())), cmp.Compare(a.cookie, b.cookie))
	})
	for _, e := range open {
		t.open(e, start, end, publish)
	}
	t.takeServices(start, end, publish)
	clear(t.closedOnes)
	t.closedOnes = t.closedOnes[:0]
	clear(t.byCookie)
	t.early.clear()
	t.left = t.limits.records
}

// open sums up and lists a connection that goes on. What it did is told with that.
func (t *tables) open(e *entryOfFlow, start, end int64, publish func(*decafpb.FlowRecord)) {
	t.quiet(e, t.dumps)
	if !e.untracked {
		t.sum(e)
		switch {
		case e.fresh || e.connecting:
			t.list(e, decafpb.FlowRecord_STATE_NEW, start, end, publish)
		case e.sampled:
			t.list(e, decafpb.FlowRecord_STATE_OPEN, start, end, publish)
		default:
			t.stats.unsampled++
		}
	}
	e.did, e.fresh, e.repaired = telemetry{}, false, e.did.retransmits > 0
	if e.cwndBefore > 0 {
		e.cwndBefore = e.cwnd
	}
}

// list publishes the record of a connection in the interval from start to end, or
// in what is not told of it yet.
func (t *tables) list(e *entryOfFlow, state decafpb.FlowRecord_State, start, end int64, publish func(*decafpb.FlowRecord)) {
	if t.left == 0 {
		t.stats.recordsLeftOut++
		return
	}
	t.left--
	t.stats.records++
	r := t.record.of(packet.Flow{Src: e.src, Dst: e.dst, Proto: packet.TCP}, t.early.connFrom(e.cookie, start, end), end)
	r.State, r.Inbound, r.Process, r.Error = state, e.inbound, e.process, e.err
	r.Cookie, r.Active, r.SampledOf = e.cookie, e.did.moved(), t.settings.Sample.OneIn()
	if t.container != nil {
		r.Container = t.container(e.cgroup)
	}
	t.record.uid = e.uid
	r.Uid, r.CwndDeltaBytes = &t.record.uid, e.grown()
	r.RttVarNs, r.RttMinNs = 1000*uint64(e.rttVar), 1000*uint64(e.rttMin)
	r.DurationMs = uint64(e.duration(t.begun).Milliseconds())
	e.did.into(r)
	publish(r)
}

// notable says that a connection is listed before others.
func (e *entryOfFlow) notable() bool { return e.fresh || e.connecting || e.did.retransmits > 0 }

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (t *tables) takeServices(start, end int64, publish func(*decafpb.FlowRecord)) {
	keys := make([]serviceKey, 0, len(t.services))
	for k := range t.services {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b serviceKey) int {
		return cmp.Or(bytes.Compare(a.src[:], b.src[:]), bytes.Compare(a.dst[:], b.dst[:]),
			cmp.Compare(a.port, b.port), cmp.Compare(btoi(a.inbound), btoi(b.inbound)))
	})
	for _, k := range keys {
		t.service(k, start, end, publish)
	}
	clear(t.services)
}

// service publishes the sum of a service in the interval from start to end, but for
// what was told of it before.
func (t *tables) service(k serviceKey, start, end int64, publish func(*decafpb.FlowRecord)) {
	s := t.services[k]
	f := k.flow()
	if k.inbound {
		f.Src = netip.AddrPortFrom(f.Src.Addr(), k.port)
	} else {
		f.Dst = netip.AddrPortFrom(f.Dst.Addr(), k.port)
	}
	r := t.record.of(f, start, end)
	r.Inbound, r.Active = k.inbound, s.did.moved()
	r.Flows, r.NewFlows, r.ClosedFlows, r.TerminatedFlows, r.FailedFlows = s.flows, s.created, s.closed, s.terminated, s.failed
	r.ShrunkFlows, r.CwndDeltaBytes, r.RttMinNs = s.shrunk, s.grown, 1000*uint64(s.rttMin)
	s.did.into(r)
	t.stats.services++
	publish(r)
}

// adopt puts other settings in force, from an interval's start on. Connections
// that are tracked no more, or not yet, begin anew.
func (t *tables) adopt(s tableSettings, flows map[uint64]flowState) {
	t.settings = s
	for cookie, f := range flows {
		if f.entry == nil {
			continue
		}
		if !s.Tracking {
			f.entry = nil
			flows[cookie] = f
			continue
		}
		f.entry.untracked = !s.tracked(f.entry)
		f.entry.sampled = s.Sample.Takes(cookie)
	}
}
