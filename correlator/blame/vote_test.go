package blame

import (
	"slices"
	"testing"
)

// small is two switches' worth of fabric: t0 and t1 joined by s0 and s1.
func small(t *testing.T) *Network {
	t.Helper()
	n, err := NewNetwork([][2]string{{"t0", "s0"}, {"t0", "s1"}, {"t1", "s0"}, {"t1", "s1"}},
		map[string]string{"a": "t0", "b": "t0", "c": "t1", "d": "t1"})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// lossy is a flow that lost packets on the path through the switches named.
func lossy(t *testing.T, n *Network, lost float64, nodes ...string) Flow {
	t.Helper()
	f := Flow{Packets: 50, Lost: lost}
	f.Src, _ = n.Host(nodes[0])
	f.Dst, _ = n.Host(nodes[len(nodes)-1])
	for i := 1; i < len(nodes); i++ {
		l, ok := n.Link(nodes[i-1], nodes[i])
		if !ok {
			t.Fatalf("no link %s>%s", nodes[i-1], nodes[i])
		}
		f.Path = append(f.Path, l)
	}
	return f
}

func named(n *Network, r Result) []string {
	var out []string
	for _, b := range r.Components {
		out = append(out, n.Name(b.Component))
	}
	return out
}

// One vote of 1/h per flow, not per packet; the link of most votes first, and
// with it all the votes of the flows it explains.
func TestVoteNamesTheLinkAllFlowsShare(t *testing.T) {
	n := small(t)
	ep := &Epoch{Lossy: []Flow{
		lossy(t, n, 1, "a", "t0", "s0", "t1", "c"),
		lossy(t, n, 30, "b", "t0", "s0", "t1", "d"),
		lossy(t, n, 1, "b", "t0", "s0", "t1", "c"),
		{Packets: 9, Lost: 1}, // path unknown: no vote
	}}
	r := Vote(n, ep)
	// t0>s0 and s0>t1 have the same votes: the first is named and takes them all.
	if got := named(n, r); !slices.Equal(got, []string{"link t0>s0"}) {
		t.Errorf("named %v", got)
	}
	if e := r.Components[0].Evidence; e.Flows != 3 || e.Lost != 32 {
		t.Errorf("evidence %+v", e)
	}
	for i, want := range []string{"link t0>s0", "link t0>s0", "link t0>s0", "noise"} {
		if got := n.Name(r.Causes[i].Component); got != want {
			t.Errorf("flow %d: cause %s, want %s", i, got, want)
		}
	}
}

func TestVoteFindsTwoLinks(t *testing.T) {
	n := small(t)
	ep := &Epoch{Lossy: []Flow{
		lossy(t, n, 1, "a", "t0", "s0", "t1", "c"),
		lossy(t, n, 1, "b", "t0", "s0", "t1", "d"),
		lossy(t, n, 1, "c", "t1", "s1", "t0", "a"),
		lossy(t, n, 1, "d", "t1", "s1", "t0", "b"),
		lossy(t, n, 1, "d", "t1", "s1", "t0", "a"),
	}}
	if got := named(n, Vote(n, ep)); !slices.Equal(got, []string{"link s1>t0", "link t0>s0"}) { // its twin t1>s1 has as many: the lower id wins
		t.Errorf("named %v", got)
	}
}
