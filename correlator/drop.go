package correlator

import (
	"strings"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/topology"
)

// Drop is one packet that a device dropped.
type Drop struct {
	Event     *decafpb.DropEvent
	Device    string
	Component Component
	Tuple     packet.Flow // zero when the packet is not known
	Time      int64       // when it was dropped, ns
	Received  int64       // ns

	packets uint64  // that it stands for, when the device counted them; else 0
	stands  float64 // for how many connections, then

	Matched bool // a retransmit of the same five-tuple and TCP sequence is known

	settled bool // waited long enough to be no probe's
	gone    bool // found to be a probe's, or evicted

	late bool // it came so: the live window leaves it out

	in *Window // the latest window that took it
}

// counted says whether it is no event of one packet but stands for several.
func (d *Drop) counted() bool { return d.packets > 0 }

// evidence says whether the drop may be used and shown.
func (d *Drop) evidence() bool { return !d.gone && (d.settled || d.Matched) }

// classNoBuffer is congestion: a queue overflowed.
const classNoBuffer = "no-buffer"

// classTTL is a packet whose TTL ran out: by default a trace's, of ours or of
// someone else's, and only a loop's when a host lost that very packet.
const classTTL = "errors/l3/rx/ttl-expired"

// isClass says whether class is want or below it.
func isClass(class, want string) bool {
	return class == want || strings.HasPrefix(class, want+"/")
}

// Damaged frames, as the end that saw them reports them.
const (
	classDamagedIn  = "errors/l2/rx"
	classDamagedOut = "errors/l2/tx"
)

// dropComponent says what to blame for a device's drop: the egress link for an
// overflowing queue or a frame that could not be sent, the ingress link for one
// that arrived damaged, else the device, whose interfaces are in the evidence.
func dropComponent(t *topology.Topology, device string, e *decafpb.DropEvent) Component {
	class := e.GetClass()
	switch {
	case isClass(class, classNoBuffer), isClass(class, classDamagedOut):
		if l, ok := t.LinkFrom(device, e.GetEgress()); ok {
			return Component{Link: l}
		}
	case isClass(class, classDamagedIn):
		if l, ok := t.LinkInto(device, e.GetIngress()); ok {
			return Component{Link: l}
		}
	}
	return Component{Node: device}
}
