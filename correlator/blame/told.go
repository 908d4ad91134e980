package blame

import (
	"math"
	"slices"
)

// trust takes a report at its word.
func (e *engine) trust(r *report) {
	r.at = r.about
	r.moved = math.Log1p(-e.errs)
	r.elsewhere = math.Log(e.errs / 2)
	if e.lies != nil && r.about.Kind == Link {
		lies := math.Max(1e-6, math.Min(e.lies[r.device], 1-1e-6))
		r.moved, r.elsewhere = math.Log1p(-lies), math.Log(lies)
	}
}

// ports lists the links whose drops a device may take for those of the link it
// reports.
func (e *engine) ports(r *report) (out []int32) {
	if r.side == leaving {
		out = append(out, e.n.linksOutOf(r.device)...)
		for _, h := range e.n.hostsOf(r.device) {
			out = append(out, e.n.Down(h))
		}
		return out
	}
	out = append(out, e.n.linksInto(r.device)...)
	for _, h := range e.n.hostsOf(r.device) {
		out = append(out, e.n.Up(h))
	}
	return out
}

// objection is how many nats hosts must speak against a report before it is
// doubted: about what one drop is worth that they should have seen.
const objection = 2

// locate decides where the drops of a report were: where its device says, if
// hosts pass there and do not object, or else at the port of the device where
// hosts lost as much. Half of the devices that err report the drops of one port
// as those of another, any other: hosts that saw nothing at either speak against
// neither.
func (e *engine) locate(r *report, prior float64) {
	e.trust(r)
	if r.about.Kind != Link {
		return
	}
	own, _, _ := e.agree(r.about, e.onLink(r.about.ID), r.count, e.flowsHit(r))
	ports := e.ports(r)
	trusted := own > -objection && !e.liar(r) && !e.unheard(r.about)
	if trusted && own >= 0 || len(ports) < 2 {
		return
	}
	honest := r.moved + own
	lie := r.elsewhere - math.Log(float64(len(ports)-1))
	var where []Component
	var odds []float64
	for _, l := range ports {
		c := Component{Link, l}
		if c == r.about || e.packets[l] == 0 {
			continue
		}
		if own := e.reports[c]; own != nil && own.at == c && (own.count > r.count/2 || e.seesNoise > math.Log(0.5)) {
			continue // it has a report of its own
		}
		where = append(where, c)
		odds = append(odds, lie+e.matches(c, r, prior))
	}
	if len(where) == 0 {
		return
	}
	if trusted { // they do not point elsewhere either
		r.elsewhere = math.Min(r.elsewhere, addLogs(odds...))
		return
	}
	r.elsewhere = addLogs(odds...)
	if r.elsewhere <= honest {
		return
	}
	r.at = Component{}
	for i, c := range where {
		if odds[i]-r.elsewhere < math.Log(0.5) || e.lostOn[c.ID] == 0 {
			continue // or neither host nor device speaks of it
		}
		odds[i] = honest
		r.at, r.moved, r.elsewhere = c, lie, addLogs(odds...)
		return
	}
}

// unheard says whether no host that is heard from sent anything through a link:
// that none objects to drops there then means nothing.
func (e *engine) unheard(c Component) bool { return c.Kind == Link && e.packets[c.ID] == 0 }

// liar says whether a report's device is known for reporting wrong ports.
func (e *engine) liar(r *report) bool {
	return r.about.Kind == Link && e.lies != nil && e.lies[r.device] > 0.5
}

// matches is how well hosts agree with the drops of a report at a link. A fault
// that is in the set already owes no prior again, but must be as great.
func (e *engine) matches(c Component, r *report, prior float64) float64 {
	for _, f := range e.faults {
		switch {
		case f.weak:
		case f.at == c:
			if f.told && len(e.placed[c]) > 0 {
				return math.Inf(-1) // it has its report
			}
			lost, want := e.lostAt(f), r.count*e.reach(c)
			if e.assumed { // nobody knows how many hosts there are to hear from
				want = math.Max(want, math.Min(lost, r.count))
			}
			off := want - lost
			if lost > 0 {
				off += lost * math.Log(lost/want)
			}
			return 0.5*math.Log(r.count) - prior - off/(1+0.01*want)
		case f.at.Kind != Link && slices.Contains(e.n.linksOf(f.at), c.ID):
			return -prior
		}
	}
	agree, want, mass := e.agree(c, e.onLink(c.ID), r.count, e.flowsHit(r))
	if mass < want/2 && mass < singleFlow {
		return math.Min(agree, 0) // a single flow is no proof
	}
	return agree
}

// lostAt is the packets that hosts lost at a fault.
func (e *engine) lostAt(f *fault) (sum float64) {
	for k := range f.params {
		p := &f.params[k]
		for _, h := range p.hits {
			sum += e.rows[h.flow].total * math.Min(1, p.x*e.weight(h)/e.rate[h.flow])
		}
	}
	return sum
}

// accuse gives the log odds of what a report is about, once it is placed, and
// the rate to begin with. e.rate is without it. Hosts speak for it on their own
// only if asked to.
func (e *engine) accuse(r *report, others learned, hosts bool) (odds, x float64) {
	hits := e.through(r.at)
	t := e.testify(r.at, hits)
	x = e.rateTold(r.at, t.count)
	host := math.Inf(-1)
	if hosts {
		if p := e.peak(hits, e.packetsThrough(r.at)); p.x > 0 {
			host = e.prior(r.at, p, others) + p.evidence()
		}
	}
	fault, good, _ := e.joint(&t, e.priorTold(r.at, t.class, t.count, others, nil), host, e.natural(r.at, t.seen, class{}, e.devNoise/e.noise))
	return fault - good, x
}

// tell puts components into the set that devices accuse, those with the greatest
// counts first, if their odds are at least so high. It says how many.
func (e *engine) tell(least float64, hosts bool) (told int) {
	others, suspects := e.learn(certain), 0
	for _, r := range e.order {
		if len(e.faults) >= maxFaults {
			break
		}
		prior := e.priorTold(r.about, r.class, r.count, others, nil)
		if prior+e.counted(r.about, r.count).evidence()-e.seesNoise < least {
			continue // noise would do as much
		}
		if e.covered(r.at) {
			continue
		}
		was := r.at
		if e.locate(r, prior); r.at != was {
			e.place()
		}
		if r.at.Kind == None || e.covered(r.at) {
			continue
		}
		odds, x := e.accuse(r, others, hosts)
		if weak := odds < faultOdds; odds < least || weak && suspects >= maxSuspects {
			continue
		} else if weak {
			suspects++
		}
		var f *fault
		if r.at.Kind == Link {
			f = e.newLinkFault(r.at.ID, x)
		} else {
			f = e.newWholeFault(r.at, x)
		}
		f.told, f.weak = true, odds < faultOdds
		said := e.said(r.at)
		f.congested = r.at.Kind == Link && isCongestion(said.class)
		_, f.params[0].told, _ = e.agree(r.at, f.params[0].hits, said.count, e.flowsHit(&said))
		e.add(f)
		e.addRates(f, 1)
		if !f.weak {
			others = e.learn(certain)
		}
		told++
	}
	return told
}

// announce puts what devices accuse into the set before the search, so that
// losses without a path find it there. What the noise is cannot be told while no
// fault is known: all losses are put down to it at first. It is therefore taken
// for low while hosts are asked where the drops were, and fitted again and again.
func (e *engine) announce() {
	if len(e.order) == 0 {
		return
	}
	for range 4 {
		e.calibrate()
		noise := e.noise
		e.noise /= 20
		e.rates()
		if e.tell(faultOdds, false) == 0 {
			e.noise = noise
			e.rates()
			return
		}
		e.fit(15)
	}
}

// displace takes links out of the set that a device carries whose own rules,
// routes or tables drop packets, by its word: those hit some flows and spare
// others, so that the losses crowd on a few of its links. They must fit into its
// count. It says whether there were any.
func (e *engine) displace(f *fault) bool {
	left := f.heard.count * e.reach(f.at)
	gone := e.drop(func(g *fault) bool {
		if g.told || g.weak || g.at.Kind != Link || len(e.placed[g.at]) > 0 {
			return true
		}
		from, to := e.n.ends(g.at.ID)
		lost := e.lostAt(g)
		if from != f.at.ID && to != f.at.ID || lost > 2*left {
			return true
		}
		left -= lost
		return false
	})
	e.rates()
	return len(gone) > 0
}

// minSuspect is the probability below which what a device said is taken back.
const minSuspect = 0.01

// told takes back what was announced and did not stand the search, and adds
// what is accused now. It says whether anything changed.
func (e *engine) told() bool {
	if len(e.order) == 0 {
		return false
	}
	changed := false
	for _, f := range slices.Clone(e.faults) {
		if f.told && f.at.Kind == Device && e.displace(f) {
			changed = true
		}
	}
	if changed {
		e.fit(5)
		e.weigh(e.faults)
	}
	for _, f := range slices.Clone(e.faults) {
		if !f.told || f.heard.agree >= 0 && !f.heard.misplaced() && !e.unheard(f.at) && !slices.ContainsFunc(e.placed[f.at], e.liar) {
			continue
		}
		e.drop(func(g *fault) bool { return g != f })
		e.rates()
		others := e.learn(certain)
		moved := false
		for _, r := range e.placed[f.at] {
			e.locate(r, e.priorTold(r.about, r.class, r.count, others, nil))
			moved = moved || r.at != f.at
		}
		e.place()
		f.heard.report = e.said(f.at)
		if moved || e.probability(f, others, class{}) < minSuspect {
			changed = true
			continue
		}
		e.add(f)
		e.rates()
	}
	return e.tell(suspectOdds, true) > 0 || changed
}
