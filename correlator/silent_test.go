package correlator

import (
	"os"
	"slices"
	"strconv"
	"testing"
)

// Every link of the fabric, at 1 % and 5 %: the link is named within 10 s and
// 5 s of the beginning, and nothing else ever is.
func TestSilentLossOnEveryLink(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	seeds := 2
	if s := os.Getenv("DECAF_SEEDS"); s != "" { // 100 for the figures in the report of the blame engine
		seeds, _ = strconv.Atoi(s)
	}
	const at = 100 * second
	for _, c := range []struct {
		rate   float64
		within int64
	}{{0.01, 10 * second}, {0.05, 5 * second}} {
		var took []int64
		late, wrong := 0, 0
		for i, l := range topo.Links {
			for seed := range seeds {
				fb := newFabric(topo, uint64(seed*1000+i), fault{link: l, rate: c.rate, at: at, end: 1 << 62})
				e := play(topo, fb.run(at-5*second, at+20*second), at+20*second)
				found := components(e)
				f := found["link "+l.Name]
				if f == nil {
					late++
					t.Errorf("%g on %s, seed %d: not found", c.rate, l.Name, seed)
					for _, cand := range e.Live().Candidates {
						t.Logf("   %s %v %v", cand.Component, cand.Opens, cand.Reasons)
					}
				} else {
					d := int64(f.GetDetectedNs()) - at
					took = append(took, d)
					if d > c.within {
						late++
						t.Errorf("%g on %s, seed %d: found after %.2f s", c.rate, l.Name, seed, float64(d)/1e9)
					}
				}
				for name, f := range found {
					if name != "link "+l.Name {
						wrong++
						t.Errorf("%g on %s, seed %d: named %s: %v", c.rate, l.Name, seed, name, f.GetEvidence().GetReasons())
					}
				}
			}
		}
		slices.Sort(took)
		if len(took) > 0 {
			q := func(p float64) float64 { return float64(took[int(p*float64(len(took)-1))]) / 1e9 }
			t.Logf("loss %g: %d runs, %d late or not at all, %d false; detection median %.2f s, p90 %.2f s, p99 %.2f s, worst %.2f s",
				c.rate, len(topo.Links)*seeds, late, wrong, q(.5), q(.9), q(.99), q(1))
		}
	}
}
