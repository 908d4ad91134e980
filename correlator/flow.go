package correlator

import (
	"slices"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/topology"
)

// TCP flag bits, RFC 9293 section 3.1.
const (
	flagFIN = 1 << 0
	flagSYN = 1 << 1
	flagACK = 1 << 4
)

// maxRetransmitsPerFlow bounds what is kept of one connection; the counts go on.
// Of maxMarksPerFlow so much is kept that they can be taken back.
const (
	maxRetransmitsPerFlow = 32
	maxMarksPerFlow       = 128
)

// FlowKey names a connection: a five-tuple in the direction of the lost
// packets, and the sender's socket cookie, which tells one use of the ports
// from the next.
type FlowKey struct {
	packet.Flow
	Cookie uint64
}

// Flow is one connection that sent something again.
type Flow struct {
	Key      FlowKey
	Src, Dst string // host names; "" for an end outside the topology

	// Retransmits in order of arrival, at most maxRetransmitsPerFlow; Count is all.
	// Neither holds those that the sending host explains itself, by a drop of its
	// own: they are no loss of the network and count for nothing. Own are these, as
	// many at most, to be shown.
	Retransmits, Own []*decafpb.Retransmit
	Count            uint64

	First, Last int64 // time of the first and latest retransmit, ns
	Received    int64 // when the first was received, ns

	Route Route

	prompt bool // some of it came in time: else the live window leaves it out

	marks    []recordMark // in order of arrival, at most maxMarksPerFlow
	place    *place       // once looked up
	version  uint32       // rises with all that a method may see of it but its times
	undoneAt int64        // when DSACK had shown all up to then to be spurious, ns; 0 never
	kinds    [6]uint32    // retransmits by kind, those of data only
	syns     uint32       // and SYNs
	tails    uint32       // tail loss probes, those without data too
	lost     [2]int64     // when the first and the last packet with data was lost, ns; zeros: none was
	trails   []trail      // what its traces showed, at most maxTrails
	probes   []probeMark
	wires    []packet.Flow // what a translation made of the five-tuple, at most maxWires
}

// recordMark is what counts of one retransmit, so that it can be taken back.
type recordMark struct {
	id       recordID
	at       int64                  // ns
	received int64                  // ns
	lost     int64                  // when the packet was lost, ns: see [Flow.lostAt]
	seq      uint32                 // of TCP
	kind     decafpb.RetransmitKind // of data only
	syn      bool
	tail     bool
}

// recordID names a retransmit within its producer's records.
type recordID struct{ boot, seq uint64 }

func idOf(o *decafpb.Origin, seq uint64) recordID { return recordID{o.GetBootId(), seq} }

// Undone says whether nothing speaks for a loss in the network: all that was sent
// again had arrived already, or was dropped by the sending host itself. No vote.
func (f *Flow) Undone() bool { return f.Count == 0 || f.undoneAt != 0 && f.Last <= f.undoneAt }

// Proof says whether a segment sent later arrived before this one did: only
// loss (or reordering, which DSACK undoes) on the way there does that. A
// timeout or tail probe may as well come of lost acknowledgements, that is, of
// the way back (host notes 2.6, trap 10; RFC 8985 section 7).
func (f *Flow) Proof() bool { return f.kinds[decafpb.RetransmitKind_RETRANSMIT_KIND_FAST] > 0 }

// Weak says why the flow votes but does not count towards a finding; "" when
// it counts. SYN, SYN-ACK, lone FIN and lone tail-loss-probe retransmits may be
// caused by loss on the way back.
func (f *Flow) Weak() string {
	switch {
	case f.kinds == [6]uint32{}:
		return "handshake or close only"
	case f.loneProbe():
		return weakProbe
	case !f.Route.Full:
		return weakPath
	}
	return ""
}

const (
	weakProbe = "lone tail loss probe"
	weakPath  = "path known in part"
)

// counts says whether the flow counts towards a finding.
func (f *Flow) counts() bool { return f.Weak() == "" }

// votes says whether the flow may vote at all.
func (f *Flow) votes() bool { return !f.Undone() && f.Route.known > 0 }

func (f *Flow) crosses(l *topology.Link) bool {
	for _, m := range f.Route.Links {
		if m == l {
			return true
		}
	}
	return false
}

// overlaps says whether the flow sent something again in [from, to).
func (f *Flow) overlaps(from, to int64) bool {
	if f.First >= to || f.Last < from {
		return false
	}
	if f.First >= from || f.Last < to {
		return true
	}
	for _, r := range f.Retransmits { // spans the window: look inside
		if t := int64(r.GetTimeNs()); t >= from && t < to {
			return true
		}
	}
	return false
}

// add takes one more retransmit of the connection.
func (f *Flow) add(r *decafpb.Retransmit, t *topology.Topology) {
	if p, ok := markOf(r.GetPath()); ok && len(f.probes) < maxRetransmitsPerFlow {
		f.probes = append(f.probes, p)
	}
	m := recordMark{
		id: idOf(r.GetOrigin(), r.GetOrigin().GetSeq()), at: int64(r.GetTimeNs()), received: int64(r.GetReceivedNs()),
		kind: dataKind(r),
		syn:  r.GetKind() == decafpb.RetransmitKind_RETRANSMIT_KIND_SYN,
		tail: r.GetKind() == decafpb.RetransmitKind_RETRANSMIT_KIND_TLP,
		seq:  r.GetTcpSeq(),
	}
	if r.GetLocalCause() != "" {
		if len(f.Own) < maxRetransmitsPerFlow {
			f.Own = append(f.Own, r)
		}
		if f.Count == 0 { // when it is forgotten
			f.First, f.Last, f.Received = m.at, m.at, m.received
		}
		return
	}
	m.lost = m.at
	if len(f.marks) < maxMarksPerFlow {
		f.marks = append(f.marks, m)
		m.lost = f.lostAt(len(f.marks) - 1)
		f.marks[len(f.marks)-1].lost = m.lost
	}
	if len(f.Retransmits) < maxRetransmitsPerFlow {
		f.Retransmits = append(f.Retransmits, r)
	}
	f.count(m)
	f.follow(r, t)
}

// count adds what one retransmit counts for.
func (f *Flow) count(m recordMark) {
	if f.Count == 0 || m.at < f.First {
		f.First = m.at
	}
	if f.Count == 0 || m.at > f.Last {
		f.Last = m.at
	}
	if f.Count == 0 {
		f.Received = m.received
	}
	f.Count++
	f.syns += uint32(btoi(m.syn))
	f.tails += uint32(btoi(m.tail))
	if m.kind != decafpb.RetransmitKind_RETRANSMIT_KIND_UNSPECIFIED {
		f.lose(m.lost)
		proof := f.Proof()
		f.kinds[m.kind]++
		if f.Proof() != proof {
			f.version++
		}
	}
}

// follow takes the path of a retransmit, if it tells more than those before.
func (f *Flow) follow(r *decafpb.Retransmit, t *topology.Topology) {
	if x, ok := trailOf(t, r.GetPath()); ok && len(f.trails) < maxTrails && !slices.ContainsFunc(f.trails, func(y trail) bool { return y.at == x.at }) {
		f.trails = append(f.trails, x)
	}
	if route := resolveRoute(t, f.Key.Flow, r.GetPath()); route.known > f.Route.known {
		f.Route = route
		f.version++
	}
}

// withdraw takes one retransmit back, so that the flow is what it would be
// without it; but for our own probes, which were sent all the same. False when it
// is not known one by one.
func (f *Flow) withdraw(id recordID, t *topology.Topology) bool {
	is := func(r *decafpb.Retransmit) bool { return idOf(r.GetOrigin(), r.GetOrigin().GetSeq()) == id }
	i := slices.IndexFunc(f.marks, func(m recordMark) bool { return m.id == id })
	if i < 0 {
		n := len(f.Own)
		f.Own = slices.DeleteFunc(f.Own, is)
		return len(f.Own) < n
	}
	gone := f.marks[i]
	f.marks = slices.Delete(f.marks, i, i+1)
	f.Retransmits = slices.DeleteFunc(f.Retransmits, is)
	f.version++
	rest := f.Count - 1 - uint64(len(f.marks)) // too many to be known one by one
	first, last := f.First, f.Last
	kinds, received, syns, tails := f.kinds, f.Received, f.syns, f.tails
	f.Count, f.kinds, f.syns, f.tails, f.Route, f.trails, f.lost = 0, [6]uint32{}, 0, 0, Route{}, nil, [2]int64{}
	for i := range f.marks {
		f.marks[i].lost = f.lostAt(i)
		f.count(f.marks[i])
	}
	for _, r := range f.Retransmits {
		f.follow(r, t)
	}
	switch {
	case rest > 0: // they came last
		if gone.kind != decafpb.RetransmitKind_RETRANSMIT_KIND_UNSPECIFIED {
			kinds[gone.kind]--
		}
		f.Count, f.kinds, f.Last = f.Count+rest, kinds, last
		f.syns, f.tails = syns-uint32(btoi(gone.syn)), tails-uint32(btoi(gone.tail))
		f.lose(last)
	case f.Count == 0:
		f.First, f.Last, f.Received = first, last, received // when it is forgotten
	}
	return true
}

// dataKind gives the kind of a retransmit that carried data, and UNSPECIFIED
// for one that carried none (SYN, SYN-ACK, FIN alone) or that its host marked
// as possibly the way back's fault.
func dataKind(r *decafpb.Retransmit) decafpb.RetransmitKind {
	k := r.GetKind()
	switch k {
	case decafpb.RetransmitKind_RETRANSMIT_KIND_TLP,
		decafpb.RetransmitKind_RETRANSMIT_KIND_FAST,
		decafpb.RetransmitKind_RETRANSMIT_KIND_RTO:
	default:
		return decafpb.RetransmitKind_RETRANSMIT_KIND_UNSPECIFIED
	}
	if r.GetWayBackSuspect() || r.GetTcpFlags()&flagSYN != 0 {
		return decafpb.RetransmitKind_RETRANSMIT_KIND_UNSPECIFIED
	}
	if r.GetTcpFlags()&flagFIN != 0 && r.GetTcpEndSeq()-r.GetTcpSeq() == 1 {
		return decafpb.RetransmitKind_RETRANSMIT_KIND_UNSPECIFIED
	}
	return k
}
