package device

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// TestMergedAggregateOfASketchedFlood: where there is no room to tell interfaces
// apart every flow above 1 % of what is counted together is told of all the same,
// within its bound; so it is in the aggregates that there was room for.
func TestMergedAggregateOfASketchedFlood(t *testing.T) {
	const room, interfaces, n = 3, 12, 200_000
	base := time.Unix(1000, 0)
	for seed := range uint64(3) {
		r := rand.New(rand.NewPCG(seed, 3))
		a, s := newAggregates(room, prefixLength{24, 48}, base), newSketch(2, r.Uint64())
		key := func(i int) aggregateKey { return aggregateKey{NoBuffer, fmt.Sprintf("eth%d", i), ""} }
		cause := func(i int) [causeKeySize]byte { return [causeKeySize]byte{byte(i + 1)} }
		truth := map[string]map[packet.Flow]uint64{} // by interface, "" of those without room
		merged := uint64(0)
		for i := range n {
			f := testFlow(r.IntN(20_000) + 1000)
			in := r.IntN(interfaces)
			if r.IntN(3) == 0 { // each some 2 % of all, by two interfaces
				large := r.IntN(15)
				f, in = testFlow(large), (large+r.IntN(2))%interfaces
			}
			if i < interfaces { // the first have room
				in = i
			}
			d := &drop{class: NoBuffer, ingress: key(in).ingress, packets: 1, bytes: 60}
			at := d.ingress
			if in >= room {
				at = ""
				merged++
			}
			if truth[at] == nil {
				truth[at] = map[packet.Flow]uint64{}
			}
			truth[at][f]++
			if i%50 == 0 && i > 0 {
				d.flow = f
				a.add(base, time.Second, d, overThreshold)
				continue
			}
			d.sketched = true
			a.unseen(base, time.Second, d, 1, overThreshold)
			s.write(i%2, cause(in), f, 1)
		}
		least := map[aggregateKey]map[packet.Flow]uint64{}
		for in := range interfaces {
			least[key(in)] = map[packet.Flow]uint64{}
		}
		list, rest := s.candidates(1)
		for _, h := range list {
			least[key(int(h.cause[0])-1)][h.flow] += h.least
		}
		a.attribute(&heldFlows{least: least, most: func(k aggregateKey, f packet.Flow) (most uint64) {
			for in := range interfaces {
				if key(in) == k {
					most = s.most(cause(in), f)
				}
			}
			return most
		}, rest: func(aggregateKey) uint64 { return rest }})
		if a.merged != merged {
			t.Errorf("seed %d: %d packets merged, want %d", seed, a.merged, merged)
		}
		got := a.due(base.Add(time.Second))
		if len(got) != room+1 {
			t.Fatalf("seed %d: %d aggregates, want those of %d interfaces and one of the others", seed, len(got), room)
		}
		for _, g := range got {
			w, told := g.wire(), map[packet.Flow]bool{}
			for _, c := range w.TopFlows {
				f, err := packet.FlowFromPB(c.Flow)
				if err != nil {
					t.Fatal(err)
				}
				told[f] = true
				if is := truth[w.Ingress][f]; is > c.Packets || is < c.Packets-c.PacketsError {
					t.Errorf("seed %d: %q: %v has %d packets, told [%d, %d]", seed, w.Ingress, f, is, c.Packets-c.PacketsError, c.Packets)
				}
			}
			large := 0
			for f, c := range truth[w.Ingress] {
				if float64(c) > topShare*float64(w.Packets) {
					large++
					if !told[f] {
						t.Errorf("seed %d: %q: %v with %d of %d packets is not told of", seed, w.Ingress, f, c, w.Packets)
					}
				}
			}
			if w.Ingress == "" && (large < 10 || w.Packets != merged || w.Unattributed > w.Packets*3/4) {
				t.Errorf("seed %d: merged: %d large flows, %d packets of %d, %d unattributed", seed, large, w.Packets, merged, w.Unattributed)
			}
		}
	}
}

// How many aggregates may be open is the configuration's to say.
func TestAggregatesOpen(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Name = "r"
	for open, ok := range map[int]bool{1: true, 256: true, maxOpen: true, 0: false, -1: false, maxOpen + 1: false} {
		cfg.Aggregates.Open = open
		err := cfg.Validate()
		if ok != (err == nil) || err != nil && !strings.Contains(err.Error(), fmt.Sprintf("aggregates: open %d: give a number", open)) {
			t.Errorf("open %d: %v", open, err)
		}
	}
	cfg.Aggregates.Open = 2
	a, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for i := range 5 {
		a.enter(observed{event: &decafpb.DropEvent{Class: NoBuffer, Ingress: fmt.Sprintf("eth%d", i)}, packets: 1, bytes: 100, known: true}, now)
	}
	if s := a.State(); s.AggregatesMerged != 3 {
		t.Errorf("%d packets merged, want 3: there is room for 2 interfaces", s.AggregatesMerged)
	}
	if long := Command().Long; !strings.Contains(long, "aggregates.open (256)") {
		t.Errorf("the help does not name the key:\n%s", long)
	}
}
