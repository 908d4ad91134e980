package device

import (
	"slices"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// newEvent makes a drop event of a kernel record and what was found out about
// it. It shares no memory with the record.
func newEvent(r *record, at time.Time, class, reason, function, ingress, egress string) *decafpb.DropEvent {
	ev := &decafpb.DropEvent{
		TimeNs:   uint64(at.UnixNano()),
		Class:    class,
		Reason:   reason,
		Function: function,
		Source:   "kernel",
		Ingress:  ingress,
		Egress:   egress,
	}
	if r.devIf != r.inIf {
		ev.Queue = uint32(r.queue) // before that it is the queue of arrival
	}
	ev.Inner, ev.Encapsulation = packet.Inner(r.protocol, r.header)
	p, err := packet.Decode(r.header)
	switch {
	case isMPLS(r.protocol) && ev.Inner != nil:
		// Under labels: what stands there is no IP header, though it may look
		// like one.
		p = &decafpb.Packet{Header: slices.Clone(r.header)}
	case err != nil:
		return ev // no IP header to be read: a loss that shows no packet
	}
	if r.length > p.Length {
		p.Length = r.length // the header's is 0 where it does not fit
	}
	p.Vlan = uint32(r.vlan)
	if r.linkLayer != nil {
		p.DstMac = append([]byte(nil), r.linkLayer[0:6]...)
		p.SrcMac = append([]byte(nil), r.linkLayer[6:12]...)
	}
	ev.Packet = p
	return ev
}

// eventFlow is the flow that an event is about: its packet's, or that of the
// packet inside where the outer headers have none (MPLS); zero when it shows none.
func eventFlow(ev *decafpb.DropEvent) packet.Flow {
	for _, p := range []*decafpb.Packet{ev.GetPacket(), ev.GetInner()} {
		if f, err := packet.FlowFromPB(p.GetFlow()); err == nil {
			return f
		}
	}
	return packet.Flow{}
}
