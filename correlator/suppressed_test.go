package correlator

import (
	"maps"
	"strings"
	"testing"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// In a storm a device's class goes above its threshold and its drops are counted
// only. A storm of that kind is named as one that is told of drop by drop: the
// device, with its class, and nothing beside it; and each drop counts once.
func TestStormToldByAggregates(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	const at, end = 100 * second, 116 * second
	for _, c := range []struct {
		device string
		link   string
		class  string
		rate   float64
	}{
		{"t2-0", "", "policy/l3/acl", 1},
		{"p0-t1-1", "", "policy/l3/acl", .1},
		{"p1-t1-0", "", "errors/l3/rx/no-route", 1},
		{"p0-t1-0", "p0-t1-0>t2-1", classNoBuffer, .1},
	} {
		f := fault{device: c.device, class: c.class, rate: c.rate, at: at, end: end}
		want := "device " + c.device
		if c.link != "" {
			f.device, f.link, want = "", linkOf(t, topo, c.link), "link "+c.link
		}
		fb := newFabric(topo, 1, f)
		arrivals, packets, others := counted(fb.run(at-10*second, end+5*second), c.class, c.device, 3)
		e := play(topo, arrivals, end+30*second)
		fs := e.Findings()
		if len(fs) != 1 || fs[0].GetComponent() != want || fs[0].GetClass() != c.class {
			t.Errorf("%s: %d findings", want, len(fs))
			for _, f := range fs {
				t.Errorf("   %s %s %v", f.GetComponent(), f.GetClass(), f.GetEvidence().GetReasons())
			}
			continue
		}
		if took := int64(fs[0].GetDetectedNs()) - at; took > 5*second {
			t.Errorf("%s: named after %.2f s", want, float64(took)/1e9)
		}
		st := e.store.Stats()
		sum := uint64(0)
		for _, d := range e.store.drops {
			if d.counted() {
				sum += d.packets
			}
		}
		if sum != packets-others || st.Suppressed != packets || st.Aggregates == 0 {
			t.Errorf("%s: %d drops told by %d aggregates, %d held; want %d but for %d", want, st.Suppressed, st.Aggregates, sum, packets, others)
		}
	}
}

// counted puts, in place of a device's events of a class, one aggregate a second
// with its top flows, but for the first few events. It gives how many packets the
// aggregates alone tell of, and how many of these are no TCP and named.
func counted(list []arrival, class, device string, events int) (out []arrival, packets, others uint64) {
	var a *decafpb.LossAggregate
	flows := map[packet.Flow]*decafpb.FlowCount{}
	seq, told := uint64(0), 0
	flush := func() {
		if a == nil {
			return
		}
		seq++
		a.Origin = &decafpb.Origin{Producer: device, BootId: 1, Seq: seq}
		packets += a.SuppressedThreshold
		for f, n := range flows {
			if f.Proto != packet.TCP { // an answer to a probe
				others += n.Packets
			}
		}
		for _, again := range []int64{0, 1e6} { // the bus may deliver it twice
			out = append(out, arrival{int64(a.EndNs) + 20e6 + again, &decafpb.Batch{Aggregates: []*decafpb.LossAggregate{a}}})
		}
		a = nil
		clear(flows)
	}
	for _, x := range list {
		if a != nil && x.at >= int64(a.EndNs) {
			flush()
		}
		drops := x.batch.GetDrops()
		if len(drops) == 0 || drops[0].GetClass() != class || drops[0].GetOrigin().GetProducer() != device {
			out = append(out, x)
			continue
		}
		d := drops[0]
		if a == nil {
			start := x.at / second * second
			a = &decafpb.LossAggregate{StartNs: uint64(start), EndNs: uint64(start + second), Class: class, Reason: d.Reason, Ingress: d.Ingress, Egress: d.Egress}
		}
		a.Packets++
		if told < events {
			told++
			a.Events++
			out = append(out, x)
			continue
		}
		a.SuppressedThreshold++
		f, _ := packet.FlowFromPB(d.GetPacket().GetFlow())
		if flows[f] == nil && len(a.TopFlows) < 10 {
			flows[f] = &decafpb.FlowCount{Flow: d.GetPacket().GetFlow()}
			a.TopFlows = append(a.TopFlows, flows[f])
		}
		if flows[f] != nil {
			flows[f].Packets++
		}
	}
	flush()
	return out, packets, others
}

// What an aggregate does not make evidence of.
func TestAggregatesThatAreNoEvidence(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	flow := packet.Flow{Src: addrPortString("10.0.0.2:4000"), Dst: addrPortString("10.1.1.3:80"), Proto: packet.TCP}.PB()
	for _, c := range []struct {
		name  string
		a     *decafpb.LossAggregate
		drops int
	}{
		{"all had their events", &decafpb.LossAggregate{Class: "policy/l3/acl", Packets: 10, Events: 10}, 0},
		{"the flow had an event already", &decafpb.LossAggregate{Class: "policy/l3/acl", Packets: 10, Events: 1, SuppressedDuplicate: 9}, 0},
		{"traces", &decafpb.LossAggregate{Class: classTTL, Packets: 10, SuppressedThreshold: 10}, 0},
		{"an anomaly", &decafpb.LossAggregate{Class: "anomaly/loop", Packets: 10, SuppressedThreshold: 10}, 0},
		{"a stranger's", &decafpb.LossAggregate{Origin: &decafpb.Origin{Producer: "x", BootId: 1, Seq: 1}, Class: "policy/l3/acl", Packets: 10, SuppressedThreshold: 10}, 0},
		{"of no length", &decafpb.LossAggregate{StartNs: 9, EndNs: 8, Class: "policy/l3/acl", Packets: 10, SuppressedThreshold: 10}, 0},
		{"no flow for certain", &decafpb.LossAggregate{Class: "policy/l3/acl", Packets: 10, SuppressedFuse: 10,
			TopFlows: []*decafpb.FlowCount{{Flow: flow, Packets: 4, PacketsError: 4}}}, 1},
		{"a flow and the rest", &decafpb.LossAggregate{Class: "policy/l3/acl", Packets: 10, SuppressedQueue: 10,
			TopFlows: []*decafpb.FlowCount{{Flow: flow, Packets: 4, PacketsError: 1}}}, 2},
		{"a path test's filter", &decafpb.LossAggregate{Class: "policy/l3/acl", Packets: 500, SuppressedFilter: 500}, 1},
		{"more named than untold", &decafpb.LossAggregate{Class: "policy/l3/acl", Packets: 1000, Events: 998, SuppressedQueue: 2,
			TopFlows: []*decafpb.FlowCount{{Flow: flow, Packets: 900}}}, 1},
	} {
		s := NewStore(topo, DefaultStoreLimits())
		if c.a.Origin == nil {
			c.a.Origin = &decafpb.Origin{Producer: "t2-0", BootId: 1, Seq: 1}
		}
		s.AddAggregate(c.a, 5)
		s.AddAggregate(c.a, 6) // again
		sum := uint64(0)
		for _, d := range s.drops {
			sum += d.packets
		}
		untold := c.a.SuppressedThreshold + c.a.SuppressedFuse + c.a.SuppressedQueue + c.a.SuppressedFilter
		if len(s.drops) != c.drops || c.drops > 0 && sum != untold {
			t.Errorf("%s: %d drops for %d packets, want %d", c.name, len(s.drops), sum, c.drops)
		}
	}
}

// A device's word that its routes flap is a reason beside its drops, and the class
// where there is none; it is no drop.
func TestRouteFlapsAreReasons(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	s := NewStore(topo, DefaultStoreLimits())
	for i := range uint64(5) {
		s.AddRoute(&decafpb.RouteEvent{Origin: &decafpb.Origin{Producer: "t2-0", BootId: 1, Seq: i + 1}, TimeNs: uint64(100*second) + i, Change: decafpb.RouteChange(1 + i%3)})
	}
	s.AddRoute(&decafpb.RouteEvent{Origin: &decafpb.Origin{Producer: "t2-0", BootId: 1, Seq: 3}, TimeNs: uint64(100 * second), Change: decafpb.RouteChange_ROUTE_CHANGE_FLAPPING})
	s.AddDrop(&decafpb.DropEvent{Origin: &decafpb.Origin{Producer: "t2-0", BootId: 1, Seq: 1}, TimeNs: uint64(101 * second), Class: classRouteFlap}, 101*second)
	s.AddDrop(&decafpb.DropEvent{Origin: &decafpb.Origin{Producer: "t2-0", BootId: 1, Seq: 2}, TimeNs: uint64(101 * second), Class: "anomaly/loop"}, 101*second)
	s.AddRoute(&decafpb.RouteEvent{Origin: &decafpb.Origin{Producer: "stranger", BootId: 1, Seq: 1}, TimeNs: 1, Change: decafpb.RouteChange_ROUTE_CHANGE_FLAPPING})
	if st := s.Stats(); len(s.drops) != 0 || st.Drops != 0 || st.Anomalies != 2 || st.Routes != 6 || st.Invalid != 1 || len(s.flapping) != 2 {
		t.Errorf("%d drops, %d flaps, %+v", len(s.drops), len(s.flapping), st)
	}
	w := &Window{Topo: topo, Start: 90 * second, End: 120 * second}
	list := []Candidate{
		{Component: Component{Node: "t2-0"}}, {Component: Component{Node: "t2-0"}, Class: "errors/l3/rx/no-route"},
		{Component: Component{Node: "t2-1"}}, {Component: Component{Link: topo.Links[0]}},
	}
	s.unsteady(w, list)
	for i, want := range []struct {
		class   string
		reasons int
	}{{classRouteFlap, 1}, {"errors/l3/rx/no-route", 1}, {"", 0}, {"", 0}} {
		if list[i].Class != want.class || len(list[i].Reasons) != want.reasons || want.reasons > 0 && !strings.Contains(list[i].Reasons[0], "2 times") {
			t.Errorf("%d: %q %v, want %+v", i, list[i].Class, list[i].Reasons, want)
		}
	}
	for i := range 3 * maxFlaps {
		s.flaps("t2-1", int64(i))
	}
	if len(s.flapping) > maxFlaps || s.Stats().EvictedFlaps == 0 {
		t.Errorf("%d flaps held", len(s.flapping))
	}
}

// Drops without an event of their own are counted by device and by why.
func TestUntoldByReason(t *testing.T) {
	t.Parallel()
	s := NewStore(smallClos(t), DefaultStoreLimits())
	for i, a := range []*decafpb.LossAggregate{
		{SuppressedThreshold: 5, SuppressedFuse: 2},
		{SuppressedThreshold: 1, SuppressedQueue: 3, SuppressedFilter: 4, SuppressedDuplicate: 9},
	} {
		a.Origin = &decafpb.Origin{Producer: "t2-0", BootId: 1, Seq: uint64(i + 1)}
		a.StartNs, a.EndNs, a.Class, a.Packets = uint64(100*second), uint64(101*second), "no-buffer", 30
		s.AddAggregate(a, 101*second)
		s.AddAggregate(a, 102*second) // again
	}
	if got, want := s.untold["t2-0"].byReason(), map[string]uint64{"threshold": 6, "fuse": 2, "queue": 3, "filter": 4, "duplicate": 9}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := s.untold["t2-1"].byReason(); got != nil {
		t.Errorf("of a device that told nothing: %v", got)
	}
}
