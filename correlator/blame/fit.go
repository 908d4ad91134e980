package blame

import "math"

// param is one loss rate: of a link, or of a whole component.
type param struct {
	links   []int32 // it stands for
	packets float64
	x       float64
	hits    []hit
	fabric  bool    // a wrong path changes who crosses it
	told    float64 // losses that hosts should see there by what a device counted; 0: none did
}

// fault is a component under suspicion: one rate for all of it, or one for each
// of its links.
type fault struct {
	at      Component
	params  []param
	perLink bool
	told    bool    // in the set because a device said so
	weak    bool    // too weak to explain anything: its losses stay noise
	odds    float64 // log of the odds that its form was weighed with, for groups

	always    []hit   // of a link: its losses of all the time, of which params have those of its period
	period    *period // of a link: when it lost packets; nil: all the time
	dated     bool    // it has been asked for its period
	congested bool    // it is no fault, but a queue that overflowed

	peak        peak
	steady      peak    // the same as if it were all the time; what is so by nature always is
	instead     float64 // what noise would explain in its place, nats
	evidence    float64 // log Bayes factor from the hosts
	device      float64 // and what devices add
	heard       testimony
	probability float64
	rivals      []rival
	trace       []string
}

// typical is the rate of a fault; of one with many, the mean over its traffic.
func (f *fault) typical() float64 {
	lost, packets := 0.0, 0.0
	for k := range f.params {
		p := &f.params[k]
		lost += p.x * p.packets
		packets += p.packets
	}
	if packets == 0 {
		return 0
	}
	return lost / packets
}

// losses is how many packets its rates amount to.
func (f *fault) losses() (sum float64) {
	for k := range f.params {
		sum += f.params[k].x * f.params[k].packets
	}
	return sum
}

// occam is what the choice of its period costs a fault, nats.
func (f *fault) occam() float64 {
	if f.period == nil {
		return 0
	}
	return f.period.nats
}

// weight of a hit while a share of the paths is wrong.
func (e *engine) weight(h hit) float64 {
	return float64(h.own) + e.stale*float64(h.share-h.own)
}

// rates sets e.rate from noise and faults.
func (e *engine) rates() {
	for i, hops := range e.hops {
		e.rate[i] = hops * e.noise
	}
	for _, f := range e.faults {
		e.addRates(f, 1)
	}
}

// addRates adds a fault's rates sign times.
func (e *engine) addRates(f *fault, sign float64) {
	if f.weak {
		return
	}
	for k := range f.params {
		p := &f.params[k]
		if p.x == 0 {
			continue
		}
		x := sign * p.x
		for _, h := range p.hits {
			e.rate[h.flow] += x * e.weight(h)
		}
	}
	if sign > 0 {
		return
	}
	for k := range f.params { // mend what rounding leaves
		for _, h := range f.params[k].hits {
			if least := e.hops[h.flow] * e.noise; e.rate[h.flow] < least {
				e.rate[h.flow] = least
			}
		}
	}
}

// Before an epoch has shown otherwise, two reported paths in a thousand are
// wrong, with the weight of 50 losses.
const (
	stalePrior  = 0.1
	staleWeight = 50
	// The search begins higher: from there the estimate falls fast if the paths
	// are right, while it rises slowly from nothing if they are not, and links
	// that lose no packets take the place of the stale paths.
	staleFirst = 0.2
)

// fit re-estimates all rates, the noise and the share of wrong paths, by
// expectation maximisation: each loss is shared out over what may have caused
// it, and each rate is its losses over its packets.
func (e *engine) fit(rounds int) {
	if e.carried <= 0 {
		return
	}
	for range rounds {
		e.rates()
		noise := 0.0
		for i := range e.rows {
			noise += e.lost[i] * e.hops[i] * e.noise / e.rate[i]
		}
		wrong, right := 0.0, 0.0
		for _, f := range e.faults {
			if f.weak {
				continue
			}
			for k := range f.params {
				p := &f.params[k]
				mass := 0.0
				for _, h := range p.hits {
					r := e.lost[h.flow]
					q := p.x / e.rate[h.flow]
					mass += r * q * e.weight(h)
					if p.fabric && e.known[h.flow] {
						q *= r
						wrong += q * e.stale * float64(h.share)
						right += q * (1 - e.stale) * float64(h.own)
					}
				}
				packets := p.packets
				if p.told > 0 { // as good a count as the hosts'
					mass += p.told
					packets *= 2
				}
				if packets > 0 {
					p.x = min(rateCeiling, mass/packets)
				}
			}
		}
		e.noise = (noise + 0.5) / e.carried
		if wrong+right > 0 && !e.fresh {
			e.stale = math.Min(0.9, (wrong+stalePrior)/(wrong+right+staleWeight))
		}
	}
	e.rates()
}

// Between few wrong paths and a little more noise the losses hardly tell: those
// that belong to no fault fit either. Then the paths are taken to be right, or
// noise would be thought so low that two losses that meet by chance stand out.
const (
	fewStale  = 0.03 // share of wrong paths up to which they are doubted
	staleNats = 3    // what they must explain, nats
)

// doubtStale takes the paths to be right if that explains the losses as well.
func (e *engine) doubtStale() {
	if len(e.faults) == 0 || e.stale > fewStale || e.stale < stalePrior/staleWeight/4 {
		return
	}
	with, was := e.likelihood(), e.stale
	e.fresh, e.stale = true, stalePrior/staleWeight/10
	e.fit(10)
	if with-e.likelihood() > staleNats {
		e.fresh, e.stale = false, was
		e.fit(10)
	}
}

// likelihood is the log of that of all losses at the rates that were fitted.
func (e *engine) likelihood() float64 {
	sum := -e.noise * e.carried
	for i := range e.rows {
		sum += e.lost[i] * math.Log(e.rate[i])
	}
	for _, f := range e.faults {
		if f.weak {
			continue
		}
		for k := range f.params {
			sum -= f.params[k].x * f.params[k].packets
		}
	}
	return sum
}

// newLinkFault makes a fault of a link.
func (e *engine) newLinkFault(l int32, x float64) *fault {
	p := e.linkParam(l, x)
	return &fault{at: Component{Link, l}, params: []param{p}, always: p.hits}
}

// newDatedFault makes one that lost packets in a period; nil: all the time.
func (e *engine) newDatedFault(l int32, x float64, p *period) *fault {
	f := e.newLinkFault(l, x)
	f.dateTo(e, p)
	return f
}

func (e *engine) linkParam(l int32, x float64) param {
	return param{links: []int32{l}, packets: e.packets[l], x: x, hits: e.withShares(l), fabric: l < e.n.fabric()}
}

// newWholeFault makes a fault that is one rate for all that passes.
func (e *engine) newWholeFault(c Component, x float64) *fault {
	return &fault{at: c, params: []param{{links: e.n.entries(c), packets: e.packetsThrough(c), x: x, hits: e.throughWithShares(c), fabric: c.Kind == Device}}}
}

// throughWithShares is [engine.withShares] for any component.
func (e *engine) throughWithShares(c Component) []hit {
	if c.Kind == Link {
		return e.withShares(c.ID)
	}
	own := e.through(c)
	if c.Kind != Device {
		return own
	}
	type sum struct{ own, share float32 }
	sums := make(map[int32]sum, len(own))
	for _, l := range e.n.entries(c) {
		for _, h := range e.withShares(l) {
			s := sums[h.flow]
			sums[h.flow] = sum{min(1, s.own+h.own), min(1, s.share+h.share)}
		}
	}
	out := make([]hit, 0, len(sums))
	for i := range e.rows { // in order, that sums repeat exactly
		if s, ok := sums[int32(i)]; ok {
			out = append(out, hit{int32(i), s.own, s.share})
		}
	}
	return out
}

// add puts a fault into the set.
func (e *engine) add(f *fault) {
	e.faults = append(e.faults, f)
	e.take(f, true)
}

// take marks the links that a fault's rates stand for.
func (e *engine) take(f *fault, taken bool) {
	if f.at.Kind == Link || f.perLink {
		for k := range f.params {
			for _, l := range f.params[k].links {
				e.links[l] = taken
			}
		}
	}
}

// drop takes the faults out of the set that keep does not want.
func (e *engine) drop(keep func(*fault) bool) (dropped []*fault) {
	kept := e.faults[:0]
	for _, f := range e.faults {
		if keep(f) {
			kept = append(kept, f)
		} else {
			dropped = append(dropped, f)
			e.take(f, false)
		}
	}
	e.faults = kept
	return dropped
}

// worth bounds [engine.loss] of a fault with one rate from below without a
// logarithm for each hit, by how the series of -log(1-x) begins. It is what most
// faults need that explain nearly all losses of their flows.
func (e *engine) worth(f *fault) float64 {
	if len(f.params) > 1 {
		return math.Inf(-1)
	}
	p := &f.params[0]
	out := -p.x * p.packets
	for _, h := range p.hits {
		part := min(p.x*e.weight(h)/e.rate[h.flow], 1-1e-12)
		out += e.lost[h.flow] * part * (1 + part*(1./2+part*(1./3+part*(1./4))))
	}
	return out
}

// loss is what the log-likelihood loses without a fault, all else as it is.
func (e *engine) loss(f *fault) float64 {
	out := 0.0
	if len(f.params) == 1 {
		p := &f.params[0]
		out = -p.x * p.packets
		for _, h := range p.hits {
			part := min(p.x*e.weight(h)/e.rate[h.flow], 1-1e-12)
			out -= e.lost[h.flow] * math.Log1p(-part)
		}
		return out
	}
	touched := make(map[int32]float64)
	for k := range f.params {
		p := &f.params[k]
		out -= p.x * p.packets
		for _, h := range p.hits {
			touched[h.flow] += p.x * e.weight(h)
		}
	}
	for i := range e.rows {
		if extra, ok := touched[int32(i)]; ok {
			out -= e.lost[i] * math.Log1p(-min(extra/e.rate[i], 1-1e-12))
		}
	}
	return out
}
