package device

import (
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
	p, err := packet.Decode(r.header)
	if err != nil {
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
