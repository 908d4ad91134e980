package blame

import "math"

const (
	contradicted = 12 // nats that hosts take away at most who lost nothing there
	silence      = -4 // nats that silent devices take away at most
)

// agree is what hosts say of so many drops at a component: the log of how likely
// their losses are with them there, over without. e.rate is without it.
//
// Drops that a device counts and losses that hosts see there are the same
// packets, of so many flows at most. Each of the drops accounts for one loss at
// most, and one that hosts did not see speaks against the place by the chance that
// they would have.
func (e *engine) agree(c Component, hits []hit, count, flowsHit float64) (nats, want, mass float64) {
	packets := e.packetsThrough(c)
	if packets <= 0 {
		return 0, 0, 0 // hosts have nothing there to lose
	}
	reach := e.reach(c)
	x := math.Min(rateCeiling, count*reach/packets)
	flows, lost := 0.0, 0.0
	for _, h := range hits {
		part := x * float64(h.own)
		part /= e.rate[h.flow] + part
		flows += part * e.lost[h.flow]
		lost += part * e.rows[h.flow].total
	}
	want = count * reach
	if lost > 0 {
		want *= flows / lost // rows count flows
	}
	want = math.Min(want, flowsHit*reach)
	x = math.Min(rateCeiling, want/packets)
	gain := 0.0
	for _, h := range hits {
		r, part := e.lost[h.flow], x*float64(h.own)
		gain += r * math.Log1p(part/e.rate[h.flow])
		mass += r * part / (e.rate[h.flow] + part)
	}
	if mass > want {
		gain *= want / mass
	}
	missing := math.Max(0, want-mass)
	would := 0.9 * reach * (1 - e.stale)
	return math.Max(-contradicted, gain-want-missing*(-math.Log1p(-would)-would)), want, mass
}

// overflows is how long a queue overflows, seconds, where its device does not tell.
const overflows = 2

// flowsHit is how many flows the drops of a report are of at most, on average. A
// queue that overflows for a moment hits the few that pass just then, and those may
// all be of hosts that nobody hears.
func (e *engine) flowsHit(r *report) float64 {
	if !isCongestion(r.class) || r.about.Kind != Link || e.perFlow == 0 || e.clock.before == nil {
		return r.count
	}
	share := math.Min(1, overflows/e.clock.length())
	if r.when.Known() {
		share = math.Min(share, e.clock.share(r.when))
	}
	flows := math.Max(1, e.carries(r.about)*share/e.perFlow)
	return flows * -math.Expm1(-r.count/flows)
}

// testimony is what devices say of a component that they report.
type testimony struct {
	report
	agree float64 // see [engine.agree]
	seen  peak    // their count, as if hosts had seen it all
}

// misplaced says whether the report is thought to be of another place than it
// says.
func (t *testimony) misplaced() bool { return t.count > 0 && t.at != t.about }

// testify takes down what devices say of a component. e.rate is without it.
func (e *engine) testify(c Component, hits []hit) (t testimony) {
	t.report = e.said(c)
	if t.count == 0 {
		return t
	}
	if hits != nil {
		t.agree, _, _ = e.agree(c, hits, t.count, e.flowsHit(&t.report))
	}
	t.seen = e.counted(c, t.count)
	return t
}

// counted is a device's count as a peak of the likelihood.
func (e *engine) counted(c Component, count float64) peak {
	packets := e.carries(c)
	mean := e.devNoise * packets
	if count <= mean {
		return peak{}
	}
	x := math.Min(rateCeiling, (count-mean)/packets)
	share := (count - mean) / count
	return peak{x: x, gain: count*math.Log(count/mean) - (count - mean), mass: count * share, sharp: count * share * share, flows: count}
}

// joint gives the logs of what speaks for a component, for it being good, and
// for the report being of something else, by the word of devices and hosts
// together: prior is that of a rate as devices count it, host what hosts add up
// to alone, prior included, and natural the readings of a good link: the logs of
// their probabilities over that of common noise.
//
// The component is at fault and devices saw it, or it is but they did not and
// their report is of something else; or it is noise that they saw, or it is
// neither and the report is of something else.
func (e *engine) joint(t *testimony, prior, host float64, natural []float64) (fault, good, other float64) {
	told := prior + t.seen.evidence()
	all := math.Exp(e.seesNoise)
	visible := math.Log(all*seesFaults + (1-all)*e.visible[t.side])
	blind := math.Log1p(-e.visible[t.side])
	other = addLogs(e.seesNoise, visible+told+t.elsewhere)
	fault = addLogs(t.moved+visible+told+t.agree, blind+host+other)
	good = addLogs(t.moved+e.seesNoise+addLogs(natural...)+t.agree, other)
	return fault, good, other
}

// mute is what the silence of devices adds to the log odds of a component that
// they would have seen. It adds nothing while the epoch has not shown that they
// see any fault at that end.
func (e *engine) mute(c Component) (float64, string) {
	nats, at := 0.0, e.watchers(c)
	for s, there := range at {
		if there && e.visible[s] > visibility(0, 0) {
			nats += math.Log1p(-e.visible[s] * (1 - e.errs))
		}
	}
	switch {
	case !at[leaving] && !at[arriving]:
		return 0, ""
	case nats == 0:
		return 0, "its devices were silent, but they have shown no fault either that they see"
	}
	return math.Max(nats, silence), "its devices were silent, and would have seen it with " + percent(1-math.Exp(nats))
}

// natural gives the readings of a good link: common noise, or one of the noisier
// half, or one of a class of noisy links. scale is that of the noise in question
// over what hosts see.
func (e *engine) natural(c Component, p peak, noisy class, scale float64) []float64 {
	out := []float64{0}
	if c.Kind != Link {
		return out
	}
	even := class{scale: e.noise * scale}
	out = append(out, math.Log(unevenShare)+even.evidence(p))
	if noisy.share > 0 {
		noisy.scale *= scale
		out = append(out, math.Log(noisy.share)+noisy.evidence(p))
	}
	return out
}

// word says in words what devices add to a fault's odds, in nats.
func (e *engine) word(f *fault) (float64, string) {
	switch t := &f.heard; {
	case t.count == 0:
		return e.mute(f.at)
	case f.device < 0 && t.seen.x < 0.9*f.peak.x:
		return f.device, "its device reported fewer drops than hosts lost"
	case t.misplaced():
		return f.device, "its device reported drops as of " + e.n.Name(t.about)
	case t.agree < -1:
		return f.device, "its device reported drops that hosts did not lose"
	case f.device < 0:
		return f.device, "what its device reported does not fit what hosts lost"
	default:
		return f.device, "its device reported drops"
	}
}
