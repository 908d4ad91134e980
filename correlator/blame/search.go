package blame

import (
	"cmp"
	"math"
	"slices"
)

// Faults expected in an epoch before looking at it. 007 met 0.45 bad links per
// epoch in production, 48 % of them between host and ToR (Arzani et al., NSDI
// 2018, section 8); whole devices and hosts fail more rarely.
const (
	fabricFaults   = 0.45 * 0.52
	hostLinkFaults = 0.45 * 0.48
	deviceFaults   = 0.05
	hostFaults     = 0.05
)

const (
	faultOdds   = 0    // log odds from which a component explains losses
	suspectOdds = -4.6 // log odds down to which it is a suspect: p = 0.01
	faintOdds   = -16  // log odds down to which it may show a class of noisy links
	maxFaults   = 2000
	maxSuspects = 200
	smallFabric = 600 // links with losses up to which each is weighed with the noise fitted anew
	maxPruned   = 2   // a component removed so often stays out, or the search would turn in circles
)

// stratum is a kind of component that fails at a rate of its own.
type stratum uint8

const (
	fabricLinks stratum = iota
	hostLinks
	devices
	hosts
	strata
)

func (e *engine) stratum(c Component) stratum {
	switch {
	case c.Kind == Link && c.ID < e.n.fabric():
		return fabricLinks
	case c.Kind == Link:
		return hostLinks
	case c.Kind == Device:
		return devices
	default:
		return hosts
	}
}

// learned is how many faults of each stratum the epoch has shown, and at which
// rates: the others of an epoch tell what to expect of one more.
type learned [strata][]known

type known struct {
	fault    *fault
	log      float64 // of its rate
	probable float64
}

// learn gathers the faults that explain losses, with the weight given.
func (e *engine) learn(weight func(*fault) float64) (out learned) {
	for _, f := range e.faults {
		if w := weight(f); w > 0 && f.typical() > 0 {
			s := e.stratum(f.at)
			out[s] = append(out[s], known{f, math.Log(f.typical()), w})
		}
	}
	return out
}

// certain counts each fault that explains losses as one.
func certain(f *fault) float64 {
	if f.weak {
		return 0
	}
	return 1
}

// prior is the log odds of a component before the evidence, by the density of
// the log of its rate: the same in all decades, and higher near the rates of
// the epoch's other faults of its stratum, one e-fold wide round each.
func (e *engine) prior(c Component, x float64, others learned, self *fault) float64 {
	s := e.stratum(c)
	expected := [strata]float64{fabricFaults, hostLinkFaults, deviceFaults, hostFaults}[s] / rateRange
	for _, k := range others[s] {
		if k.fault != self {
			z := math.Log(x) - k.log
			expected += k.probable * math.Exp(-z*z/2) / math.Sqrt(2*math.Pi)
		}
	}
	return math.Log(expected / e.size(s))
}

// priorBound bounds a prior from above.
func (e *engine) priorBound(c Component, others learned) float64 {
	s := e.stratum(c)
	expected := [strata]float64{fabricFaults, hostLinkFaults, deviceFaults, hostFaults}[s] / rateRange
	return math.Log((expected + float64(len(others[s]))/math.Sqrt(2*math.Pi)) / e.size(s))
}

func (e *engine) size(s stratum) float64 {
	return math.Max(1, [strata]float64{e.carrying[0], e.carrying[1], float64(e.n.Devices()), float64(e.n.Hosts())}[s])
}

// search builds the set of faults greedily: the component that gains most in
// posterior odds, then all rates anew, until nothing gains. What no longer pays
// its way leaves.
func (e *engine) search() {
	e.noise = (e.lossSum + 0.5) / math.Max(1, e.carried) / 4
	e.stale = stalePrior / staleWeight
	e.fit(2)
	settled := make(map[Component]bool) // groups weighed already
	for len(e.faults) < maxFaults {
		c, p, ok := e.next(settled)
		if !ok {
			break
		}
		if p.noise > 0 {
			e.noise = p.noise
			e.rates()
		}
		if c.Kind == Link {
			e.add(e.newLinkFault(c.ID, p.x))
		} else {
			settled[c] = true
			e.resolve(c, true)
		}
		e.fit(e.rounds(5))
		e.prune()
	}
	for _, c := range e.crowded() { // again, if they were weighed with fewer
		e.resolve(c, false)
	}
	e.fit(10)
	e.prune()
}

// rounds is more on a small fabric, where noise and faults are harder to part.
func (e *engine) rounds(n int) int {
	if len(e.touched) <= smallFabric {
		return 8 * n
	}
	return n
}

// prune removes faults that others have made superfluous.
func (e *engine) prune() {
	others := e.learn(certain)
	gone := e.drop(func(f *fault) bool {
		return f.told || e.loss(f)+e.prior(f.at, f.typical(), others, f) > faultOdds
	})
	for _, f := range gone {
		e.pruned[f.at]++
	}
	if len(gone) > 0 {
		e.fit(3)
	}
}

// scored is a component with its bound or its odds.
type scored struct {
	at   Component
	odds float64
}

// next finds the component with the best odds of being one more fault.
func (e *engine) next(settled map[Component]bool) (Component, peak, bool) {
	few := len(e.touched) <= smallFabric
	least := float64(faultOdds)
	if few {
		least = math.Inf(-1)
	}
	noise := e.noiseMass()
	list := e.screen(settled, least)
	others := e.learn(certain)
	best, bestOdds, bestPeak := Component{}, float64(faultOdds), peak{}
	for _, s := range list {
		if s.odds <= bestOdds && !few {
			break // bounds descend
		}
		if e.pruned[s.at] >= maxPruned {
			continue
		}
		hits, packets := e.through(s.at), e.packetsThrough(s.at)
		p := e.peak(hits, packets)
		if few {
			if q := e.profile(hits, packets, noise); q.gain > p.gain {
				p = q
			}
		}
		if odds := p.evidence() + e.prior(s.at, p.x, others, nil); odds > bestOdds {
			best, bestOdds, bestPeak = s.at, odds, p
		}
	}
	return best, bestPeak, best.Kind != None
}

// suspect is a component under weak suspicion.
type suspect struct {
	scored
	peak
}

// suspects adds what is too weak to explain anything but is not out of the
// question, one for each handful of losses: the others are its rivals.
func (e *engine) suspects() {
	e.rates()
	others := e.learn(certain)
	var list []suspect
	for _, s := range e.screen(nil, faintOdds) {
		if s.at.Kind != Link || e.covered(s.at, func(*fault) bool { return true }) {
			continue
		}
		p := e.peak(e.onLink(s.at.ID), e.packets[s.at.ID])
		if odds := p.evidence() + e.prior(s.at, p.x, others, nil); odds > faintOdds {
			list = append(list, suspect{scored{s.at, odds}, p})
		}
	}
	slices.SortStableFunc(list, func(a, b suspect) int { return -cmp.Compare(a.odds, b.odds) })
	taken := make(map[int32]bool) // rows
	found := 0
	for _, s := range list {
		mine, free := 0.0, 0.0
		for _, h := range e.onLink(s.at.ID) {
			part := s.x * float64(h.own)
			part *= e.rows[h.flow].lost / (e.rate[h.flow] + part)
			mine += part
			if !taken[h.flow] {
				free += part
			}
		}
		if free < rivalMass*mine {
			continue
		}
		for _, h := range e.onLink(s.at.ID) {
			if e.rate[h.flow] < 2*s.x*float64(h.own) { // mostly its own
				taken[h.flow] = true
			}
		}
		if s.odds < suspectOdds {
			e.faint = append(e.faint, s)
			continue
		}
		if found++; found <= maxSuspects {
			f := e.newLinkFault(s.at.ID, s.x)
			f.weak = true
			e.add(f)
		}
	}
}

// screen bounds the odds of all components from above, best first.
func (e *engine) screen(settled map[Component]bool, least float64) []scored {
	for _, l := range e.touched {
		lost, sum := 0.0, 0.0
		for _, h := range e.onLink(l) {
			q := e.rows[h.flow].lost * float64(h.own)
			lost += e.rows[h.flow].lost
			sum += q / e.rate[h.flow]
		}
		e.sumR[l], e.sumA[l] = lost, sum
	}
	var list []scored
	others := e.learn(certain)
	consider := func(c Component, gain float64) {
		// No Bayes factor exceeds the gain by more than this.
		odds := gain + 0.5*math.Log(4*math.Pi) + e.priorBound(c, others)
		if odds > least {
			list = append(list, scored{c, odds})
		}
	}
	touched := make(map[Component]bool)
	for _, l := range e.touched {
		if !e.links[l] {
			consider(Component{Link, l}, bound(e.sumR[l], e.sumA[l], e.packets[l]))
		}
		if _, to := e.n.ends(l); to >= 0 {
			touched[Component{Device, to}] = true
		}
		if l >= e.n.fabric() {
			touched[Component{Host, (l - e.n.fabric()) / 2}] = true
		}
	}
	group := func(c Component) {
		if settled[c] {
			return
		}
		lost, sum, packets := 0.0, 0.0, 0.0
		for _, l := range e.n.entries(c) {
			lost += e.sumR[l]
			sum += e.sumA[l]
			packets += e.packets[l]
		}
		consider(c, bound(lost, sum, packets))
	}
	for c := range touched {
		group(c)
	}
	slices.SortFunc(list, func(a, b scored) int {
		return cmp.Or(-cmp.Compare(a.odds, b.odds), cmp.Compare(a.at.Kind, b.at.Kind), cmp.Compare(a.at.ID, b.at.ID))
	})
	return list
}
