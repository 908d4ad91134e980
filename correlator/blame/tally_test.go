package blame

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// mesh is devices joined at random, hosts on each, so that next to nothing is
// symmetric: neighbours carry hosts, and few devices share their neighbours.
func mesh(t *testing.T, r *rand.Rand) *Network {
	t.Helper()
	const devices = 12
	var links [][2]string
	hosts := make(map[string]string)
	for d := range devices {
		name := fmt.Sprintf("d%d", d)
		if d > 0 {
			links = append(links, [2]string{fmt.Sprintf("d%d", r.IntN(d)), name})
		}
		for h := range 1 + r.IntN(2) {
			hosts[fmt.Sprintf("%s-h%d", name, h)] = name
		}
	}
	for range devices {
		if a, b := r.IntN(devices), r.IntN(devices); a != b {
			links = append(links, [2]string{fmt.Sprintf("d%d", a), fmt.Sprintf("d%d", b)})
		}
	}
	n, err := NewNetwork(links, hosts)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Counted by class or flow by flow, each link carries the same.
func TestTallySpreadsLikeFlows(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 5))
		n := mesh(t, r)
		if seed%2 == 0 {
			s := paper()
			s.pods, s.tors, s.t1, s.t2, s.hosts = 2+r.IntN(2), 1+r.IntN(4), 1+r.IntN(3), 1+r.IntN(3), 1+r.IntN(3)
			var err error
			if n, err = build(s); err != nil {
				t.Fatal(err)
			}
		}
		tally, m := NewTally(n), newRowMaker(n)
		want := make([]float64, n.Links())
		for range 300 {
			src, dst := int32(r.IntN(n.Hosts())), int32(r.IntN(n.Hosts()))
			if src == dst {
				continue
			}
			packets := float64(1 + r.IntN(50))
			tally.Add(src, dst, packets)
			m.cross(&Flow{Src: src, Dst: dst}, func(l int32, w float64) { want[l] += w * packets })
		}
		got := tally.traffic().packets
		for l := range want {
			if math.Abs(got[l]-want[l]) > 1e-4*(1+want[l]) { // shares are kept in 32 bits
				t.Errorf("seed %d: link %s carries %.3f packets, flow by flow %.3f", seed, n.LinkName(int32(l)), got[l], want[l])
			}
		}
	}
}
