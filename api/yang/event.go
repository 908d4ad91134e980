package yang

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"decaf/api/decafpb"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/protobuf/proto"
)

// MaxHeader is the most header bytes an event carries.
const MaxHeader = 128

// maxPrefixes bounds what a decoder takes of the leaf-list prefix.
const maxPrefixes = 4096

// event is a drop event with the numbers that only its device knows.
type event struct {
	*decafpb.DropEvent
	slot, sequence, bootID, repeats uint64
	filter                          string
	routed                          uint64
	widened                         bool
}

var eventLeaves = within("", []leaf[event]{
	{name: "slot", typ: Uint64, always: true,
		getUint: func(e *event) uint64 { return e.slot },
		setUint: func(e *event, v uint64) { e.slot = v }},
	{name: "sequence", typ: Uint64, always: true,
		getUint: func(e *event) uint64 { return e.sequence },
		setUint: func(e *event, v uint64) { e.sequence = v }},
	{name: "boot-id", typ: Uint64, always: true,
		getUint: func(e *event) uint64 { return e.bootID },
		setUint: func(e *event, v uint64) { e.bootID = v }},
	{name: "time", typ: Uint64, always: true,
		getUint: func(e *event) uint64 { return e.TimeNs },
		setUint: func(e *event, v uint64) { e.TimeNs = v }},
	{name: "class", typ: String, always: true,
		getString: func(e *event) string { return e.Class },
		setString: func(e *event, v string) error { e.Class = v; return nil }},
	{name: "reason", typ: String,
		getString: func(e *event) string { return e.Reason },
		setString: func(e *event, v string) error { e.Reason = v; return nil }},
	{name: "function", typ: String,
		getString: func(e *event) string { return e.Function },
		setString: func(e *event, v string) error { e.Function = v; return nil }},
	// Not "source": collectors have a tag of that name.
	{name: "observer", typ: String,
		getString: func(e *event) string { return e.Source },
		setString: func(e *event, v string) error { e.Source = v; return nil }},
	{name: "ingress-interface", typ: String,
		getString: func(e *event) string { return e.Ingress },
		setString: func(e *event, v string) error { e.Ingress = v; return nil }},
	{name: "egress-interface", typ: String,
		getString: func(e *event) string { return e.Egress },
		setString: func(e *event, v string) error { e.Egress = v; return nil }},
	{name: "queue", typ: Uint,
		getUint: func(e *event) uint64 { return uint64(e.Queue) },
		setUint: func(e *event, v uint64) { e.Queue = uint32(v) }},
	{name: "queue-depth", typ: Uint,
		getUint: func(e *event) uint64 { return uint64(e.QueueDepthBytes) },
		setUint: func(e *event, v uint64) { e.QueueDepthBytes = uint32(v) }},
	{name: "transit-delay", typ: Uint,
		getUint: func(e *event) uint64 { return uint64(e.TransitDelayNs) },
		setUint: func(e *event, v uint64) { e.TransitDelayNs = uint32(v) }},
	{name: "filter", typ: String,
		getString: func(e *event) string { return e.filter },
		setString: func(e *event, v string) error { e.filter = v; return nil }},
	{name: "repeats", typ: Uint64,
		getUint: func(e *event) uint64 { return e.repeats },
		setUint: func(e *event, v uint64) { e.repeats = v }},
	{name: "prefix", typ: Strings, getStrings: prefixes, setStrings: setPrefixes},
	{name: "prefixes-routed", typ: Uint,
		getUint: func(e *event) uint64 { return e.routed },
		setUint: func(e *event, v uint64) { e.routed = v }},
	{name: "prefix-widened", typ: Bool,
		getBool: func(e *event) bool { return e.widened },
		setBool: func(e *event, v bool) { e.widened = v }},
	{name: "encapsulation", typ: String,
		getString: func(e *event) string { return e.Encapsulation },
		setString: func(e *event, v string) error { e.Encapsulation = v; return nil }},
})

// packetLeaves are the dropped packet's headers, innerLeaves those of the packet
// that it carried. The header bytes of the two are the same ones, sent once.
var (
	packetLeaves = within("packet", append(headerLeaves(), headerLeaf))
	innerLeaves  = within("inner", headerLeaves())
)

var headerLeaf = leaf[decafpb.Packet]{name: "header", typ: Binary,
	getBytes: func(p *decafpb.Packet) []byte { return p.Header[:min(len(p.Header), MaxHeader)] },
	setBytes: func(p *decafpb.Packet, v []byte) error {
		if len(v) > MaxHeader {
			return fmt.Errorf("%d bytes are more than %d", len(v), MaxHeader)
		}
		p.Header = v
		return nil
	}}

func headerLeaves() []leaf[decafpb.Packet] {
	return []leaf[decafpb.Packet]{
		{name: "source-address", typ: String,
			getString: func(p *decafpb.Packet) string { return addressString(p.GetFlow().GetSrc()) },
			setString: func(p *decafpb.Packet, v string) (err error) { flowOf(p).Src, err = addressBytes(v); return err }},
		{name: "destination-address", typ: String,
			getString: func(p *decafpb.Packet) string { return addressString(p.GetFlow().GetDst()) },
			setString: func(p *decafpb.Packet, v string) (err error) { flowOf(p).Dst, err = addressBytes(v); return err }},
		{name: "protocol", typ: Uint, max: 255,
			getUint: func(p *decafpb.Packet) uint64 { return uint64(p.GetFlow().GetProtocol()) },
			setUint: func(p *decafpb.Packet, v uint64) { flowOf(p).Protocol = uint32(v) }},
		{name: "source-port", typ: Uint, max: 65535,
			getUint: func(p *decafpb.Packet) uint64 { return uint64(p.GetFlow().GetSrcPort()) },
			setUint: func(p *decafpb.Packet, v uint64) { flowOf(p).SrcPort = uint32(v) }},
		{name: "destination-port", typ: Uint, max: 65535,
			getUint: func(p *decafpb.Packet) uint64 { return uint64(p.GetFlow().GetDstPort()) },
			setUint: func(p *decafpb.Packet, v uint64) { flowOf(p).DstPort = uint32(v) }},
		{name: "source-mac", typ: String,
			getString: func(p *decafpb.Packet) string { return macString(p.SrcMac) },
			setString: func(p *decafpb.Packet, v string) (err error) { p.SrcMac, err = macBytes(v); return err }},
		{name: "destination-mac", typ: String,
			getString: func(p *decafpb.Packet) string { return macString(p.DstMac) },
			setString: func(p *decafpb.Packet, v string) (err error) { p.DstMac, err = macBytes(v); return err }},
		{name: "vlan-id", typ: Uint, max: 4095,
			getUint: func(p *decafpb.Packet) uint64 { return uint64(p.Vlan) },
			setUint: func(p *decafpb.Packet, v uint64) { p.Vlan = uint32(v) }},
		{name: "ip-id", typ: Uint, max: 65535,
			getUint: func(p *decafpb.Packet) uint64 { return uint64(p.IpId) },
			setUint: func(p *decafpb.Packet, v uint64) { p.IpId = uint32(v) }},
		{name: "ttl", typ: Uint, max: 255,
			getUint: func(p *decafpb.Packet) uint64 { return uint64(p.Ttl) },
			setUint: func(p *decafpb.Packet, v uint64) { p.Ttl = uint32(v) }},
		{name: "length", typ: Uint,
			getUint: func(p *decafpb.Packet) uint64 { return uint64(p.Length) },
			setUint: func(p *decafpb.Packet, v uint64) { p.Length = uint32(v) }},
		{name: "tcp-flags", typ: Uint, max: 65535,
			getUint: func(p *decafpb.Packet) uint64 { return uint64(p.TcpFlags) },
			setUint: func(p *decafpb.Packet, v uint64) { p.TcpFlags = uint32(v) }},
		{name: "tcp-sequence", typ: Uint,
			getUint: func(p *decafpb.Packet) uint64 { return uint64(p.TcpSeq) },
			setUint: func(p *decafpb.Packet, v uint64) { p.TcpSeq = uint32(v) }},
		{name: "tcp-acknowledgment", typ: Uint,
			getUint: func(p *decafpb.Packet) uint64 { return uint64(p.TcpAck) },
			setUint: func(p *decafpb.Packet, v uint64) { p.TcpAck = uint32(v) }},
	}
}

// EventUpdates returns the event as one atomic notification with its own
// timestamp: prefix /loss/events/event[slot=N]/state, leaves relative to it,
// values in their native types. Paths are shared between notifications: do not
// change them. The sequence is the event's Origin.Seq;
// Origin.Producer is not sent, since the collector knows whom it asked. Leaves
// that are not known are left out. Slices of the event are shared.
func EventUpdates(ev *decafpb.DropEvent, slot, bootID uint64) *gnmipb.Notification {
	return MarkedEventUpdates(ev, slot, bootID, Mark{})
}

// Mark is what an event carries that is no part of the drop.
type Mark struct {
	Repeats uint64 // drops of its flow before it that it stands for too
	Filter  string // name of the filter that the packet matched

	PrefixesRouted  uint64 // how many prefixes those of an event without a packet stand for
	PrefixesWidened bool   // they hold more addresses than those, for lack of room
}

// MarkedEventUpdates is EventUpdates for an event with a mark.
func MarkedEventUpdates(ev *decafpb.DropEvent, slot, bootID uint64, m Mark) *gnmipb.Notification {
	e := &event{DropEvent: ev, slot: slot, sequence: ev.GetOrigin().GetSeq(), bootID: bootID, repeats: m.Repeats, filter: m.Filter, routed: m.PrefixesRouted, widened: m.PrefixesWidened}
	n := &gnmipb.Notification{
		Timestamp: int64(ev.GetTimeNs()),
		Prefix:    statePath("events", "event", "slot", strconv.FormatUint(slot, 10)),
		Atomic:    true,
		Update:    make([]*gnmipb.Update, 0, len(eventLeaves)+len(packetLeaves)),
	}
	n.Update = encode(n.Update, eventLeaves, e)
	if ev.GetPacket() != nil {
		n.Update = encode(n.Update, packetLeaves, ev.Packet)
	}
	if ev.GetInner() != nil {
		n.Update = encode(n.Update, innerLeaves, ev.Inner)
	}
	return n
}

// DecodeEvent turns a notification of EventUpdates, in any encoding, back into
// a drop event. It reports false, without error, for a notification about
// something else. Origin has the boot id and the sequence, and Producer from
// the prefix's target, if there is one. An event without sequence, boot id or
// class (a subscription to some of its leaves) is an error, as are values of
// the wrong type or range.
func DecodeEvent(n *gnmipb.Notification) (*decafpb.DropEvent, bool, error) {
	e := &event{DropEvent: &decafpb.DropEvent{}}
	slot, is, err := decode(n, "events", "event", "slot", func(path []*gnmipb.PathElem, v *gnmipb.TypedValue) error {
		switch {
		case len(path) == 1:
			if l := find(eventLeaves, path[0].GetName()); l != nil {
				return l.set(e, v)
			}
		case len(path) == 2 && path[0].GetName() == "packet":
			return setHeader(packetLeaves, path[1].GetName(), &e.Packet, v)
		case len(path) == 2 && path[0].GetName() == "inner":
			return setHeader(innerLeaves, path[1].GetName(), &e.Inner, v)
		}
		return nil
	})
	if err != nil || !is {
		return nil, is, err
	}
	switch {
	case e.sequence == 0:
		return nil, true, fmt.Errorf("event in slot %s has no sequence: subscribe to whole events", slot)
	case e.bootID == 0:
		return nil, true, fmt.Errorf("event in slot %s has no boot-id: subscribe to whole events", slot)
	case e.Class == "":
		return nil, true, fmt.Errorf("event in slot %s has no class: subscribe to whole events", slot)
	}
	// Leaves that say "not known" in so many words make no packet.
	for _, p := range []**decafpb.Packet{&e.Packet, &e.Inner} {
		if proto.Size((*p).GetFlow()) == 0 && *p != nil {
			(*p).Flow = nil
		}
		if proto.Size(*p) == 0 {
			*p = nil
		}
	}
	if e.TimeNs == 0 && n.GetTimestamp() > 0 {
		e.TimeNs = uint64(n.GetTimestamp())
	}
	e.Origin = &decafpb.Origin{Producer: n.GetPrefix().GetTarget(), BootId: e.bootID, Seq: e.sequence}
	return e.DropEvent, true, nil
}

// setHeader sets a leaf of a packet, made when it is the first; one that a later
// revision has is passed over.
func setHeader(table []leaf[decafpb.Packet], name string, p **decafpb.Packet, v *gnmipb.TypedValue) error {
	l := find(table, name)
	if l == nil {
		return nil
	}
	if *p == nil {
		*p = &decafpb.Packet{}
	}
	return l.set(*p, v)
}

func flowOf(p *decafpb.Packet) *decafpb.Flow {
	if p.Flow == nil {
		p.Flow = &decafpb.Flow{}
	}
	return p.Flow
}

func addressString(b []byte) string {
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return ""
	}
	return a.String()
}

func addressBytes(s string) ([]byte, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return nil, err
	}
	return a.WithZone("").AsSlice(), nil
}

func macString(b []byte) string {
	if len(b) != 6 {
		return ""
	}
	return net.HardwareAddr(b).String()
}

func macBytes(s string) ([]byte, error) {
	m, err := net.ParseMAC(s)
	if err != nil {
		return nil, err
	}
	if len(m) != 6 {
		return nil, fmt.Errorf("%q is no Ethernet address", s)
	}
	return m, nil
}

func prefixes(e *event) []string {
	var out []string
	for _, p := range e.Prefixes {
		if s := prefixString(p); s != "" {
			out = append(out, s)
		}
	}
	return out
}

func setPrefixes(e *event, list []string) error {
	if len(list) > maxPrefixes {
		return fmt.Errorf("%d prefixes are more than %d", len(list), maxPrefixes)
	}
	e.Prefixes = nil
	for _, s := range list {
		p, err := prefixOf(s)
		if err != nil {
			return err
		}
		e.Prefixes = append(e.Prefixes, p)
	}
	return nil
}
