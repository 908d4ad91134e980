package correlator

import (
	"fmt"
	"math"
	"slices"

	"decaf/topology"
)

// Rule is what a link must show before votes alone name it. The first three
// parts are the design's; the others keep chance from naming a neighbour.
//
// Evidence is in nats: the negative logarithm of a probability.
type Rule struct {
	Flows   int // lossy flows that count, at least
	Sources int // distinct sources; for a host's own link, distinct ends on the far side
	Proofs  int // of the flows, those with proof of loss on the way there

	// Surprise is how unlikely the flows must be as noise that happened to
	// cross this link.
	Surprise float64
	// Apart is how unlikely, if any one other link were at fault instead, it
	// must be that its flows crossed this link so often.
	Apart float64
	// Odds is by how much the link must be likelier at fault than any other one.
	Odds float64

	// NoisePrior is the number of noise flows assumed in a window on top of
	// those seen; Uneven by how much a link may carry more than its mean share.
	NoisePrior, Uneven float64
}

// DefaultRule is tuned for no false finding: noise passes Surprise in less than
// 1 of 10⁵ windows, and a neighbour passes Apart for less than 1 fault of 30,000.
func DefaultRule() Rule {
	return Rule{
		Flows: 3, Sources: 2, Proofs: 2,
		Surprise: math.Log(1e5), Apart: math.Log(3e4), Odds: 2,
		NoisePrior: 0.5, Uneven: 1.5,
	}
}

// noise is the number of noise flows to expect among a pick's by chance: its
// link's share of the unexplained flows of the time in which the pick's flows
// came. Noise that comes in bursts, as when a machine stalls, is so measured
// against its own burst.
func (r Rule) noise(w *Window, p pick, unexplained []*Flow) float64 {
	hops, first, last := 0, int64(math.MaxInt64), int64(0)
	for _, f := range p.flows {
		hops += f.Route.Hops
		first, last = min(first, f.First), max(last, f.Last)
	}
	if len(p.flows) == 0 || w.End <= w.Start {
		return 0
	}
	first, last = first-noiseMargin, last+noiseMargin
	seen := 0
	for _, f := range unexplained {
		if f.Last >= first && f.First <= last {
			seen++
		}
	}
	assumed := r.NoisePrior * min(1, float64(last-first)/float64(w.End-w.Start))
	share := r.Uneven * float64(hops) / float64(len(p.flows)) / float64(max(len(w.Topo.Links), 1))
	return (float64(seen) + assumed) * min(share, 1)
}

// noiseMargin widens the time of a pick's flows when noise is counted.
const noiseMargin = 1e9

// verdict is the outcome of a rule, with the decision trace.
type verdict struct {
	ok      bool
	reasons []string
}

// check applies the rule to a link that Algorithm 1 picked. noise is the number
// of noise flows to expect on it.
func (r Rule) check(w *Window, p pick, noise float64) verdict {
	var v verdict
	say := func(format string, args ...any) { v.reasons = append(v.reasons, fmt.Sprintf(format, args...)) }

	src, dst := map[string]bool{}, map[string]bool{}
	proofs := 0
	for _, f := range p.flows {
		src[f.Src], dst[f.Dst] = true, true
		if f.Proof() {
			proofs++
		}
	}
	n := len(p.flows)
	if n < r.Flows {
		say("only %d lossy flows that count; %d needed", n, r.Flows)
		return v
	}
	_, hostLink := w.Topo.HostLink(p.link)
	if len(src) < r.Sources && !(hostLink && len(dst) >= r.Sources) {
		say("the %d lossy flows come from %d source and go to %d destination: the hosts may be at fault", n, len(src), len(dst))
		return v
	}
	if proofs < r.Proofs {
		say("only %d of %d lossy flows prove loss on the way there; the rest may be lost acknowledgements", proofs, n)
		return v
	}
	surprise := poissonNats(noise, n)
	if surprise < r.Surprise {
		say("%d lossy flows do not stand out from noise: %.2g expected (%.1f of %.1f nats)", n, noise, surprise, r.Surprise)
		return v
	}
	for _, m := range rivals(p.flows, p.link) {
		apart, odds := r.separate(w, p, m, noise)
		if apart < r.Apart || odds < r.Odds {
			say("cannot be told from link %s yet (%.1f of %.1f nats, odds %.1f of %.1f)", m.Name, apart, r.Apart, odds, r.Odds)
			return v
		}
	}
	say("%d lossy flows from %d sources to %d destinations cross it, %d with proof of loss on the way there; %.2g expected as noise",
		n, len(src), len(dst), proofs, noise)
	say("every other link on their paths explains them worse")
	v.ok = true
	return v
}

// rivals are the other links that the flows cross.
func rivals(flows []*Flow, l *topology.Link) []*topology.Link {
	var list []*topology.Link
	seen := map[*topology.Link]bool{l: true}
	for _, f := range flows {
		for _, m := range f.Route.Links {
			if m != nil && !seen[m] {
				seen[m] = true
				list = append(list, m)
			}
		}
	}
	return list
}

// separate weighs a picked link against a rival, by the flows the pick explains.
// Those that cross the pick alone would all be noise if the rival were at fault.
// Those that cross both speak by how ECMP spreads their pair: given a rival at
// fault, a flow crosses the pick as well only with the probability of its
// pair's paths through the rival. Flows through what is explained already are
// not among them, so neither are such paths: else the half that is left of a
// link's flows, which all come the other way, would accuse that way.
func (r Rule) separate(w *Window, p pick, rival *topology.Link, noise float64) (apart, odds float64) {
	type pair struct {
		src, dst string
		past     int // how many of the window's spent components it avoids
	}
	only := 0
	for _, f := range p.flows {
		if !f.crosses(rival) {
			only++
		}
	}
	alone := poissonNats(noise, only)
	// The common case, and the cheap one: few flows cross the rival at all.
	if worst := alone - mostPerFlow*float64(len(p.flows)-only); alone >= r.Apart && worst >= r.Odds {
		return alone, worst
	}
	memo := make(map[pair]chances)
	for _, f := range p.flows {
		if !f.crosses(rival) {
			continue
		}
		k := pair{f.Src, f.Dst, w.avoids(f)}
		c, ok := memo[k]
		if !ok {
			c = w.paths.chances(f.Src, f.Dst, p.link, rival, func(l *topology.Link) bool {
				return slices.Contains(p.before, l) || w.avoided(k.past, l)
			})
			memo[k] = c
		}
		// With an end outside the topology, or a path that is none of the
		// shortest, the ECMP set says nothing.
		if c.both <= 0 {
			continue
		}
		apart += math.Log(c.b / c.both)
		// That the pick is the rarer link of the two speaks for it only if the
		// traffic is as even as ECMP; whether it is, is not known. So it counts
		// against the pick, never for it.
		odds += min(0, math.Log(c.b/c.a))
	}
	return apart + alone, odds + alone
}

// mostPerFlow bounds what one shared flow can say: ECMP sets are listed up to
// topology.MaxPaths.
var mostPerFlow = math.Log(topology.MaxPaths)

// poissonNats is −ln P(X ≥ n) for X Poisson with this mean.
func poissonNats(mean float64, n int) float64 {
	if n <= 0 {
		return 0
	}
	if mean <= 0 {
		return math.Inf(1)
	}
	if float64(n) <= mean {
		return 0 // expected, or less: no evidence, and no need to be exact
	}
	// P(X ≥ n) = e^−m m^n/n! · (1 + m/(n+1) + m²/((n+1)(n+2)) + …)
	lg, _ := math.Lgamma(float64(n + 1))
	first := -mean + float64(n)*math.Log(mean) - lg
	sum, term := 1.0, 1.0
	for k := n + 1; term > 1e-12*sum; k++ {
		term *= mean / float64(k)
		sum += term
	}
	return -(first + math.Log(sum))
}
