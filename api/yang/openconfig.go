package yang

import (
	"strings"
	"time"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

// The few standard paths that a monitoring system asks of any device, beside the
// module's own: names, types and meaning are those of the OpenConfig models
// (github.com/openconfig/public, release/models). That of firewall rules is in
// openconfig_acl.go.

// openconfig lists the models that the standard paths are of, each in the version
// that the paths were held against.
var openconfig = []*gnmipb.ModelData{
	{Name: "openconfig-interfaces", Organization: "OpenConfig working group", Version: "3.8.1"},                 // revision 2026-01-06
	{Name: "openconfig-qos", Organization: "OpenConfig working group", Version: "2.2.0"},                        // 2026-04-30
	{Name: "openconfig-platform", Organization: "OpenConfig working group", Version: "0.32.0"},                  // 2025-07-15
	{Name: "openconfig-platform-pipeline-counters", Organization: "OpenConfig working group", Version: "0.6.0"}, // 2026-04-30
	{Name: "openconfig-acl", Organization: "OpenConfig working group", Version: "1.3.3"},                        // 2023-02-06
}

// Models are the models of Schema as Capabilities lists them.
func Models() []*gnmipb.ModelData { return append([]*gnmipb.ModelData{Model()}, openconfig...) }

// InterfaceLoss is what an interface counts of its losses.
type InterfaceLoss struct {
	Name                              string
	InErrors, InDiscards, InFCSErrors uint64
	OutErrors, OutDiscards            uint64
}

var interfaceLeaves = within("", []leaf[InterfaceLoss]{
	counter64("in-discards", func(i *InterfaceLoss) *uint64 { return &i.InDiscards }),
	counter64("in-errors", func(i *InterfaceLoss) *uint64 { return &i.InErrors }),
	counter64("in-fcs-errors", func(i *InterfaceLoss) *uint64 { return &i.InFCSErrors }),
	counter64("out-discards", func(i *InterfaceLoss) *uint64 { return &i.OutDiscards }),
	counter64("out-errors", func(i *InterfaceLoss) *uint64 { return &i.OutErrors }),
})

// counter64 is a counter of a record.
func counter64[T any](name string, of func(*T) *uint64) leaf[T] {
	return leaf[T]{name: name, typ: Uint64, always: true,
		getUint: func(r *T) uint64 { return *of(r) },
		setUint: func(r *T, v uint64) { *of(r) = v }}
}

// InterfaceUpdates returns the counters as notifications with prefix
// /interfaces/interface[name=N]/state, and /counters below it.
func InterfaceUpdates(i InterfaceLoss, now time.Time) []*gnmipb.Notification {
	at := []*gnmipb.PathElem{{Name: "interfaces"}, {Name: "interface", Key: map[string]string{"name": i.Name}}, {Name: "state"}}
	return []*gnmipb.Notification{
		named(at, "name", i.Name, now),
		{Timestamp: now.UnixNano(), Prefix: &gnmipb.Path{Elem: append(at[:3:3], &gnmipb.PathElem{Name: "counters"})}, Update: encode(nil, interfaceLeaves, &i)},
	}
}

// named is a state container that holds its list entry's key alone.
func named(at []*gnmipb.PathElem, key, name string, now time.Time) *gnmipb.Notification {
	return &gnmipb.Notification{Timestamp: now.UnixNano(), Prefix: &gnmipb.Path{Elem: at}, Update: []*gnmipb.Update{{
		Path: &gnmipb.Path{Elem: []*gnmipb.PathElem{{Name: key}}},
		Val:  &gnmipb.TypedValue{Value: &gnmipb.TypedValue_StringVal{StringVal: name}},
	}}}
}

// QueueLoss is what a queue of an interface counts of its losses.
type QueueLoss struct {
	Interface, Name string
	DroppedPkts     uint64
	DroppedOctets   uint64
	Octets          bool // they are known
}

var queueLeaves = within("", []leaf[QueueLoss]{
	{name: "name", typ: String,
		getString: func(q *QueueLoss) string { return q.Name },
		setString: func(q *QueueLoss, v string) error { q.Name = v; return nil }},
	counter64("dropped-pkts", func(q *QueueLoss) *uint64 { return &q.DroppedPkts }),
	{name: "dropped-octets", typ: Uint64, always: true,
		absent:  func(q *QueueLoss) bool { return !q.Octets },
		getUint: func(q *QueueLoss) uint64 { return q.DroppedOctets },
		setUint: func(q *QueueLoss, v uint64) { q.DroppedOctets, q.Octets = v, true }},
})

// QueueUpdates returns the counters as notifications with prefix
// /qos/interfaces/interface[interface-id=I]/state, and
// …/output/queues/queue[name=N]/state below that interface.
func QueueUpdates(q QueueLoss, now time.Time) []*gnmipb.Notification {
	at := []*gnmipb.PathElem{{Name: "qos"}, {Name: "interfaces"}, {Name: "interface", Key: map[string]string{"interface-id": q.Interface}}}
	return []*gnmipb.Notification{
		named(append(at[:3:3], &gnmipb.PathElem{Name: "state"}), "interface-id", q.Interface, now),
		{Timestamp: now.UnixNano(), Update: encode(nil, queueLeaves, &q), Prefix: &gnmipb.Path{Elem: append(at[:3:3],
			&gnmipb.PathElem{Name: "output"}, &gnmipb.PathElem{Name: "queues"},
			&gnmipb.PathElem{Name: "queue", Key: map[string]string{"name": q.Name}}, &gnmipb.PathElem{Name: "state"})}},
	}
}

// pipeline are the drops of a forwarding component. A packet is in one of the
// first three at most: the model leaves to the counters of interfaces what arrived
// damaged, and to those of interfaces and queues what found one of theirs full.
type pipeline struct {
	adverse, congestion, processing uint64
	urpf                            uint64
	acl, noRoute, noLabel, invalid  uint64
}

var dropLeaves = within("", []leaf[pipeline]{
	counter64("adverse-aggregate", func(p *pipeline) *uint64 { return &p.adverse }),
	counter64("congestion-aggregate", func(p *pipeline) *uint64 { return &p.congestion }),
	counter64("no-route", func(p *pipeline) *uint64 { return &p.noRoute }),
	counter64("packet-processing-aggregate", func(p *pipeline) *uint64 { return &p.processing }),
	counter64("urpf-aggregate", func(p *pipeline) *uint64 { return &p.urpf }),
})

var lookupLeaves = within("", []leaf[pipeline]{
	counter64("acl-drops", func(p *pipeline) *uint64 { return &p.acl }),
	counter64("invalid-packet", func(p *pipeline) *uint64 { return &p.invalid }),
	counter64("no-label", func(p *pipeline) *uint64 { return &p.noLabel }),
	counter64("no-route", func(p *pipeline) *uint64 { return &p.noRoute }),
})

// pipelineClasses tell where the drops of a class, and of all below it, are
// counted; the first that fits counts. Decisions that a healthy device takes are
// packet processing, what it should not do is adverse, and a packet that arrived
// damaged is neither: it tells of a cable or a neighbour.
var pipelineClasses = []struct {
	class string
	of    []func(*pipeline) *uint64
}{
	{"no-buffer", []func(*pipeline) *uint64{(*pipeline).atCongestion}},
	{"policy/l3/rpf", []func(*pipeline) *uint64{(*pipeline).atProcessing, func(p *pipeline) *uint64 { return &p.urpf }}},
	{"policy/l2/acl", []func(*pipeline) *uint64{(*pipeline).atProcessing, func(p *pipeline) *uint64 { return &p.acl }}},
	{"policy/l3/acl", []func(*pipeline) *uint64{(*pipeline).atProcessing, func(p *pipeline) *uint64 { return &p.acl }}},
	{"policy", []func(*pipeline) *uint64{(*pipeline).atProcessing}},
	{"errors/l3/rx/no-route", []func(*pipeline) *uint64{(*pipeline).atProcessing, func(p *pipeline) *uint64 { return &p.noRoute }}},
	{"errors/l3/rx/ttl-expired", []func(*pipeline) *uint64{(*pipeline).atProcessing}},
	{"errors/l3/rx/mtu-exceeded", []func(*pipeline) *uint64{(*pipeline).atProcessing}},
	{"errors/l3/rx/checksum-error", []func(*pipeline) *uint64{func(p *pipeline) *uint64 { return &p.invalid }}},
	{"errors/l3/rx/invalid-packet", []func(*pipeline) *uint64{func(p *pipeline) *uint64 { return &p.invalid }}},
	{"errors/l3/rx/invalid-sid", []func(*pipeline) *uint64{(*pipeline).atProcessing}},
	{"errors/l3/rx/invalid-label", []func(*pipeline) *uint64{(*pipeline).atProcessing, func(p *pipeline) *uint64 { return &p.noLabel }}},
	{"errors/l2/rx", nil},
	{"", []func(*pipeline) *uint64{(*pipeline).atAdverse}},
}

func (p *pipeline) atAdverse() *uint64    { return &p.adverse }
func (p *pipeline) atCongestion() *uint64 { return &p.congestion }
func (p *pipeline) atProcessing() *uint64 { return &p.processing }

// PipelineUpdates returns the drops of all classes as those of the component with
// the device's name, an integrated circuit: notifications with prefix
// /components/component[name=N]/state, and
// …/integrated-circuit/pipeline-counters/drop/state and …/drop/lookup-block/state.
// What is no drop, class anomaly, is left out. queued are packets of class no-buffer
// that the counters of interfaces and queues show.
func PipelineUpdates(device string, classes []ClassCounters, queued uint64, now time.Time) []*gnmipb.Notification {
	var p pipeline
	for _, c := range classes {
		if isClass(c.Name, "anomaly") {
			continue
		}
		if isClass(c.Name, "no-buffer") {
			c.Packets -= min(queued, c.Packets)
		}
		for _, row := range pipelineClasses {
			if isClass(c.Name, row.class) {
				for _, of := range row.of {
					*of(&p) += c.Packets
				}
				break
			}
		}
	}
	at := []*gnmipb.PathElem{{Name: "components"}, {Name: "component", Key: map[string]string{"name": device}}}
	below := func(names ...string) *gnmipb.Path {
		out := &gnmipb.Path{Elem: at[:2:2]}
		for _, n := range names {
			out.Elem = append(out.Elem, &gnmipb.PathElem{Name: n})
		}
		return out
	}
	component := named(below("state").Elem, "name", device, now)
	component.Update = append(component.Update, &gnmipb.Update{
		Path: &gnmipb.Path{Elem: []*gnmipb.PathElem{{Name: "type"}}},
		Val:  identity("openconfig-platform-types:INTEGRATED_CIRCUIT"),
	})
	return []*gnmipb.Notification{
		component,
		{Timestamp: now.UnixNano(), Prefix: below("integrated-circuit", "pipeline-counters", "drop", "state"), Update: encode(nil, dropLeaves, &p)},
		{Timestamp: now.UnixNano(), Prefix: below("integrated-circuit", "pipeline-counters", "drop", "lookup-block", "state"), Update: encode(nil, lookupLeaves, &p)},
	}
}

// identity is the value of a leaf of type identityref, whose text is the same in
// every encoding (RFC 7951, section 6.8).
func identity(name string) *gnmipb.TypedValue {
	return &gnmipb.TypedValue{Value: &gnmipb.TypedValue_StringVal{StringVal: name}}
}

// isClass reports whether a class is another or below it.
func isClass(class, top string) bool {
	return top == "" || class == top || strings.HasPrefix(class, top+"/")
}

// standard is the schema of the standard paths.
func standard() []*Node {
	key := func(name string) *Node { return &Node{Name: name, Type: String} }
	state := func(children ...*Node) *Node { return &Node{Name: "state", Children: children} }
	return []*Node{
		{Name: "interfaces", Module: "openconfig-interfaces", Children: []*Node{{Name: "interface", Keys: []string{"name"}, Children: []*Node{
			key("name"),
			state(key("name"), &Node{Name: "counters", Children: leaves(interfaceLeaves, State)}),
		}}}},
		{Name: "qos", Module: "openconfig-qos", Children: []*Node{{Name: "interfaces", Children: []*Node{{Name: "interface", Keys: []string{"interface-id"}, Children: []*Node{
			key("interface-id"), state(key("interface-id")),
			{Name: "output", Children: []*Node{{Name: "queues", Children: []*Node{{Name: "queue", Keys: []string{"name"}, Children: []*Node{
				key("name"), state(leaves(queueLeaves, State)...),
			}}}}}},
		}}}}}},
		{Name: "components", Module: "openconfig-platform", Children: []*Node{{Name: "component", Keys: []string{"name"}, Children: []*Node{
			key("name"), state(key("name"), &Node{Name: "type", Type: String}),
			{Name: "integrated-circuit", Children: []*Node{{Name: "pipeline-counters", Module: "openconfig-platform-pipeline-counters", Children: []*Node{{Name: "drop", Children: []*Node{
				state(leaves(dropLeaves, State)...),
				{Name: "lookup-block", Children: []*Node{state(leaves(lookupLeaves, State)...)}},
			}}}}}},
		}}}},
		aclSchema(),
	}
}
