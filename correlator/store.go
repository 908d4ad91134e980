package correlator

import (
	"slices"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/topology"
)

// StoreLimits bound the memory of a Store.
type StoreLimits struct {
	Retention int64 // ns; evidence older than this is forgotten
	Flows     int   // lossy connections
	Drops     int   // device drops
	Streams   int   // producer × boot × record type
	PerTuple  int   // drops of one five-tuple
	Traffic   int   // rows of loss-free counts
	// Connections bounds the records of how connections went, of which only the
	// latest KeepConnections ns are kept, and those that came late until they are
	// looked at.
	Connections     int
	KeepConnections int64
	// TableBytes bounds what is kept of connections and services for people to look
	// at, of which a quarter is for services; 0 keeps nothing.
	TableBytes int
}

// DefaultStoreLimits keep 20 minutes, and at most about 264 MB.
func DefaultStoreLimits() StoreLimits {
	return StoreLimits{Retention: 20 * 60e9, Flows: 50_000, Drops: 100_000, Streams: 20_000, PerTuple: 256, Traffic: 1 << 20,
		Connections: 1 << 19, KeepConnections: 60e9, TableBytes: 64 << 20}
}

// StoreStats count what came in and what was left out.
type StoreStats struct {
	Retransmits, Drops, Undone uint64
	Duplicates                 uint64 // seen before, by origin
	Invalid                    uint64 // records without a usable flow or producer
	ProbeDrops                 uint64 // our own probes', discarded
	ProbesWithdrawn            uint64 // of these, after they had been taken for evidence
	ICMPErrors                 uint64 // dropped ICMP errors: no evidence
	EvictedFlows               uint64 // forgotten before their time, for want of room
	EvictedDrops               uint64
	EvictedStreams             uint64
	EvictedUndone              uint64
	UndoneUnknown              uint64 // single withdrawals of a connection with too many retransmits to know each: not heeded
	Traffic, EvictedTraffic    uint64 // rows of loss-free counts
	Aggregates                 uint64 // of devices' drops
	Suppressed                 uint64 // drops that only these tell of
	Anomalies, Routes          uint64 // events of devices that are no drops
	EvictedFlaps               uint64
	Connections                uint64 // flow records that say how connections went
	EvictedConnections         uint64
	FlowsOther                 uint64         // flow records that are neither, or of hosts outside: not used
	Table, Services            connTableStats // what hosts tell of connections and of services
	Late                       LateStats
	Flows, DropsHeld           int
	TrafficHeld                int
}

// Store is the index of recent evidence. It is not safe for concurrent use:
// the engine owns it.
type Store struct {
	topo   *topology.Topology
	limits StoreLimits

	flows   map[FlowKey]*Flow
	ofTuple map[packet.Flow][]*Flow // as they were carried: see [Flow.tuples]
	order   []*Flow                 // by arrival
	drops   []*Drop                 // by arrival
	pending []*Drop                 // waiting to be told from probes' drops, by arrival
	dropsOf map[packet.Flow][]*Drop

	undone    map[FlowKey]int64    // when a connection told that all was spurious, ns
	undoneOne map[withdrawal]int64 // the same of one retransmit
	// both by arrival: a whole connection's has no id
	undoneOrder []withdrawal

	traffic  trafficLog
	conns    connLog
	told     connTables
	untold   map[string]untold // by device
	flapping []flap            // by arrival

	started bool // its engine has taken a step: what comes is not of before the start
	// connsFrom is from when on records of connections are still needed, though they
	// are old, ns; 0: they are not.
	connsFrom int64

	streams map[stream]*sequence
	word    map[string]int64 // by device: when it last told of a drop, ns
	lag     lagTracker       // of drop events, from the drop to its receipt
	trace   lagTracker       // of traces, from the first probe to the receipt of their record
	late    lagTracker       // of retransmits, from when they were sent to their receipt
	rows    lagTracker       // of loss-free traffic, from the first of it to the receipt of its row
	stats   StoreStats
}

// withdrawal names what its host took back: one retransmit, or with a zero id all
// that the connection had sent again.
type withdrawal struct {
	key FlowKey
	id  recordID
}

// NewStore makes an empty store.
func NewStore(t *topology.Topology, l StoreLimits) *Store {
	return &Store{
		topo: t, limits: l,
		flows:   make(map[FlowKey]*Flow),
		ofTuple: make(map[packet.Flow][]*Flow),
		dropsOf: make(map[packet.Flow][]*Drop),
		undone:  make(map[FlowKey]int64),

		undoneOne: make(map[withdrawal]int64),
		streams:   make(map[stream]*sequence),
		word:      make(map[string]int64),
		traffic:   newTrafficLog(t, l.Traffic),
		conns:     connLog{limit: l.Connections},
		told:      newConnTables(l),
		untold:    make(map[string]untold),
	}
}

// Stats returns the counters so far.
func (s *Store) Stats() StoreStats {
	st := s.stats
	st.Flows, st.DropsHeld, st.TrafficHeld = len(s.order), len(s.drops), len(s.traffic.rows)
	st.Table, st.Services = s.told.single.statistics(), s.told.services.statistics()
	return st
}

// fresh says whether a record is new, and notes it.
func (s *Store) fresh(record string, o *decafpb.Origin) bool {
	if o.GetProducer() == "" || o.GetSeq() == 0 {
		s.stats.Invalid++
		return false
	}
	key := stream{o.GetProducer(), o.GetBootId(), record}
	q := s.streams[key]
	if q == nil {
		if len(s.streams) >= s.limits.Streams {
			for k := range s.streams { // any one: a bound, not a policy
				delete(s.streams, k)
				s.stats.EvictedStreams++
				break
			}
		}
		q = new(sequence)
		s.streams[key] = q
	}
	if !q.see(o.GetSeq()) {
		s.stats.Duplicates++
		return false
	}
	return true
}

// Gaps counts the records of a producer's boot that were sent and never came.
func (s *Store) Gaps(producer string, boot uint64) uint64 {
	var n uint64
	for _, record := range [...]string{recordDrop, recordRetransmit, recordHeartbeat, recordTraffic, recordAggregate, recordRoute, recordSurvey} {
		if q := s.streams[stream{producer, boot, record}]; q != nil {
			n += q.missing()
		}
	}
	return n
}

// Record names in sequence keys: each type counts for itself.
const (
	recordDrop       = "drop"
	recordRetransmit = "retransmit"
	recordHeartbeat  = "heartbeat"
	recordTraffic    = "flow"
	recordAggregate  = "aggregate"
	recordRoute      = "route"
	recordSurvey     = "survey"
)

// AddRetransmit takes a host's record; now is when it was received.
func (s *Store) AddRetransmit(r *decafpb.Retransmit, now int64) {
	if !s.fresh(recordRetransmit, r.GetOrigin()) {
		return
	}
	tuple, err := packet.FlowFromPB(r.GetFlow())
	if err != nil {
		s.stats.Invalid++
		return
	}
	if r.GetReceivedNs() == 0 {
		r.ReceivedNs = uint64(now)
	}
	key := FlowKey{Flow: tuple, Cookie: r.GetCookie()}
	f := s.flows[key]
	if r.GetUndone() {
		w := withdrawal{key: key}
		if seq := r.GetUndoneSeq(); seq != 0 {
			w.id = idOf(r.GetOrigin(), seq)
		}
		s.addUndone(w, int64(r.GetTimeNs()))
		return
	}
	s.stats.Retransmits++
	if f == nil {
		f = &Flow{Key: key, undoneAt: s.undone[key]}
		if h, ok := s.topo.HostAt(tuple.Src.Addr()); ok {
			f.Src = h.Name
		}
		if h, ok := s.topo.HostAt(tuple.Dst.Addr()); ok {
			f.Dst = h.Name
		}
		s.flows[key] = f
		s.ofTuple[tuple] = append(s.ofTuple[tuple], f)
		s.order = append(s.order, f)
	}
	f.add(r, s.topo)
	f.prompt = f.prompt || !s.overdue(int64(r.GetTimeNs()), int64(r.GetReceivedNs()), now)
	if lag := int64(r.GetReceivedNs()) - int64(r.GetTimeNs()); lag <= lateAfter { // else it came after an outage
		s.late.note(lag, now)
	}
	if lag, ok := traceLag(r); ok {
		s.trace.note(lag, now)
	}
	if wire, is := f.translated(r.GetPath()); is {
		s.ofTuple[wire] = append(s.ofTuple[wire], f)
	}
	for _, t := range f.tuples() {
		for _, d := range s.dropsOf[t] {
			s.own(d, f)
			if !d.gone && !f.Undone() && r.GetLocalCause() == "" && matches(d.Event, r) {
				d.Matched = true
			}
		}
	}
	id := idOf(r.GetOrigin(), r.GetOrigin().GetSeq())
	if _, gone := s.undoneOne[withdrawal{key, id}]; gone {
		if !f.withdraw(id, s.topo) {
			s.stats.UndoneUnknown++
		}
		s.match(f)
	}
}

// match says of the drops of a flow's five-tuples whether a host sent that segment
// again.
func (s *Store) match(f *Flow) {
	for _, t := range f.tuples() {
		for _, d := range s.dropsOf[t] {
			d.Matched = !d.gone && slices.ContainsFunc(s.ofTuple[t], func(f *Flow) bool { return f.sentAgain(d.Event) })
		}
	}
}

// sentAgain says whether a dropped packet is among those that the flow sent again.
func (f *Flow) sentAgain(e *decafpb.DropEvent) bool {
	return !f.Undone() && slices.ContainsFunc(f.Retransmits, func(r *decafpb.Retransmit) bool { return matches(e, r) })
}

// addUndone withdraws the vote of a connection, or one of its retransmits. The
// notice may overtake what it is about, which waits for its trace.
func (s *Store) addUndone(w withdrawal, at int64) {
	s.stats.Undone++
	f := s.flows[w.key]
	_, whole := s.undone[w.key]
	_, one := s.undoneOne[w]
	if w.id.seq == 0 && !whole || w.id.seq != 0 && !one {
		if len(s.undoneOrder) >= s.limits.Flows {
			s.forgetUndone()
			s.stats.EvictedUndone++
		}
		s.undoneOrder = append(s.undoneOrder, w)
	}
	if w.id.seq == 0 {
		s.undone[w.key] = at
	} else {
		s.undoneOne[w] = at
	}
	if f == nil {
		return
	}
	if w.id.seq == 0 {
		f.undoneAt = at
	} else if !f.withdraw(w.id, s.topo) && len(f.marks) == maxMarksPerFlow {
		s.stats.UndoneUnknown++
	}
	s.match(f)
}

// undoneSince is when the oldest notice was given, and forgetUndone forgets it.
func (s *Store) undoneSince() int64 {
	if w := s.undoneOrder[0]; w.id.seq != 0 {
		return s.undoneOne[w]
	}
	return s.undone[s.undoneOrder[0].key]
}

func (s *Store) forgetUndone() {
	if w := s.undoneOrder[0]; w.id.seq != 0 {
		delete(s.undoneOne, w)
	} else {
		delete(s.undone, w.key)
	}
	s.undoneOrder = s.undoneOrder[1:]
}

// own discards a drop if one of the flow's probes was the packet.
func (s *Store) own(d *Drop, f *Flow) {
	for _, m := range f.probes {
		if !d.gone && m.owns(sentPacket(d.Event), d.Tuple.Is6()) {
			if d.settled {
				s.stats.ProbesWithdrawn++
			}
			s.stats.ProbeDrops++
			d.gone = true
			d.Matched = false
		}
	}
}

// AddDrop takes a device's drop event; now is when it was received.
func (s *Store) AddDrop(e *decafpb.DropEvent, now int64) {
	if !s.fresh(recordDrop, e.GetOrigin()) {
		return
	}
	if _, ok := s.topo.Device(e.GetOrigin().GetProducer()); !ok {
		s.stats.Invalid++
		return
	}
	if isClass(e.GetClass(), classAnomaly) { // no drop, or beside one that is told of as such
		s.stats.Anomalies++
		if isClass(e.GetClass(), classRouteFlap) {
			s.flaps(e.GetOrigin().GetProducer(), int64(e.GetTimeNs()))
		}
		return
	}
	if e.GetReceivedNs() == 0 {
		e.ReceivedNs = uint64(now)
	}
	s.stats.Drops++
	s.heard(e.GetOrigin().GetProducer(), int64(e.GetTimeNs()))
	s.lag.note(int64(e.GetReceivedNs())-int64(e.GetTimeNs()), now)
	d := &Drop{
		Event: e, Device: e.GetOrigin().GetProducer(),
		Time: int64(e.GetTimeNs()), Received: int64(e.GetReceivedNs()),
		late: s.overdueTold(int64(e.GetTimeNs()), int64(e.GetReceivedNs()), now),
	}
	d.Component = dropComponent(s.topo, d.Device, e)
	if p := sentPacket(e); p != nil {
		if isICMPError(p) {
			s.stats.ICMPErrors++
			return
		}
		if packet.IsProbe(p.GetHeader()) {
			s.stats.ProbeDrops++
			return
		}
		if tuple, err := packet.FlowFromPB(p.GetFlow()); err == nil {
			d.Tuple = tuple
			for _, f := range s.ofTuple[tuple] {
				if s.own(d, f); d.gone {
					return
				}
				d.Matched = d.Matched || f.sentAgain(e)
			}
		}
	}
	s.hold(d)
}

// heard notes that a device told of something that it did, if only to a probe.
func (s *Store) heard(device string, at int64) { s.word[device] = max(s.word[device], at) }

// spoke says when a device last did, ns; 0 never.
func (s *Store) spoke(device string) int64 { return s.word[device] }

// Settle makes evidence of the drops that were received at or before this
// moment and that no trace has claimed by now.
func (s *Store) Settle(before int64) {
	n := 0
	for n < len(s.pending) && s.pending[n].Received <= before {
		s.pending[n].settled = true
		s.pending[n] = nil
		n++
	}
	s.pending = s.pending[n:]
}

// Prune forgets what is older than the retention or more than there is room for.
func (s *Store) Prune(now int64) {
	old := now - s.limits.Retention
	s.traffic.prune(old)
	for len(s.flapping) > 0 && s.flapping[0].at < old {
		s.flapping = s.flapping[1:]
	}
	keep := now - s.limits.KeepConnections
	if s.connsFrom != 0 {
		keep = min(keep, max(s.connsFrom-s.limits.KeepConnections, old))
	}
	s.conns.prune(keep)
	s.told.prune(old)
	n, over := 0, len(s.order)-s.limits.Flows
	for n < len(s.order) && (s.order[n].Last < old || n < over) {
		f := s.order[n]
		if f.Last >= old {
			s.stats.EvictedFlows++
		}
		delete(s.flows, f.Key)
		for _, t := range f.tuples() {
			s.ofTuple[t] = without(s.ofTuple[t], f)
			if len(s.ofTuple[t]) == 0 {
				delete(s.ofTuple, t)
			}
		}
		s.order[n] = nil
		n++
	}
	s.order = s.order[n:]

	for len(s.undoneOrder) > 0 && s.undoneSince() < old {
		s.forgetUndone()
	}

	n, over = 0, len(s.drops)-s.limits.Drops
	for n < len(s.drops) && (s.drops[n].gone || s.drops[n].Received < old || n < over) {
		d := s.drops[n]
		if !d.gone && d.Received >= old {
			s.stats.EvictedDrops++
		}
		d.gone = true
		if d.Tuple.Src.IsValid() {
			s.dropsOf[d.Tuple] = without(s.dropsOf[d.Tuple], d)
			if len(s.dropsOf[d.Tuple]) == 0 {
				delete(s.dropsOf, d.Tuple)
			}
		}
		s.drops[n] = nil
		n++
	}
	s.drops = s.drops[n:]
}

// without removes one element, in place.
func without[T comparable](list []T, x T) []T {
	var zero T
	for i, y := range list {
		if y == x {
			copy(list[i:], list[i+1:])
			list[len(list)-1] = zero
			return list[:len(list)-1]
		}
	}
	return list
}
