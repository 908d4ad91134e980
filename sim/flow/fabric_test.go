package flow

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/sim/scenario"

	"google.golang.org/protobuf/proto"
)

// Every kind a scenario may name is made here, on what the scenario says.
func TestEveryKindIsMade(t *testing.T) {
	var names []string
	for _, k := range kinds {
		names = append(names, k.name)
		if on := scenario.HappensOn(k.name); on == "host" != (k.stage == stageHost) {
			t.Errorf("%s happens on a %s", k.name, on)
		}
	}
	known := scenario.Kinds()
	slices.Sort(names)
	slices.Sort(known)
	if !slices.Equal(names, known) {
		t.Errorf("the fabric makes %v, scenarios know %v", names, known)
	}
}

func TestFaultsThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		fault scenario.Fault
		want  string
	}{
		{scenario.Fault{Kind: "gremlins", On: "device t2-0", Rate: 1}, "cannot make"},
		{scenario.Fault{Kind: "acl", On: "device t2-9", Rate: 1}, "no device t2-9"},
		{scenario.Fault{Kind: "acl", On: "link t2-0>p0-t1-0", Rate: 1}, "happens on a device"},
		{scenario.Fault{Kind: "acl", On: "random t2", Rate: 1}, "draw the scenario first"},
		{scenario.Fault{Kind: "acl", On: "device t2-0", Rate: 2}, "rate"},
		{scenario.Fault{Kind: "host-slow", On: "host p0-tor0", Rate: 1}, "no host p0-tor0"},
		{scenario.Fault{Kind: "acl", On: "device p0-tor0-h0", Rate: 1}, "no device"},
		{scenario.Fault{Kind: "no-route", On: "device t2-0", Rate: 1, Match: scenario.Match{Port: 80}}, "destinations only"},
		{scenario.Fault{Kind: "device-down", On: "device t2-0", Rate: 1, Match: scenario.Match{Dst: "p0-tor0-h0"}}, "takes all"},
		{scenario.Fault{Kind: "acl", On: "device t2-0", Rate: 1, Match: scenario.Match{Dst: "fd00::/8"}}, "no addresses of that version"},
		{scenario.Fault{Kind: "acl", On: "device t2-0", Rate: 1, Match: scenario.Match{Src: "nobody"}}, "no host"},
	} {
		s := parse(t, "duration: 30s\n")
		s.Faults = []scenario.Fault{c.fault}
		if _, err := New(s, 1, Options{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s on %s: %v; want %q in it", c.fault.Kind, c.fault.On, err, c.want)
		}
	}
}

// What each fault shows: the classes that devices tell, the kinds that hosts send
// again, and the truth.
func TestWhatEachFaultShows(t *testing.T) {
	retransmits := []decafpb.RetransmitKind{kindFast, kindRTO, kindTLP}
	for _, c := range []struct {
		fault  string
		device string // that tells of it, "" none
		class  string
		kinds  []decafpb.RetransmitKind // among others
	}{
		{"on: link p0-t1-0>t2-1, kind: silent-loss, rate: 5%", "", "", retransmits},
		{"on: link p0-t1-0>t2-1, kind: corrupt, rate: 5%", "t2-1", "errors/l2/rx/crc-error", retransmits},
		{"on: link p0-t1-0>t2-1, kind: duplex", "t2-1", "errors/l2/rx/invalid-frame", retransmits},
		{"on: link p0-t1-0>t2-1, kind: queue", "p0-t1-0", "no-buffer", retransmits},
		{"on: device t2-1, kind: acl", "t2-1", "policy/l3/acl", []decafpb.RetransmitKind{kindSYN}},
		{"on: device t2-1, kind: acl, rate: 10%", "t2-1", "policy/l3/acl", retransmits},
		{"on: device t2-1, kind: blackhole, match: {dst: p0-tor0-h0}", "t2-1", "policy/l3/null-route", []decafpb.RetransmitKind{kindSYN}},
		{"on: device t2-1, kind: no-route", "t2-1", "errors/l3/rx/no-route", []decafpb.RetransmitKind{kindSYN}},
		{"on: device t2-1, kind: ttl-loop, rate: 20%", "t2-1", "errors/l3/rx/ttl-expired", retransmits},
		{"on: device t2-1, kind: mtu", "t2-1", "errors/l3/rx/mtu-exceeded", []decafpb.RetransmitKind{kindTLP, kindRTO}},
		{"on: device t2-1, kind: route-flap", "t2-1", "errors/l3/rx/no-route", []decafpb.RetransmitKind{kindSYN}},
		{"on: device t2-1, kind: device-down", "", "", []decafpb.RetransmitKind{kindSYN}},
		{"on: device t2-1, kind: device-loss, rate: 5%", "", "", retransmits},
		{"on: device t2-1, kind: syn-blackhole, rate: 50%", "", "", []decafpb.RetransmitKind{kindSYN}},
		{"on: host p0-tor0-h0, kind: host-slow", "", "", []decafpb.RetransmitKind{kindTLP}},
		{"on: host p0-tor0-h0, kind: server-slow", "", "", nil},
		{"on: host p0-tor0-h0, kind: server-reset, rate: 50%", "", "", nil},
	} {
		t.Run(strings.NewReplacer(",", "", ":", "", " ", "_").Replace(c.fault), func(t *testing.T) {
			s := oneFault(t, c.fault)
			f := build(t, s, 1, Options{})
			all := play(t, f)
			truth := f.Truth()
			hostFault := f.faults[0].stage == stageHost
			if hostFault {
				if truth.Faults[0].Packets != 0 || truth.Faults[0].Connections == 0 || len(truth.Losses) != 0 {
					t.Errorf("truth: %+v, %d packets died", truth.Faults[0], len(truth.Losses))
				}
			} else if truth.Faults[0].Packets == 0 {
				t.Error("the fault took nothing")
			}
			if truth.Faults[0].Component != s.Faults[0].Component() || truth.Noise != 0 || truth.LeftOut != 0 {
				t.Errorf("truth: %+v, noise %d, left out %d", truth.Faults[0], truth.Noise, truth.LeftOut)
			}

			probes := map[uint32]bool{}
			for _, r := range all.retransmits {
				probes[r.GetPath().GetProbeSeq()] = true
			}
			told := 0
			for _, d := range all.drops {
				if d.GetClass() == "errors/l3/rx/ttl-expired" && probes[d.GetPacket().GetTcpSeq()] {
					continue // a trace's
				}
				if c.device == "" || d.Class != c.class {
					t.Fatalf("%s tells of %s (%s)", d.Origin.Producer, d.Class, d.Packet)
				}
				// In a loop the TTL may end at the device's neighbour as well.
				if d.Origin.Producer != c.device && s.Faults[0].Kind != "ttl-loop" {
					t.Fatalf("%s tells of the fault", d.Origin.Producer)
				}
				told++
			}
			if c.device != "" && told == 0 {
				t.Errorf("%s tells nothing", c.device)
			}

			seen := map[decafpb.RetransmitKind]int{}
			for _, r := range all.retransmits {
				if !r.Undone {
					seen[r.Kind]++
				}
			}
			for _, k := range c.kinds {
				if seen[k] == 0 {
					t.Errorf("no %s among %v", k, seen)
				}
			}
			if c.kinds == nil && len(seen) > 0 {
				t.Errorf("sent again: %v", seen)
			}
		})
	}
}

// Where the device tells of the packet and the host of its retransmit, both name
// the same segment: this is what the project joins.
func TestDropsMatchRetransmits(t *testing.T) {
	type segment struct {
		flow packet.Flow
		seq  uint32
	}
	for _, fault := range []string{"on: device t2-1, kind: acl, rate: 3%", "on: link p0-t1-0>t2-1, kind: queue", "on: device p0-tor0, kind: mtu"} {
		f := build(t, oneFault(t, fault), 1, Options{})
		all := play(t, f)
		again := map[segment]bool{}
		for _, r := range all.retransmits {
			flow, err := packet.FlowFromPB(r.Flow)
			if err != nil {
				t.Fatal(err)
			}
			again[segment{flow, r.TcpSeq}] = true
		}
		data, matched := 0, 0
		for _, d := range all.drops {
			p := d.Packet
			if d.Class == "errors/l3/rx/ttl-expired" || p.Length < fullSize {
				continue
			}
			flow, err := packet.FlowFromPB(p.Flow)
			if err != nil {
				t.Fatal(err)
			}
			data++
			if again[segment{flow, p.TcpSeq}] {
				matched++
			}
		}
		// All but what a connection that is given up had still in flight.
		if data == 0 || fault[0:10] != "on: device" && matched != data || matched*3 < data {
			t.Errorf("%s: %d of %d dropped data segments are sent again", fault, matched, data)
		}
	}
}

// The headers in drop events say what the rest of the event says.
func TestDropEventsShowThePacket(t *testing.T) {
	f := build(t, oneFault(t, "on: device t2-1, kind: acl, rate: 20%"), 1, Options{})
	icmp := 0
	g := f.Graph()
	for _, d := range play(t, f).drops {
		p, err := packet.Decode(d.Packet.Header)
		if err != nil {
			t.Fatal(err)
		}
		p.SrcMac, p.DstMac = d.Packet.SrcMac, d.Packet.DstMac
		if !proto.Equal(p, d.Packet) {
			t.Fatalf("the header reads %v, the event says %v", p, d.Packet)
		}
		if sum := headerSum(d.Packet.Header[:20]); sum != 0xffff {
			t.Fatalf("the IP header's checksum is wrong: %x", sum)
		}
		if p.Flow.Protocol == uint32(packet.ICMP) {
			icmp++
		}
		n, _ := g.Lookup(d.Origin.Producer)
		for _, name := range []string{d.Ingress, d.Egress} {
			if name != "" && !slices.ContainsFunc(g.linksFrom(n), func(l Link) bool { return g.egress(l) == name }) {
				t.Fatalf("%s has no interface %s", d.Origin.Producer, name)
			}
		}
		if d.Class == "policy/l3/acl" && (d.Ingress == "" || d.Egress == "" || d.Origin.Producer != "t2-1" || p.TcpSeq != 0 && p.Length > probeSize && p.Ttl != firstTTL-3) {
			t.Fatalf("access list: %v", d)
		}
	}
	if icmp == 0 {
		t.Error("no answer to a probe was filtered")
	}
}

func headerSum(b []byte) uint32 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	return sum>>16 + sum&0xffff
}

// A complete trace is the flow's own path, by inbound addresses; the rest says why.
func TestTracesShowThePath(t *testing.T) {
	f := build(t, oneFault(t, "on: link p0-t1-0>t2-1, kind: silent-loss, rate: 3%"), 1, Options{})
	topo, err := f.Scenario().Fabric.Topology()
	if err != nil {
		t.Fatal(err)
	}
	status := map[decafpb.PathStatus]int{}
	traces := map[uint32]bool{}
	through := 0
	for _, r := range play(t, f).retransmits {
		if r.Undone {
			continue
		}
		p := r.Path
		status[p.Status]++
		if p.Status == decafpb.PathStatus_PATH_STATUS_COMPLETE {
			if traces[p.ProbeSeq] {
				t.Fatal("one trace shows twice as a new one")
			}
			traces[p.ProbeSeq] = true
		}
		if len(p.Hops) != int(p.Distance) || p.ProbeId&63 != 0 || p.ProbeId == 0 {
			t.Fatalf("path %v", p)
		}
		at := ""
		for i, h := range p.Hops {
			if h.Status != decafpb.HopStatus_HOP_STATUS_ANSWERED {
				continue
			}
			a, _ := netip.AddrFromSlice(h.Address)
			iface, ok := topo.InterfaceAt(a)
			if !ok || h.Ttl != uint32(i+1) {
				t.Fatalf("hop %v", h)
			}
			l, _ := topo.LinkInto(iface.Node, iface.Name)
			if at != "" && l.From.Node != at {
				t.Fatalf("the path jumps from %s to %s", at, l.Name)
			}
			at = iface.Node
			if l.Name == "p0-t1-0>t2-1" {
				through++
			}
		}
	}
	if status[decafpb.PathStatus_PATH_STATUS_COMPLETE] == 0 || status[decafpb.PathStatus_PATH_STATUS_CACHED] == 0 || through == 0 {
		t.Errorf("paths: %v, %d through the faulty link", status, through)
	}
}

func TestTraceBudgetAndLateAgents(t *testing.T) {
	s := oneFault(t, "on: device p0-tor0, kind: device-loss, rate: 20%")
	s.TraceBudget = 1
	s.AgentsLate = 10 * time.Second
	f := build(t, s, 1, Options{})
	all := play(t, f)
	refused, made := 0, map[string]int{}
	for _, r := range all.retransmits {
		if r.TimeNs < f.clock(s.AgentsLate) {
			t.Fatalf("a retransmit of %s, before there were agents", time.Duration(r.TimeNs-f.clock(0)))
		}
		switch r.Path.GetStatus() {
		case decafpb.PathStatus_PATH_STATUS_REFUSED:
			refused++
		case decafpb.PathStatus_PATH_STATUS_COMPLETE, decafpb.PathStatus_PATH_STATUS_PARTIAL, decafpb.PathStatus_PATH_STATUS_FAILED:
			made[r.Origin.Producer]++
		}
	}
	for host, n := range made {
		if n > 5+25 {
			t.Errorf("%s made %d traces at 1/s", host, n)
		}
	}
	if refused == 0 {
		t.Error("no trace was refused")
	}
	for _, h := range all.heartbeats {
		if h.TimeNs < f.clock(s.AgentsLate) {
			t.Fatal("a heartbeat before there were agents")
		}
	}
	if len(f.Truth().Losses) == 0 || f.Truth().Losses[0].At >= s.AgentsLate {
		t.Error("the truth begins with the agents")
	}
}

// Heartbeats come from all agents that are up, and from no other device.
func TestHeartbeats(t *testing.T) {
	s := parse(t, "duration: 30s\ninstrumented: 50%\nlying: 100%\nfaults:\n  - {at: 10s, for: 10s, on: device t2-1, kind: device-down}\n")
	f := build(t, s, 1, Options{})
	all := play(t, f)
	n := map[string]int{}
	for _, h := range all.heartbeats {
		n[h.Origin.Producer]++
		if at := h.TimeNs - f.clock(0); h.Origin.Producer == "t2-1" && at > 10e9 && at < 20e9 {
			t.Error("a device that is down says it is alive")
		}
		if h.Role == "device" != strings.HasPrefix(h.Role, "dev") || h.Counters == nil || h.Source == "" {
			t.Errorf("heartbeat %v", h)
		}
	}
	for i := range Node(f.Graph().Devices()) {
		if got := n[f.Graph().Name(i)] > 0; got != (f.agents[i] != agentNone) || got && !f.Instrumented(i, 0, 5*time.Second) {
			t.Errorf("%s: heartbeats %v, agent %v", f.Graph().Name(i), got, f.agents[i])
		}
	}
	for h := range f.Graph().Hosts() {
		if got := n[f.Graph().Name(f.Graph().HostNode(h))]; got < 16 || got > 17 { // 34 s with the tail
			t.Errorf("%d heartbeats of a host in 34 s", got)
		}
	}
}

// Without faults and noise hosts tell of their flows and of nothing else, and the
// counts add up to all connections.
func TestQuietRun(t *testing.T) {
	s := parse(t, "duration: 65s\n")
	f := build(t, s, 1, Options{Exchanges: true})
	all := play(t, f)
	if len(all.retransmits)+len(all.drops)+len(all.aggregates)+len(all.routes) != 0 {
		t.Errorf("a quiet run shows %d retransmits, %d drops", len(all.retransmits), len(all.drops))
	}
	var flows uint64
	for _, r := range all.flows {
		flows += r.Flows
		if r.Flow.SrcPort != 0 || r.Packets < r.Flows {
			t.Fatalf("row %v", r)
		}
	}
	truth := f.Truth()
	if n := float64(truth.Connections); n < 4900 || n > 5500 { // 8 hosts × 10/s × 65 s
		t.Errorf("%d connections, want about 5200", truth.Connections)
	}
	if truth.LinksUsed != f.Graph().Links() {
		t.Errorf("%d of %d links carried packets", truth.LinksUsed, f.Graph().Links())
	}
	if flows < truth.Connections*9/10 || flows > truth.Connections || uint64(len(all.exchanges)) != truth.Connections {
		t.Errorf("rows tell of %d flows and %d exchanges of %d connections", flows, len(all.exchanges), truth.Connections)
	}
}

// The record form loses packets at the rates it should: noise on all links alike.
func TestRecordFormLosesAtItsRates(t *testing.T) {
	s := parse(t, "duration: 100s\nnoise: 1e-3\ntraffic: {connections_per_host: 20/s, packets: 50}\n")
	f := build(t, s, 1, Options{})
	play(t, f)
	truth := f.Truth()
	// Per connection about 54.5 packets ahead and 27 back over 5.14 links each way.
	if got, want := float64(truth.Noise), float64(truth.Connections)*81.5*5.14*1e-3; got < 0.95*want || got > 1.05*want {
		t.Errorf("noise took %.0f packets of %d connections, want about %.0f", got, truth.Connections, want)
	}
	for _, x := range truth.Losses {
		if x.Fault != -1 || x.Device != "" {
			t.Fatalf("loss %+v", x)
		}
	}
}

// The same scenario and seed give the same records, byte by byte.
func TestRunsRepeat(t *testing.T) {
	bytesOf := func(seed uint64) []byte {
		s := parse(t, `duration: 20s
noise: 1e-4
lying: 20%
faults:
  - {at: 5s, for: 5s, on: link p0-t1-0>t2-1, kind: corrupt, rate: 5%}
  - {at: 8s, on: device p1-t1-1, kind: ttl-loop, rate: 5%}
  - {at: 2s, for: 9s, on: device t2-0, kind: route-flap}
  - {at: 2s, for: 9s, on: host p0-tor0-h0, kind: host-slow}
`)
		f := build(t, s, seed, Options{})
		var all bytes.Buffer
		for {
			_, b, ok := f.Next()
			if !ok {
				return all.Bytes()
			}
			raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(b)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(raw)
		}
	}
	first := bytesOf(1)
	if !bytes.Equal(first, bytesOf(1)) {
		t.Error("the same seed gives two runs")
	}
	if bytes.Equal(first, bytesOf(2)) {
		t.Error("two seeds give the same run")
	}
}

func TestHostFaultsShowInFlowRecords(t *testing.T) {
	run := func(fault string) []*decafpb.FlowRecord {
		return play(t, build(t, oneFault(t, fault), 1, Options{})).flows
	}
	resets, slow, undone := 0, uint64(0), 0
	for _, r := range run("on: host p0-tor0-h0, kind: server-reset, rate: 50%") {
		if r.State == decafpb.FlowRecord_STATE_TERMINATED && r.Error == errReset && r.ResetsReceived == 1 {
			resets++
		}
	}
	for _, r := range run("on: host p0-tor0-h0, kind: server-slow") {
		slow += r.ZeroWindowNs
	}
	f := build(t, oneFault(t, "on: host p0-tor0-h0, kind: host-slow"), 1, Options{})
	for _, r := range play(t, f).retransmits {
		if r.Origin.Producer != "p0-tor0-h0" {
			t.Errorf("%s sends again since another host is slow", r.Origin.Producer)
		}
		if r.Undone {
			undone++
		}
	}
	if resets == 0 || slow == 0 || undone == 0 {
		t.Errorf("%d resets, %d ns of closed windows, %d undone", resets, slow, undone)
	}
}

func TestRouteFlapTellsOfRoutes(t *testing.T) {
	s := parse(t, "duration: 60s\nfaults:\n  - {at: 3s, for: 7s, every: 25s, on: device t2-0, kind: route-flap, match: {dst: 10.1.0.0/16}}\n")
	seen := map[decafpb.RouteChange]int{}
	f := build(t, s, 1, Options{})
	for _, r := range play(t, f).routes {
		seen[r.Change]++
		into := time.Duration(r.TimeNs-f.clock(0)) - 3*time.Second
		if into%(25*time.Second) >= 7*time.Second || netip.PrefixFrom(netip.AddrFrom4([4]byte(r.Prefix.Address)), int(r.Prefix.Length)).String() != "10.1.0.0/16" {
			t.Errorf("route event %v at %s", r, into)
		}
	}
	if seen[decafpb.RouteChange_ROUTE_CHANGE_WITHDRAWN] == 0 || seen[decafpb.RouteChange_ROUTE_CHANGE_CHANGED] == 0 || seen[decafpb.RouteChange_ROUTE_CHANGE_FLAPPING] < 5 {
		t.Errorf("route changes: %v", seen)
	}
}

// Counters of a port rise by what was lost on the link before it.
func TestPortErrorsCount(t *testing.T) {
	f := build(t, oneFault(t, "on: link p0-t1-0>t2-1, kind: corrupt, rate: 5%"), 1, Options{})
	all := play(t, f)
	var n uint64
	for _, a := range all.aggregates {
		n += a.Packets
		if a.Ingress != "eth1" || a.Class != "errors/l2/rx/crc-error" || a.Origin.Producer != "t2-1" {
			t.Fatalf("aggregate %v", a)
		}
	}
	for _, d := range all.drops {
		if d.Source == "counters" && (d.Packet != nil || len(d.Prefixes) != 1 || d.Ingress != "eth1") {
			t.Fatalf("event of a counter: %v", d)
		}
	}
	if got := f.Truth().Faults[0].Packets; n != got || n == 0 {
		t.Errorf("counters rose by %d, %d packets were lost", n, got)
	}
}

func BenchmarkNext(b *testing.B) {
	s := oneFault(b, "on: link p0-t1-0>t2-1, kind: silent-loss, rate: 1%")
	s.Noise = 1e-6
	var records, connections int
	for b.Loop() {
		f := build(b, s, 1, Options{})
		for {
			_, _, ok := f.Next()
			if !ok {
				break
			}
			records++
		}
		connections += int(f.Truth().Connections)
	}
	b.ReportMetric(float64(records)/b.Elapsed().Seconds(), "batches/s")
	b.ReportMetric(float64(connections)/b.Elapsed().Seconds(), "connections/s")
}

// What a fault took is told by the times it was on, which add up.
func TestTruthTellsWindows(t *testing.T) {
	f := build(t, parse(t, `
duration: 20s
traffic: {connections_per_host: 10/s}
faults:
  - {at: 1s, for: 2s, every: 8s, on: link p0-tor0>p0-t1-0, kind: silent-loss, rate: 20%}
  - {at: 2s, on: device t2-0, kind: ttl-loop}
`), 1, Options{})
	play(t, f)
	truth := f.Truth()
	for i, windows := range []int{3, 1} {
		x := truth.Faults[i]
		sum := uint64(0)
		for _, n := range x.Windows {
			sum += n
		}
		if len(x.Windows) != windows || sum != x.Packets || slices.Contains(x.Windows, 0) {
			t.Errorf("fault %d took %d packets, by windows %v", i, x.Packets, x.Windows)
		}
	}
	var first, second uint64
	for _, l := range truth.Losses {
		switch {
		case l.Fault != 0:
		case l.At >= time.Second && l.At < 3*time.Second:
			first++
		case l.At >= 9*time.Second && l.At < 11*time.Second:
			second++
		}
	}
	if w := truth.Faults[0].Windows; first != w[0] || second != w[1] {
		t.Errorf("windows %v, but %d and %d packets died then", w, first, second)
	}
}
