package blame

import (
	"cmp"
	"math"
	"slices"
)

// A device or host at fault loses packets on nine in ten of its links.
var (
	memberHealthy = math.Log(0.1)
	memberFaulty  = math.Log(0.9)
)

// crowd is the number of faulty links on one device that raises the question
// whether it is the device.
const crowd = 3

// crowded lists devices and hosts with several faulty links.
func (e *engine) crowded() []Component {
	devices, hosts := make(map[int32]int), make(map[int32]int)
	for _, f := range e.faults {
		if f.at.Kind != Link || f.weak || f.congested {
			continue
		}
		from, to := e.n.ends(f.at.ID)
		if from >= 0 {
			devices[from]++
		}
		if to >= 0 {
			devices[to]++
		}
		if f.at.ID >= e.n.fabric() {
			hosts[(f.at.ID-e.n.fabric())/2]++
		}
	}
	var list []Component
	for d, count := range devices {
		if count >= crowd {
			list = append(list, Component{Device, d})
		}
	}
	for h, count := range hosts {
		if count >= 2 {
			list = append(list, Component{Host, h})
		}
	}
	slices.SortFunc(list, func(a, b Component) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID)) })
	return list
}

// resolve weighs three readings of the losses around a device or host: a rate
// for each of its links, one rate for all that passes, or a few links of it on
// their own. The likeliest goes into the set; it says whether that is the
// component itself.
//
// Each link of the first reading pays for its own rate, and for being healthy
// where the others are not, so that two faults on one device stay two links
// while sixty become the device.
//
// While other faults are still to be found, their losses crowd around every
// device they pass. Early, a component is therefore named only if half of its
// links lose packets; at the end of the search all are weighed once more.
func (e *engine) resolve(c Component, early bool) bool {
	members := e.n.linksOf(c)
	inside := make(map[int32]bool, len(members))
	for _, l := range members {
		inside[l] = true
	}
	was := e.drop(func(f *fault) bool {
		return f.at != c && !(f.at.Kind == Link && inside[f.at.ID]) || f.congested && !f.told
	})
	e.rates()

	whole := e.peak(e.through(c), e.packetsThrough(c))
	others := e.learn(certain)
	wholePrior := e.priorAt(e.stratum(c), math.Max(whole.x, rateFloor), whole.sharp, others, nil)
	wholeScore := whole.evidence() + wholePrior

	var each []param
	for _, l := range members {
		if hits := e.onLink(l); len(hits) > 0 && !e.links[l] && e.packets[l] > 0 {
			each = append(each, param{links: []int32{l}, packets: e.packets[l], x: math.Max(whole.x/2, 1e-7), hits: hits})
		}
	}
	eachScore := e.local(each, 25) + wholePrior + e.memberCost(members, each)

	few, fewScore := e.few(members, c.Kind == Host)
	if early && !half(members, each) {
		eachScore = math.Inf(-1)
		if c.Kind == Device && len(few) > 0 {
			wholeScore = math.Inf(-1)
		}
	}

	switch {
	case fewScore >= eachScore && fewScore >= wholeScore || math.Max(eachScore, wholeScore) <= faultOdds:
		if len(few) == 0 || slices.ContainsFunc(was, func(f *fault) bool { return f.told }) {
			for _, f := range was {
				e.add(f)
			}
		} else {
			for k := range few {
				e.add(few[k])
			}
		}
		e.rates()
		return false
	case eachScore >= wholeScore:
		f := &fault{at: c, perLink: true, odds: eachScore - math.Max(0, fewScore)}
		for k := range each {
			if each[k].x > 0 {
				f.params = append(f.params, e.linkParam(each[k].links[0], each[k].x))
			}
		}
		e.add(f)
	default:
		f := e.newWholeFault(c, whole.x)
		f.odds = wholeScore - math.Max(0, fewScore)
		e.add(f)
	}
	e.rates()
	return true
}

// half says whether at least half of the links lose packets.
func half(members []int32, each []param) bool {
	losing := 0
	for k := range each {
		if each[k].x*each[k].packets >= 2 {
			losing++
		}
	}
	return 2*losing >= len(members)
}

// memberCost is what the links of a faulty component pay: those that lose, for
// a rate of their own; those that do not, for being healthy there, as far as
// their traffic would have shown otherwise.
func (e *engine) memberCost(members []int32, each []param) float64 {
	cost, losing := 0.0, make(map[int32]bool, len(each))
	lost, packets := 0.0, 0.0
	for k := range each {
		p := &each[k]
		if mass := p.x * p.packets; mass >= 1 {
			losing[p.links[0]] = true
			lost, packets = lost+mass, packets+p.packets
			cost += memberFaulty - 1 - 0.5*math.Log1p(mass)
		}
	}
	if lost == 0 {
		return math.Inf(-1)
	}
	for _, l := range members {
		if !losing[l] {
			cost += math.Max(memberHealthy, -e.packets[l]*lost/packets)
		}
	}
	return cost
}

// few greedily explains the losses by some of the links, each on its own. If
// asked to, it asks all of them for a period, not only those it takes.
func (e *engine) few(members []int32, periods bool) ([]*fault, float64) {
	saved := slices.Clone(e.rate)
	defer func() { copy(e.rate, saved) }()
	var chosen []*fault
	score := 0.0
	others := e.learn(certain)
	most := e.mostOdds(others)
	taken := make(map[int32]bool)
	for len(chosen) < len(members) {
		best := suspect{}
		for _, l := range members {
			if taken[l] || e.links[l] {
				continue
			}
			s := suspect{scored: scored{at: Component{Link, l}}}
			if periods {
				s.peak, s.period, s.odds = e.measure(s.at, others)
			} else {
				if e.boundOf(l)+most[e.stratum(s.at)] <= best.odds {
					continue
				}
				s.peak = e.peak(e.onLink(l), e.packets[l])
				s.odds = s.evidence() + e.prior(s.at, s.peak, others)
			}
			if s.odds > best.odds {
				best = s
			}
		}
		if best.at.Kind == None {
			break
		}
		if !periods {
			best.peak, best.period, best.odds = e.measure(best.at, others)
		}
		taken[best.at.ID] = true
		f := e.newDatedFault(best.at.ID, best.x, best.period)
		chosen = append(chosen, f)
		score += best.odds
		e.addRates(f, 1)
	}
	if len(chosen) > 1 {
		copy(e.rate, saved)
		params := make([]param, len(chosen))
		for k, f := range chosen {
			params[k] = f.params[0]
		}
		gain := e.local(params, 8)
		price := 0.0
		for k, f := range chosen {
			f.params[0].x = params[k].x
			mass := params[k].x * params[k].packets
			price += e.priorOf(f, math.Max(params[k].x, 1e-9), mass, others) + f.occam() + 0.5*math.Log(2*math.Pi/math.Max(mass, 0.5))
		}
		score = math.Max(score, gain+price)
	}
	return chosen, score
}

// local fits rates on top of e.rate, which stays, and gives the gain in
// log-likelihood.
func (e *engine) local(params []param, rounds int) float64 {
	extra := make([]float64, len(e.rows))
	sum := func() {
		clear(extra)
		for k := range params {
			for _, h := range params[k].hits {
				extra[h.flow] += params[k].x * float64(h.own)
			}
		}
	}
	for range rounds {
		sum()
		for k := range params {
			p := &params[k]
			mass := 0.0
			for _, h := range p.hits {
				mass += e.lost[h.flow] * p.x * float64(h.own) / (e.rate[h.flow] + extra[h.flow])
			}
			p.x = math.Min(rateCeiling, mass/p.packets)
		}
	}
	sum()
	gain := 0.0
	for k := range params {
		gain -= params[k].x * params[k].packets
	}
	for i := range e.rows {
		if extra[i] > 0 {
			gain += e.lost[i] * math.Log1p(extra[i]/e.rate[i])
		}
	}
	return gain
}
