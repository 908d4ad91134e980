package correlator

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"decaf/topology"
)

// BenchmarkRank ranks one epoch of 007's published fabric (4160 directed links)
// with as many lossy flows as four bad links make of 96,000 connections.
func BenchmarkRank(b *testing.B) {
	topo, err := topology.Clos(topology.ClosSpec{Pods: 2, ToRs: 20, T1s: 8, T2s: 10, Hosts: 40})
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{1000} {
		b.Run(fmt.Sprint(n, " lossy flows"), func(b *testing.B) {
			rng := rand.New(rand.NewPCG(1, 2))
			fb := newFabric(topo, 1)
			bad := map[*topology.Link]bool{}
			for len(bad) < 4 {
				bad[topo.Links[rng.IntN(len(topo.Links)-2*1600)]] = true
			}
			w := &Window{Topo: topo, Start: 0, End: 30 * second, paths: newPathSets(topo)}
			for len(w.Flows) < n {
				clear(fb.paths)
				c := fb.newConn(int64(rng.IntN(30e9)))
				hit := rng.IntN(100) == 0
				for _, l := range c.fwd {
					hit = hit || bad[l]
				}
				if !hit {
					continue
				}
				f := &Flow{Key: c.key, Src: c.src, Dst: c.dst, Count: 1, First: int64(rng.IntN(30e9)), Route: Route{Links: c.fwd, Hops: len(c.fwd), Full: true, known: len(c.fwd)}}
				f.Last = f.First
				f.kinds[kindFAST] = 1
				w.Flows = append(w.Flows, f)
			}
			v := Vote{Rule: DefaultRule()}
			named := 0
			for b.Loop() {
				named = 0
				for _, c := range v.Rank(w).Candidates {
					if c.Opens {
						named++
					}
				}
			}
			b.ReportMetric(float64(named), "named")
		})
	}
}
