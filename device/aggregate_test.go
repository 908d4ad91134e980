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
