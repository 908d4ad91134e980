package correlator

import (
	"cmp"
	"math"

	"decaf/api"
	"decaf/api/decafpb"
)

// connPart is what happened on a connection, or on those of a service, in one or
// several intervals of its host's tables. Times in ns, sizes in bytes.
type connPart struct {
	start, end                            int64
	packets, sent, received, posted, read uint64
	zero, rttMean, rttMax, rttMin         uint64
	rttVar, durationMs                    uint64 // of a connection, at the end
	cwndDelta                             int64
	cwnd, rwnd, ownRwnd                   uint32
	retransmits, timeouts, duplicates     uint32
	outOfOrder, reductions, reorderings   uint32
	probes                                uint32 // of a closed window: the most in a row
	resetsSent, resetsReceived            uint32

	flows, created, closed, terminated, failed, shrunk uint32 // of services
}

// clip32 keeps what is beyond 32 bits at the most these hold.
func clip32(n uint64) uint32 { return uint32(min(n, math.MaxUint32)) }

func add32(a, b uint32) uint32 { return clip32(uint64(a) + uint64(b)) }

func partOf(r *decafpb.FlowRecord) connPart {
	return connPart{
		start: int64(r.GetStartNs()), end: int64(r.GetEndNs()),
		packets: r.GetPackets(), sent: r.GetBytesSent(), received: r.GetBytesReceived(), posted: r.GetBytesPosted(), read: r.GetBytesRead(),
		zero: r.GetZeroWindowNs(), rttMean: r.GetRttMeanNs(), rttMax: r.GetRttMaxNs(),
		rttMin: r.GetRttMinNs(), rttVar: r.GetRttVarNs(), durationMs: r.GetDurationMs(), cwndDelta: r.GetCwndDeltaBytes(),
		cwnd: clip32(r.GetCwndMeanBytes()), rwnd: clip32(r.GetRwndMeanBytes()), ownRwnd: clip32(r.GetOwnRwndMeanBytes()),
		retransmits: clip32(r.GetRetransmits()), timeouts: clip32(r.GetTimeouts()), duplicates: clip32(r.GetDuplicatesReported()),
		outOfOrder: clip32(r.GetOutOfOrder()), reductions: clip32(r.GetCwndReductions()),
		reorderings: clip32(r.GetReorderings()), probes: clip32(r.GetZeroWindowProbes()),
		resetsSent: clip32(r.GetResetsSent()), resetsReceived: clip32(r.GetResetsReceived()),
		flows: clip32(r.GetFlows()), created: clip32(r.GetNewFlows()),
		closed: clip32(r.GetClosedFlows()), terminated: clip32(r.GetTerminatedFlows()), failed: clip32(r.GetFailedFlows()),
		shrunk: clip32(r.GetShrunkFlows()),
	}
}

// ended is how many of a service's connections came to an end.
func (p *connPart) ended() uint32 { return add32(add32(p.closed, p.terminated), p.failed) }

// add takes a later part of the same. Means are weighed by time, as no record says
// how many samples they are of; what is of the end is the later one's, where it is
// known. rows says that flows are counted in each interval that they send in: then
// they add up, else those that did not end go on.
func (p *connPart) add(q *connPart, rows bool) {
	tp, tq := float64(p.end-p.start), float64(q.end-q.start)
	p.rttMean = weigh(p.rttMean, tp, q.rttMean, tq)
	p.cwnd = uint32(weigh(uint64(p.cwnd), tp, uint64(q.cwnd), tq))
	p.rwnd = uint32(weigh(uint64(p.rwnd), tp, uint64(q.rwnd), tq))
	p.ownRwnd = uint32(weigh(uint64(p.ownRwnd), tp, uint64(q.ownRwnd), tq))
	if rows {
		p.flows = add32(p.flows, q.flows)
	} else {
		p.flows = add32(min(p.flows, p.ended()), q.flows)
	}
	p.start, p.end = min(p.start, q.start), max(p.end, q.end)
	p.rttMax, p.probes = max(p.rttMax, q.rttMax), max(p.probes, q.probes)
	if p.rttMin == 0 || q.rttMin != 0 && q.rttMin < p.rttMin {
		p.rttMin = q.rttMin
	}
	p.rttVar, p.durationMs = cmp.Or(q.rttVar, p.rttVar), cmp.Or(q.durationMs, p.durationMs)
	p.cwndDelta += q.cwndDelta
	p.packets, p.sent, p.received = p.packets+q.packets, p.sent+q.sent, p.received+q.received
	p.posted, p.read, p.zero = p.posted+q.posted, p.read+q.read, p.zero+q.zero
	for _, n := range [...]struct {
		of *uint32
		by uint32
	}{
		{&p.retransmits, q.retransmits}, {&p.timeouts, q.timeouts}, {&p.duplicates, q.duplicates},
		{&p.outOfOrder, q.outOfOrder}, {&p.reductions, q.reductions}, {&p.reorderings, q.reorderings},
		{&p.resetsSent, q.resetsSent}, {&p.resetsReceived, q.resetsReceived},
		{&p.created, q.created}, {&p.closed, q.closed}, {&p.terminated, q.terminated}, {&p.failed, q.failed},
		{&p.shrunk, q.shrunk},
	} {
		*n.of = add32(*n.of, n.by)
	}
}

// weigh is the mean of two means over these times; 0 is no sample.
func weigh(a uint64, ta float64, b uint64, tb float64) uint64 {
	switch {
	case a == 0:
		return b
	case b == 0:
		return a
	case ta+tb <= 0:
		return a/2 + b/2
	}
	return uint64((float64(a)*ta + float64(b)*tb) / (ta + tb))
}

// trouble says whether anything went wrong, however little.
func (p *connPart) trouble() bool {
	return p.retransmits|p.timeouts|p.resetsSent|p.resetsReceived|p.terminated|p.failed != 0 || p.zero >= api.HeldUp
}

// share is which part of the segments with data was sent again, 0 of none.
func (p *connPart) share() float64 {
	if p.packets == 0 {
		return 0
	}
	return min(1, float64(p.retransmits)/float64(p.packets))
}

// into writes the part into a record.
func (p *connPart) into(r *decafpb.FlowRecord) {
	r.StartNs, r.EndNs = uint64(p.start), uint64(p.end)
	r.Packets, r.BytesSent, r.BytesReceived, r.BytesPosted, r.BytesRead = p.packets, p.sent, p.received, p.posted, p.read
	r.ZeroWindowNs, r.RttMeanNs, r.RttMaxNs = p.zero, p.rttMean, p.rttMax
	r.RttMinNs, r.RttVarNs, r.DurationMs = p.rttMin, p.rttVar, p.durationMs
	r.CwndMeanBytes, r.RwndMeanBytes, r.OwnRwndMeanBytes = uint64(p.cwnd), uint64(p.rwnd), uint64(p.ownRwnd)
	r.CwndReductions, r.CwndDeltaBytes = uint64(p.reductions), p.cwndDelta
	r.Reorderings, r.ZeroWindowProbes = uint64(p.reorderings), uint64(p.probes)
	r.Retransmits, r.Timeouts, r.DuplicatesReported, r.OutOfOrder = uint64(p.retransmits), uint64(p.timeouts), uint64(p.duplicates), uint64(p.outOfOrder)
	r.ResetsSent, r.ResetsReceived = uint64(p.resetsSent), uint64(p.resetsReceived)
	r.Flows, r.NewFlows, r.ClosedFlows = uint64(p.flows), uint64(p.created), uint64(p.closed)
	r.TerminatedFlows, r.FailedFlows, r.ShrunkFlows = uint64(p.terminated), uint64(p.failed), uint64(p.shrunk)
}
