package correlator

import (
	"decaf/api/decafpb"
	"decaf/api/packet"
)

// maxRTO bounds how long after a loss its retransmit may come: TCP_RTO_MAX, 120 s.
const maxRTO = 120e9

// clockSlack is how far the clocks of a device and a host may differ when we
// ask which of two events was first.
const clockSlack = 1e9

// matches says whether a device's drop and a host's retransmit are the same
// loss: same five-tuple, and the dropped segment is among those sent again. The
// comparison is modular (RFC 9293 section 3.4). The five-tuples must have been
// compared already.
func matches(d *decafpb.DropEvent, r *decafpb.Retransmit) bool {
	if d.GetSource() == sourceAggregate {
		return false // the flow, and no segment of it
	}
	seq := sentPacket(d).GetTcpSeq()
	if seq == r.GetTcpSeq() {
		return true
	}
	return seq-r.GetTcpSeq() < r.GetTcpEndSeq()-r.GetTcpSeq()
}

// answers says whether a dropped packet of the way back acknowledged what was
// sent again: losing it alone makes the sender repeat itself.
func answers(d *decafpb.DropEvent, r *decafpb.Retransmit) bool {
	p := sentPacket(d)
	if p.GetTcpFlags()&flagACK == 0 {
		return false
	}
	ahead := p.GetTcpAck() - r.GetTcpSeq()
	return ahead > 0 && ahead < 1<<31
}

// Join is what ties a lossy flow to the devices' drops.
type Join struct {
	Drops   []*Drop // of the flow's five-tuple or its reverse, not later than its last retransmit
	Matched int     // drops of the very segment sent again
	Answer  int     // drops of an acknowledgement of it
	Waiting bool    // a drop of this connection is still to be told from a probe's
}

// join finds the device drops that explain a lossy flow. Such a flow does not
// vote: its loss has a witness.
func (s *Store) join(f *Flow) Join {
	var j Join
	take := func(d *Drop, forward bool) {
		if !d.gone && !d.evidence() {
			j.Waiting = true
		}
		if !d.evidence() || d.Time > f.Last+clockSlack || d.Time < f.First-maxRTO {
			return
		}
		j.Drops = append(j.Drops, d)
		for _, r := range f.Retransmits {
			if forward && matches(d.Event, r) {
				j.Matched++
				return
			}
			if !forward && answers(d.Event, r) {
				j.Answer++
				return
			}
		}
	}
	ways := func(tuple packet.Flow) {
		for _, d := range s.dropsOf[tuple] {
			take(d, true)
		}
		for _, d := range s.dropsOf[tuple.Reverse()] {
			take(d, false)
		}
	}
	ways(f.Key.Flow)
	for _, wire := range f.wires {
		ways(wire)
	}
	return j
}
