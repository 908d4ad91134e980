package hostagent

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"

	"decaf/api/decafpb"
	"decaf/api/packet"

	"google.golang.org/protobuf/proto"
)

// flowTable turns what sockets have sent since they were opened into what they
// sent in an interval: each segment is counted in exactly one. It is the flow
// table of US 10,778,507 as far as blame needs it: which flows lost nothing,
// and how much they sent to whom.
//
// Samples come from two sides: a dump ends an interval, of all sockets or of those
// of which there is news, and a last sample comes of every socket that is closed.
// The caller gives them one after another, and those of a dump before the last
// words of sockets that were closed while it went on. It knows no clock and no kernel, and is for one
// goroutine.
type flowTable struct {
	limits flowLimits
	flows  map[uint64]flowState // by socket cookie, which the kernel never gives twice
	rows   map[hostPair]hostCount
	lossy  []lossyFlow
	// dumps counts those begun; begun and since say when the latest and the one
	// before it were. A flow opened after since is in the table or was never
	// counted: it cannot have been moved out.
	dumps        uint32
	begun, since uint64
	whole        uint32   // the latest dump that was of all sockets
	visited      int      // of flows, in the latest dump
	idle         []uint64 // that may be moved out, the last first; of the dump idleAt
	idleAt       uint32
	stats        flowStats
	// tables are the patent's own; nil does without.
	tables *tables
	record flowRecord
}

// flowRecord is the one record that all are written into, one after the other: an
// interval may have as many as there are sockets.
type flowRecord struct {
	r        decafpb.FlowRecord
	flow     decafpb.Flow
	src, dst [16]byte
	uid      uint32
}

// of is the record of a flow in the interval from start to end, both ns UTC, with
// nothing else in it.
func (one *flowRecord) of(f packet.Flow, start, end int64) *decafpb.FlowRecord {
	proto.Reset(&one.r)
	address := func(buf []byte, a netip.Addr) []byte {
		if a = a.Unmap(); a.Is4() {
			as4 := a.As4()
			return append(buf, as4[:]...)
		}
		as16 := a.As16()
		return append(buf, as16[:]...)
	}
	one.flow.Src, one.flow.SrcPort = address(one.src[:0], f.Src.Addr()), uint32(f.Src.Port())
	one.flow.Dst, one.flow.DstPort = address(one.dst[:0], f.Dst.Addr()), uint32(f.Dst.Port())
	one.flow.Protocol = uint32(f.Proto)
	one.r.Flow, one.r.StartNs, one.r.EndNs = &one.flow, uint64(start), uint64(end)
	return &one.r
}

// flowLimits bound a flowTable.
type flowLimits struct {
	flows int // live ones followed
	rows  int // per interval: pairs of addresses, and as many flows with retransmits
}

// flowState is what a flow had sent when it was last seen.
type flowState struct {
	opened      uint64
	bytes       uint64
	packets     uint32 // wraps
	retransmits uint32
	dump        uint32 // the latest that showed it
	changed     uint32 // the latest that showed that data moved
	counted     uint32 // the dump that ends the interval it was last counted in
	received    uint64
	entry       *entryOfFlow // in tables; nil: not there
}

// hostPair is who sends and to whom, IPv4 in its mapped form.
type hostPair struct{ src, dst [16]byte }

// flow is the pair without ports.
func (p hostPair) flow() packet.Flow {
	return packet.Flow{
		Src:   netip.AddrPortFrom(netip.AddrFrom16(p.src).Unmap(), 0),
		Dst:   netip.AddrPortFrom(netip.AddrFrom16(p.dst).Unmap(), 0),
		Proto: packet.TCP,
	}
}

// hostCount is what the loss-free flows of a pair sent in an interval.
type hostCount struct{ flows, packets, bytes uint64 }

// lossyFlow is what a flow sent in an interval in which it sent something again.
type lossyFlow struct {
	flow                        packet.Flow
	inbound, closed             bool
	packets, bytes, retransmits uint64
}

// flowStats count what the table did since it was made, above all what it left
// out. A flow counts once per interval.
type flowStats struct {
	lossFree     uint64 // flows in rows
	packets      uint64 // data segments in rows
	lossy        uint64 // flows that sent something again, in no row
	lossyLeftOut uint64 // of these, without a record of their own: too many
	unknownStart uint64 // flows open before they were first seen: counted from then on
	ignored      uint64 // flows for which the table had no place
	evicted      uint64 // flows moved out for others, having sent nothing new
	vanished     uint64 // flows gone without a last word: what they sent last is not counted
	rowsLeftOut  uint64 // flows whose pair of addresses found no place in the rows
}

func newFlowTable(l flowLimits, t *tables) *flowTable {
	return &flowTable{limits: l, flows: make(map[uint64]flowState), rows: make(map[hostPair]hostCount), tables: t}
}

// beginDump says that samples of live sockets follow: of all, or of all but those
// of which there is no news. now is the kernel's monotonic clock, in ns.
func (t *flowTable) beginDump(now uint64) {
	t.dumps++
	t.since, t.begun = t.begun, now
	t.visited = 0
	if t.tables != nil {
		t.tables.beginDump(t.dumps, now)
	}
}

// live takes the sample of a socket from a dump.
func (t *flowTable) live(s *flowSample) {
	if s.listens() {
		if t.tables != nil {
			t.tables.listener(s)
		}
		return
	}
	f, known := t.flows[s.cookie]
	if !known && !t.place(t.fresh(s) && s.moved()) {
		t.stats.ignored++
		return
	}
	if !known && !t.fresh(s) && s.sent() {
		// Nobody knows how much of it belongs to this interval.
		t.stats.unknownStart++
		f.sample(s)
	}
	if !known || f.dump != t.dumps {
		t.visited++
	}
	f.dump = t.dumps
	sent := f.until(s)
	if !known || sent != (sending{}) || s.received != f.received {
		f.changed = t.dumps
	}
	if sent != (sending{}) {
		t.count(s, sent, &f, false)
	}
	if t.tables != nil {
		t.tables.live(&f.entry, s, !known && t.fresh(s))
	}
	f.sample(s)
	t.flows[s.cookie] = f
}

// endDump ends a dump. After one of all sockets it forgets flows that were gone
// twice in a row: their last word was lost on the way. One absence may be the
// dump's: before Linux 6.17 it could pass sockets over while others came and went.
func (t *flowTable) endDump(of dumped) {
	if of != dumpListed && t.tables != nil {
		t.tables.endListeners()
	}
	if of != dumpAll {
		return
	}
	before := t.whole
	t.whole = t.dumps
	if t.visited == len(t.flows) {
		return
	}
	for cookie, f := range t.flows {
		if f.dump >= before {
			continue
		}
		// One that never sent anything gives no last word.
		if f.packets > 0 || f.retransmits > 0 {
			t.stats.vanished++
		}
		if t.tables != nil {
			t.tables.vanished(f.entry)
		}
		delete(t.flows, cookie)
	}
}

// closed takes the last sample of a socket.
func (t *flowTable) closed(s *flowSample) {
	if s.sort == sampleReset {
		if t.tables != nil {
			t.tables.aborted(s)
		}
		return
	}
	before, known := t.flows[s.cookie]
	if !known && !t.fresh(s) {
		if s.sent() {
			t.stats.unknownStart++
		}
		return
	}
	delete(t.flows, s.cookie)
	if sent := before.until(s); sent != (sending{}) {
		t.count(s, sent, &before, true)
	}
	// One that was followed and has no entry was open before it was tracked.
	if t.tables != nil && (before.entry != nil || !known) {
		t.tables.closed(before.entry, s)
	}
}

// fresh says of a flow that is not in the table that all it sent is to be
// counted now: it was opened in this interval, or in the one before and closed
// before the dump came by it.
func (t *flowTable) fresh(s *flowSample) bool {
	return s.state == tcpSynSent || s.opened != 0 && s.opened >= t.since
}

// movable says that a flow may leave the table: no data moved either way when it
// was last seen, keep-alives or not, and it will not be taken for a new one when
// it is seen again.
func (t *flowTable) movable(f *flowState) bool {
	return t.unchanged(f) > 0 && f.opened < t.since
}

// unchanged is for how many dumps no data of a flow moved. One that the dump has
// not shown yet may have moved some since the one before.
func (t *flowTable) unchanged(f *flowState) uint32 {
	if f.dump == t.dumps {
		return t.dumps - f.changed
	}
	return t.dumps - 1 - f.changed
}

// sending is what a flow sent between two samples.
type sending struct{ packets, bytes, retransmits uint64 }

// until is what was sent from f until s. A socket whose owner connects it anew
// begins at 0 again (tcp_disconnect).
func (f *flowState) until(s *flowSample) sending {
	back := s.bytes < f.bytes && int32(s.packets-f.packets) < 0
	if back || f.opened != 0 && s.opened != f.opened {
		return sending{packets: uint64(s.packets), bytes: s.bytes, retransmits: uint64(s.retransmits)}
	}
	return sending{
		packets: uint64(s.packets - f.packets),
		// A retransmit that finds no memory is taken from the bytes all the same.
		bytes:       s.bytes - min(f.bytes, s.bytes),
		retransmits: uint64(s.retransmits - f.retransmits),
	}
}

func (f *flowState) sample(s *flowSample) {
	f.opened, f.bytes, f.packets, f.retransmits, f.received = s.opened, s.bytes, s.packets, s.retransmits, s.received
}

// count adds what a flow sent to the interval that goes on.
func (t *flowTable) count(s *flowSample, d sending, f *flowState, closed bool) {
	if d.retransmits > 0 {
		t.stats.lossy++
		if t.tables.tracks() {
			return // it has its record there
		}
		if len(t.lossy) >= t.limits.rows {
			t.stats.lossyLeftOut++
			return
		}
		t.lossy = append(t.lossy, lossyFlow{
			flow: s.flow(), inbound: s.inbound, closed: closed,
			packets: d.packets, bytes: d.bytes, retransmits: d.retransmits,
		})
		return
	}
	pair := hostPair{src: s.src.Addr().As16(), dst: s.dst.Addr().As16()}
	row, ok := t.rows[pair]
	if !ok && len(t.rows) >= t.limits.rows {
		t.stats.rowsLeftOut++
		return
	}
	// A dump that shows a socket twice, as those before Linux 6.17 may, shows
	// one flow.
	if closed || f.counted != t.dumps {
		row.flows++
		t.stats.lossFree++
	}
	f.counted = t.dumps
	row.packets += d.packets
	row.bytes += d.bytes
	t.stats.packets += d.packets
	t.rows[pair] = row
}

// place says whether there is a place for one more flow. When the table is
// full, evict makes one by moving out a flow that sent nothing new, the longest
// silent first; without such a one the new flow is ignored, as the patent has
// it.
func (t *flowTable) place(evict bool) bool {
	return len(t.flows) < t.limits.flows || evict && t.evict()
}

// evict moves one flow out of the table, if there is one to move.
func (t *flowTable) evict() bool {
	if t.idleAt != t.dumps {
		t.idleAt, t.idle = t.dumps, t.idle[:0]
		for cookie, f := range t.flows {
			if t.movable(&f) {
				t.idle = append(t.idle, cookie)
			}
		}
		slices.SortFunc(t.idle, func(a, b uint64) int {
			return cmp.Or(cmp.Compare(t.flows[b].changed, t.flows[a].changed), cmp.Compare(b, a))
		})
	}
	for len(t.idle) > 0 {
		cookie := t.idle[len(t.idle)-1]
		t.idle = t.idle[:len(t.idle)-1]
		f, ok := t.flows[cookie]
		if !ok || !t.movable(&f) { // has sent since
			continue
		}
		if f.dump == t.dumps {
			t.visited--
		}
		if t.tables != nil {
			t.tables.movedOut(f.entry)
		}
		delete(t.flows, cookie)
		t.stats.evicted++
		return true
	}
	return false
}

// take hands out the records of the interval from start to end, both ns UTC,
// and begins the next: one row per pair of addresses, by address, then the
// flows that sent something again. A record is publish's until that returns.
func (t *flowTable) take(start, end int64, publish func(*decafpb.FlowRecord)) {
	pairs := make([]hostPair, 0, len(t.rows))
	for p := range t.rows {
		pairs = append(pairs, p)
	}
	slices.SortFunc(pairs, func(a, b hostPair) int {
		return cmp.Or(bytes.Compare(a.src[:], b.src[:]), bytes.Compare(a.dst[:], b.dst[:]))
	})
	for _, p := range pairs {
		row := t.rows[p]
		r := t.record.of(p.flow(), start, end)
		r.Flows, r.Packets, r.BytesSent = row.flows, row.packets, row.bytes
		publish(r)
	}
	for i := range t.lossy {
		l := &t.lossy[i]
		state := decafpb.FlowRecord_STATE_OPEN
		if l.closed {
			state = decafpb.FlowRecord_STATE_CLOSED
		}
		r := t.record.of(l.flow, start, end)
		r.State, r.Inbound = state, l.inbound
		r.Packets, r.BytesSent, r.Retransmits = l.packets, l.bytes, l.retransmits
		publish(r)
	}
	clear(t.rows)
	clear(t.lossy)
	t.lossy = t.lossy[:0]
}
