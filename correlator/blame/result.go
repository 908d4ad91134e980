package blame

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Result is what the evidence of one epoch says.
type Result struct {
	// Components are named: each is at fault with the probability of
	// [Options.Name] at least. Suspects are the rest that the search brought up.
	Components, Suspects []Blame
	// Abstained says what could not be told, and why.
	Abstained []string
	// Causes has one entry for each of [Epoch.Lossy].
	Causes []Cause
	// Noise is the estimated loss rate per packet of a good link, Stale the
	// estimated share of reported paths that are wrong.
	Noise, Stale float64
}

// Blame is a component under suspicion.
type Blame struct {
	Component   Component
	Probability float64 // of the component or one of its equivalents
	Class       string  // most of what devices reported; of hosts alone only congestion
	During      Span    // when it lost packets; the zero Span: all the time, or nobody knows
	Equivalent  []Component
	Evidence    Evidence
	Trace       []string // what spoke for and against
}

// Evidence is what a blame rests on.
type Evidence struct {
	Flows      float64 // lossy flows that the component explains
	Lost       float64 // packets they lost there
	Packets    float64 // packets hosts sent through it
	Rate       float64 // loss rate above noise, the greatest of its links
	Drops      float64 // packets devices reported dropped there
	HostNats   float64 // log Bayes factor of what hosts saw
	DeviceNats float64 // and what devices add
}

func percent(p float64) string { return fmt.Sprintf("%.3g %%", 100*p) }

// result names what was found. What could not be told is [engine.abstain]'s.
func (e *engine) result() Result {
	r := Result{Causes: e.causes(), Noise: e.noise, Stale: e.stale}
	for _, f := range e.faults {
		b := e.blame(f)
		if b.Probability >= e.o.Name {
			r.Components = append(r.Components, b)
		} else if b.Probability >= 0.001 {
			r.Suspects = append(r.Suspects, b)
		}
	}
	r.sort()
	return r
}

// abstain says what could not be told, once all components and suspects of the result
// are there.
func (e *engine) abstain(r *Result) {
	for _, f := range e.faults {
		if why := e.doubt(f); why != "" && r.suspects(f.at) {
			r.Abstained = append(r.Abstained, why)
		}
	}
	r.Abstained = append(append(r.Abstained, e.unheeded(r)...), e.limits()...)
}

// sort puts the likeliest first.
func (r *Result) sort() {
	order := func(a, b Blame) int {
		return cmp.Or(-cmp.Compare(a.Probability, b.Probability), -cmp.Compare(a.Evidence.Lost, b.Evidence.Lost),
			cmp.Compare(a.Component.Kind, b.Component.Kind), cmp.Compare(a.Component.ID, b.Component.ID))
	}
	slices.SortFunc(r.Components, order)
	slices.SortFunc(r.Suspects, order)
}

func (e *engine) blame(f *fault) Blame {
	said := e.said(f.at)
	b := Blame{Component: f.at, Probability: clamp(f.probability), Class: said.class, During: said.when, Equivalent: f.equivalent(), Evidence: Evidence{
		Flows: f.peak.flows, Lost: f.peak.mass, Packets: e.packetsThrough(f.at), Rate: f.peak.x,
		Drops: said.count, HostNats: finite(f.evidence), DeviceNats: finite(f.device),
	}}
	if f.peak.mass > 0 {
		b.Trace = append(b.Trace, fmt.Sprintf("for: %.1f lossy flows lost %.1f of %.0f packets there, noise alone %.3g (%.1f nats)",
			b.Evidence.Flows, b.Evidence.Lost, b.Evidence.Packets, e.noise*b.Evidence.Packets, b.Evidence.HostNats))
	}
	e.tellPeriod(f, &b)
	if f.perLink {
		b.Trace = append(b.Trace, fmt.Sprintf("for: %d of its %d links lose packets", len(f.params), len(e.n.linksOf(f.at))))
	}
	switch nats, why := e.word(f); {
	case why == "":
		b.Trace = append(b.Trace, "no device with an agent would see it")
	case said.count == 0 && nats == 0:
		b.Trace = append(b.Trace, why)
	case nats < 0:
		b.Trace = append(b.Trace, fmt.Sprintf("against: %s (%.1f nats)", why, nats))
	default:
		b.Trace = append(b.Trace, fmt.Sprintf("for: %s: %.0f packets, class %q (%+.1f nats)", why, said.count, said.class, nats))
	}
	if len(f.rivals) > 0 {
		b.Trace = append(b.Trace, fmt.Sprintf("against: %s explains it nearly as well (%.1f nats less)",
			e.n.Name(Component{Link, f.rivals[0].link}), f.evidence-f.rivals[0].evidence))
	}
	if e.stale > 0.02 && e.pathless < e.lossSum {
		b.Trace = append(b.Trace, fmt.Sprintf("weakened: %s of the reported paths are stale", percent(e.stale)))
	}
	b.Trace = append(b.Trace, f.trace...)
	return b
}

// doubt says why a likely suspect is not named.
func (e *engine) doubt(f *fault) string {
	if f.probability < 0.2 {
		return ""
	}
	switch {
	case f.peak.flows < singleFlow && f.device <= 0:
		return fmt.Sprintf("%s: a single flow is no proof", e.n.Name(f.at))
	case len(f.rivals) > 0:
		return fmt.Sprintf("%s: %s explains the losses as well", e.n.Name(f.at), e.n.Name(Component{Link, f.rivals[0].link}))
	default:
		return fmt.Sprintf("%s: too few losses to tell from noise (probability %.2f)", e.n.Name(f.at), f.probability)
	}
}

// Of what devices reported and nothing was made of, this much is told.
const (
	unheededDrops = 10 // of one place; fewer may be noise
	unheededMost  = 3  // places, those with most drops
)

// unheeded says which devices' drops neither make nor support a component of the
// result.
func (e *engine) unheeded(r *Result) (out []string) {
	heeded := make(map[Component]bool)
	for _, list := range [...][]Blame{r.Components, r.Suspects} {
		for _, b := range list {
			for _, c := range slices.Concat(b.Equivalent, []Component{b.Component}) {
				heeded[c] = true
				for _, l := range e.n.linksOf(c) {
					heeded[Component{Link, l}] = true
				}
			}
		}
	}
	left := 0
	for _, said := range e.order { // by their counts
		if said.count < unheededDrops {
			break
		}
		if heeded[said.about] || heeded[said.at] {
			continue
		}
		if len(out) == unheededMost {
			left++
			continue
		}
		why := "but no host tells of losses there"
		if e.hostsLost(said.about) {
			why = "and hosts' losses there are put down to others"
		}
		out = append(out, fmt.Sprintf("%s: its device reported %.0f drops of class %q, %s", e.n.Name(said.about), said.count, said.class, why))
	}
	if left > 0 {
		out = append(out, fmt.Sprintf("%d more places of which devices reported drops that nothing was made of", left))
	}
	return out
}

// hostsLost says whether flows that lost packets crossed a component.
func (e *engine) hostsLost(c Component) bool {
	return slices.ContainsFunc(e.n.linksOf(c), func(l int32) bool { return e.lostOn[l] > 0 })
}

// limits says what the epoch as a whole could not tell.
func (e *engine) limits() (out []string) {
	if len(e.rows) == 0 && len(e.order) == 0 && (e.assumed || e.carried == 0) {
		out = append(out, "nothing was seen: neither lossy flows nor loss-free ones nor drops")
	}
	if len(e.rows) > 0 && e.assumed {
		out = append(out, "no loss-free packets were counted: traffic is assumed even, so a busy link may be taken for a bad one")
	}
	if e.lossSum > 0 && e.pathless >= e.lossSum {
		out = append(out, "no lossy flow has a whole path: only what all its paths share can be told apart")
	}
	if e.stale > 0.3 {
		out = append(out, fmt.Sprintf("%s of the reported paths seem stale", percent(e.stale)))
	}
	if len(e.faults) >= maxFaults {
		out = append(out, fmt.Sprintf("more than %d faults: the search stopped", maxFaults))
	}
	return out
}

// finite makes a number of an infinite one, for those who print it.
func finite(x float64) float64 {
	if math.IsInf(x, 0) || math.IsNaN(x) {
		return 0
	}
	return x
}
