package correlator

import (
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
}

// DefaultStoreLimits keep 20 minutes, and at most about 200 MB.
func DefaultStoreLimits() StoreLimits {
	return StoreLimits{Retention: 20 * 60e9, Flows: 50_000, Drops: 100_000, Streams: 20_000, PerTuple: 256, Traffic: 1 << 20}
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
	Traffic, EvictedTraffic    uint64 // rows of loss-free counts
	FlowsOther                 uint64 // flow records that are no such rows, or of hosts outside: not used
	Flows, DropsHeld           int
	TrafficHeld                int
}

// Store is the index of recent evidence. It is not safe for concurrent use:
// the engine owns it.
type Store struct {
	topo   *topology.Topology
	limits StoreLimits

	flows   map[FlowKey]*Flow
	ofTuple map[packet.Flow][]*Flow
	order   []*Flow // by arrival
	drops   []*Drop // by arrival
	pending []*Drop // waiting to be told from probes' drops, by arrival
	dropsOf map[packet.Flow][]*Drop

	undone      map[FlowKey]int64 // when a connection told that all was spurious, ns
	undoneOrder []FlowKey

	traffic trafficLog

	streams map[stream]*sequence
	lag     lagTracker // of drop events, from the drop to its receipt
	trace   lagTracker // of traces, from the first probe to the receipt of their record
	stats   StoreStats
}

// NewStore makes an empty store.
func NewStore(t *topology.Topology, l StoreLimits) *Store {
	return &Store{
		topo: t, limits: l,
		flows:   make(map[FlowKey]*Flow),
		ofTuple: make(map[packet.Flow][]*Flow),
		dropsOf: make(map[packet.Flow][]*Drop),
		undone:  make(map[FlowKey]int64),
		streams: make(map[stream]*sequence),
		traffic: newTrafficLog(t, l.Traffic),
	}
}

// Stats returns the counters so far.
func (s *Store) Stats() StoreStats {
	st := s.stats
	st.Flows, st.DropsHeld, st.TrafficHeld = len(s.order), len(s.drops), len(s.traffic.rows)
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
	for _, record := range [...]string{recordDrop, recordRetransmit, recordHeartbeat, recordTraffic} {
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
		s.addUndone(key, int64(r.GetTimeNs()))
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
	if lag, ok := traceLag(r); ok {
		s.trace.note(lag, now)
	}
	for _, d := range s.dropsOf[tuple] {
		s.own(d, f)
		if !d.gone && matches(d.Event, r) {
			d.Matched = true
		}
	}
}

// addUndone withdraws the vote of a connection. The notice may overtake the
// retransmits it is about, which wait for their trace.
func (s *Store) addUndone(key FlowKey, at int64) {
	s.stats.Undone++
	if _, ok := s.undone[key]; !ok {
		if len(s.undoneOrder) >= s.limits.Flows {
			delete(s.undone, s.undoneOrder[0])
			s.undoneOrder = s.undoneOrder[1:]
			s.stats.EvictedUndone++
		}
		s.undoneOrder = append(s.undoneOrder, key)
	}
	s.undone[key] = at
	if f := s.flows[key]; f != nil {
		f.undoneAt = at
	}
}

// own discards a drop if one of the flow's probes was the packet.
func (s *Store) own(d *Drop, f *Flow) {
	for _, m := range f.probes {
		if !d.gone && m.owns(d.Event.GetPacket(), d.Tuple.Is6()) {
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
	if e.GetReceivedNs() == 0 {
		e.ReceivedNs = uint64(now)
	}
	s.stats.Drops++
	s.lag.note(int64(e.GetReceivedNs())-int64(e.GetTimeNs()), now)
	d := &Drop{
		Event: e, Device: e.GetOrigin().GetProducer(),
		Time: int64(e.GetTimeNs()), Received: int64(e.GetReceivedNs()),
	}
	d.Component = dropComponent(s.topo, d.Device, e)
	if p := e.GetPacket(); p != nil {
		if isICMPError(p) {
			s.stats.ICMPErrors++
			return
		}
		if tuple, err := packet.FlowFromPB(p.GetFlow()); err == nil {
			d.Tuple = tuple
			if len(s.dropsOf[tuple]) >= s.limits.PerTuple {
				s.stats.EvictedDrops++
				return
			}
			for _, f := range s.ofTuple[tuple] {
				if s.own(d, f); d.gone {
					return
				}
				for _, r := range f.Retransmits {
					if matches(e, r) {
						d.Matched = true
					}
				}
			}
			s.dropsOf[tuple] = append(s.dropsOf[tuple], d)
		}
	}
	s.drops = append(s.drops, d)
	s.pending = append(s.pending, d)
}

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
	n, over := 0, len(s.order)-s.limits.Flows
	for n < len(s.order) && (s.order[n].Last < old || n < over) {
		f := s.order[n]
		if f.Last >= old {
			s.stats.EvictedFlows++
		}
		delete(s.flows, f.Key)
		s.ofTuple[f.Key.Flow] = without(s.ofTuple[f.Key.Flow], f)
		if len(s.ofTuple[f.Key.Flow]) == 0 {
			delete(s.ofTuple, f.Key.Flow)
		}
		s.order[n] = nil
		n++
	}
	s.order = s.order[n:]

	for len(s.undoneOrder) > 0 && s.undone[s.undoneOrder[0]] < old {
		delete(s.undone, s.undoneOrder[0])
		s.undoneOrder = s.undoneOrder[1:]
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
