package correlator

import (
	"slices"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// A device shows a packet as it was there: inside a tunnel, or with the addresses
// that a translation on the way gave it. Hosts know it as it was sent.

// maxWires bounds the translations that are kept of one flow.
const maxWires = 4

// sentPacket gives the packet of a drop as a host may have sent it: of one that went
// through a tunnel that inside; nil without any.
func sentPacket(e *decafpb.DropEvent) *decafpb.Packet {
	if p := e.GetInner(); p.GetFlow() != nil {
		return p
	}
	return e.GetPacket()
}

// translated notes the five-tuple that a trace's probes were carried as, if it is
// not the flow's own, and says whether that is new.
func (f *Flow) translated(p *decafpb.Path) (wire packet.Flow, is bool) {
	if p.GetProbed() == nil || len(f.wires) >= maxWires {
		return wire, false
	}
	wire, err := packet.FlowFromPB(p.GetProbed())
	if err != nil || f.carried(wire) {
		return wire, false
	}
	f.wires = append(f.wires, wire)
	return wire, true
}

// tuples are the five-tuples that the flow's packets were carried as.
func (f *Flow) tuples() []packet.Flow {
	return append([]packet.Flow{f.Key.Flow}, f.wires...)
}

// carried says whether a five-tuple is one of those.
func (f *Flow) carried(tuple packet.Flow) bool {
	return tuple == f.Key.Flow || slices.Contains(f.wires, tuple)
}
