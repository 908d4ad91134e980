package blame

import (
	"cmp"
	"math"
	"slices"
)

// rival is another link that would explain a fault's losses.
type rival struct {
	link     int32
	evidence float64
}

const (
	alike       = 0.05 // nats within which two components are interchangeable
	rivalMass   = 0.5  // share of the losses that a rival must be able to explain
	unevenShare = 0.5  // of good links, those that lose up to about twice the mean
	dominant    = 0.2  // share of all losses from which a fault vies with the noise itself
	singleFlow  = 1.5  // flows below which hosts do not suffice to name anything
	fewFlows    = 8    // up to which a link's losses are offered to others
)

// without calls f with e.rate as it were if the fault were not, and restores it.
func (e *engine) without(f *fault, do func()) {
	e.addRates(f, -1)
	do()
	e.addRates(f, 1)
}

// effective gives hits their weight under the share of wrong paths. They are good
// until it is asked again.
func (e *engine) effective(hits []hit) []hit {
	if cap(e.weighted) <= len(hits) {
		e.weighted = make([]hit, 0, 2*len(hits)+1)
	}
	out := e.weighted[:0]
	for _, h := range hits {
		w := float32(e.weight(h))
		out = append(out, hit{h.flow, w, w})
	}
	return out
}

// weigh measures faults against all others, and their rivals.
func (e *engine) weigh(faults []*fault) {
	e.rates()
	for _, f := range faults {
		if len(f.params) == 1 {
			p := &f.params[0]
			e.without(f, func() {
				hits := e.effective(p.hits)
				f.heard = e.testify(f.at, hits)
				f.peak = e.peak(hits, p.packets)
				if f.steady = f.peak; f.period != nil {
					f.steady = e.peak(e.effective(f.always), e.packets[f.at.ID])
				}
				f.instead = 0
				if f.peak.mass > dominant*e.lossSum {
					f.instead = e.noiseInstead()
					f.peak.gain -= f.instead
					f.steady.gain -= f.instead
				}
				if f.at.Kind == Link {
					f.rivals = e.findRivals(f)
				}
			})
			f.evidence = f.peak.evidence() + f.occam()
			continue
		}
		f.heard = e.testify(f.at, nil)
		f.peak = peak{gain: e.loss(f)}
		for k := range f.params {
			p := &f.params[k]
			f.peak.mass += p.x * p.packets
			f.peak.x = math.Max(f.peak.x, p.x)
			for _, h := range p.hits {
				f.peak.flows += math.Min(1, e.lost[h.flow]) * p.x * e.weight(h) / e.rate[h.flow]
			}
		}
		f.peak.sharp = f.peak.mass
		f.evidence = f.odds - e.priorAt(e.stratum(f.at), rateFloor, 1, learned{}, nil)
	}
}

// findRivals lists links that explain most of the losses a fault explains.
// e.rate is without the fault.
func (e *engine) findRivals(f *fault) []rival {
	if f.peak.x <= 0 || f.peak.mass <= 0 {
		return nil
	}
	mass := e.sumA // scratch
	var met []int32
	for _, h := range f.params[0].hits {
		part := f.peak.x * e.weight(h)
		part *= e.lost[h.flow] / (e.rate[h.flow] + part)
		for j := e.entStart[h.flow]; j < e.entStart[h.flow+1]; j++ {
			l := e.entLink[j]
			if mass[l] == 0 {
				met = append(met, l)
			}
			mass[l] += part * float64(e.entWeight[j])
		}
	}
	var out []rival
	least := rivalMass * mass[f.at.ID]
	for _, l := range met {
		m := mass[l]
		mass[l] = 0
		if l == f.at.ID || e.links[l] || m < least {
			continue
		}
		// Both by their reported paths, or the wrong-path share of the one
		// would count against the other.
		if ev := e.peak(e.during(e.onLink(l), f.period), e.packetsDuring(l, f.period)).evidence() + f.occam() - f.instead; ev > f.peak.evidence()+f.occam()-12 {
			out = append(out, rival{l, ev})
		}
	}
	slices.SortFunc(out, func(a, b rival) int {
		return cmp.Or(-cmp.Compare(a.evidence, b.evidence), cmp.Compare(a.link, b.link))
	})
	return out
}

// swap replaces links by rivals that explain more; it says whether it did.
func (e *engine) swap() bool {
	changed := false
	for i, f := range e.faults {
		if f.at.Kind != Link || f.told || len(f.rivals) == 0 || f.rivals[0].evidence <= f.evidence+alike {
			continue
		}
		to := f.rivals[0].link
		if e.links[to] {
			continue
		}
		e.take(f, false)
		e.faults[i] = e.newDatedFault(to, f.params[0].x, f.period)
		e.take(e.faults[i], true)
		changed = true
	}
	return changed
}

// challenge asks of each link that explains few flows whether some of the other
// links on their paths, each on its own, explain more: what two faults share may
// be found before either of them. It says whether any was replaced.
func (e *engine) challenge() (changed bool) {
	for _, f := range slices.Clone(e.faults) {
		if f.at.Kind != Link || f.told || f.peak.flows > fewFlows {
			continue
		}
		e.drop(func(g *fault) bool { return g != f })
		e.rates()
		var better []*fault
		if crossed := e.crossedBy(f); len(crossed) > 0 {
			_, _, odds := e.measure(f.at, e.learn(certain))
			if few, score := e.few(crossed, true); score > odds {
				better = few
			}
		}
		for _, g := range better {
			e.add(g)
			changed = true
		}
		if len(better) == 0 {
			e.add(f)
		}
		e.rates()
	}
	return changed
}

// crossedBy lists the links, other than a fault's, that its flows crossed and
// that may explain two flows at least. e.rate is without it.
func (e *engine) crossedBy(f *fault) (out []int32) {
	for _, h := range f.params[0].hits {
		if f.peak.x*e.weight(h) < e.rate[h.flow] {
			continue
		}
		for j := e.entStart[h.flow]; j < e.entStart[h.flow+1]; j++ {
			l := e.entLink[j]
			if l == f.at.ID || e.links[l] || e.entWeight[j] < 0.5 || slices.Contains(out, l) {
				continue
			}
			open := 0.0
			for _, o := range e.onLink(l) {
				if r := &e.rows[o.flow]; e.rate[o.flow] < 2*r.hops*e.noise { // nothing else explains it
					open += r.lost * float64(o.own)
				}
			}
			if open >= singleFlow {
				out = append(out, l)
			}
		}
	}
	slices.Sort(out)
	return out
}

// posterior turns evidence into probabilities. How many faults to expect is
// learned from the other faults of the epoch: for each from those that are surer
// on their own. Were it from all, a crowd of links of which none stands out would
// vouch for one another.
func (e *engine) posterior() {
	noisy := e.noisyLinks()
	average, order := make([]float64, len(e.faults)), slices.Clone(e.faults)
	for _, c := range noisy {
		for _, f := range e.faults {
			f.probability = e.probability(f, learned{}, c)
		}
		slices.SortStableFunc(order, func(a, b *fault) int {
			return cmp.Or(-cmp.Compare(a.probability, b.probability), -cmp.Compare(a.evidence, b.evidence))
		})
		var surer learned
		for _, f := range order {
			f.probability = e.probability(f, surer, c)
			if s := e.kind(f); f.probability > 0 && f.typical() > 0 {
				surer[s] = append(surer[s], known{f, math.Log(f.typical()), f.probability})
			}
		}
		for i, f := range e.faults {
			average[i] += c.weight * f.probability
		}
	}
	for i, f := range e.faults {
		f.probability = average[i]
	}
	for _, f := range e.faults {
		if f.at.Kind != Link || f.probability >= e.o.Name {
			continue
		}
		natural := 0.0
		for _, c := range noisy {
			if c.share > 0 && math.Log(c.share)+c.evidence(f.steady) > 0 {
				natural += c.weight
			}
		}
		if natural > 0.5 {
			f.trace = append(f.trace, "against: links like it are too many to be faults; noisy by nature")
		}
	}
}

func (e *engine) probability(f *fault, others learned, c class) float64 {
	x := math.Max(f.peak.x, rateFloor)
	host := e.priorOf(f, x, f.peak.sharp, others) + f.evidence
	same, other := 0.0, 0.0 // of the fault; of the report being of something else
	var against []float64
	if t := &f.heard; t.count > 0 {
		told := e.priorTold(f.at, t.class, t.count, others, f)
		var good float64
		same, good, other = e.joint(t, told, host, e.natural(f.at, t.seen, c, e.devNoise/e.noise))
		against = append(against, good)
		f.device = same - good - math.Max(host-addLogs(e.natural(f.at, f.steady, c, 1)...), 0)
	} else {
		f.device, _ = e.mute(f.at)
		same = host + f.device
		against = e.natural(f.at, f.steady, c, 1)
	}
	mine := same
	if t := &f.heard; !t.misplaced() && t.agree > proven {
		// Were the report of something else, hosts would not have lost as much just
		// where it says.
		other -= contradicted
	}
	for _, r := range f.rivals {
		w := 0.0
		if at := (Component{Link, r.link}); len(e.placed[at]) == 0 {
			w, _ = e.mute(at)
		}
		odds := e.priorAt(e.kindAs(Component{Link, r.link}, f.congested), x, f.peak.sharp, others, f) + math.Max(r.evidence, -50) + w + other
		if f.heard.misplaced() && slices.Contains(e.ports(&f.heard.report), r.link) {
			odds = mine + r.evidence - f.evidence // its device may as well mean that
		}
		if f.alike(r) {
			same = addLogs(same, odds)
		} else {
			against = append(against, odds)
		}
	}
	p := 1 / (1 + math.Exp(addLogs(against...)-same))
	if math.IsNaN(p) {
		return 0
	}
	if f.peak.flows < singleFlow && f.heard.count == 0 {
		p = math.Min(p, 0.9*e.o.Name)
	}
	return p
}

// alike says whether a rival cannot be told from the fault: hosts see no
// difference, and no device made one.
func (f *fault) alike(r rival) bool {
	return math.Abs(r.evidence-f.evidence) <= alike && (f.heard.count == 0 || f.heard.misplaced())
}

// equivalent lists the links that cannot be told from the fault's.
func (f *fault) equivalent() (out []Component) {
	for _, r := range f.rivals {
		if f.alike(r) {
			out = append(out, Component{Link, r.link})
		}
	}
	return out
}
