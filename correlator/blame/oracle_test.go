package blame

import (
	"math"
	"slices"
)

// oracle is the upper bound of what can be inferred from what was reported. It
// is shown what no method sees:
//
//   - the true link of every reported drop, and the packets that truly came to
//     each link, so that neither paths nor denominators are in doubt;
//   - the time of both, where something does not last;
//   - the law that faults, noise and bursts were drawn from, how many faults to
//     expect included;
//   - which agents lie: those are left out, the others believed.
//
// It is not shown which drops were faults. Of each link, or device where whole
// devices fail, it computes the posterior that it is at fault, exactly but for
// numeric integration over rates, and names it when that exceeds one half. No
// rule has fewer errors on average, given what it sees, so a method beats it by
// luck alone; and a fault that lost nothing is out of its reach as well.
//
// In two points it is a bound from below, both of little weight: a link is
// weighed alone, not against the known number of faults, and that a link may
// have a fault and a burst of congestion is left out.
func (f *fabric) oracle(e *evidence) Result {
	o := &oracle{f: f, e: e, k: make([]float64, f.n.Links()), n: make([]float64, f.n.Links()), watched: make([]bool, f.n.Links())}
	o.look()
	probability := make(map[Component]float64)
	switch s := f.set; {
	case s.device != "":
		o.devices(probability)
	case s.pair:
		o.pairs(probability)
	default:
		o.links(probability)
	}
	var r Result
	for c, p := range probability {
		switch b := (Blame{Component: c, Probability: clamp(p)}); {
		case p > 0.5:
			r.Components = append(r.Components, b)
		case p >= 0.001:
			r.Suspects = append(r.Suspects, b)
		}
	}
	r.Causes = make([]Cause, len(e.cause))
	for i, l := range e.cause {
		if l < 0 {
			continue
		}
		c := Component{Link, l}
		if f.failed.Kind != None {
			c = f.failed
		}
		if p := probability[c]; p > 0.5 {
			r.Causes[i] = Cause{c, p}
		}
	}
	return r
}

type oracle struct {
	f       *fabric
	e       *evidence
	k, n    []float64 // drops it knows of and packets, by link
	watched []bool    // links whose faults an honest agent reports
}

// look gathers, per link, what hosts that report lost there, or all hosts where
// an honest agent tells.
func (o *oracle) look() {
	f := o.f
	for l := range int32(f.n.Links()) {
		d, _ := f.reporter(l)
		o.watched[l] = f.set.visible && f.honest[d]
		for i := range o.e.told {
			k, n := o.part(i, l)
			o.k[l] += k
			o.n[l] += n
		}
	}
}

// part is the drops and packets of a link in a part of the epoch.
func (o *oracle) part(i int, l int32) (k, n float64) {
	c := &o.e.told[i]
	if o.watched[l] {
		c = &o.e.all[i]
	}
	k = c.lost[l]
	if o.congestionKnown(l) {
		k -= c.burst[l]
	}
	return k, c.sent[l]
}

// congestionKnown says whether an honest agent tells the congestion of a link's
// queue from other loss.
func (o *oracle) congestionKnown(l int32) bool {
	from := o.f.from[l]
	return o.f.isDevice(from) && o.f.honest[from]
}

// certain says whether agents settle the matter: they see faults and nothing
// else, so a link with reports is at fault and one without is not.
func (o *oracle) certain(l int32) (settled, fault bool) {
	return o.watched[l] && !o.f.set.seesNoise, o.f.bad[l] && o.k[l] > 0
}

const gridPoints = 200

// grid is rates spread evenly, with their logs.
type grid struct{ rate, log, not []float64 }

func newGrid(low, high float64, points int) grid {
	var g grid
	for i := range points {
		x := min(low+(high-low)*(float64(i)+0.5)/float64(points), 1-1e-9)
		g.rate, g.log, g.not = append(g.rate, x), append(g.log, math.Log(x)), append(g.not, math.Log1p(-x))
	}
	return g
}

// mean is the log of the likelihood of k drops of n packets averaged over the
// grid, without the factor that all hypotheses share.
func (g grid) mean(k, n float64) float64 {
	terms := make([]float64, len(g.rate))
	for i := range terms {
		terms[i] = k*g.log[i] + (n-k)*g.not[i]
	}
	return logMean(terms)
}

func logMean(terms []float64) float64 {
	top := slices.Max(terms)
	sum := 0.0
	for _, t := range terms {
		sum += math.Exp(t - top)
	}
	return top + math.Log(sum/float64(len(terms)))
}

// good gives the log-likelihood of links that only have noise.
func (o *oracle) good() func(k, n float64) float64 {
	s := o.f.set
	even, noisy := newGrid(0, s.noise, gridPoints), newGrid(0, noisier*s.noise, gridPoints)
	return func(k, n float64) float64 {
		if s.noisy == 0 {
			return even.mean(k, n)
		}
		a, b := math.Log(1-s.noisy)+even.mean(k, n), math.Log(s.noisy)+noisy.mean(k, n)
		return logMean([]float64{a, b}) + math.Ln2
	}
}

// passing is the log-likelihood of a link with noise and one event of the rates
// given, at any time of the first epoch.
func (o *oracle) passing(l int32, g grid) float64 {
	noise := max(o.f.set.noise/2, 1e-9)
	logNoise, notNoise := math.Log(noise), math.Log1p(-noise)
	const length = epochLasts / parts
	var k, n [parts]float64
	all := 0.0
	for i := range o.e.told {
		ki, ni := o.part(i, l)
		all += ki*logNoise + (ni-ki)*notNoise
		if i < parts {
			k[i], n[i] = ki, ni
		}
	}
	var terms []float64
	for from := 0.0; from <= epochLasts-eventLasts; from += 0.5 {
		first := int(from / length)
		for _, x := range g.rate {
			t := all
			for i := first; i < parts && float64(i)*length < from+eventLasts; i++ {
				overlap := min(from+eventLasts, float64(i+1)*length) - max(from, float64(i)*length)
				rate := min(noise+x*overlap/length, 1-1e-9)
				t += k[i]*(math.Log(rate)-logNoise) + (n[i]-k[i])*(math.Log1p(-rate)-notNoise)
			}
			terms = append(terms, t)
		}
	}
	return logMean(terms)
}

// links weighs each link that lost something: one that lost nothing is never
// likelier to be bad than it was to begin with.
func (o *oracle) links(probability map[Component]float64) {
	f, s := o.f, o.f.set
	share := make([]float64, f.n.Links()) // chance to be drawn as a link between devices
	kinds := f.kinds()
	for _, kind := range kinds {
		for _, l := range kind {
			share[l] = 1 / float64(len(kinds)*len(kind))
		}
	}
	good := o.good()
	groups := s.groups()
	grids := make([]grid, len(groups))
	for i, g := range groups {
		points := gridPoints
		if s.once {
			points = 40
		}
		grids[i] = newGrid(g.low, g.high, points)
	}
	congested := newGrid(burstLow, burstHigh, 20)
	for l := range int32(f.n.Links()) {
		if o.k[l] == 0 {
			continue
		}
		c := Component{Link, l}
		if settled, fault := o.certain(l); settled {
			if fault {
				probability[c] = 1
			}
			continue
		}
		faulty, expected := []float64{math.Inf(-1)}, 0.0
		for i, g := range groups {
			p := float64(g.count)
			switch {
			case !g.hosts:
				p *= share[l]
			case share[l] == 0:
				p /= float64(2 * f.n.Hosts())
			default:
				p = 0
			}
			if p == 0 {
				continue
			}
			expected += p
			if s.once {
				faulty = append(faulty, math.Log(p)+o.passing(l, grids[i]))
			} else {
				faulty = append(faulty, math.Log(p)+grids[i].mean(o.k[l], o.n[l]))
			}
		}
		if expected == 0 {
			continue
		}
		rest := []float64{math.Log1p(-min(expected, 0.99)) + good(o.k[l], o.n[l])}
		if s.bursts > 0 && f.isDevice(f.from[l]) && !o.congestionKnown(l) {
			rest = append(rest, math.Log(s.bursts)+o.passing(l, congested))
		}
		probability[c] = 1 / (1 + math.Exp(addUp(rest)-addUp(faulty)))
	}
}

func addUp(logs []float64) float64 { return logMean(logs) + math.Log(float64(len(logs))) }

// devices weighs the devices of the tier of which one failed.
func (o *oracle) devices(probability map[Component]float64) {
	f, s := o.f, o.f.set
	good := o.good()
	g := newGrid(s.low, s.high, gridPoints)
	if s.oneRate {
		g = newGrid(s.low/2, s.high/2, gridPoints)
	}
	list := map[string][]int32{"tor": f.tor, "t1": f.t1, "t2": f.t2}[s.device]
	logs := make([]float64, len(list))
	for i, d := range list {
		terms := make([]float64, len(g.rate))
		for _, l := range f.touching(d) {
			k, n := o.k[l], o.n[l]
			logs[i] -= good(k, n)
			if !s.oneRate {
				logs[i] += g.mean(k, n)
				continue
			}
			for j := range terms {
				terms[j] += k*g.log[j] + (n-k)*g.not[j]
			}
		}
		logs[i] += logMean(terms)
	}
	all := addUp(logs)
	for i, d := range list {
		probability[Component{Device, d}] = math.Exp(logs[i] - all)
	}
}

// pairs weighs all pairs of a link in and a link out of a T1.
func (o *oracle) pairs(probability map[Component]float64) {
	f, s := o.f, o.f.set
	good, g := o.good(), newGrid(s.low, s.high, gridPoints)
	ratios := func(links []int32) []float64 {
		out := make([]float64, len(links))
		for i, l := range links {
			out[i] = g.mean(o.k[l], o.n[l]) - good(o.k[l], o.n[l])
			if settled, fault := o.certain(l); settled && !fault {
				out[i] = min(out[i], 0) - o.n[l]*s.low
			}
		}
		return out
	}
	var in, out [][]float64
	var logs []float64
	for _, d := range f.t1 {
		a, b := ratios(f.in[d]), ratios(f.out[d])
		in, out = append(in, a), append(out, b)
		logs = append(logs, logMean(a)+logMean(b))
	}
	all := addUp(logs)
	for i, d := range f.t1 {
		for _, side := range []struct {
			links  []int32
			ratios []float64
		}{{f.in[d], in[i]}, {f.out[d], out[i]}} {
			sum := addUp(side.ratios)
			for j, l := range side.links {
				probability[Component{Link, l}] = math.Exp(logs[i] - all + side.ratios[j] - sum)
			}
		}
	}
}

// shown counts the faults that lost at least one packet that was reported: by a
// host, or by an honest agent.
func (f *fabric) shown(e *evidence) (shown int) {
	for _, c := range f.truth {
		links := []int32{c.ID}
		if c.Kind == Device {
			links = f.touching(c.ID)
		}
		if slices.ContainsFunc(links, func(l int32) bool {
			d, _ := f.reporter(l)
			for i := range e.told {
				if e.told[i].lost[l] > 0 || f.set.visible && f.honest[d] && e.all[i].lost[l] > 0 {
					return true
				}
			}
			return false
		}) {
			shown++
		}
	}
	return shown
}

// explicable counts the lossy flows whose cause one tells who does not see where
// a packet died, but knows all faults with their rates, and the paths that were
// traced: it names the faulty link most likely to have taken the packet. Two
// faults on one path are told apart no better, nor is a path that was not
// traced. Where the draw was kind, or a class of interchangeable links counts as
// right, a method may do better. In rows of whole devices there is but one
// fault.
func (f *fabric) explicable(e *evidence) (count int) {
	if f.failed.Kind != None {
		for _, l := range e.cause {
			if l >= 0 {
				count++
			}
		}
		return count
	}
	rate := func(l int32) float64 { return f.rate[l] + f.events[l].rate*eventLasts/epochLasts }
	for i, cause := range e.cause {
		if cause < 0 {
			continue
		}
		best, most := int32(-1), 0.0
		if way := e.way[i]; way != nil {
			for _, l := range way {
				if f.bad[l] && rate(l) > most {
					best, most = l, rate(l)
				}
			}
		} else {
			flow := &e.whole.Lossy[i]
			for _, c := range f.truth {
				if p := f.share(c.ID, flow.Src, flow.Dst) * rate(c.ID); p > most {
					best, most = c.ID, p
				}
			}
		}
		if best == cause {
			count++
		}
	}
	return count
}

// share is the part of the paths between two hosts that take a link.
func (f *fabric) share(l, src, dst int32) float64 {
	t1, spines := f.set.t1, f.set.t2
	from, to := int(f.home[src]), int(f.home[dst])
	near, far := from/f.set.tors, to/f.set.tors
	within := func(table []int32, start, length int) bool { return slices.Contains(table[start:start+length], l) }
	switch {
	case l == f.n.Up(src) || l == f.n.Down(dst):
		return 1
	case within(f.torUp, from*t1, t1) || within(f.torDown, to*t1, t1):
		return 1 / float64(t1)
	case near != far && (within(f.t1Up, near*t1*spines, t1*spines) || within(f.t1Down, far*t1*spines, t1*spines)):
		return 1 / float64(t1*spines)
	default:
		return 0
	}
}
