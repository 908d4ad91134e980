package correlator

import (
	"net/netip"
	"testing"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// A TTL that runs out for an acknowledgement explains what was sent again only where
// one ran out for a segment that some host sent again: a probe whose record is late
// looks like an acknowledgement.
func TestTTLThatRanOut(t *testing.T) {
	topo := smallClos(t)
	flows := func(n int) (out []JoinedFlow) {
		for i := range n {
			out = append(out, JoinedFlow{Flow: &Flow{Key: FlowKey{Flow: packet.Flow{
				Src: netip.AddrPortFrom(topo.Hosts[0].Addresses[0], uint16(40000+i)), Dst: netip.AddrPortFrom(topo.Hosts[7].Addresses[0], 5201), Proto: packet.TCP,
			}}}})
		}
		return out
	}
	for _, c := range []struct {
		name    string
		class   string
		answers int  // drops that look like acknowledgements of what flows sent again, one of each
		segment bool // one more drop took the very segment
		opens   bool
		explain int
	}{
		{"probes whose records are late", classTTL, 5, false, false, 0},
		{"a class below that of TTLs", classTTL + "/other", 5, false, false, 0},
		{"acknowledgements in a loop", classTTL, 5, true, true, 6},
		{"a segment and no acknowledgement", classTTL, 0, true, false, 1},
		{"acknowledgements that an access list takes", "policy/l3/acl", 5, false, true, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &Window{Topo: topo, End: 30 * second, paths: newPathSets(topo)}
			list := flows(c.answers + btoi(c.segment))
			for i := range list {
				d := &Drop{Time: 10 * second, Component: Component{Node: "t2-0"}, Device: "t2-0", Event: &decafpb.DropEvent{Class: c.class}, settled: true}
				list[i].Join.Drops, list[i].Join.Answer = []*Drop{d}, 1
				if c.segment && i == len(list)-1 {
					d.Matched, list[i].Join.Answer, list[i].Join.Matched = true, 0, 1
				}
				w.Drops = append(w.Drops, d)
			}
			w.Joined = list
			found := DefaultDeviceRule().accuse(w)
			if len(found) != 1 {
				t.Fatalf("%d candidates, want 1", len(found))
			}
			if got := found[0]; got.Opens != c.opens || len(got.Flows) != c.explain {
				t.Errorf("opens %v and explains %d flows, want %v and %d", got.Opens, len(got.Flows), c.opens, c.explain)
			}
		})
	}
}
