package correlator

import (
	"decaf/api/decafpb"
	"decaf/api/packet"
)

// sourceAggregate marks, in the place of a drop event's source, what stands for
// drops that a device counted and did not tell of one by one.
const sourceAggregate = "aggregate"

// untold counts the drops of a device that had no event of their own, by why: see
// [decafpb.LossAggregate].
type untold struct{ threshold, fuse, queue, filter, duplicate uint64 }

func (u untold) plus(a *decafpb.LossAggregate) untold {
	return untold{
		u.threshold + a.GetSuppressedThreshold(), u.fuse + a.GetSuppressedFuse(), u.queue + a.GetSuppressedQueue(),
		u.filter + a.GetSuppressedFilter(), u.duplicate + a.GetSuppressedDuplicate(),
	}
}

// byReason gives those that are not zero, nil if all are.
func (u untold) byReason() map[string]uint64 {
	var out map[string]uint64
	for _, n := range [...]struct {
		name string
		n    uint64
	}{{"threshold", u.threshold}, {"fuse", u.fuse}, {"queue", u.queue}, {"filter", u.filter}, {"duplicate", u.duplicate}} {
		if n.n == 0 {
			continue
		}
		if out == nil {
			out = make(map[string]uint64)
		}
		out[n.name] = n.n
	}
	return out
}

// AddAggregate takes a device's count of drops; now is when it was received. Drops
// that had an event each are evidence already. Those that had none, because the
// class was above its threshold, the agent's fuse had blown, its queue was full or
// only a path test's drops were to have one, are evidence by this record: each flow that it names for certain as one drop that
// stands for several, and all others as one without a packet.
func (s *Store) AddAggregate(a *decafpb.LossAggregate, now int64) {
	if !s.fresh(recordAggregate, a.GetOrigin()) {
		return
	}
	device := a.GetOrigin().GetProducer()
	if _, ok := s.topo.Device(device); !ok || a.GetEndNs() < a.GetStartNs() {
		s.stats.Invalid++
		return
	}
	if a.GetReceivedNs() == 0 {
		a.ReceivedNs = uint64(now)
	}
	s.stats.Aggregates++
	if a.GetPackets() > 0 {
		s.heard(device, int64(a.GetStartNs()))
	}
	s.untold[device] = s.untold[device].plus(a)
	untold := a.GetSuppressedThreshold() + a.GetSuppressedFuse() + a.GetSuppressedQueue() + a.GetSuppressedFilter()
	// Whose TTL ran out is a trace, most often, and which ones were is not said.
	if untold == 0 || isClass(a.GetClass(), classTTL) || isClass(a.GetClass(), classAnomaly) {
		return
	}
	s.stats.Suppressed += untold
	late := s.overdueTold(int64(a.GetEndNs()), int64(a.GetReceivedNs()), now)
	one := func(tuple packet.Flow, packets uint64, stands float64) {
		e := &decafpb.DropEvent{
			Origin: a.GetOrigin(), TimeNs: a.GetStartNs(), ReceivedNs: a.GetReceivedNs(),
			Class: a.GetClass(), Reason: a.GetReason(), Source: sourceAggregate, Ingress: a.GetIngress(), Egress: a.GetEgress(),
		}
		if tuple.Src.IsValid() {
			e.Packet = &decafpb.Packet{Flow: tuple.PB()}
		}
		d := &Drop{
			Event: e, Device: device, Time: int64(a.GetStartNs()), Received: int64(a.GetReceivedNs()),
			Tuple: tuple, Component: dropComponent(s.topo, device, e), packets: packets, stands: stands, late: late,
		}
		s.hold(d)
	}
	named, flows := uint64(0), 0
	for _, f := range a.GetTopFlows() {
		tuple, err := packet.FlowFromPB(f.GetFlow())
		if err != nil || f.GetPackets() <= f.GetPacketsError() || named >= untold {
			continue
		}
		n := min(f.GetPackets()-f.GetPacketsError(), untold-named)
		named += n
		if tuple.Proto != packet.TCP { // of which hosts tell nothing
			continue
		}
		flows++
		one(tuple, n, 1)
	}
	if rest := untold - named; rest > 0 {
		// How many connections these are, the named ones tell.
		stands := float64(rest)
		if flows > 0 {
			stands *= float64(flows) / float64(max(named, uint64(flows)))
		}
		one(packet.Flow{}, rest, stands)
	}
}

// hold keeps a drop, unless its five-tuple has too many.
func (s *Store) hold(d *Drop) {
	if d.Tuple.Src.IsValid() {
		if len(s.dropsOf[d.Tuple]) >= s.limits.PerTuple {
			s.stats.EvictedDrops++
			return
		}
		s.dropsOf[d.Tuple] = append(s.dropsOf[d.Tuple], d)
	}
	s.drops = append(s.drops, d)
	s.pending = append(s.pending, d)
}
