package blame

import "math"

// rateFloor and rateCeiling bound the loss rate of a fault; between them it is
// as likely to be in one decade as in another.
const (
	rateFloor   = 2e-5
	rateCeiling = 1
)

var rateRange = math.Log(rateCeiling / rateFloor)

// peak finds the extra loss rate that a component of so many packets most
// likely has, and what it gains in log-likelihood over the rates held in e.rate.
// mass is the losses it then explains, sharp the curvature over the log of the
// rate.
func (e *engine) peak(hits []hit, packets float64) (p peak) {
	if p.x = e.likeliest(hits, packets); p.x == 0 {
		return peak{}
	}
	x := p.x
	p.gain = -packets * x
	for _, h := range hits {
		r, rate := e.lost[h.flow], e.rate[h.flow]
		ax := float64(h.own) * x
		p.gain += r * math.Log1p(ax/rate)
		share := ax / (rate + ax)
		p.mass += r * share
		p.sharp += r * share * share
		p.flows += min(1, r) * share
	}
	return p
}

// likeliest is the rate at the peak alone, which costs no logarithms; 0: there is
// none.
func (e *engine) likeliest(hits []hit, packets float64) float64 {
	if packets <= 0 || len(hits) == 0 {
		return 0
	}
	lost, slope := 0.0, -packets
	for _, h := range hits {
		r := e.lost[h.flow]
		lost += r
		slope += r * float64(h.own) / e.rate[h.flow]
	}
	if slope <= 0 {
		return 0
	}
	return e.root(hits, packets, lost)
}

// root is the rate at which the likelihood of a component is highest, where its
// slope at 0 is positive.
func (e *engine) root(hits []hit, packets, lost float64) float64 {
	if len(hits) == 1 {
		return min(lost/packets-e.rate[hits[0].flow]/float64(hits[0].own), rateCeiling)
	}
	// It lies below lost/packets; halve the decades, then Newton.
	high := min(rateCeiling, lost/packets)
	low := high * 1e-5
	// The slope is convex and falls: Newton from above ends below, and up to there
	// nobody need ask. Mostly, that is close.
	f, df := e.slopes(hits, packets, high)
	below := (high + f/df) * 0.999
	for range 7 {
		mid := math.Sqrt(low * high)
		if mid < below || e.slope(hits, packets, mid) > 0 {
			low = mid
		} else {
			high = mid
		}
	}
	x := low
	for range 3 {
		// From below it stays below.
		f, df := e.slopes(hits, packets, x)
		if df == 0 || f <= 0 {
			break
		}
		x += f / df
	}
	return min(x, rateCeiling)
}

// slopes gives the slope of the likelihood at a rate, and how fast it falls.
func (e *engine) slopes(hits []hit, packets, x float64) (f, df float64) {
	f = -packets
	for _, h := range hits {
		a, r := float64(h.own), e.lost[h.flow]
		q := a / (e.rate[h.flow] + a*x)
		f += r * q
		df += r * q * q
	}
	return f, df
}

// profile is [engine.peak] with the noise fitted anew, which the component would
// otherwise be measured against although the noise was estimated without it: on
// a small fabric, or while one fault makes most of the losses, that hides it.
// The losses that are now put down to noise are noiseMass.
func (e *engine) profile(hits []hit, packets, noiseMass float64) (p peak) {
	if packets <= 0 || len(hits) == 0 {
		return peak{}
	}
	lost := 0.0
	for _, h := range hits {
		r := &e.rows[h.flow]
		lost += r.lost
		noiseMass -= r.lost * r.hops * e.noise / e.rate[h.flow]
	}
	noiseMass = math.Max(0, noiseMass)
	g, x := e.noise, math.Min(rateCeiling, lost/packets/2)
	rate := func(h hit) float64 {
		return math.Max(e.rate[h.flow]+e.hops[h.flow]*(g-e.noise), 0) + float64(h.own)*x
	}
	for range 30 {
		in, mass := 0.0, 0.0
		for _, h := range hits {
			r := &e.rows[h.flow]
			q := r.lost / rate(h)
			in += q * r.hops * g
			mass += q * float64(h.own) * x
		}
		g, x = (noiseMass+in+0.5)/e.carried, math.Min(rateCeiling, mass/packets)
	}
	p.x, p.noise = x, g
	p.gain = (noiseMass+0.5)*math.Log(g/e.noise) - (g-e.noise)*e.carried - x*packets
	for _, h := range hits {
		r := e.lost[h.flow]
		all := rate(h)
		share := float64(h.own) * x / all
		p.gain += r * math.Log(all/e.rate[h.flow])
		p.mass += r * share
		p.sharp += r * share * share
		p.flows += r * share
	}
	return p
}

// noiseMass is the losses that the rates held in e.rate put down to noise.
func (e *engine) noiseMass() (sum float64) {
	for i := range e.rows {
		sum += e.lost[i] * e.hops[i] * e.noise / e.rate[i]
	}
	return sum
}

// noiseInstead is what the log-likelihood would gain if the noise could grow to
// explain what e.rate leaves unexplained.
func (e *engine) noiseInstead() float64 {
	g := e.noise
	for range 20 {
		mass := 0.5
		for i, hops := range e.hops {
			mass += e.lost[i] * hops * g / (e.rate[i] + hops*(g-e.noise))
		}
		was := g
		if g = mass / e.carried; g == was {
			break
		}
	}
	gain := -(g - e.noise) * e.carried
	for i, hops := range e.hops {
		gain += e.lost[i] * math.Log1p(hops*(g-e.noise)/e.rate[i])
	}
	return math.Max(0, gain)
}

func (e *engine) slope(hits []hit, packets, x float64) float64 {
	f := -packets
	for _, h := range hits {
		a := float64(h.own)
		f += e.lost[h.flow] * a / (e.rate[h.flow] + a*x)
	}
	return f
}

// peak is where a component's likelihood is highest.
type peak struct {
	x, gain, mass, sharp, flows float64
	noise                       float64 // fitted with it; 0: as it was
}

// evidence is the likelihood averaged over rates (Laplace's method in the log
// of the rate), over that without the component, in logs. The density of the
// rate at the peak is with the prior.
func (p peak) evidence() float64 {
	if p.gain <= 0 || p.x <= 0 {
		return math.Inf(-1)
	}
	out := p.gain + 0.5*math.Log(2*math.Pi/math.Max(p.sharp, 0.5))
	if p.x < rateFloor {
		out += 2 * math.Log(p.x/rateFloor)
	}
	return out
}

// boundOf bounds the gain of a link from above.
func (e *engine) boundOf(l int32) float64 {
	lost, sum := 0.0, 0.0
	for _, h := range e.onLink(l) {
		r := e.lost[h.flow]
		lost += r
		sum += r * float64(h.own) / e.rate[h.flow]
	}
	return bound(lost, sum, e.packets[l])
}

// bound is a quick upper bound of a gain from the losses of the rows and their
// sum of weight/rate (Jensen's inequality).
func bound(lost, sum, packets float64) float64 {
	if packets <= 0 || sum <= packets || lost <= 0 {
		return 0
	}
	return lost*math.Log(sum/packets) - lost + packets*lost/sum
}
