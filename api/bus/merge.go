package bus

import (
	"cmp"
	"slices"

	"decaf/api/decafpb"
)

// While NATS is away long enough to fill half of the spool, the oldest flow
// records in it are merged: those of one connection, of one service, or of one
// pair of hosts become one over a longer time. Nothing that was counted is lost
// by that, only when within that time it was. The merged record has the last
// one's origin; the others' sequence numbers are holes, which
// PublisherStats.Merged explains.

// Bounds of one merge.
const (
	// mergeKeys is how many different records it holds in memory.
	mergeKeys = 65_536
	// mergeGain is by how many percent the batches have to shrink to be worth
	// it.
	mergeGain = 10
)

// flowKey says which flow records tell of the same.
type flowKey struct {
	src, dst         [16]byte
	addressBytes     int
	srcPort, dstPort uint32
	cookie           uint64
	inbound          bool
	several          bool // flows
}

func flowKeyOf(r *decafpb.FlowRecord) flowKey {
	f := r.GetFlow()
	k := flowKey{
		addressBytes: len(f.GetSrc()), srcPort: f.GetSrcPort(), dstPort: f.GetDstPort(),
		cookie: r.GetCookie(), inbound: r.GetInbound(), several: r.GetFlows() > 0,
	}
	copy(k.src[:], f.GetSrc())
	copy(k.dst[:], f.GetDst())
	return k
}

// merger adds up flow records.
type merger struct {
	of map[flowKey]*decafpb.FlowRecord
	n  int // records added
}

func newMerger() *merger { return &merger{of: make(map[flowKey]*decafpb.FlowRecord)} }

// add takes the records of a batch, later ones last. It keeps them.
func (m *merger) add(b *decafpb.Batch) {
	for _, r := range b.GetFlows() {
		m.n++
		k := flowKeyOf(r)
		if before, ok := m.of[k]; ok {
			mergeFlow(before, r)
			continue
		}
		m.of[k] = r
	}
}

// records are what came of it, in the producer's order.
func (m *merger) records() []*decafpb.FlowRecord {
	out := make([]*decafpb.FlowRecord, 0, len(m.of))
	for _, r := range m.of {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *decafpb.FlowRecord) int {
		return cmp.Compare(a.GetOrigin().GetSeq(), b.GetOrigin().GetSeq())
	})
	return out
}

// mergeFlow adds a later record of the same to a.
func mergeFlow(a, b *decafpb.FlowRecord) {
	// Means are weighed by time, as there is no count of samples.
	ta, tb := a.GetEndNs()-a.GetStartNs(), b.GetEndNs()-b.GetStartNs()
	a.RttMeanNs = weighted(a.RttMeanNs, ta, b.RttMeanNs, tb)
	a.CwndMeanBytes = weighted(a.CwndMeanBytes, ta, b.CwndMeanBytes, tb)
	a.RwndMeanBytes = weighted(a.RwndMeanBytes, ta, b.RwndMeanBytes, tb)
	a.OwnRwndMeanBytes = weighted(a.OwnRwndMeanBytes, ta, b.OwnRwndMeanBytes, tb)

	// A sum per service knows which of its flows ended: the others are among
	// the later one's. Rows of hosts count a flow in each interval it sent in,
	// and so they go on.
	if ended := a.ClosedFlows + a.TerminatedFlows + a.FailedFlows; a.GetFlow().GetSrcPort() != 0 || a.GetFlow().GetDstPort() != 0 {
		a.Flows = min(a.Flows, ended) + b.Flows
	} else {
		a.Flows += b.Flows
	}
	a.NewFlows += b.NewFlows
	a.ClosedFlows += b.ClosedFlows
	a.TerminatedFlows += b.TerminatedFlows
	a.FailedFlows += b.FailedFlows

	if a.State != decafpb.FlowRecord_STATE_NEW || b.State != decafpb.FlowRecord_STATE_OPEN {
		a.State = b.State
	}
	if b.Error != 0 {
		a.Error = b.Error
	}
	a.Origin = b.Origin
	a.StartNs, a.EndNs = min(a.StartNs, b.StartNs), max(a.EndNs, b.EndNs)
	a.Packets += b.Packets
	a.BytesSent += b.BytesSent
	a.BytesReceived += b.BytesReceived
	a.BytesPosted += b.BytesPosted
	a.BytesRead += b.BytesRead
	a.Retransmits += b.Retransmits
	a.RttMaxNs = max(a.RttMaxNs, b.RttMaxNs)
	a.RttVarNs, a.DurationMs = cmp.Or(b.RttVarNs, a.RttVarNs), cmp.Or(b.DurationMs, a.DurationMs)
	if a.RttMinNs == 0 || b.RttMinNs != 0 && b.RttMinNs < a.RttMinNs {
		a.RttMinNs = b.RttMinNs
	}
	a.CwndReductions += b.CwndReductions
	a.CwndDeltaBytes += b.CwndDeltaBytes
	a.ShrunkFlows += b.ShrunkFlows
	a.Reorderings += b.Reorderings
	a.ZeroWindowProbes = max(a.ZeroWindowProbes, b.ZeroWindowProbes)
	a.ZeroWindowNs += b.ZeroWindowNs
	a.ResetsSent += b.ResetsSent
	a.ResetsReceived += b.ResetsReceived
	a.Timeouts += b.Timeouts
	a.DuplicatesReported += b.DuplicatesReported
	a.OutOfOrder += b.OutOfOrder
	a.Active = a.Active || b.Active
	a.SampledOf = max(a.SampledOf, b.SampledOf)
	if b.Uid != nil {
		a.Uid = b.Uid
	}
	if b.Process != "" {
		a.Process = b.Process
	}
	if b.Container != "" {
		a.Container = b.Container
	}
	if b.Path != nil {
		a.Path = b.Path
	}
}

// weighted is the mean of two means, of which one that is 0 is not known.
func weighted(a, ta, b, tb uint64) uint64 {
	switch {
	case b == 0:
		return a
	case a == 0 || ta+tb == 0:
		return b
	}
	return uint64((float64(a)*float64(ta) + float64(b)*float64(tb)) / float64(ta+tb))
}

// flowKind is the index of flow records in kinds.
const flowKind = 3

// crowd returns the batches to merge next, oldest first, at most half of what
// the spool may hold: of flow records, never sent, since a batch that was may be
// stored already. It returns none while there is room, and none again before
// much has come since.
func (s *spool) crowd() []*parcel {
	if s.bytes <= s.limit/2 {
		s.mergeAgain = 0
		return nil
	}
	if s.bytes < s.mergeAgain {
		return nil
	}
	var out []*parcel
	bytes := 0
	for _, p := range s.parcels {
		if p.kind != flowKind || p.sent || !p.acked.IsZero() || !p.packed {
			continue
		}
		if bytes += len(p.data); bytes > s.limit/2 {
			break
		}
		out = append(out, p)
	}
	if len(out) < 2 {
		return nil
	}
	return out
}

// postpone says that merging was tried.
func (s *spool) postpone() { s.mergeAgain = min(s.bytes+s.limit/16, s.limit/16*15) }

// replace puts merged batches in the place of those of crowd, and returns how
// many records they have fewer. It does nothing if one of these was left out
// meanwhile.
func (s *spool) replace(old []*parcel, merged []parcel) (fewer int) {
	for _, p := range old {
		if s.find(p.id) != p {
			return 0
		}
	}
	for i, p := range old {
		fewer += p.records
		s.records -= p.records
		s.bytes -= len(p.data)
		if i < len(merged) {
			p.data, p.records = merged[i].data, merged[i].records
			s.bytes += len(p.data)
			s.records += p.records
			fewer -= p.records
			continue
		}
		// An empty place, as in refuse.
		s.empty(p)
	}
	return fewer
}

// mergeOldest makes room in a crowded spool. It is the sender's.
func (p *Publisher) mergeOldest() {
	p.mu.Lock()
	old := p.spool.crowd()
	p.mu.Unlock()
	if old == nil {
		return
	}
	m := newMerger()
	before, used := 0, 0
	for _, o := range old { // only the sender changes data
		b, err := p.c.codec.unpack(o.data)
		if err != nil {
			p.c.log.Error("a batch of our own cannot be read", "producer", p.producer, "error", err)
			break
		}
		m.add(b)
		before += len(o.data)
		if used++; len(m.of) >= mergeKeys {
			break
		}
	}
	merged, after := p.cutMerged(m.records())
	p.mu.Lock()
	defer p.mu.Unlock()
	if used > 1 && len(merged) <= used && after*100 <= before*(100-mergeGain) {
		p.stats.Merged += uint64(p.spool.replace(old[:used], merged))
	}
	p.spool.postpone()
}

// cutMerged makes batches of records.
func (p *Publisher) cutMerged(records []*decafpb.FlowRecord) (out []parcel, bytes int) {
	var raw []byte
	n := 0
	cut := func() {
		if n > 0 {
			data := p.c.codec.pack(raw)
			out = append(out, parcel{records: n, data: slices.Clip(data)})
			bytes += len(data)
		}
		raw, n = nil, 0
	}
	for _, r := range records {
		next, err := appendRecord(raw, flowKind, r)
		if err != nil { // it was encoded before
			p.c.log.Error("a merged record cannot be encoded", "producer", p.producer, "error", err)
			continue
		}
		raw = next
		if n++; n >= p.o.MaxRecords || len(raw) >= cutBytes {
			cut()
		}
	}
	cut()
	return out, bytes
}
