package correlator

import (
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
const maxRetransmitsPerFlow = 32

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
	Retransmits []*decafpb.Retransmit
	Count       uint64

	First, Last int64 // time of the first and latest retransmit, ns
	Received    int64 // when the first was received, ns

	Route Route
	Local bool // the sending host dropped it itself: no vote

	undoneAt int64     // when DSACK had shown all up to then to be spurious, ns; 0 never
	kinds    [6]uint32 // retransmits by kind, those of data only
	probes   []probeMark
}

// Undone says whether all that was sent again had arrived already: no vote.
func (f *Flow) Undone() bool { return f.undoneAt != 0 && f.Last <= f.undoneAt }

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
	case f.kinds[decafpb.RetransmitKind_RETRANSMIT_KIND_FAST] == 0 && f.kinds[decafpb.RetransmitKind_RETRANSMIT_KIND_RTO] == 0:
		if f.kinds[decafpb.RetransmitKind_RETRANSMIT_KIND_TLP] > 0 {
			return "tail loss probe only"
		}
		return "handshake or close only"
	case !f.Route.Full:
		return weakPath
	}
	return ""
}

const weakPath = "path known in part"

// counts says whether the flow counts towards a finding.
func (f *Flow) counts() bool { return f.Weak() == "" }

// votes says whether the flow may vote at all.
func (f *Flow) votes() bool { return !f.Undone() && !f.Local && f.Route.known > 0 }

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
	at := int64(r.GetTimeNs())
	if f.Count == 0 || at < f.First {
		f.First = at
	}
	if at > f.Last {
		f.Last = at
	}
	if f.Count == 0 {
		f.Received = int64(r.GetReceivedNs())
	}
	f.Count++
	if len(f.Retransmits) < maxRetransmitsPerFlow {
		f.Retransmits = append(f.Retransmits, r)
	}
	if r.GetLocalCause() != "" {
		f.Local = true
	}
	if k := dataKind(r); k != decafpb.RetransmitKind_RETRANSMIT_KIND_UNSPECIFIED {
		f.kinds[k]++
	}
	if m, ok := markOf(r.GetPath()); ok && len(f.probes) < maxRetransmitsPerFlow {
		f.probes = append(f.probes, m)
	}
	if route := resolveRoute(t, f.Key.Flow, r.GetPath()); route.known > f.Route.known {
		f.Route = route
	}
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
