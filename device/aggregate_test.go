package device

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"decaf/api/packet"
	"decaf/api/yang"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
)

func addrPortOf(net, i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(net), byte(i >> 8), byte(i)}), uint16(1024+i%60000))
}

func TestAggregatesByClassInterfaceAndInterval(t *testing.T) {
	base := time.Unix(1000, 0)
	a := newAggregates(10, prefixLength{24, 48}, base)
	d := func(class, in string) *drop {
		return &drop{class: class, reason: "R", ingress: in, egress: "eth2", packets: 2, bytes: 200, flow: testFlow(1)}
	}
	at := func(ms int) time.Time { return base.Add(time.Duration(ms) * time.Millisecond) }
	a.add(at(100), time.Second, d(NoBuffer, "eth1"), reported)
	a.add(at(999), time.Second, d(NoBuffer, "eth1"), overThreshold)
	a.add(at(500), time.Second, d(NoBuffer, "eth3"), overFuse)
	a.add(at(600), 2*time.Second, d(PolicyL3ACL, "eth1"), duplicate)
	a.unseen(at(700), time.Second, &drop{class: NoBuffer, reason: "S", ingress: "eth1", egress: "eth2", packets: 50, bytes: 5000}, 40, overQueue)
	a.add(at(1000), time.Second, d(NoBuffer, "eth1"), reported) // of the next interval
	if n := len(a.due(at(999))); n != 1 {
		t.Fatalf("%d aggregates before the interval is over, want the one that a later drop ended", n)
	}
	a = newAggregates(10, prefixLength{24, 48}, base)
	a.add(at(100), time.Second, d(NoBuffer, "eth1"), reported)
	a.add(at(999), time.Second, d(NoBuffer, "eth1"), overThreshold)
	a.add(at(500), time.Second, d(NoBuffer, "eth3"), overFuse)
	a.add(at(600), 2*time.Second, d(PolicyL3ACL, "eth1"), duplicate)
	a.unseen(at(700), time.Second, &drop{class: NoBuffer, reason: "S", ingress: "eth1", egress: "eth2", packets: 50, bytes: 5000}, 40, overQueue)
	got := a.due(at(1000))
	if len(got) != 2 || got[0].ingress != "eth1" || got[1].ingress != "eth3" {
		t.Fatalf("%d aggregates at 1 s", len(got))
	}
	w := got[0].wire()
	if w.StartNs != 1000e9 || w.EndNs != 1001e9 || w.Class != NoBuffer || w.Reason != "" || w.Egress != "eth2" ||
		w.Packets != 54 || w.Bytes != 5400 || w.Events != 1 || w.Unattributed != 50 || w.Suppressed != (yang.Suppressed{Threshold: 1, Queue: 40}) {
		t.Errorf("%+v, %v", w, w.LossAggregate)
	}
	if len(w.TopFlows) != 1 || w.TopFlows[0].Packets != 4 || w.TopFlows[0].PacketsError != 0 || len(w.TopPrefixes) != 2 {
		t.Errorf("top %v, %v", w.TopFlows, w.TopPrefixes)
	}
	for i, want := range []struct {
		source bool
		prefix string
	}{{true, "10.10.0.0/24"}, {false, "10.20.0.0/24"}} {
		p := w.TopPrefixes[i]
		addr, _ := netip.AddrFromSlice(p.Prefix.Address)
		if got := netip.PrefixFrom(addr, int(p.Prefix.Length)).String(); p.Source != want.source || got != want.prefix || p.Packets != 4 {
			t.Errorf("prefix %v, want %+v", p, want)
		}
	}
	if got := a.due(at(1999)); len(got) != 0 {
		t.Errorf("%d aggregates of 2 s at 1.999 s", len(got))
	}
	got = a.flush(at(1999))
	if len(got) != 1 || got[0].wire().EndNs != 1001999e6 || got[0].suppressed.Duplicate != 1 {
		t.Errorf("the rest: %+v", got)
	}
	// It survives its way over gNMI.
	w.Origin = nil
	w.LossAggregate.Origin = newLedger("r", 7).origin(1)
	back, is, err := yang.DecodeAggregate(yang.AggregateUpdates(w, 1, 7))
	w.Origin.Producer = ""
	if err != nil || !is {
		t.Fatalf("%v, %v", is, err)
	}
	if d := cmp.Diff(&w, back, protocmp.Transform()); d != "" {
		t.Error(d)
	}
}

// With no room left drops still count, by class, and how many is told.
func TestAggregatesAreBounded(t *testing.T) {
	base := time.Unix(1000, 0)
	a := newAggregates(3, prefixLength{24, 48}, base)
	for i := range 10 {
		for _, class := range []string{NoBuffer, PolicyL3ACL} {
			a.add(base, time.Second, &drop{class: class, ingress: fmt.Sprintf("eth%d", i), packets: 1, bytes: 10}, reported)
		}
	}
	var packets uint64
	got := a.due(base.Add(time.Second))
	for _, g := range got {
		packets += g.packets
	}
	if len(got) != 5 || packets != 20 || a.merged != 17 {
		t.Errorf("%d aggregates of %d packets, %d merged; want 5, 20, 17", len(got), packets, a.merged)
	}
}

// TestAggregateOfAFlood: every flow above 1 % of a flood is in its aggregate,
// within its bound; so is every prefix.
func TestAggregateOfAFlood(t *testing.T) {
	base := time.Unix(1000, 0)
	for seed := range uint64(5) {
		r := rand.New(rand.NewPCG(seed, 1))
		a := newAggregates(10, prefixLength{24, 48}, base)
		truth, prefixes, n := map[packet.Flow]uint64{}, map[string]uint64{}, 300_000
		for range n {
			f := testFlow(r.IntN(50_000) + 1000)
			if r.IntN(4) == 0 {
				f = testFlow(r.IntN(20)) // each 1.25 % of all
			}
			truth[f]++
			prefixes["s"+a.prefix(f.Src.Addr()).String()]++
			prefixes["d"+a.prefix(f.Dst.Addr()).String()]++
			a.add(base, time.Second, &drop{class: NoBuffer, packets: 1, bytes: 60, flow: f}, overThreshold)
		}
		w := a.due(base.Add(time.Second))[0].wire()
		told := map[packet.Flow]bool{}
		for _, c := range w.TopFlows {
			f, err := packet.FlowFromPB(c.Flow)
			if err != nil {
				t.Fatal(err)
			}
			told[f] = true
			if truth[f] > c.Packets || truth[f] < c.Packets-c.PacketsError || c.PacketsError > uint64(n)/hitters {
				t.Errorf("seed %d: %v has %d packets, told [%d, %d]", seed, f, truth[f], c.Packets-c.PacketsError, c.Packets)
			}
		}
		for f, c := range truth {
			if float64(c) > topShare*float64(n) && !told[f] {
				t.Errorf("seed %d: %v with %d packets is not told of", seed, f, c)
			}
		}
		toldPrefix := map[string]bool{}
		for _, c := range w.TopPrefixes {
			addr, _ := netip.AddrFromSlice(c.Prefix.Address)
			key := map[bool]string{true: "s", false: "d"}[c.Source] + netip.PrefixFrom(addr, int(c.Prefix.Length)).String()
			toldPrefix[key] = true
			if got := prefixes[key]; got > c.Packets || got < c.Packets-c.PacketsError {
				t.Errorf("seed %d: %s has %d packets, told [%d, %d]", seed, key, got, c.Packets-c.PacketsError, c.Packets)
			}
		}
		for key, c := range prefixes {
			if float64(c) > topShare*float64(n) && !toldPrefix[key] {
				t.Errorf("seed %d: %s with %d packets is not told of", seed, key, c)
			}
		}
	}
}

// TestAggregateOfASketchedFlood: what was only counted and sketched is told of
// within bounds that hold, with the packets that have records.
func TestAggregateOfASketchedFlood(t *testing.T) {
	base := time.Unix(1000, 0)
	causes := [][causeKeySize]byte{{1}, {2}}
	for seed := range uint64(5) {
		r := rand.New(rand.NewPCG(seed, 2))
		a, s := newAggregates(10, prefixLength{24, 48}, base), newSketch(2, r.Uint64())
		key := aggregateKey{class: NoBuffer}
		truth, prefixes, n := map[packet.Flow]uint64{}, map[string]uint64{}, 200_000
		for turn := range 3 { // as another class's interval ends
			least := map[aggregateKey]map[packet.Flow]uint64{key: {}}
			for i := range n / 3 {
				f := testFlow(r.IntN(50_000) + 1000)
				if r.IntN(3) == 0 {
					f = testFlow(turn + r.IntN(15)) // each some 2 % of all
				}
				truth[f]++
				prefixes["s"+a.prefix(f.Src.Addr()).String()]++
				d := &drop{class: NoBuffer, packets: 1, bytes: 60, flow: f}
				if i%50 == 0 {
					a.add(base, time.Second, d, overThreshold)
					continue
				}
				d.flow, d.sketched = packet.Flow{}, true
				a.unseen(base, time.Second, d, 1, overThreshold)
				s.write(i%2, causes[i%3/2], f, 1)
			}
			list, rest := s.candidates(1)
			for _, h := range list {
				least[key][h.flow] += h.least
			}
			a.attribute(&heldFlows{least: least, most: func(_ aggregateKey, f packet.Flow) uint64 {
				return s.most(causes[0], f) + s.most(causes[1], f)
			}, rest: func(aggregateKey) uint64 { return 2 * rest }})
			s.clear()
		}
		w := a.due(base.Add(time.Second))[0].wire()
		told := map[packet.Flow]bool{}
		for _, c := range w.TopFlows {
			f, err := packet.FlowFromPB(c.Flow)
			if err != nil {
				t.Fatal(err)
			}
			told[f] = true
			if truth[f] > c.Packets || truth[f] < c.Packets-c.PacketsError {
				t.Errorf("seed %d: %v has %d packets, told [%d, %d]", seed, f, truth[f], c.Packets-c.PacketsError, c.Packets)
			}
		}
		for f, c := range truth {
			if float64(c) > topShare*float64(w.Packets) && !told[f] {
				t.Errorf("seed %d: %v with %d packets is not told of", seed, f, c)
			}
		}
		for _, c := range w.TopPrefixes {
			addr, _ := netip.AddrFromSlice(c.Prefix.Address)
			if key := netip.PrefixFrom(addr, int(c.Prefix.Length)).String(); c.Source {
				if got := prefixes["s"+key]; got < c.Packets-c.PacketsError || got > c.Packets+w.Unattributed {
					t.Errorf("seed %d: %s has %d packets, told [%d, %d] and %d unattributed", seed, key, got, c.Packets-c.PacketsError, c.Packets, w.Unattributed)
				}
			}
		}
		if share := float64(w.Unattributed) / float64(w.Packets); share < 0.5 || share > 0.75 {
			t.Errorf("seed %d: %.2f of the packets have no flow, want those of small flows: 2/3", seed, share)
		}
	}
}

// TestAggregateClosesWithItsSketch: a record of the next interval closes an
// aggregate before the sketch of its packets is read; they are told of all the
// same, and where they belong.
func TestAggregateClosesWithItsSketch(t *testing.T) {
	base := time.Unix(1000, 0)
	a := newAggregates(10, prefixLength{24, 48}, base)
	at := func(ms int) time.Time { return base.Add(time.Duration(ms) * time.Millisecond) }
	held := &drop{class: NoBuffer, packets: 100, bytes: 6000, sketched: true}
	a.unseen(at(950), time.Second, held, 100, overThreshold)
	if _, ok := a.sketchedUntil(at(999)); ok {
		t.Error("a sketch is wanted before the interval's end")
	}
	a.add(at(1001), time.Second, &drop{class: NoBuffer, packets: 1, flow: testFlow(1)}, reported)
	end, ok := a.sketchedUntil(at(1040))
	if !ok || !end.Equal(at(1000)) {
		t.Fatalf("%v, %v: want a sketch for the interval up to %v", end, ok, at(1000))
	}
	a.unseen(end.Add(-1), time.Second, held, 100, overThreshold)
	a.attribute(&heldFlows{
		least: map[aggregateKey]map[packet.Flow]uint64{{class: NoBuffer}: {testFlow(2): 190}},
		most:  func(_ aggregateKey, f packet.Flow) uint64 { return map[packet.Flow]uint64{testFlow(2): 195}[f] },
		rest:  func(aggregateKey) uint64 { return 3 },
	})
	got := a.due(at(1040))
	if len(got) != 1 {
		t.Fatalf("%d aggregates are over", len(got))
	}
	w := got[0].wire()
	if w.Packets != 200 || w.Unattributed != 10 || len(w.TopFlows) != 1 || w.TopFlows[0].Packets != 195 || w.TopFlows[0].PacketsError != 5 {
		t.Errorf("%d packets, %d unattributed, %v", w.Packets, w.Unattributed, w.TopFlows)
	}
	if got := a.due(at(2000)); len(got) != 1 || got[0].packets != 1 {
		t.Errorf("then %+v", got)
	}
}
