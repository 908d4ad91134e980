package replay

import (
	"fmt"
	"io"
	"time"

	"decaf/sim/flow"
	"decaf/sim/scenario"
)

// FromGraph is the fabric's network. Its link ids are the graph's, and so are its
// node ids.
func FromGraph(g *flow.Graph) (*Topology, error) {
	t := NewTopology()
	// Devices first, in the graph's order, then hosts: as the graph numbers them.
	for n := range flow.Node(g.Devices()) {
		if _, err := t.node(g.Name(n), roleSwitch); err != nil {
			return nil, err
		}
	}
	for h := range g.Hosts() {
		if _, err := t.node(g.Name(g.HostNode(h)), roleHost); err != nil {
			return nil, err
		}
	}
	for l := flow.Link(0); int(l) < g.Links(); l += 2 {
		from, to := NodeID(g.From(l)), NodeID(g.To(l))
		if err := t.join(from, to); err != nil {
			return nil, err
		}
		if t.role[to] == roleHost {
			t.tor[to] = from
			t.hosts++
		}
	}
	return t, nil
}

// FabricOptions say what of the fabric's flows is recorded.
type FabricOptions struct {
	// AllPaths gives the paths of loss-free flows too. By default only flows that
	// lost something have been traced.
	AllPaths bool
	// NoTruth leaves the truth out.
	NoTruth bool
}

// FromFabric turns an epoch of the fabric into evidence on the topology of
// [FromGraph]: flows as hosts would tell of them, with the paths their tracers
// would have; drops as devices would; and the truth. Flows begun before the agents
// are not in it.
func FromFabric(f *flow.Fabric, in *flow.Epoch, o FabricOptions) *Epoch {
	start := f.Start().UnixNano()
	e := &Epoch{StartNS: uint64(start + int64(in.From)), EndNS: uint64(start + int64(in.To)), Flows: make([]Flow, 0, len(in.Flows))}
	g := f.Graph()
	late := f.Scenario().AgentsLate
	var truth *Truth
	if !o.NoTruth {
		truth = faultsOf(f, in.From, in.To)
		e.Truth = truth
	}
	next := 0 // of the losses
	var p [flow.MaxHops]LinkID
	for i := range in.Flows {
		x := &in.Flows[i]
		first := next
		for next < len(in.Losses) && int(in.Losses[next].Flow) == i {
			next++
		}
		if x.At < late {
			continue
		}
		fl := Flow{Src: NodeID(g.HostNode(int(x.Src))), Dst: NodeID(g.HostNode(int(x.Dst))), Packets: uint64(x.Sent), Retransmits: uint64(x.Resent)}
		if at := uint64(start + int64(x.At)); x.Resent > 0 && at > 0 {
			fl.Between = Between{at, at}
		}
		known := 0
		if x.Lost > 0 || o.AllPaths {
			known = int(x.Traced)
		}
		for k, l := range x.Path.Links()[:known] {
			p[k] = LinkID(l)
		}
		if known > 0 {
			e.AddFlow(fl, p[:known])
		} else {
			e.AddFlow(fl)
		}
		if truth != nil {
			truth.add(len(e.Flows)-1, in.Losses[first:next])
		}
	}
	for _, d := range in.Drops {
		e.Drops = append(e.Drops, Drop{Device: NodeID(d.Device), From: NodeID(d.From), To: NodeID(d.To), Class: d.Class, Count: d.Count})
	}
	for n := range flow.Node(g.Devices()) {
		if f.Instrumented(n, in.From, in.To) {
			e.Instrumented = append(e.Instrumented, NodeID(n))
		}
	}
	return e
}

// add notes the links on which a flow lost packets, each once.
func (t *Truth) add(flow int, losses []flow.Loss) {
	first := len(t.Causes)
next:
	for _, x := range losses {
		for _, c := range t.Causes[first:] {
			if c.Link == LinkID(x.Link) {
				continue next
			}
		}
		t.Causes = append(t.Causes, Cause{int32(flow), LinkID(x.Link)})
	}
}

// faultsOf lists the components with faults that lose packets in a span. Hosts that
// are only slow or refuse are not in it: this form of evidence cannot show them.
func faultsOf(f *flow.Fabric, from, to time.Duration) *Truth {
	t := new(Truth)
	g := f.Graph()
	for i, x := range f.Scenario().Faults {
		if !f.FaultTimes(i, from, to) {
			continue
		}
		switch kind, name, _ := scenario.SplitComponent(x.Component()); kind {
		case "link":
			if l, ok := g.LookupLink(name); ok {
				t.Links = appendOnce(t.Links, LinkID(l))
			}
		case "device":
			if n, ok := g.Lookup(name); ok {
				t.Devices = appendOnce(t.Devices, NodeID(n))
			}
		}
	}
	return t
}

func appendOnce[T comparable](list []T, x T) []T {
	for _, y := range list {
		if x == y {
			return list
		}
	}
	return append(list, x)
}

// WriteFabric records a whole run of the fabric, epoch by epoch.
func WriteFabric(out io.Writer, f *flow.Fabric, epoch time.Duration, o FabricOptions) error {
	if epoch <= 0 {
		return fmt.Errorf("record: an epoch of %s; give more than 0", epoch)
	}
	t, err := FromGraph(f.Graph())
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	w := NewWriter(out)
	if err := w.Topology(t); err != nil {
		return err
	}
	var in *flow.Epoch
	for from := time.Duration(0); from < f.Scenario().Duration; from += epoch {
		in = f.Flows(from, min(from+epoch, f.Scenario().Duration), in)
		if err := w.Epoch(FromFabric(f, in, o)); err != nil {
			return err
		}
	}
	return w.Flush()
}
