package blame

import (
	"math"
)

// informed is a tighter bound than [fabric.oracle]: it is not shown on which link
// of its path a packet died, as no method is, but all else. It knows the law that
// faults and noise were drawn from, how many packets came to each link, and, while
// it asks of one link, which of the others are at fault and at what rates. Of each
// link it computes the posterior by the flows that were reported lossy over it, and
// names it when that exceeds one half. A method does not know the other faults, so
// it beats this by luck alone.
//
// It serves where links fail at rates that last and all paths are known.
func (f *fabric) informed(e *evidence) Result {
	s := f.set
	noise := s.noise / 2 * (1 + s.noisy*(noisier-1))
	packets, probability := make([]float64, f.n.Links()), make([]float64, f.n.Links())
	for i := range e.told {
		for l, k := range e.told[i].sent {
			packets[l] += k
		}
	}
	rate := func(l int32) float64 {
		if f.bad[l] {
			return f.rate[l]
		}
		return noise
	}
	through, all := make([][]int32, f.n.Links()), make([]float64, len(e.whole.Lossy))
	for i := range e.whole.Lossy {
		for _, l := range e.whole.Lossy[i].Path {
			through[l] = append(through[l], int32(i))
			all[i] += rate(l)
		}
	}
	kinds := f.kinds()
	share := make([]float64, f.n.Links())
	for _, kind := range kinds {
		for _, l := range kind {
			share[l] = 1 / float64(len(kinds)*len(kind))
		}
	}
	for l := range int32(f.n.Links()) {
		if len(through[l]) == 0 {
			continue
		}
		// likelihood is the log of that of the link's rate being one of the grid,
		// averaged, over that of the rate that good links have on average.
		likelihood := func(low, high float64) float64 {
			terms := newGrid(low, high, 60).rate
			for j, x := range terms {
				x = hazard(x)
				terms[j] = -(x - noise) * packets[l]
				for _, i := range through[l] {
					rest := all[i] - rate(l)
					terms[j] += e.whole.Lossy[i].Lost * math.Log((rest+x)/(rest+noise))
				}
			}
			return logMean(terms)
		}
		good, faulty, expected := likelihood(0, s.noise), []float64{math.Inf(-1)}, 0.0
		if s.noisy > 0 {
			good = addUp([]float64{math.Log(1-s.noisy) + good, math.Log(s.noisy) + likelihood(0, noisier*s.noise)})
		}
		for _, g := range s.groups() {
			p := float64(g.count) * share[l]
			if g.hosts == (share[l] > 0) {
				p = 0
			}
			if g.hosts && share[l] == 0 {
				p = float64(g.count) / float64(2*f.n.Hosts())
			}
			if p > 0 {
				expected += p
				faulty = append(faulty, math.Log(p)+likelihood(g.low, g.high))
			}
		}
		if expected > 0 {
			probability[l] = 1 / (1 + math.Exp(math.Log1p(-min(expected, 0.99))+good-addUp(faulty)))
		}
	}
	var r Result
	for l, p := range probability {
		switch b := (Blame{Component: Component{Link, int32(l)}, Probability: clamp(p)}); {
		case p > 0.5:
			r.Components = append(r.Components, b)
		case p >= 0.001:
			r.Suspects = append(r.Suspects, b)
		}
	}
	r.Causes = make([]Cause, len(e.cause))
	for i := range e.cause {
		best := int32(-1)
		for _, l := range e.whole.Lossy[i].Path {
			if probability[l] > 0.5 && (best < 0 || f.rate[l] > f.rate[best]) {
				best = l
			}
		}
		if best >= 0 {
			r.Causes[i] = Cause{Component{Link, best}, probability[best]}
		}
	}
	return r
}

// informs says whether [fabric.informed] serves for a set-up.
func informs(s setup) bool {
	return s.device == "" && !s.pair && !s.once && s.bursts == 0 && s.reroute == 0 && s.refused == 0 && s.stale == 0 && s.partial == 0 && !s.noPaths && !s.visible
}
