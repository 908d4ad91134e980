package correlator

import (
	"math"

	"decaf/api/decafpb"
)

// errReset is ECONNRESET of Linux, as FlowRecord.error has it.
const errReset = 104

// ConnRecord is what one flow record of a host says of its connections to one
// other, as far as it tells hosts in trouble: how they ended and what they
// waited for.
type ConnRecord struct {
	Src, Dst   int32 // indexes in Topology.Hosts; Src opened the connections
	Start, End int64 // ns
	Flows      float64
	Resets     float64 // ended by the other end's reset
	Zero       float64 // time that the other end's window was closed, ns, of all flows
	RTT        float64 // sum of the flows' mean round trips, ns
	Timed      float64 // flows in it
	Service    bool    // a sum over all connections to a service, which single records are part of
	single     bool    // of one connection: its end is when it happened
}

// connRecord reads a flow record; false for one that says nothing of the kind.
func connRecord(r *decafpb.FlowRecord, src, dst int32) (ConnRecord, bool) {
	if r.GetInbound() {
		return ConnRecord{}, false // the other end tells of it, if it has an agent
	}
	f := r.GetFlow()
	c := ConnRecord{
		Src: src, Dst: dst, Start: int64(r.GetStartNs()), End: int64(r.GetEndNs()),
		Flows: float64(r.GetFlows()), Zero: float64(r.GetZeroWindowNs()),
	}
	switch {
	case r.GetFlows() == 0:
		c.Flows, c.single = 1, true
		if r.GetState() == decafpb.FlowRecord_STATE_TERMINATED && (r.GetError() == errReset || r.GetResetsReceived() > 0) {
			c.Resets = 1
		}
	case f.GetSrcPort() != 0 || f.GetDstPort() != 0:
		c.Service = true
		// A reset that comes after the end ends nothing.
		c.Resets = float64(min(r.GetTerminatedFlows(), r.GetResetsReceived(), r.GetFlows()))
	}
	if rtt := r.GetRttMeanNs(); rtt > 0 {
		c.Timed = c.Flows
		c.RTT = c.Flows * math.Min(float64(rtt), maxRTO)
	}
	return c, true
}

// connLog keeps such records by arrival, at most limit of them.
type connLog struct {
	rows  []ConnRecord
	limit int
	came  uint64 // how many ever came
}

// add takes a record and says how many had to make room for it.
func (l *connLog) add(r ConnRecord) (evicted uint64) {
	if len(l.rows) >= l.limit {
		n := min(max(1, l.limit/64), len(l.rows))
		l.rows, evicted = l.rows[n:], uint64(n)
	}
	l.rows = append(l.rows, r)
	l.came++
	return evicted
}

// until gives the records that ended in [from, to].
func (l *connLog) until(to, from int64) (rows []ConnRecord) {
	for i := range l.rows {
		if r := &l.rows[i]; r.End >= from && r.End <= to {
			rows = append(rows, *r)
		}
	}
	return rows
}

// prune forgets records from the first on that ended before old.
func (l *connLog) prune(old int64) {
	n := 0
	for n < len(l.rows) && l.rows[n].End < old {
		n++
	}
	l.rows = l.rows[n:]
}
