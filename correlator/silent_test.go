package correlator

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"decaf/topology"
)

// silentRun is what came of silent loss on one link.
type silentRun struct {
	link  string
	rate  float64
	seed  int
	took  int64 // ns until the link was named; -1 never
	wrong []string
	why   []string // what was thought of the link at the end, if it was not named
}

// within is how soon a link that loses this share is to be named, ns.
func within(rate float64) int64 {
	if rate < 0.05 {
		return 10 * second
	}
	return 5 * second
}

// silentLoss lets one link lose packets silently from a moment on.
func silentLoss(m Method, topo *topology.Topology, i int, rate float64, seed int) silentRun {
	const at = 100 * second
	l := topo.Links[i]
	fb := newFabric(topo, uint64(seed*1000+i), fault{link: l, rate: rate, at: at, end: 1 << 62})
	e := playWith(m, topo, fb.run(at-5*second, at+20*second), at+20*second)
	r := silentRun{link: l.Name, rate: rate, seed: seed, took: -1}
	for name, f := range components(e) {
		if name == "link "+l.Name {
			r.took = int64(f.GetDetectedNs()) - at
		} else {
			r.wrong = append(r.wrong, fmt.Sprintf("%s after %.2f s, %v", name, float64(int64(f.GetDetectedNs())-at)/1e9, f.GetEvidence().GetReasons()))
		}
	}
	if r.took < 0 {
		for _, c := range e.Live().Candidates {
			r.why = append(r.why, fmt.Sprint(c.Component, " ", c.Opens, " ", c.Reasons))
		}
	}
	return r
}

// silentSummary is one line of the table: of runs, how many were named late or
// wrongly, and how soon the rest.
func silentSummary(runs []silentRun) string {
	var took []int64
	late, never, wrong := 0, 0, 0
	for _, r := range runs {
		wrong += len(r.wrong)
		switch {
		case r.took < 0:
			never++
		case r.took > within(r.rate):
			late++
			fallthrough
		default:
			took = append(took, r.took)
		}
	}
	slices.Sort(took)
	q := func(p float64) float64 {
		if len(took) == 0 {
			return 0
		}
		return float64(took[int(p*float64(len(took)-1))]) / 1e9
	}
	return fmt.Sprintf("%5d runs %4d late %4d never %3d wrong   seconds: median %5.2f  p90 %5.2f  p99 %5.2f  worst %5.2f",
		len(runs), late, never, wrong, q(.5), q(.9), q(.99), q(1))
}

// Every link of the fabric, at 1 % and 5 %, by each method: the link is named
// within 10 s and 5 s of the beginning, and nothing else ever is.
func TestSilentLossOnEveryLink(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	for _, name := range Methods() {
		m, err := NewMethod(name, DefaultEngineConfig(), topo)
		if err != nil {
			t.Fatal(err)
		}
		for _, rate := range []float64{.01, .05} {
			var runs []silentRun
			for i := range topo.Links {
				r := silentLoss(m, topo, i, rate, 0)
				runs = append(runs, r)
				if r.took < 0 || r.took > within(rate) {
					t.Errorf("%s, %g on %s: found after %.2f s\n   %s", name, rate, r.link, float64(r.took)/1e9, strings.Join(r.why, "\n   "))
				}
				for _, w := range r.wrong {
					t.Errorf("%s, %g on %s: named %s", name, rate, r.link, w)
				}
			}
			t.Logf("%s, loss %g: %s", name, rate, silentSummary(runs))
		}
	}
}

// BenchmarkSilentLoss prints how soon and how rightly each method names each
// link of the fabric: `go test -run - -bench SilentLoss -benchtime 20x` for 20
// seeds a link.
func BenchmarkSilentLoss(b *testing.B) {
	topo := smallClos(b)
	for _, name := range Methods() {
		m, err := NewMethod(name, DefaultEngineConfig(), topo)
		if err != nil {
			b.Fatal(err)
		}
		for _, rate := range []float64{.01, .05} {
			b.Run(fmt.Sprintf("%s/%g", name, rate), func(b *testing.B) {
				var runs []silentRun
				seed := 100 // others than those of the tests
				for b.Loop() {
					for i := range topo.Links {
						runs = append(runs, silentLoss(m, topo, i, rate, seed))
					}
					seed++
				}
				b.Log(silentSummary(runs))
				for _, r := range runs {
					for _, w := range r.wrong {
						b.Logf("%s, seed %d: %s", r.link, r.seed, w)
					}
				}
			})
		}
	}
}
