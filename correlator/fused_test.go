package correlator

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"decaf/api/decafpb"
	"decaf/topology"
)

func linkOf(t *testing.T, topo *topology.Topology, name string) *topology.Link {
	t.Helper()
	l, ok := topo.Link(name)
	if !ok {
		t.Fatal("no link", name)
	}
	return l
}

func TestMethodsByName(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	for _, name := range Methods() {
		if m, err := NewMethod(name, DefaultEngineConfig(), topo); err != nil || m.Name() != name {
			t.Errorf("%s: %v %v", name, m, err)
		}
	}
	if m, err := NewMethod("", DefaultEngineConfig(), topo); err != nil || m.Name() != "fused" {
		t.Errorf("default: %v %v", m, err)
	}
	if _, err := NewMethod("vore", DefaultEngineConfig(), topo); err == nil || !strings.Contains(err.Error(), "fused, vote") {
		t.Errorf("error %v", err)
	}
}

// A loss too rare for one window to show is found by several together; nothing
// else is.
func TestWeakFaultIsFoundByHistory(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	const at, end = 100 * second, 280 * second
	alone := DefaultFusedRule()
	alone.Epochs = 0
	found, byWindow := 0, 0
	for i := 0; i < len(topo.Links); i += 8 {
		l := topo.Links[i]
		fb := newFabric(topo, uint64(i), fault{link: l, rate: 5e-4, at: at, end: 1 << 62})
		arrivals := fb.run(at-40*second, end)
		fs := playWith(nil, topo, arrivals, end).Findings()
		for _, f := range fs {
			if f.GetComponent() != "link "+l.Name {
				t.Errorf("%s: named %s: %v", l.Name, f.GetComponent(), f.GetEvidence().GetReasons())
			}
		}
		found += min(1, len(fs))
		byWindow += min(1, len(playWith(NewFused(topo, alone), topo, arrivals, end).Findings()))
	}
	t.Logf("of 6 links that lose 0.05 %%, history finds %d, one window %d", found, byWindow)
	if found < 6 || byWindow >= found {
		t.Errorf("of 6 links history found %d, one window %d", found, byWindow)
	}
}

// lossyFlow is a flow along a path that lost a packet at a moment.
func lossyFlow(path topology.Path, n int, at int64, kind decafpb.RetransmitKind) *Flow {
	src, dst := path[0].From.Node, path[len(path)-1].To.Node
	f := &Flow{Src: src, Dst: dst, Count: 1, First: at, Last: at,
		Route: Route{Links: path, Hops: len(path), Full: true, known: len(path)}}
	f.Key.Cookie = uint64(n)
	f.kinds[kind] = 1
	return f
}

// across gives lossy flows over a link from different pairs of hosts, one each
// step ns from a moment on.
func across(t *testing.T, topo *topology.Topology, link string, n int, from, step int64) []*Flow {
	t.Helper()
	l := linkOf(t, topo, link)
	var paths []topology.Path
	for _, src := range topo.Hosts {
		for _, dst := range topo.Hosts {
			for _, p := range topo.Paths(src.Name, dst.Name) {
				if slices.Contains(p, l) {
					paths = append(paths, p)
				}
			}
		}
	}
	if len(paths) == 0 {
		t.Fatal("nothing crosses", link)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	var out []*Flow
	for i := range n {
		out = append(out, lossyFlow(paths[rng.IntN(len(paths))], i, from+int64(i)*step, kindFAST))
	}
	return out
}

func candidateOf(r *Ranking, component string) Candidate {
	for _, c := range r.Candidates {
		if c.Component.String() == component {
			return c
		}
	}
	return Candidate{}
}

// What is known from history alone names nothing: a component must lose now, and
// not much less than it did.
func TestHistoryNeedsSupportNow(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	const link, now = "p0-t1-0>t2-1", 400 * second
	m := NewFused(topo, DefaultFusedRule())
	for _, c := range []struct {
		name         string
		before, late int
		opens        bool
	}{
		{"only before", 40, 0, false},
		{"far less than before", 80, 1, false},
		{"as before", 40, 5, true},
		{"only now", 0, 12, true},
	} {
		w := &Window{Topo: topo, Start: now - 300*second, End: now, Current: now - 30*second, Decay: 150 * second, paths: newPathSets(topo)}
		w.Flows = append(across(t, topo, link, c.before, w.Start, 270*second/int64(max(c.before, 1))), across(t, topo, link, c.late, w.Current+second, 2*second)...)
		got := candidateOf(m.Rank(w), "link "+link)
		if got.Opens != c.opens || !c.opens && c.late == 0 && got.First != 0 {
			t.Errorf("%s: opens %v, support from %d: probability %.4f, %s %v", c.name, got.Opens, got.First, got.Probability, got.Doubt, got.Reasons)
		}
	}
}

// Rows of loss-free counts are kept, bounded and counted; a link that is busy
// is blamed less for the same losses.
func TestTrafficSpeaksForBusyLinks(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	l := DefaultStoreLimits()
	l.Traffic = 100
	s := NewStore(topo, l)
	seq := uint64(0)
	row := func(src, dst *topology.Host, packets uint64) *decafpb.FlowRecord {
		seq++
		return &decafpb.FlowRecord{
			Origin: &decafpb.Origin{Producer: src.Name, BootId: 1, Seq: seq}, StartNs: 10e9, EndNs: 20e9, Flows: 10, Packets: packets,
			Flow: &decafpb.Flow{Src: src.Addresses[0].AsSlice(), Dst: dst.Addresses[0].AsSlice(), Protocol: 6},
		}
	}
	busy := topo.Hosts[0].Name
	for _, src := range topo.Hosts {
		for _, dst := range topo.Hosts {
			packets := uint64(1000)
			if dst.Name == busy {
				packets *= 300
			}
			if src != dst {
				s.AddFlow(row(src, dst, packets), 30*second)
			}
		}
	}
	one := row(topo.Hosts[0], topo.Hosts[1], 5)
	one.Flow.SrcPort, one.Flow.DstPort = 40000, 80
	s.AddFlow(one, 30*second)
	outside := row(topo.Hosts[0], topo.Hosts[1], 5)
	outside.Flow.Dst = []byte{198, 51, 100, 1}
	s.AddFlow(outside, 30*second)
	s.AddFlow(outside, 30*second) // again
	if st := s.Stats(); st.Traffic != 56 || st.TrafficHeld != 56 || st.Connections != 57 || st.FlowsOther != 1 || st.Duplicates != 1 {
		t.Errorf("counted %+v", st)
	}

	// Ten losses on the way to the busy host, and one of each other host to the next.
	w := &Window{Topo: topo, Start: 0, End: 30 * second, paths: newPathSets(topo)}
	w.Flows = across(t, topo, "p0-tor0>"+busy, 10, second, second)
	for i := range 7 {
		src, dst := topo.Hosts[1+i], topo.Hosts[1+(i+3)%7]
		paths := topo.Paths(src.Name, dst.Name)
		w.Flows = append(w.Flows, lossyFlow(paths[i%len(paths)], 100+i, 5*second, kindFAST))
	}
	m := NewFused(topo, DefaultFusedRule())
	even := candidateOf(m.Rank(w), "link p0-tor0>"+busy)
	w.Traffic, w.TrafficAt = s.traffic.of(0)
	counted := candidateOf(m.Rank(w), "link p0-tor0>"+busy)
	t.Logf("probability %.5f with traffic assumed even, %.5f with it counted", even.Probability, counted.Probability)
	if even.Probability < 0.9 || counted.Probability > 0.5 {
		t.Errorf("probability %.5f with traffic assumed even, %.5f with it counted", even.Probability, counted.Probability)
	}

	for range 300 {
		s.AddFlow(row(topo.Hosts[0], topo.Hosts[1], 5), 30*second)
	}
	if st := s.Stats(); st.TrafficHeld > 100 || st.EvictedTraffic != 256 {
		t.Errorf("not bounded: %+v", st)
	}
	s.Prune(3600e9)
	if st := s.Stats(); st.TrafficHeld != 0 {
		t.Errorf("%d rows held for ever", st.TrafficHeld)
	}
}

// line is two racks with one switch between them; wide of them, two cables side
// by side from the first rack to that switch.
func line(t *testing.T, wide bool) *topology.Topology {
	t.Helper()
	var devices []*topology.Device
	for _, name := range []string{"a", "m", "b"} {
		devices = append(devices, &topology.Device{Name: name})
	}
	var hosts []*topology.Host
	var cables []topology.Cable
	net := 0
	cable := func(a, ai, b, bi string) (toB netip.Addr) {
		net++
		p := netip.MustParsePrefix(fmt.Sprintf("10.9.%d.1/30", net))
		q := netip.MustParsePrefix(fmt.Sprintf("10.9.%d.2/30", net))
		cables = append(cables, topology.Cable{A: topology.Interface{Node: a, Name: ai, Addr: p}, B: topology.Interface{Node: b, Name: bi, Addr: q}})
		return q.Addr()
	}
	for i, rack := range []string{"a", "b"} {
		for j := range 3 {
			name := fmt.Sprintf("%s-h%d", rack, j)
			hosts = append(hosts, &topology.Host{Name: name, Addresses: []netip.Addr{cable(rack, fmt.Sprint("eth", j+10*i), name, "eth0")}})
		}
	}
	cable("a", "up0", "m", "a0")
	if wide {
		cable("a", "up1", "m", "a1")
	}
	cable("m", "b0", "b", "up0")
	topo, err := topology.New("line", devices, hosts, cables)
	if err != nil {
		t.Fatal(err)
	}
	return topo
}

// What no flow can tell apart is one finding, and says so.
func TestEquivalentLinks(t *testing.T) {
	t.Parallel()
	topo := line(t, false)
	const at = 100 * second
	fb := newFabric(topo, 1, fault{link: linkOf(t, topo, "a>m"), rate: .02, at: at, end: 1 << 62})
	fs := play(topo, fb.run(at-20*second, at+20*second), at+20*second).Findings()
	if len(fs) != 1 {
		t.Fatalf("%d findings: %v", len(fs), fs)
	}
	names := append([]string{fs[0].GetComponent()}, fs[0].GetEquivalent()...)
	slices.Sort(names)
	if !slices.Equal(names, []string{"link a>m", "link m>b"}) {
		t.Errorf("named %v", names)
	}
	if why := strings.Join(fs[0].GetEvidence().GetReasons(), "\n"); !strings.Contains(why, "cannot be told from link") {
		t.Errorf("reasons %s", why)
	}
}

// Of two cables side by side the one that flows crossed is named.
func TestLinksSideBySide(t *testing.T) {
	t.Parallel()
	topo := line(t, true)
	const at = 100 * second
	for _, name := range []string{"a:up0>m:a0", "a:up1>m:a1", "m:a1>a:up1"} {
		fb := newFabric(topo, 1, fault{link: linkOf(t, topo, name), rate: .02, at: at, end: 1 << 62})
		e := play(topo, fb.run(at-20*second, at+20*second), at+20*second)
		if fs := e.Findings(); len(fs) != 1 || fs[0].GetComponent() != "link "+name {
			t.Errorf("%s: named %v", name, fs)
			for _, c := range e.Live().Candidates {
				t.Logf("%s %.4f %s %v", c.Component, c.Probability, c.Doubt, c.Reasons)
			}
		}
	}
}

// Only a device that was heard, and whose stream lived, all through a time says
// something by its silence.
func TestWatching(t *testing.T) {
	t.Parallel()
	a := newAgents()
	for _, d := range []string{"s0", "s1", "s2", "s3"} {
		a.of(d, "device")
	}
	a.of("h0", "host")
	a.reached("s3", nil, 90*second)
	a.reached("s0", nil, 90*second)
	a.reached("s1", nil, 90*second)
	a.reached("s1", fmt.Errorf("gone"), 110*second)
	a.reached("s1", nil, 125*second)
	for at := 90 * second; at <= 160*second; at += 2 * second {
		for _, name := range []string{"s0", "s1", "s2", "s3", "h0"} {
			role, source := "device", "tp_btf+nflog"
			switch name {
			case "h0":
				role = "host"
			case "s3":
				source = "sflow"
			}
			a.beat(&decafpb.Heartbeat{Origin: &decafpb.Origin{Producer: name}, TimeNs: uint64(at), Role: role, Source: source}, at)
		}
	}
	if got := a.watching(100*second, 160*second); !slices.Equal(got, []string{"s0"}) {
		t.Errorf("watching %v, want s0: the stream of s1 broke, of s2 none is known, s3 tells what it is told, h0 is a host", got)
	}
	if got := a.watching(130*second, 160*second); !slices.Equal(got, []string{"s0", "s1"}) {
		t.Errorf("watching %v, want s0 and s1", got)
	}
}
