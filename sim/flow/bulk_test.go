package flow

import (
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"decaf/sim/scenario"
	"decaf/topology"
)

// published is 007's set-up: 96,000 flows an epoch on 4160 directed links.
func published() *scenario.Scenario {
	s := scenario.Default()
	s.Name, s.Duration = "published", 30*time.Second
	s.Fabric.ClosSpec = topology.ClosSpec{Pods: 2, ToRs: 20, T1s: 8, T2s: 10, Hosts: 40}
	s.Traffic.ConnectionsPerHost = 2
	s.Noise = 1e-6
	return s
}

func TestPublishedSetUpHasItsSize(t *testing.T) {
	s := published()
	s.Faults = []scenario.Fault{{On: "link p0-tor3>p0-t1-2", Kind: "silent-loss", Rate: 0.005}}
	f := build(t, s, 1, Options{})
	e := f.Flows(0, 30*time.Second, nil)
	if len(e.Flows) != 96000 {
		t.Errorf("%d flows, want 96000", len(e.Flows))
	}
	fabricLinks := 0
	for l := range Link(f.Graph().Links()) {
		if f.Graph().IsDevice(f.Graph().From(l)) && f.Graph().IsDevice(f.Graph().To(l)) {
			fabricLinks++
		}
	}
	if fabricLinks+2*f.Graph().Hosts() != f.Graph().Links() || f.Graph().Links() != 4160 {
		t.Errorf("%d directed links, want 4160", f.Graph().Links())
	}
	var packets uint64
	for _, fl := range e.Flows {
		packets += uint64(fl.Sent - fl.Resent)
	}
	if mean := float64(packets) / 96000; mean < 50 || mean > 51 {
		t.Errorf("%.2f packets a flow, want 50.5", mean)
	}
}

// Losses come at their rates on every link, wherever on the path it lies, and where
// two rates meet on a path each takes its share.
func TestLossesComeAtTheirRates(t *testing.T) {
	s := published()
	s.Faults = []scenario.Fault{
		{On: "link p0-tor0>p0-t1-0", Kind: "silent-loss", Rate: 0.3},
		{On: "link p0-t1-0>t2-0", Kind: "silent-loss", Rate: 0.5},
		{On: "link p1-tor0>p1-tor0-h0", Kind: "silent-loss", Rate: 0.01},
	}
	f := build(t, s, 7, Options{Noise: func(g *Graph, l Link) float64 { return 1e-4 }})
	e := f.Flows(0, 30*time.Second, nil)
	met := make([]float64, f.Graph().Links()) // packets that reached the link
	died := make([]float64, f.Graph().Links())
	next := 0
	for i, fl := range e.Flows {
		path := fl.Path.Links()
		at := map[Link]float64{}
		for next < len(e.Losses) && int(e.Losses[next].Flow) == i {
			at[e.Losses[next].Link]++
			died[e.Losses[next].Link]++
			next++
		}
		left := float64(fl.Sent)
		for _, l := range path {
			met[l] += left
			left -= at[l]
		}
	}
	if next != len(e.Losses) {
		t.Fatalf("%d losses belong to no flow", len(e.Losses)-next)
	}
	rate := func(l Link) float64 {
		for _, ft := range f.faults {
			if ft.link == l {
				return 1 - (1-ft.rate)*(1-1e-4)
			}
		}
		return 1e-4
	}
	chi, n := 0.0, 0.0
	for l := range met {
		p := rate(Link(l))
		if want := met[l] * p; want > 5 {
			z := (died[l] - want) / math.Sqrt(want*(1-p))
			if math.Abs(z) > 5 {
				t.Errorf("link %s: %.0f of %.0f packets died, want %.1f", f.Graph().LinkName(Link(l)), died[l], met[l], want)
			}
			chi += z * z
			n++
		}
	}
	if sigma := (chi - n) / math.Sqrt(2*n); math.Abs(sigma) > 4 {
		t.Errorf("rates are off over %.0f links: %.1f sigma", n, sigma)
	}
}

// What a flow sent, lost and sent again adds up, and truth is where it died.
func TestFlowsAddUp(t *testing.T) {
	s := published()
	s.Noise = 1e-4
	s.Faults = []scenario.Fault{
		{On: "device t2-3", Kind: "acl", Rate: 1},
		{On: "link p0-tor1>p0-t1-1", Kind: "queue", Rate: 1},
		{On: "device p1-t1-0", Kind: "syn-blackhole", Rate: 0.5},
	}
	f := build(t, s, 3, Options{})
	g := f.Graph()
	e := f.Flows(0, 30*time.Second, nil)
	lost := make([]uint32, len(e.Flows))
	var seen uint64
	for _, x := range e.Losses {
		lost[x.Flow]++
		path := e.Flows[x.Flow].Path.Links()
		found := false
		for _, l := range path {
			found = found || l == x.Link
		}
		if !found {
			t.Fatalf("flow %d lost a packet on %s, which is not on its path", x.Flow, g.LinkName(x.Link))
		}
		if x.Fault == 0 && g.Name(g.To(x.Link)) != "t2-3" {
			t.Fatalf("the access list of t2-3 took a packet on %s", g.LinkName(x.Link))
		}
		if x.Fault == 0 || x.Fault == 1 {
			seen++
		}
	}
	for i, fl := range e.Flows {
		path := fl.Path.Links()
		if path[0] != g.hostDown(int(fl.Src))^1 || path[len(path)-1] != g.hostDown(int(fl.Dst)) {
			t.Fatalf("flow %d does not go from its source to its destination", i)
		}
		if fl.Lost != lost[i] || fl.Resent > fl.Lost || fl.Sent < fl.Lost || fl.Lost > 0 && fl.Resent == 0 {
			t.Fatalf("flow %d: %d sent, %d lost (%d by the list), %d again", i, fl.Sent, fl.Lost, lost[i], fl.Resent)
		}
	}
	var told uint64
	for _, d := range e.Drops {
		told += d.Count
		switch {
		case d.Class == "no-buffer" && (g.Name(d.Device) != "p0-tor1" || g.Name(d.To) != "p0-t1-1"):
			t.Errorf("%s tells of a queue towards %d", g.Name(d.Device), d.To)
		case d.Class == "policy/l3/acl" && (g.Name(d.Device) != "t2-3" || d.From != -1 || d.To != -1):
			t.Errorf("%s tells of an access list", g.Name(d.Device))
		}
	}
	if told != seen {
		t.Errorf("devices tell of %d drops, %d happened to them", told, seen)
	}
}

// A flow through a device that lets nothing pass can be traced up to it only; one
// that has lost a packet here and there is traced whole.
func TestTracesStopWhereProbesDie(t *testing.T) {
	s := published()
	s.Faults = []scenario.Fault{
		{On: "device t2-3", Kind: "device-down", Rate: 1},
		{On: "device t2-4", Kind: "acl", Rate: 1},
		{On: "link p0-tor3>p0-t1-2", Kind: "silent-loss", Rate: 0.01},
	}
	f := build(t, s, 3, Options{})
	g := f.Graph()
	e := f.Flows(0, 30*time.Second, nil)
	seen := [3]int{}
	for _, x := range e.Losses {
		fl := e.Flows[x.Flow]
		if x.Fault < 0 || x.Fault == 2 && crosses(f, &fl, 0, 1) {
			continue
		}
		seen[x.Fault]++
		known := fl.Path.Links()[:fl.Traced]
		switch x.Fault {
		case 0: // the T2 does not answer: the last known is the link before it
			if len(known) != 2 || g.To(known[1]) != Node(g.from[x.Link]) {
				t.Fatalf("traced %d links towards a T2 that is down", len(known))
			}
		case 1: // a probe whose TTL ends there is answered before the filter has it
			if len(known) != 3 || known[2] != x.Link {
				t.Fatalf("traced %d links towards a T2 that filters", len(known))
			}
		case 2:
			if fl.Traced != fl.Path.n {
				t.Fatalf("traced %d of %d links at 1 %% loss", fl.Traced, fl.Path.n)
			}
		}
	}
	for i, n := range seen {
		if n == 0 {
			t.Errorf("fault %d lost nothing", i)
		}
	}
}

// crosses says whether a flow meets one of these faults.
func crosses(f *Fabric, fl *Flow, faults ...int32) bool {
	for _, l := range fl.Path.Links() {
		for _, k := range f.faultsOn(l) {
			if slices.Contains(faults, k) {
				return true
			}
		}
	}
	return false
}

func TestTraceBudgetRefuses(t *testing.T) {
	s := oneFault(t, "on: link p0-tor0-h0>p0-tor0, kind: silent-loss, rate: 30%")
	s.TraceBudget = 1
	f := build(t, s, 1, Options{})
	e := f.Flows(0, 30*time.Second, nil)
	lossy, traced := 0, 0
	for _, fl := range e.Flows {
		if fl.Src == 0 && fl.Lost > 0 {
			lossy++
			if fl.Traced > 0 {
				traced++
			}
		}
	}
	if lossy < 250 || traced < 30 || traced > 36 {
		t.Errorf("%d of %d lossy flows traced at 1/s in 30 s; want about 35 of 300", traced, lossy)
	}
}

// The same seed gives the same epoch, whatever was drawn before; another seed or
// another span gives another.
func TestEpochsRepeat(t *testing.T) {
	s := published()
	s.Noise = 1e-4
	a, b := build(t, s, 5, Options{}), build(t, s, 5, Options{})
	a.Flows(30*time.Second, 60*time.Second, nil)
	x, y := a.Flows(0, 30*time.Second, nil), b.Flows(0, 30*time.Second, nil)
	if !reflect.DeepEqual(x, y) {
		t.Error("the same seed gives two epochs")
	}
	if z := build(t, s, 6, Options{}).Flows(0, 30*time.Second, nil); reflect.DeepEqual(x, z) {
		t.Error("two seeds give the same epoch")
	}
	first := x.Flows[0]
	if reuse := a.Flows(30*time.Second, 60*time.Second, x); reuse != x || reuse.Flows[0] == first {
		t.Error("an epoch's memory is not lent to the next")
	}
}

func TestPatternsSpreadFlows(t *testing.T) {
	for _, c := range []struct {
		pattern string
		share   float64 // of the flows that go to the ToRs below
		tors    int     // that get it, 0: p0-tor0 alone
	}{
		{"uniform", 1.0 / 4, 0},
		{"hot(p0-tor0, 0.5)", 0.5, 0},
		{"hot(p0-tor0, 1)", 1, 0},
		{"skew(0.8, 0.25)", 0.8, 1},
		{"skew(0.9, 0.5)", 0.9, 2},
		{"skew(0.3, 1)", 1, 4},
	} {
		s := parse(t, "duration: 30s\ntraffic: {connections_per_host: 200/s, pattern: \""+c.pattern+"\"}\n")
		f := build(t, s, 2, Options{})
		e := f.Flows(0, 30*time.Second, nil)
		hits := make([]float64, 4)
		for _, fl := range e.Flows {
			if fl.Src == fl.Dst {
				t.Fatalf("%s: a flow from a host to itself", c.pattern)
			}
			hits[fl.Dst/2]++
		}
		got := hits[0]
		if c.tors > 0 {
			got = 0
			for range c.tors {
				best := 0
				for i := range hits {
					if hits[i] > hits[best] {
						best = i
					}
				}
				got += hits[best]
				hits[best] = 0
			}
		}
		if got /= float64(len(e.Flows)); math.Abs(got-c.share) > 0.01 {
			t.Errorf("%s: %.3f of the flows, want %.3f", c.pattern, got, c.share)
		}
	}
}

func TestWeightsBendECMP(t *testing.T) {
	s := parse(t, "duration: 30s\ntraffic: {connections_per_host: 100/s}\n")
	f := build(t, s, 2, Options{Weight: func(g *Graph, l Link) float64 {
		if g.Name(g.To(l)) == "p0-t1-0" {
			return 3
		}
		return 1
	}})
	g := f.Graph()
	up := [2]float64{}
	for _, fl := range f.Flows(0, 30*time.Second, nil).Flows {
		if path := fl.Path.Links(); g.Name(g.From(path[1])) == "p0-tor0" && len(path) > 2 {
			if g.Name(g.To(path[1])) == "p0-t1-0" {
				up[0]++
			} else {
				up[1]++
			}
		}
	}
	if share := up[0] / (up[0] + up[1]); math.Abs(share-0.75) > 0.02 {
		t.Errorf("%.3f of the flows take the link of weight 3 to 1", share)
	}
}

func TestPathDrawer(t *testing.T) {
	f := build(t, published(), 1, Options{})
	a, b := f.PathDrawer(1), f.PathDrawer(1)
	paths := map[Path]bool{}
	for range 2000 {
		p := a(0, 1599)
		if p != b(0, 1599) {
			t.Fatal("the same seed draws two paths")
		}
		if l := p.Links(); f.Graph().To(l[len(l)-1]) != f.Graph().HostNode(1599) {
			t.Fatal("the path does not lead to the host")
		}
		paths[p] = true
	}
	if want := 8 * 10 * 8; len(paths) < want*9/10 || len(paths) > want {
		t.Errorf("%d paths drawn of %d", len(paths), want)
	}
}

// A fault takes packets in its windows only, and only those that it is to match.
func TestFaultsKeepToTimeAndMatch(t *testing.T) {
	s := parse(t, `duration: 60s
traffic: {connections_per_host: 50/s}
faults:
  - {at: 10s, for: 5s, every: 20s, on: device t2-0, kind: acl, match: {dst: p0-tor0-h1}}
  - {at: 20s, for: 5s, on: device t2-1, kind: acl, rate: 10%, match: {src: 10.1.0.0/16, port: 5201}}
  - {at: 20s, for: 5s, on: device p0-t1-0, kind: acl, match: {port: 80}}
`)
	f := build(t, s, 2, Options{})
	g := f.Graph()
	e := f.Flows(0, 60*time.Second, nil)
	n := [3]int{}
	for _, x := range e.Losses {
		fl := e.Flows[x.Flow]
		n[x.Fault]++
		switch x.Fault {
		case 0:
			if into := (fl.At - 10*time.Second) % (20 * time.Second); fl.At < 10*time.Second || into >= 5*time.Second || g.Name(g.HostNode(int(fl.Dst))) != "p0-tor0-h1" {
				t.Fatalf("a flow to %s was hit at %s", g.Name(g.HostNode(int(fl.Dst))), fl.At)
			}
		case 1:
			if fl.At < 20*time.Second || fl.At >= 25*time.Second || int(fl.Src) < 4 {
				t.Fatalf("a flow from %s was hit at %s", g.Name(g.HostNode(int(fl.Src))), fl.At)
			}
		}
	}
	if n[0] == 0 || n[1] == 0 || n[2] != 0 {
		t.Errorf("the faults took %v packets", n)
	}
	for i, want := range []bool{true, true, false} {
		if got := f.FaultTimes(1, time.Duration(10*i)*time.Second, time.Duration(10*i+11)*time.Second); got != (i > 0) {
			t.Errorf("fault 1 in [%d s, %d s): %v, want %v", 10*i, 10*i+11, got, want)
		}
	}
}

// Half of the liars name a port that is not the one, half say nothing; the others
// tell the truth, and devices without an agent nothing.
func TestAgentsInstrumentedAndLying(t *testing.T) {
	s := published()
	s.Instrumented, s.Lying = 0.5, 0.5
	s.Faults = nil
	g, err := NewGraph(s.Fabric.ClosSpec)
	if err != nil {
		t.Fatal(err)
	}
	for l := range Link(g.Links()) { // every uplink of a ToR overflows
		if tier, _, _ := g.tier(g.From(l)); g.IsDevice(g.From(l)) && tier == "tor" && g.IsDevice(g.To(l)) {
			s.Faults = append(s.Faults, scenario.Fault{On: "link " + g.LinkName(l), Kind: "queue", Rate: 0.05})
		}
	}
	f := build(t, s, 4, Options{})
	kinds := map[agent]int{}
	for _, a := range f.agents {
		kinds[a]++
	}
	if g.Devices() != 66 || kinds[agentNone] != 33 || kinds[agentTrue] != 16 || kinds[agentAstray] != 9 || kinds[agentSilent] != 8 {
		t.Errorf("agents of %d devices: %v", g.Devices(), kinds)
	}
	e := f.Flows(0, 30*time.Second, nil)
	real := map[Drop]uint64{}
	for _, x := range e.Losses {
		if x.Fault >= 0 {
			real[Drop{Device: g.from[x.Link], From: -1, To: g.to[x.Link], Class: "no-buffer"}]++
		}
	}
	for _, d := range e.Drops {
		key := d
		key.Count = 0
		switch f.agents[d.Device] {
		case agentTrue:
			if real[key] != d.Count {
				t.Errorf("%s tells of %d drops towards %s, there were %d", g.Name(d.Device), d.Count, g.Name(d.To), real[key])
			}
		case agentAstray:
			if real[key] == d.Count {
				t.Errorf("%s lies, but names the right port", g.Name(d.Device))
			}
		default:
			t.Errorf("%s tells of drops", g.Name(d.Device))
		}
	}
	if len(e.Drops) == 0 {
		t.Error("no device tells of anything")
	}
}

func BenchmarkFlows(b *testing.B) {
	s := published()
	s.Faults = []scenario.Fault{
		{On: "link p0-tor3>p0-t1-2", Kind: "silent-loss", Rate: 0.005},
		{On: "link p0-t1-2>t2-4", Kind: "silent-loss", Rate: 0.001},
	}
	f := build(b, s, 1, Options{})
	e := f.Flows(0, 30*time.Second, nil)
	for b.Loop() {
		f.Flows(0, 30*time.Second, e)
	}
	b.ReportMetric(float64(len(e.Flows)), "flows")
	b.ReportMetric(float64(f.Graph().Links()), "links")
}

// A whole T1 that filters, so that a quarter of all flows take the slow way.
func BenchmarkFlowsDeviceFault(b *testing.B) {
	s := published()
	s.Faults = []scenario.Fault{{On: "device p0-t1-2", Kind: "device-loss", Rate: 0.01}}
	f := build(b, s, 1, Options{})
	e := f.Flows(0, 30*time.Second, nil)
	for b.Loop() {
		f.Flows(0, 30*time.Second, e)
	}
	b.ReportMetric(float64(len(e.Losses)), "losses")
}

func BenchmarkBuildAndFlowsMillionLinks(b *testing.B) {
	s := published()
	s.Fabric.ClosSpec = topology.ClosSpec{Pods: 40, ToRs: 64, T1s: 32, T2s: 64, Hosts: 128}
	s.Traffic.ConnectionsPerHost = 1
	s.Faults = []scenario.Fault{{On: "link p0-tor3>p0-t1-2", Kind: "silent-loss", Rate: 0.005}}
	var e *Epoch
	for b.Loop() {
		f := build(b, s, 1, Options{})
		e = f.Flows(0, 30*time.Second, e)
	}
	b.ReportMetric(float64(len(e.Flows)), "flows")
}
