package correlator

import (
	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/topology"
)

// Traffic is one row of what a host sent without loss: to one other host, over
// some time. Such rows are the only word on how busy a link is.
type Traffic struct {
	Src, Dst       int32 // indexes in Topology.Hosts
	Start, End     int64 // ns
	Flows, Packets float64
}

// within is the share of the row's time that lies in [from, to).
func (r *Traffic) within(from, to int64) float64 {
	if r.End <= r.Start { // a moment
		return float64(btoi(r.End >= from && r.End < to))
	}
	overlap := min(r.End, to) - max(r.Start, from)
	return max(0, float64(overlap)) / float64(r.End-r.Start)
}

// latestRow bounds the time that one row may cover and be late: more is not
// looked for.
const latestRow = 120e9

// trafficLog keeps rows by arrival, at most limit of them.
type trafficLog struct {
	rows  []Traffic
	limit int
	index map[string]int32 // host name to index
}

func newTrafficLog(t *topology.Topology, limit int) trafficLog {
	l := trafficLog{limit: limit, index: make(map[string]int32, len(t.Hosts))}
	for i, h := range t.Hosts {
		l.index[h.Name] = int32(i)
	}
	return l
}

// AddTraffic takes a host's flow record. Only rows of loss-free counts per
// destination host are kept: a row of one connection says nothing that they or
// its retransmits do not.
func (s *Store) AddTraffic(r *decafpb.FlowRecord) {
	if !s.fresh(recordTraffic, r.GetOrigin()) {
		return
	}
	f := r.GetFlow()
	if r.GetFlows() == 0 || f.GetSrcPort() != 0 || f.GetDstPort() != 0 {
		s.stats.FlowsOther++
		return
	}
	tuple, err := packet.FlowFromPB(f)
	if err != nil || r.GetEndNs() < r.GetStartNs() {
		s.stats.Invalid++
		return
	}
	src, okSrc := s.topo.HostAt(tuple.Src.Addr())
	dst, okDst := s.topo.HostAt(tuple.Dst.Addr())
	if !okSrc || !okDst {
		s.stats.FlowsOther++ // one end lies outside
		return
	}
	s.stats.Traffic++
	if len(s.traffic.rows) >= s.traffic.limit {
		s.stats.EvictedTraffic++
		s.traffic.rows = s.traffic.rows[1:]
	}
	s.traffic.rows = append(s.traffic.rows, Traffic{
		Src: s.traffic.index[src.Name], Dst: s.traffic.index[dst.Name],
		Start: int64(r.GetStartNs()), End: int64(r.GetEndNs()),
		Flows: float64(r.GetFlows()), Packets: float64(r.GetPackets()),
	})
}

// prune forgets rows that ended before old.
func (l *trafficLog) prune(old int64) {
	n := 0
	for n < len(l.rows) && l.rows[n].End < old {
		n++
	}
	l.rows = l.rows[n:]
}

// of gives the rows that may touch [from, …); do not change them.
func (l *trafficLog) of(from int64) []Traffic {
	n := len(l.rows)
	for n > 0 && l.rows[n-1].End >= from-latestRow {
		n--
	}
	return l.rows[n:]
}
