package correlator

import (
	"math/rand/v2"
	"strings"
	"testing"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/topology"
)

// Ten minutes and more without a fault, with tail probes and timeouts for
// nothing, stray real losses, and now and then a stall of the whole machine
// that makes many connections time out at once: no finding.
func TestNoiseNamesNothing(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	for _, c := range []struct {
		name                     string
		tlp, rto, loss, stallSec float64
	}{
		{"quiet", 0.2, 0.02, 0.02, 0},
		{"stalls", 0.5, 0.05, 0.02, 60},
		{"lossy everywhere", 1, 0.1, 0.5, 0},
		{"bad machine", 5, 1, 0.3, 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			fb := newFabric(topo, 5)
			fb.connections, fb.tlpNoise, fb.rtoNoise, fb.lossNoise, fb.stallEvery = 1, c.tlp, c.rto, c.loss, c.stallSec
			const from, to = 100 * second, 760 * second
			e := play(topo, fb.run(from, to), to)
			for _, f := range e.Findings() {
				t.Errorf("named %s: %v", f.GetComponent(), f.GetEvidence().GetReasons())
			}
			if n := len(e.Epochs()); n < 21 {
				t.Errorf("%d epochs recorded of 22", n)
			}
			if d := e.store.Stats(); d.ProbeDrops == 0 {
				t.Error("no probe drops: the test shows nothing")
			}
		})
	}
}

// What a device sees is the device's, or the overflowing link's, and named
// with its class; no link beside it is.
func TestDeviceFaults(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	link := func(name string) fault {
		l, ok := topo.Link(name)
		if !ok {
			t.Fatal("no link", name)
		}
		return fault{link: l}
	}
	with := func(f fault, class string, rate float64, match func(packet.Flow) bool) fault {
		f.class, f.rate, f.match, f.at, f.end = class, rate, match, 100*second, 115*second
		return f
	}
	toServer := func(f packet.Flow) bool { return f.Dst.Port() == 5201 }
	toClient := func(f packet.Flow) bool { return f.Src.Port() == 5201 }
	for _, c := range []struct {
		name  string
		fault fault
		want  string
	}{
		{"acl takes all at a T2", with(fault{device: "t2-0"}, "policy/l3/acl", 1, nil), "device t2-0"},
		{"acl takes the way there at a T2", with(fault{device: "t2-1"}, "policy/l3/acl", 1, toServer), "device t2-1"},
		{"acl takes the way back at a T2", with(fault{device: "t2-1"}, "policy/l3/acl", 1, toClient), "device t2-1"},
		{"acl takes a third at a T1", with(fault{device: "p0-t1-1"}, "policy/l3/acl", .3, nil), "device p0-t1-1"},
		{"acl takes 2 % at a ToR", with(fault{device: "p1-tor0"}, "policy/l3/acl", .02, nil), "device p1-tor0"},
		{"no route at a T1", with(fault{device: "p1-t1-0"}, "errors/l3/rx/no-route", 1, nil), "device p1-t1-0"},
		{"no route at a ToR", with(fault{device: "p0-tor1"}, "errors/l3/rx/no-route", 1, nil), "device p0-tor1"},
		{"queue on a T1 uplink", with(link("p0-t1-0>t2-1"), "no-buffer", .05, nil), "link p0-t1-0>t2-1"},
		{"queue to a host", with(link("p0-tor0>p0-tor0-h0"), "no-buffer", .1, nil), "link p0-tor0>p0-tor0-h0"},
		{"routing loop through a T2", with(fault{device: "t2-0"}, classTTL, 1, nil), "device t2-0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for seed := range uint64(2) {
				fb := newFabric(topo, seed, c.fault)
				e := play(topo, fb.run(90*second, 140*second), 160*second)
				found := components(e)
				f := found[c.want]
				if f == nil {
					t.Fatalf("seed %d: not found; have %v", seed, found)
				}
				if took := int64(f.GetDetectedNs()) - c.fault.at; took > 5*second || took < 0 {
					t.Errorf("seed %d: found after %.2f s", seed, float64(took)/1e9)
				}
				if f.GetClass() != c.fault.class {
					t.Errorf("seed %d: class %q", seed, f.GetClass())
				}
				if r := int64(f.GetResolvedNs()); r < c.fault.end-2*second || r > c.fault.end+5*second {
					t.Errorf("seed %d: resolved at %.2f s, the fault ended at %.2f s", seed, float64(r)/1e9, float64(c.fault.end)/1e9)
				}
				if len(e.Findings()) != 1 {
					for _, f := range e.Findings() {
						t.Errorf("seed %d: %s %s %v", seed, f.GetId(), f.GetComponent(), f.GetEvidence().GetReasons())
					}
				}
				checkNoProbes(t, f.GetEvidence())
				ev := f.GetEvidence()
				if strings.HasPrefix(c.name, "acl takes the way back") {
					continue // what answers is lost, and never sent again itself
				}
				if ev.GetMatchedCount() == 0 || !hasPair(ev) {
					t.Errorf("seed %d: no drop and retransmit of the same segment in the evidence", seed)
				}
			}
		})
	}
}

// checkNoProbes fails if a drop in the evidence is a trace's.
func checkNoProbes(t *testing.T, ev *decafpb.Evidence) {
	t.Helper()
	for _, d := range ev.GetDrops() {
		if d.GetPacket().GetIpId() != 1 && d.GetPacket().GetIpId() != 0 {
			t.Errorf("a probe in the evidence: %v", d)
		}
	}
}

// hasPair says whether a drop and a retransmit of the same five-tuple and
// sequence number are both shown.
func hasPair(ev *decafpb.Evidence) bool {
	for _, d := range ev.GetDrops() {
		df, _ := packet.FlowFromPB(d.GetPacket().GetFlow())
		for _, r := range ev.GetRetransmits() {
			rf, _ := packet.FlowFromPB(r.GetFlow())
			if df == rf && d.GetPacket().GetTcpSeq() == r.GetTcpSeq() {
				return true
			}
		}
	}
	return false
}

// One fault ends, another begins: each is named for its own time.
func TestOneFaultAfterAnother(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	for _, c := range []struct {
		name          string
		first, second string
		gap           int64
	}{
		{"in series, at once", "p0-t1-0>t2-1", "t2-1>p1-t1-0", 0},
		{"in series, upwards, at once", "p0-tor0>p0-t1-0", "p0-t1-0>t2-1", 0},
		{"elsewhere, at once", "p0-tor0-h0>p0-tor0", "t2-0>p1-t1-1", 0},
		{"the way back, after 5 s", "p0-t1-0>t2-1", "t2-1>p0-t1-0", 5 * second},
		{"the same again, after 20 s", "p1-t1-0>t2-0", "p1-t1-0>t2-0", 20 * second},
	} {
		t.Run(c.name, func(t *testing.T) {
			for seed := range uint64(3) {
				for _, rate := range []float64{.01, .05} {
					a, _ := topo.Link(c.first)
					b, _ := topo.Link(c.second)
					end := 120 * second
					fb := newFabric(topo, seed,
						fault{link: a, rate: rate, at: 100 * second, end: end},
						fault{link: b, rate: rate, at: end + c.gap, end: end + c.gap + 25*second})
					e := play(topo, fb.run(90*second, 170*second), 190*second)
					fs := e.Findings()
					if len(fs) != 2 || fs[0].GetComponent() != "link "+c.first || fs[1].GetComponent() != "link "+c.second {
						t.Errorf("seed %d, %g:", seed, rate)
						for _, f := range fs {
							t.Errorf("   %s from %.2f detected %.2f resolved %.2f %v", f.GetComponent(), float64(f.GetFromNs())/1e9, float64(f.GetDetectedNs())/1e9, float64(f.GetResolvedNs())/1e9, f.GetEvidence().GetReasons())
						}
						continue
					}
					if from := int64(fs[1].GetFromNs()); from < end+c.gap {
						t.Errorf("seed %d, %g: second begins at %.2f", seed, rate, float64(from)/1e9)
					}
					took := int64(fs[1].GetDetectedNs()) - end - c.gap
					t.Logf("seed %d, %g: second after %.2f s", seed, rate, float64(took)/1e9)
					if took > 20*second {
						t.Errorf("too late")
					}
				}
			}
		})
	}
}

// Skewed traffic: most of it to one rack, as clients or as servers; the links
// of that rack then carry mostly acknowledgements one way.
func TestSilentLossUnderSkew(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	hot := func(toHot bool) func(rng *rand.Rand, hosts []*topology.Host) (src, dst *topology.Host) {
		return func(rng *rand.Rand, hosts []*topology.Host) (src, dst *topology.Host) {
			src = hosts[rng.IntN(len(hosts))]
			dst = src
			if rng.Float64() < .5 {
				dst = hosts[rng.IntN(2)] // p0-tor0
			}
			for dst == src {
				dst = hosts[rng.IntN(len(hosts))]
			}
			if !toHot {
				src, dst = dst, src
			}
			return
		}
	}
	for _, toHot := range []bool{true, false} {
		for i, l := range topo.Links {
			if (i%2 == 0) != toHot { // half of the links each: time
				continue
			}
			fb := newFabric(topo, uint64(i), fault{link: l, rate: .05, at: 100 * second, end: 130 * second})
			fb.pick = hot(toHot)
			e := play(topo, fb.run(95*second, 150*second), 170*second)
			found := components(e)
			if found["link "+l.Name] == nil {
				t.Errorf("%s, hot rack receives %v: not found", l.Name, toHot)
			}
			if len(e.Findings()) > 1 {
				for _, f := range e.Findings() {
					t.Errorf("%s, hot rack receives %v: %s %v", l.Name, toHot, f.GetComponent(), f.GetEvidence().GetReasons())
				}
			}
		}
	}
}

// Two links at once are both named, and nothing else.
func TestTwoLinksAtOnce(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	rng := rand.New(rand.NewPCG(1, 1))
	for seed := range uint64(15) {
		a, b := topo.Links[rng.IntN(len(topo.Links))], topo.Links[rng.IntN(len(topo.Links))]
		// Two faults at one switch of this small a fabric may look like two
		// others: both links into a ToR like the links to both its hosts.
		if a.From.Node == b.From.Node || a.To.Node == b.To.Node || a.From.Node == b.To.Node || a.To.Node == b.From.Node {
			continue
		}
		fb := newFabric(topo, seed, fault{link: a, rate: .01, at: 100 * second, end: 140 * second}, fault{link: b, rate: .03, at: 103 * second, end: 140 * second})
		e := play(topo, fb.run(95*second, 160*second), 180*second)
		found := components(e)
		if len(found) != 2 || found["link "+a.Name] == nil || found["link "+b.Name] == nil {
			t.Errorf("%s at 1 %% and %s at 3 %%:", a.Name, b.Name)
			for _, f := range e.Findings() {
				t.Errorf("   %s from %.1f to %.1f %v", f.GetComponent(), float64(f.GetFromNs())/1e9, float64(f.GetResolvedNs())/1e9, f.GetEvidence().GetReasons())
			}
		}
	}
}
