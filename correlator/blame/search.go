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
	congestedLinks = 0.1 // of the links between devices, and as many to hosts
)

// expectedFaults is the same by stratum.
var expectedFaults = [strata]float64{fabricFaults, hostLinkFaults, deviceFaults, hostFaults, congestedLinks, congestedLinks}

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
	bursts // on links between devices, and after it on hosts' links: what passes
	_
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

// kind is the stratum of a fault.
func (e *engine) kind(f *fault) stratum { return e.kindAs(f.at, f.congested) }

// kindAs is the stratum of a component as a fault, or as congested.
func (e *engine) kindAs(c Component, congested bool) stratum {
	if s := e.stratum(c); !congested || s > hostLinks {
		return s
	}
	return e.stratum(c) + bursts
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
			s := e.kind(f)
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
// the log of its rate, averaged over the likelihood of its peak: the same in all
// decades, and higher near the rates of the epoch's other faults of its stratum.
func (e *engine) prior(c Component, p peak, others learned) float64 {
	return e.priorAt(e.stratum(c), p.x, p.sharp, others, nil)
}

// priorOf is [engine.prior] of a fault as what it is thought to be, at a rate
// that so many losses tell.
func (e *engine) priorOf(f *fault, x, losses float64, others learned) float64 {
	return e.priorAt(e.kind(f), x, losses, others, f)
}

// Faults of an epoch are alike, but by how much? One more has the rate of any of
// them times a Gamma variable of mean 1, whose shape grows with a power of their
// number: the more there are, the better they tell.
const shapeGrows = 0.3

// priorAt is [engine.prior] of a stratum, at a rate that so many losses tell. The
// average over a Gamma variable of so many losses is a negative binomial.
func (e *engine) priorAt(s stratum, x, losses float64, others learned, self *fault) float64 {
	expected, n := expectedFaults[s]/rateRange, 0.0
	for _, k := range others[s] {
		if k.fault != self {
			n += k.probable
		}
	}
	if n > 0 {
		m := max(0.5, min(losses, 1e4))
		g := &e.gammas[s]
		g.of(n, m)
		at := math.Log(x)
		for _, k := range others[s] {
			if k.fault != self && k.probable > 0 {
				z := at - k.log
				expected += k.probable * math.Exp(g.all+g.shape*z-(g.shape+m)*math.Log(g.shape*math.Exp(z)+m))
			}
		}
	}
	return math.Log(expected / e.size(s))
}

// gamma holds what of [engine.priorAt] is the same for all rates. Many components
// are weighed one after the other against the same others, and with as few losses.
type gamma struct {
	n, losses float64
	shape     float64
	bottom    float64 // log of the Gamma function of shape
	own       float64 // shape·log(shape)
	all       float64
}

func (g *gamma) of(n, losses float64) {
	if n == g.n && losses == g.losses {
		return
	}
	if n != g.n {
		g.shape = shape(n)
		g.bottom, _ = math.Lgamma(g.shape)
		g.own = g.shape * math.Log(g.shape)
	}
	g.n, g.losses = n, losses
	top, _ := math.Lgamma(g.shape + losses)
	g.all = top - g.bottom + losses + g.own - 0.5*math.Log(2*math.Pi/losses)
}

func shape(n float64) float64 { return math.Pow(math.Max(1, n), shapeGrows) }

// priorBound bounds the priors of a stratum from above.
func (e *engine) priorBound(s stratum, others learned) float64 {
	n := float64(len(others[s]))
	return math.Log((expectedFaults[s]/rateRange + 1.2*n*math.Sqrt(shape(n)/(2*math.Pi))) / e.size(s))
}

// leastPrior bounds them from below: as if there were no others.
func (e *engine) leastPrior(s stratum) float64 {
	return math.Log(expectedFaults[s] / rateRange / e.size(s))
}

// mostOdds bounds by how much the log odds of a component of each stratum can
// exceed its gain in log-likelihood: no Bayes factor does so by more than the
// first term.
func (e *engine) mostOdds(others learned) (most [strata]float64) {
	for s := range strata {
		most[s] = 0.5*math.Log(4*math.Pi) + e.priorBound(s, others)
	}
	return most
}

// size is how many components of a stratum there are.
func (e *engine) size(s stratum) float64 {
	switch s {
	case fabricLinks, bursts:
		return max(1, e.carrying[0])
	case hostLinks, bursts + 1:
		return max(1, e.carrying[1])
	case devices:
		return max(1, float64(e.n.Devices()))
	default:
		return max(1, float64(e.n.Hosts()))
	}
}

// search builds the set of faults greedily: the component that gains most in
// posterior odds, then all rates anew, until nothing gains. What no longer pays
// its way leaves.
func (e *engine) search() {
	e.noise = (e.lossSum + 0.5) / math.Max(1, e.carried) / 4
	e.stale = stalePrior / staleWeight
	e.fit(2)
	e.announce()
	e.stale = staleFirst
	settled := make(map[Component]bool) // groups weighed already
	for len(e.faults) < maxFaults {
		found := e.next(settled)
		if len(found) == 0 {
			break
		}
		if p := found[0].peak; p.noise > 0 {
			e.noise = p.noise
			e.rates()
		}
		for _, s := range found {
			if s.at.Kind == Link {
				e.add(e.newDatedFault(s.at.ID, s.x, s.period))
			} else {
				settled[s.at] = true
				e.resolve(s.at, true)
			}
		}
		e.fit(e.rounds(5))
		if e.date(false) {
			e.fit(e.rounds(5))
		}
		e.prune()
	}
	for _, c := range e.crowded() { // again, if they were weighed with fewer
		e.resolve(c, false)
	}
	e.fit(10)
	if e.date(true) {
		e.fit(10)
	}
	e.doubtStale()
	e.prune()
	if len(e.faults) == 0 {
		e.stale = stalePrior / staleWeight // nothing has told of it
	}
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
		return f.told || e.worth(f)+f.occam()+e.leastPrior(e.kind(f)) > faultOdds+1 ||
			e.loss(f)+f.occam()+e.priorOf(f, f.typical(), f.losses(), others) > faultOdds
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

// next finds the components with the best odds of being one more fault: the best
// of all, and with it every link that explains other losses, so that the search
// need not begin anew for each. On a small fabric, where everything shares
// losses with everything, and for a device or host it is one alone.
func (e *engine) next(settled map[Component]bool) []suspect {
	if len(e.touched) <= smallFabric {
		return e.nextOfFew(settled)
	}
	queue := e.screen(settled, faultOdds)
	slices.SortFunc(queue, byOdds)
	others := e.learn(certain)
	clear(e.taken)
	var found []suspect
	for len(queue) > 0 {
		// The bounds descend, what was measured is sorted in again: the first that
		// is measured already beats all bounds.
		top := queue[0]
		queue = queue[1:]
		if e.pruned[top.at] >= maxPruned || len(found) > 0 && (top.at.Kind != Link || e.shared(top.at)) {
			continue
		}
		if top.peak.x == 0 {
			top.peak, top.period, top.odds = e.measure(top.at, others)
			// What could not be named for want of flows would only make the noise
			// seem less, and the next one likelier.
			if top.peak.x == 0 || top.odds <= faultOdds || top.flows < singleFlow {
				continue
			}
			if len(queue) > 0 && byOdds(top, queue[0]) > 0 {
				i, _ := slices.BinarySearchFunc(queue, top, byOdds)
				queue = slices.Insert(queue, i, top)
				continue
			}
		}
		found = append(found, top)
		if top.at.Kind != Link {
			return found
		}
		for _, h := range e.during(e.onLink(top.at.ID), top.period) {
			if e.rate[h.flow] < top.x*float64(h.own) { // mostly its own
				e.taken[h.flow] = true
			}
		}
	}
	return found
}

// shared says whether components found in this round explain more than a
// tenth of the losses on a link: its own are then not known yet.
func (e *engine) shared(c Component) bool {
	all, gone := 0.0, 0.0
	for _, h := range e.onLink(c.ID) {
		r := e.lost[h.flow] * float64(h.own)
		all += r
		if e.taken[h.flow] {
			gone += r
		}
	}
	return gone > 0.1*all
}

// nextOfFew is [engine.next] on a small fabric: each component is weighed with
// the noise fitted anew.
func (e *engine) nextOfFew(settled map[Component]bool) []suspect {
	noise := e.noiseMass()
	others := e.learn(certain)
	best := suspect{scored: scored{odds: faultOdds}}
	queue := e.screen(settled, math.Inf(-1))
	slices.SortFunc(queue, byOdds) // of equals the first is taken
	for _, s := range queue {
		if e.pruned[s.at] >= maxPruned {
			continue
		}
		hits, packets := e.through(s.at), e.packetsThrough(s.at)
		s.peak, s.period, s.odds = e.measure(s.at, others)
		if q := e.profile(hits, packets, noise); s.period == nil && q.gain > s.peak.gain {
			s.peak = q
			s.odds = s.peak.evidence() + e.prior(s.at, s.peak, others)
		}
		if s.odds > best.odds && s.flows >= singleFlow {
			best = s
		}
	}
	if best.at.Kind == None {
		return nil
	}
	return []suspect{best}
}

// suspect is a component under suspicion; its peak is zero until it is measured.
type suspect struct {
	scored
	peak
	period *period
}

// measure gives a component's peak and odds as a fault of all the time, or of a
// period if that is likelier. One that is clear without is asked for its period
// once it is in the set.
func (e *engine) measure(c Component, others learned) (p peak, when *period, odds float64) {
	hits, packets := e.through(c), e.packetsThrough(c)
	p = e.peak(hits, packets)
	odds = p.evidence() + e.prior(c, p, others)
	if c.Kind != Link || odds > proven || p.mass < singleFlow {
		return p, nil, odds
	}
	d := e.periodOf(c.ID, hits, p.x, others, nil)
	if d == nil {
		return p, nil, odds
	}
	q := e.peak(e.during(hits, d), e.packetsDuring(c.ID, d))
	then := q.evidence() + d.nats + e.priorAt(e.kindAs(c, d.passing), q.x, q.sharp, others, nil)
	if then <= odds {
		return p, nil, odds
	}
	return q, d, then
}

// suspects adds what is too weak to explain anything but is not out of the
// question, one for each handful of losses: the others are its rivals.
func (e *engine) suspects() {
	e.rates()
	others := e.learn(certain)
	covered := e.coveredLinks()
	bounded := e.screenLinks(faintOdds)
	clear(e.sumA)
	list := bounded[:0]
	for _, s := range bounded {
		if covered[s.at.ID] {
			continue
		}
		s.peak = e.peak(e.onLink(s.at.ID), e.packets[s.at.ID])
		if s.peak.gain <= 0 {
			continue // nothing to weigh
		}
		if s.odds = s.peak.evidence() + e.prior(s.at, s.peak, others); s.odds > faintOdds {
			list = append(list, s)
		}
	}
	order := make([]*suspect, len(list))
	for i := range list {
		order[i] = &list[i]
	}
	slices.SortFunc(order, func(a, b *suspect) int { return byOdds(*a, *b) })
	claimed := e.mark // of each row, the most that a suspect before explains
	defer clear(claimed)
	found := 0
	for _, s := range order {
		mine, free := 0.0, 0.0
		part := func(h hit) float64 {
			x := s.x * float64(h.own)
			return e.lost[h.flow] * x / (e.rate[h.flow] + x)
		}
		for _, h := range e.onLink(s.at.ID) {
			mine += part(h)
			free += max(0, part(h)-claimed[h.flow])
		}
		if free < rivalMass*mine {
			continue
		}
		for _, h := range e.onLink(s.at.ID) {
			claimed[h.flow] = max(claimed[h.flow], part(h))
		}
		if s.odds < suspectOdds {
			if s.flows >= singleFlow {
				e.faint = append(e.faint, *s)
			}
			continue
		}
		if found++; found <= maxSuspects {
			f := e.newLinkFault(s.at.ID, s.x)
			f.weak = true
			e.add(f)
		}
	}
}

// byOdds puts the greatest odds first, ties in a fixed order.
func byOdds(a, b suspect) int {
	switch {
	case a.odds > b.odds:
		return -1
	case a.odds < b.odds:
		return 1
	case a.at.Kind != b.at.Kind:
		return cmp.Compare(a.at.Kind, b.at.Kind)
	default:
		return cmp.Compare(a.at.ID, b.at.ID)
	}
}

// screen bounds the odds of all components from above; links first. The list is
// good until the next one is asked for.
func (e *engine) screen(settled map[Component]bool, least float64) []suspect {
	e.screenLinks(least)
	most := e.mostOdds(e.learn(certain))
	hurdles := [2]hurdle{newHurdle(least - most[devices]), newHurdle(least - most[hosts])}
	lowest := math.Inf(1)
	for _, rate := range e.rate {
		lowest = min(lowest, rate)
	}
	for i := range e.groups {
		g := &e.groups[i]
		s := e.stratum(g.at)
		// Most lost so little that they need not be summed up: no weight exceeds 1.
		if hurdles[s-devices].stops(g.lost, g.lost/lowest, g.packets) || settled[g.at] {
			continue
		}
		sum := 0.0
		for _, l := range g.entries {
			sum += e.sumA[l]
		}
		e.consider(g.at, bound(g.lost, sum, g.packets)+most[s], least)
	}
	for _, l := range e.touched {
		e.sumA[l] = 0
	}
	return e.list
}

// screenLinks is [engine.screen] of links alone; it leaves their sums of
// weight/rate in e.sumA.
func (e *engine) screenLinks(least float64) []suspect {
	for i := range e.rows {
		e.mark[i] = e.lost[i] / e.rate[i]
	}
	e.list = e.list[:0]
	others := e.learn(certain)
	most := e.mostOdds(others)
	hurdles := [2]hurdle{newHurdle(least - most[fabricLinks]), newHurdle(least - most[hostLinks])}
	// A moment's losses stand out more, if moments have been met.
	moment, brief := 1.0, math.Inf(-1)
	if len(others[bursts])+len(others[bursts+1]) > 0 {
		moment = min(1, 1/e.clock.length())
		brief = max(most[bursts]-most[fabricLinks], most[bursts+1]-most[hostLinks]) + math.Log(moment)
	}
	for _, l := range e.touched {
		sum := 0.0
		for _, h := range e.onLink(l) {
			sum += e.mark[h.flow] * float64(h.own)
		}
		e.sumA[l] = sum
		c := Component{Link, l}
		s := e.stratum(c)
		if e.links[l] || moment == 1 && hurdles[s].stops(e.lostOn[l], sum, e.packets[l]) {
			continue
		}
		gain := bound(e.lostOn[l], sum, e.packets[l])
		if moment < 1 {
			gain = max(gain, bound(e.lostOn[l], sum, e.packets[l]*moment)+brief)
		}
		e.consider(c, gain+most[s], least)
	}
	clear(e.mark)
	return e.list
}

// consider lists a component for [engine.screen] whose odds may be great enough.
func (e *engine) consider(c Component, odds, least float64) {
	if odds > least {
		e.list = append(e.list, suspect{scored: scored{c, odds}})
	}
}

// hurdle is how many times its packets a component's sum of weight/rate must be
// for [bound] to reach a gain, by its losses, rounded up: k losses gain less than
// k times the log of that. It spares most components the logarithm.
type hurdle [8]float64

func newHurdle(gain float64) (h hurdle) {
	if gain > 0 {
		for k := range h {
			h[k] = math.Exp(gain/float64(k+1)) * (1 - 1e-9)
		}
	}
	return h
}

// stops says whether a component gains too little.
func (h *hurdle) stops(lost, sum, packets float64) bool {
	k := max(0, int(math.Ceil(lost))-1)
	return k < len(h) && sum < packets*h[k]
}
