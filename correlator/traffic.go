package correlator

import (
	"sort"

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

	latest int64 // of the ends of this row and those before it, ns
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
	at    int // place of the first among all that ever came
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

// known gives a host's index in Topology.Hosts, -1 of what is none.
func (l *trafficLog) known(name string) int32 {
	if i, ok := l.index[name]; ok {
		return i
	}
	return -1
}

// AddFlow takes a host's flow record; now is when it was received. Rows of
// loss-free counts per destination host say how busy the links are; all records
// of connections that a host opened say how they went. Those of connections, to
// hosts outside too, are kept to be looked at.
func (s *Store) AddFlow(r *decafpb.FlowRecord, now int64) {
	if !s.fresh(recordTraffic, r.GetOrigin()) {
		return
	}
	f := r.GetFlow()
	tuple, err := packet.FlowFromPB(f)
	if err != nil || r.GetEndNs() < r.GetStartNs() || int64(r.GetEndNs()) > now+latestRow {
		s.stats.Invalid++
		return
	}
	if host := s.traffic.known(r.GetOrigin().GetProducer()); host >= 0 {
		s.told.add(host, tuple, r)
	}
	src, okSrc := s.topo.HostAt(tuple.Src.Addr())
	dst, okDst := s.topo.HostAt(tuple.Dst.Addr())
	if !okSrc || !okDst {
		s.stats.FlowsOther++ // one end lies outside
		return
	}
	from, to := s.traffic.index[src.Name], s.traffic.index[dst.Name]
	c, told := connRecord(r, from, to)
	if told {
		s.stats.Connections++
		s.stats.EvictedConnections += s.conns.add(c)
	}
	if r.GetFlows() == 0 || f.GetSrcPort() != 0 || f.GetDstPort() != 0 {
		s.stats.FlowsOther += uint64(btoi(!told))
		return
	}
	s.stats.Traffic++
	if now-int64(r.GetEndNs()) <= lateAfter { // else it came after an outage
		s.rows.note(now-int64(r.GetStartNs()), now)
	}
	s.stats.EvictedTraffic += s.traffic.add(Traffic{
		Src: from, Dst: to,
		Start: int64(r.GetStartNs()), End: int64(r.GetEndNs()),
		Flows: float64(r.GetFlows()), Packets: float64(r.GetPackets()),
	})
}

// add takes a row and says how many had to make room for it: several at once,
// since what was counted of the first rows has to be counted again without them.
func (l *trafficLog) add(r Traffic) (evicted uint64) {
	if len(l.rows) >= l.limit {
		n := min(max(1, l.limit/64), len(l.rows))
		l.forget(n)
		evicted = uint64(n)
	}
	r.latest = r.End
	if n := len(l.rows); n > 0 {
		r.latest = max(r.latest, l.rows[n-1].latest)
	}
	l.rows = append(l.rows, r)
	return evicted
}

func (l *trafficLog) forget(n int) { l.rows, l.at = l.rows[n:], l.at+n }

// before is how many rows, from the first on, ended before a moment.
func (l *trafficLog) before(at int64) int {
	return sort.Search(len(l.rows), func(i int) bool { return l.rows[i].latest >= at })
}

// prune forgets rows that ended before old.
func (l *trafficLog) prune(old int64) { l.forget(l.before(old)) }

// of gives the rows that may touch [from, …), and the place of the first of them
// among all that ever came; do not change them.
func (l *trafficLog) of(from int64) (rows []Traffic, at int) {
	n := l.before(from - latestRow)
	return l.rows[n:], l.at + n
}
