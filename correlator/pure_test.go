package correlator

import (
	"errors"
	"math"
	"strings"
	"testing"

	"decaf/api"
	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/topology"
)

func TestSequenceNumbers(t *testing.T) {
	t.Parallel()
	type step struct {
		n    uint64
		want bool
	}
	for _, c := range []struct {
		name    string
		steps   []step
		missing uint64
	}{
		{"in order", []step{{5, true}, {6, true}, {7, true}}, 0},
		{"twice", []step{{5, true}, {5, false}, {6, true}, {5, false}}, 0},
		{"a hole", []step{{5, true}, {8, true}}, 2},
		{"a hole filled late", []step{{5, true}, {8, true}, {7, true}, {6, true}, {7, false}}, 0},
		{"before the first", []step{{5, true}, {3, true}}, 1},
		{"a leap", []step{{1, true}, {1 << 40, true}, {1<<40 - 1, true}, {2, false}}, 1<<40 - 3},
	} {
		var s sequence
		for i, st := range c.steps {
			if got := s.see(st.n); got != st.want {
				t.Errorf("%s, step %d: new %v", c.name, i, got)
			}
		}
		if s.missing() != c.missing {
			t.Errorf("%s: %d missing, want %d", c.name, s.missing(), c.missing)
		}
	}
}

// hopsOf gives the answers of a path's switches, but for those silent.
func hopsOf(path topology.Path, silent ...int) []*decafpb.Hop {
	var hops []*decafpb.Hop
	for i, l := range path[:len(path)-1] {
		h := &decafpb.Hop{Ttl: uint32(i + 1), Status: decafpb.HopStatus_HOP_STATUS_ANSWERED, Address: l.To.Addr.Addr().AsSlice()}
		for _, s := range silent {
			if s == i+1 {
				h.Status, h.Address = decafpb.HopStatus_HOP_STATUS_SILENT, nil
			}
		}
		hops = append(hops, h)
	}
	return hops
}

func TestRouteFromTrace(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	fb := newFabric(topo, 1)
	path := topo.Paths("p0-tor0-h0", "p1-tor1-h1")[2]
	c := fb.newConn(0)
	flow := packet.Flow{Src: c.key.Src, Dst: c.key.Dst, Proto: packet.TCP}
	src, _ := topo.Host("p0-tor0-h0")
	dst, _ := topo.Host("p1-tor1-h1")
	flow.Src = addrPort(src, 1000)
	flow.Dst = addrPort(dst, 5201)
	outside := flow
	outside.Dst = addrPortString("198.51.100.7:443")
	for _, c := range []struct {
		name     string
		flow     packet.Flow
		distance uint32
		silent   []int
		change   func([]*decafpb.Hop) []*decafpb.Hop
		known    int
		hops     int
		full     bool
	}{
		{name: "whole", flow: flow, distance: 5, known: 6, hops: 6, full: true},
		{name: "one silent hop follows from its neighbours", flow: flow, distance: 5, silent: []int{3}, known: 6, hops: 6, full: true},
		{name: "first and last switch follow from the hosts", flow: flow, distance: 5, silent: []int{1, 5}, known: 6, hops: 6, full: true},
		{name: "two silent in a row: the second is known by the next, the first may be any T1", flow: flow, distance: 5, silent: []int{2, 3}, known: 4, hops: 6},
		{name: "three silent in a row", flow: flow, distance: 5, silent: []int{2, 3, 4}, known: 3, hops: 6},
		{name: "stopped after the second", flow: flow, distance: 5, silent: []int{3, 4, 5}, known: 3, hops: 6},
		{name: "nothing answered", flow: flow, distance: 5, silent: []int{1, 2, 3, 4, 5}, known: 2, hops: 6},
		{name: "several answers for one TTL are no link", flow: flow, distance: 5, change: func(h []*decafpb.Hop) []*decafpb.Hop {
			h[2].Others = [][]byte{{10, 128, 0, 1}}
			return h
		}, known: 6, hops: 6, full: true},
		{name: "an address of no one", flow: flow, distance: 5, change: func(h []*decafpb.Hop) []*decafpb.Hop {
			h[1].Address, h[2].Address = []byte{203, 0, 113, 1}, []byte{1, 2, 3}
			return h
		}, known: 4, hops: 6},
		{name: "TTLs beyond the distance", flow: flow, distance: 5, change: func(h []*decafpb.Hop) []*decafpb.Hop {
			return append(h, &decafpb.Hop{Ttl: 9, Status: decafpb.HopStatus_HOP_STATUS_ANSWERED, Address: h[0].Address}, &decafpb.Hop{Status: decafpb.HopStatus_HOP_STATUS_ANSWERED})
		}, known: 6, hops: 6, full: true},
		{name: "destination outside, distance unknown", flow: outside, known: 5, hops: 6},
	} {
		hops := hopsOf(path, c.silent...)
		if c.change != nil {
			hops = c.change(hops)
		}
		r := resolveRoute(topo, c.flow, &decafpb.Path{Distance: c.distance, Hops: hops})
		if r.known != c.known || r.Hops != c.hops || r.Full != c.full {
			t.Errorf("%s: known %d of %d, full %v; want %d of %d, %v", c.name, r.known, r.Hops, r.Full, c.known, c.hops, c.full)
		}
		for i, l := range r.Links {
			if l != nil && l != path[i] {
				t.Errorf("%s: link %d is %s, want %s", c.name, i, l.Name, path[i].Name)
			}
		}
	}
	if r := resolveRoute(topo, flow, &decafpb.Path{Distance: 4_000_000_000, Hops: hopsOf(path)}); r.known != 0 {
		t.Error("a distance no TTL can have was believed")
	}
}

func TestWeakFlows(t *testing.T) {
	t.Parallel()
	const fin = flagFIN | flagACK
	for _, c := range []struct {
		name  string
		list  []*decafpb.Retransmit
		weak  bool
		proof bool
	}{
		{"SYN", rts(kindSYN, flagSYN, 1), true, false},
		{"SYN twice", append(rts(kindSYN, flagSYN, 1), rts(kindSYN, flagSYN, 1)...), true, false},
		{"SYN by timeout", rts(kindRTO, flagSYN, 1), true, false},
		{"lone TLP", rts(kindTLP, flagACK, 1448), true, false},
		{"TLP twice", append(rts(kindTLP, flagACK, 1448), rts(kindTLP, flagACK, 1448)...), false, false},
		{"FIN alone by TLP and timeout", append(rts(kindTLP, fin, 1), rts(kindRTO, fin, 1)...), true, false},
		{"FIN with data by timeout", rts(kindRTO, fin, 1449), false, false},
		{"TLP, then timeout", append(rts(kindTLP, flagACK, 1448), rts(kindRTO, flagACK, 1448)...), false, false},
		{"fast", rts(kindFAST, flagACK, 1448), false, true},
		{"SYN, later fast", append(rts(kindSYN, flagSYN, 1), rts(kindFAST, flagACK, 1448)...), false, true},
	} {
		topo := smallClos(t)
		f := &Flow{Route: Route{Full: true}}
		for _, r := range c.list {
			f.add(r, topo)
		}
		if got := f.Weak() != ""; got != c.weak || f.Proof() != c.proof {
			t.Errorf("%s: weak %q, proof %v", c.name, f.Weak(), f.Proof())
		}
	}
}

func rts(kind decafpb.RetransmitKind, flags, length uint32) []*decafpb.Retransmit {
	return []*decafpb.Retransmit{{Kind: kind, TcpFlags: flags, TcpSeq: 7, TcpEndSeq: 7 + length}}
}

// A probe's drop is discarded whether it comes before or after the retransmit
// whose trace sent it; another packet of the same connection is not.
func TestProbesAreNoEvidence(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	src, _ := topo.Host("p0-tor0-h0")
	dst, _ := topo.Host("p1-tor1-h1")
	flow := packet.Flow{Src: addrPort(src, 1000), Dst: addrPort(dst, 5201), Proto: packet.TCP}
	retransmit := func(seq uint64) *decafpb.Retransmit {
		return &decafpb.Retransmit{Origin: &decafpb.Origin{Producer: src.Name, BootId: 1, Seq: seq}, TimeNs: 100, Flow: flow.PB(), TcpSeq: 500, TcpEndSeq: 1948,
			Kind: kindFAST, Path: &decafpb.Path{ProbeSeq: 77, ProbeId: 5 << 6, Distance: 5}}
	}
	drop := func(seq uint64, tcp, id uint32) *decafpb.DropEvent {
		return &decafpb.DropEvent{Origin: &decafpb.Origin{Producer: "t2-0", BootId: 1, Seq: seq}, TimeNs: 90, Class: "policy/l3/acl",
			Packet: &decafpb.Packet{Flow: flow.PB(), TcpSeq: tcp, IpId: id}}
	}
	for _, c := range []struct {
		name             string
		tcp, id          uint32
		evidence, afterS bool
	}{
		{"probe, TTL 3", 77, 5<<6 | 3, false, false},
		{"probe, any TTL", 77, 5<<6 | 63, false, false},
		{"the lost segment", 500, 1234, true, true},
		{"within the segment sent again", 600, 9, true, true},
		{"same sequence, other identification", 77, 9, false, true},
		{"other sequence, same identification", 78, 5 << 6, false, true},
	} {
		for _, first := range []string{"drop", "retransmit"} {
			s := NewStore(topo, DefaultStoreLimits())
			if first == "drop" {
				s.AddDrop(drop(1, c.tcp, c.id), 100)
				s.AddRetransmit(retransmit(1), 200)
			} else {
				s.AddRetransmit(retransmit(1), 100)
				s.AddDrop(drop(1, c.tcp, c.id), 200)
			}
			count := func() (n int) {
				for _, d := range s.drops {
					if d.evidence() {
						n++
					}
				}
				return n
			}
			if got := count() == 1; got != c.evidence {
				t.Errorf("%s, %s first: evidence at once %v", c.name, first, got)
			}
			s.Settle(300)
			if got := count() == 1; got != c.afterS {
				t.Errorf("%s, %s first: evidence after the wait %v", c.name, first, got)
			}
		}
	}
	// Later than the wait: withdrawn.
	s := NewStore(topo, DefaultStoreLimits())
	s.AddDrop(drop(1, 77, 5<<6|2), 100)
	s.Settle(5e9)
	s.AddRetransmit(retransmit(1), 6e9)
	if st := s.Stats(); s.drops[0].evidence() || st.ProbesWithdrawn != 1 {
		t.Errorf("a probe's drop stays evidence: %+v", st)
	}
	// IPv6 has no identification: the sequence number is all.
	if !(probeMark{77, 64}).owns(&decafpb.Packet{TcpSeq: 77}, true) {
		t.Error("an IPv6 probe is not known")
	}
}

func TestStoreIsBounded(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	l := StoreLimits{Retention: 1000e9, Flows: 50, Drops: 60, Streams: 4, PerTuple: 3}
	fb := newFabric(topo, 1, fault{device: "t2-0", class: "policy/l3/acl", rate: 1, at: 0, end: 1 << 62})
	s := NewStore(topo, l)
	for _, a := range fb.run(0, 60*second) {
		for _, r := range a.batch.GetRetransmits() {
			s.AddRetransmit(r, a.at)
		}
		for _, d := range a.batch.GetDrops() {
			s.AddDrop(d, a.at)
		}
		s.Settle(a.at)
		s.Prune(a.at)
	}
	st := s.Stats()
	if len(s.flows) > 50 || len(s.order) > 50 || len(s.ofTuple) > 50 || len(s.drops) > 60 || len(s.dropsOf) > 60 || len(s.streams) > 4 {
		t.Errorf("%d flows, %d drops, %d streams", len(s.flows), len(s.drops), len(s.streams))
	}
	if st.EvictedDrops == 0 || st.EvictedFlows == 0 || st.EvictedStreams == 0 {
		t.Errorf("what was left out is not counted: %+v", st)
	}
	s.Prune(1 << 60)
	if len(s.flows)+len(s.order)+len(s.ofTuple)+len(s.drops)+len(s.dropsOf) != 0 {
		t.Error("old evidence is not forgotten")
	}
}

// An undone notice withdraws the vote even when it overtakes the retransmit
// that waits for its trace; what is sent again after it counts.
func TestUndone(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	src, _ := topo.Host("p0-tor0-h0")
	dst, _ := topo.Host("p1-tor1-h1")
	flow := packet.Flow{Src: addrPort(src, 1000), Dst: addrPort(dst, 5201), Proto: packet.TCP}
	rec := func(seq uint64, at uint64, undone bool) *decafpb.Retransmit {
		return &decafpb.Retransmit{Origin: &decafpb.Origin{Producer: src.Name, BootId: 1, Seq: seq}, TimeNs: at, Flow: flow.PB(), Cookie: 9, Kind: kindRTO, Undone: undone}
	}
	s := NewStore(topo, DefaultStoreLimits())
	s.AddRetransmit(rec(1, 200, true), 210)
	s.AddRetransmit(rec(2, 100, false), 220)
	if f := s.order[0]; !f.Undone() {
		t.Error("an undone flow votes")
	}
	s.AddRetransmit(rec(3, 300, false), 310)
	if f := s.order[0]; f.Undone() {
		t.Error("a flow that sent again later does not vote")
	}
}

func TestPoissonNats(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mean float64
		n    int
		want float64 // probability of n or more
	}{
		{1, 2, 1 - 2*math.Exp(-1)}, {0.1, 3, 0.00015465}, {2, 10, 4.6498e-5},
	} {
		if got := math.Exp(-poissonNats(c.mean, c.n)); math.Abs(got-c.want) > 1e-4*c.want {
			t.Errorf("P(X ≥ %d; %g) = %g, want %g", c.n, c.mean, got, c.want)
		}
	}
	if poissonNats(3, 0) != 0 || poissonNats(5, 4) != 0 || !math.IsInf(poissonNats(0, 1), 1) {
		t.Error("limits")
	}
}

// Algorithm 1's cut is 1 % of all votes cast, and a flow votes once however
// much it lost.
func TestVotes(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	paths := topo.Paths("p0-tor0-h0", "p1-tor1-h1")
	f := &Flow{Src: "p0-tor0-h0", Dst: "p1-tor1-h1", Count: 40, Route: Route{Links: paths[0], Hops: 6, Full: true, known: 6}}
	f.kinds[kindFAST] = 40
	weak := &Flow{Src: "p0-tor0-h0", Dst: "p1-tor1-h1", Count: 1, Route: Route{Links: append(topology.Path{}, paths[0][:3]...), Hops: 6, known: 3}}
	weak.kinds[kindTLP] = 1
	w := &Window{Topo: topo, Flows: []*Flow{f, weak}, paths: newPathSets(topo)}
	r := Vote{Rule: DefaultRule()}.Rank(w)
	if math.Abs(r.Total-1.5) > 1e-9 {
		t.Errorf("%g votes cast, want 1 and a half", r.Total)
	}
	for _, s := range r.Links {
		want, weaks := 1./6, 0
		for _, l := range weak.Route.Links {
			if l == s.Link {
				want, weaks = 2./6, 1
			}
		}
		if math.Abs(s.Votes-want) > 1e-9 || s.Flows != 1 || s.Weak != weaks || math.Abs(s.Share-want/1.5) > 1e-9 {
			t.Errorf("%s: %+v", s.Link.Name, s)
		}
	}
	for _, c := range r.Candidates {
		if c.Opens {
			t.Errorf("one flow names %s", c.Component)
		}
	}
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	l, _ := topo.Link("p0-t1-0>t2-1")
	const at, end = 100 * second, 130 * second
	fb := newFabric(topo, 4, fault{link: l, rate: .05, at: at, end: end})
	e := play(topo, fb.run(90*second, 160*second), 200*second)
	always := func(string, int64, int64) (bool, string) { return true, "" }
	never := func(h string, _, _ int64) (bool, string) { return false, "the agent of " + h + " was silent" }
	for _, c := range []struct {
		name             string
		src, dst         string
		from, to         int64
		fresh            freshness
		verdict, because string
	}{
		{"on the path", "p0-tor0-h0", "p1-tor1-h1", 105 * second, 125 * second, always, verdictNetwork, "lossy flows crossed"},
		{"the other way round", "p1-tor1-h1", "p0-tor0-h0", 105 * second, 125 * second, always, verdictNetwork, "lossy flows crossed"},
		{"by address", "10.0.0.1", "10.1.1.3", 105 * second, 125 * second, always, verdictNetwork, "lossy flows crossed"},
		{"not on any path", "p1-tor0-h0", "p1-tor1-h0", 105 * second, 125 * second, always, verdictNotNetwork, "no finding touches"},
		{"not on any path, agents silent", "p1-tor0-h0", "p1-tor1-h0", 105 * second, 125 * second, never, verdictInsufficient, "was silent"},
		{"long before", "p0-tor0-h0", "p1-tor1-h1", 10 * second, 20 * second, always, verdictNotNetwork, ""},
		{"long before, agents silent", "p0-tor0-h0", "p1-tor1-h1", 10 * second, 20 * second, never, verdictInsufficient, "was silent"},
		{"to the outside", "p0-tor0-h0", "198.51.100.9", 105 * second, 125 * second, always, verdictOutside, "198.51.100.9"},
	} {
		v, err := e.Answer(&decafpb.FaultReport{Src: c.src, Dst: c.dst, FromNs: uint64(c.from), ToNs: uint64(c.to)}, c.fresh, 200*second)
		if err != nil || v.GetVerdict() != c.verdict || !strings.Contains(strings.Join(v.GetEvidence().GetReasons(), "\n"), c.because) {
			t.Errorf("%s: %v %v", c.name, v, err)
		}
		if v.GetVerdict() == verdictNetwork && (v.GetComponent() != "link "+l.Name || len(v.GetEvidence().GetRetransmits()) == 0 || v.GetEvidence().GetPathCount() == 0) {
			t.Errorf("%s: %v", c.name, v)
		}
		if !v.GetFinal() {
			t.Errorf("%s: not final long after", c.name)
		}
	}
	for _, c := range []struct{ src, dst, says string }{
		{"p0-tor0-h9", "p1-tor1-h1", "did you mean"},
		{"p0-tor0-h0", "not a host", "destination"},
		{"p0-tor0-h0", "p0-tor0-h0", "two hosts"},
		{"t2-0", "p0-tor0-h0", "device"},
		{"10.0.0.0", "p0-tor0-h0", "device"},
		{"", "p0-tor0-h0", "source"},
	} {
		_, err := e.Answer(&decafpb.FaultReport{Src: c.src, Dst: c.dst, FromNs: 1, ToNs: 2}, always, 3)
		if !errors.Is(err, api.ErrBadRequest) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q to %q: %v", c.src, c.dst, err)
		}
	}
	now := int64(1e18)
	for _, c := range []struct {
		name string
		r    *decafpb.FaultReport
		ok   bool
	}{
		{"default window", &decafpb.FaultReport{}, true},
		{"reversed", &decafpb.FaultReport{FromNs: 5, ToNs: 4}, false},
		{"empty", &decafpb.FaultReport{FromNs: 5, ToNs: 5}, false},
		{"from after now", &decafpb.FaultReport{FromNs: uint64(now) + 5}, false},
		{"far future", &decafpb.FaultReport{ToNs: math.MaxUint64}, false},
		{"port", &decafpb.FaultReport{SrcPort: 70000}, false},
		{"the dawn of time", &decafpb.FaultReport{FromNs: 1}, false},
	} {
		if err := DefaultReportRule().Check(c.r, now); (err == nil) != c.ok || err != nil && !errors.Is(err, api.ErrBadRequest) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestAgentsFreshness(t *testing.T) {
	t.Parallel()
	a := newAgents()
	a.of("h", "host")
	beat := func(at int64) {
		a.beat(&decafpb.Heartbeat{Origin: &decafpb.Origin{Producer: "h"}, TimeNs: uint64(at), Role: "host"}, at)
	}
	for at := 100 * second; at <= 200*second; at += 2 * second {
		beat(at)
	}
	for at := 230 * second; at <= 300*second; at += 2 * second {
		beat(at)
	}
	for _, c := range []struct {
		from, to int64
		ok       bool
		why      string
	}{
		{100 * second, 200 * second, true, ""}, {95 * second, 205 * second, true, ""},
		{80 * second, 150 * second, false, "only since"}, {150 * second, 250 * second, false, "silent for a part"},
		{240 * second, 290 * second, true, ""}, {400 * second, 500 * second, false, "silent"},
	} {
		ok, why := a.freshAll("h", c.from, c.to)
		if ok != c.ok || !strings.Contains(why, c.why) {
			t.Errorf("%d to %d s: %v %s", c.from/second, c.to/second, ok, why)
		}
	}
	if ok, why := a.freshAll("x", 0, 1); ok || !strings.Contains(why, "never heard") {
		t.Error(why)
	}
	a.beat(&decafpb.Heartbeat{Origin: &decafpb.Origin{Producer: "stranger"}}, 1)
	if a.strangers != 1 || len(a.byName) > 2 {
		t.Error("a stranger is held")
	}
}
