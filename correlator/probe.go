package correlator

import (
	"decaf/api/decafpb"
	"decaf/api/packet"
)

// A trace makes drops: one where each probe's TTL ends, with the victim's own
// five-tuple (host notes 2.6, trap 9). They must never count as evidence. Most are
// known for what they are, where the device shows the whole packet
// ([packet.IsProbe]). For the others' sake each drop waits until the retransmit that
// would own it has had time to come, and is withdrawn when it comes later still.

// probeIDMask clears the TTL that a probe carries in the low six bits of its
// IP identification.
const probeIDMask = 0xffff &^ 63

// probeMark is the identity of all probes of one trace.
type probeMark struct {
	seq uint32
	id  uint32
}

// markOf gives the identity of a path's probes; false when none were sent.
func markOf(p *decafpb.Path) (probeMark, bool) {
	if p == nil || (p.GetProbeSeq() == 0 && p.GetProbeId() == 0) {
		return probeMark{}, false
	}
	return probeMark{seq: p.GetProbeSeq(), id: p.GetProbeId() & probeIDMask}, true
}

// traceLag is how long after a trace's first probe its record was received; false
// for a record that brings no trace of its own.
func traceLag(r *decafpb.Retransmit) (int64, bool) {
	p := r.GetPath()
	if p.GetStartNs() == 0 || p.GetStatus() == decafpb.PathStatus_PATH_STATUS_CACHED {
		return 0, false
	}
	return int64(r.GetReceivedNs()) - int64(p.GetStartNs()), true
}

// owns says whether a dropped packet of the same five-tuple was one of these
// probes. IPv6 has no identification: there the sequence number is all.
func (m probeMark) owns(p *decafpb.Packet, v6 bool) bool {
	return p.GetTcpSeq() == m.seq && (v6 || p.GetIpId()&probeIDMask == m.id)
}

// isICMPError says whether a dropped packet was an ICMP error: those answer
// probes, or quote what was lost elsewhere, and are no loss of anyone's data.
// An ICMP packet whose type is not known counts as one.
func isICMPError(p *decafpb.Packet) bool {
	h := p.GetHeader()
	switch uint8(p.GetFlow().GetProtocol()) {
	case packet.ICMP:
		if len(h) == 0 {
			return true
		}
		ihl := int(h[0]&0x0f) * 4
		if len(h) <= ihl {
			return true
		}
		switch h[ihl] { // RFC 792
		case 3, 4, 5, 11, 12:
			return true
		}
	case packet.ICMPv6:
		const fixed = 40
		return len(h) <= fixed || h[fixed] < 128 // RFC 4443 section 2.1
	}
	return false
}
