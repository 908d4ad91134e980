package blame

import (
	"cmp"
	"math"
	"slices"
)

// class is a share of all links that are noisier than the rest by nature: not
// faults, but no good links either. Their rates are half-normal: most are
// small, and none is many times their scale, as a fault's may be.
type class struct {
	share, scale float64
	weight       float64 // posterior probability of this reading; share 0: no class
}

// A class is likelier there than not, its share anywhere in classShares, its
// scale in classScales times the common noise: links 30 times noisier than their
// peers are met, but what loses hundreds of times as much is a fault. So is what
// loses one packet in 2000, 007's least failure, however noisy its peers.
var (
	classShares = []float64{.005, .01, .02, .04, .08}
	classScales = []float64{8, 11, 15, 21, 30}
)

const (
	classCeiling = 3e-4
	classExists  = 0.8
	// The likeliest readings stand for all.
	classReadings = 4
)

// evidence is the log Bayes factor of a link being one of the class. Round its
// peak the likelihood is that of so many losses, sharp, and Laplace's method is
// applied at the peak of the product with the class's density.
func (c class) evidence(p peak) float64 {
	if p.x <= 0 || p.sharp <= 0 {
		return math.Inf(-1)
	}
	k, z := p.sharp, p.x/c.scale
	z2 := z * z
	// With v = x/peak: maximise k·(ln v − v + 1) + ln v − z²v²/2.
	v := (math.Sqrt(k*k+4*z2*(k+1)) - k) / (2 * z2)
	if z2 < 1e-6*k {
		v = (k + 1) / k
	}
	return p.gain + k*(math.Log(v)-v+1) + math.Log(z*v*math.Sqrt(2/math.Pi)) - z2*v*v/2 +
		0.5*math.Log(2*math.Pi/(k*v+2*z2*v*v))
}

// shows is how likely a link of the class loses at least two packets, by the
// mean of its class: with one it does not stand out from its noise. It is
// E[1 − (1+m)·e^−m] over the half-normal m, within a few hundredths.
func shows(mean float64) float64 {
	two := math.Pi / 4 * mean * mean
	return two / (1 + 0.6*mean + two)
}

// noisyLinks weighs the readings: no class, or one of each share and scale, by
// how well they explain all links, those that lost and those that did not. It
// gives no class and the best ones, weighted as all of them. A fault counts as
// one on its own here: were each expected more for the others, a class would
// pass for a crowd of weak faults.
func (e *engine) noisyLinks() []class {
	none := []class{{weight: 1}}
	var peaks []peak
	var priors []float64      // log odds of being a fault
	var unexplained []float64 // losses that are still put down to noise
	for _, f := range e.faults {
		if f.at.Kind == Link && f.peak.flows >= singleFlow && !f.congested {
			peaks = append(peaks, f.peak)
			if unexplained = append(unexplained, 0); f.weak {
				unexplained[len(unexplained)-1] = f.peak.mass
			}
			priors = append(priors, e.prior(f.at, f.peak, learned{}))
		}
	}
	for _, s := range e.faint {
		peaks = append(peaks, s.peak)
		unexplained = append(unexplained, s.peak.mass)
		priors = append(priors, e.prior(s.at, s.peak, learned{}))
	}
	if len(peaks) == 0 {
		return none
	}
	noiseMass := e.noiseMass()
	base := 0.0
	for i, p := range peaks {
		base += addLogs(0, p.evidence()+priors[i])
	}
	readings := none
	logs := []float64{math.Log(float64(len(classShares)*len(classScales)) * (1 - classExists) / classExists)}
	for _, times := range classScales {
		scale := times * e.noise
		if scale > classCeiling {
			break
		}
		mean := scale * math.Sqrt(2/math.Pi)
		show := 0.0 // how many of all links would have shown
		for _, p := range e.packets {
			show += shows(p * mean)
		}
		for _, share := range classShares {
			// What the class loses is no longer noise of all links, against which
			// its members then stand out more.
			less := math.Max(0.2, 1-share*mean/e.noise)
			gain := noiseMass*math.Log(less) + e.noise*(1-less)*e.carried - share*show - base
			for i, p := range peaks {
				p.gain -= unexplained[i] * math.Log(less)
				gain += addLogs(0, p.evidence()+priors[i], math.Log(share)+class{scale: scale}.evidence(p))
			}
			readings = append(readings, class{share: share, scale: scale})
			logs = append(logs, gain)
		}
	}
	sum := addLogs(logs...)
	order := make([]int, len(readings)-1)
	for i := range order {
		order[i] = i + 1
	}
	slices.SortStableFunc(order, func(a, b int) int { return -cmp.Compare(logs[a], logs[b]) })
	likely, all := readings[:1:1], 0.0
	for _, i := range order[:min(len(order), classReadings)] {
		c := readings[i]
		c.weight = math.Exp(logs[i] - sum)
		likely, all = append(likely, c), all+c.weight
	}
	nothing := math.Exp(logs[0] - sum)
	for i := range likely {
		if likely[i].share > 0 {
			likely[i].weight *= (1 - nothing) / all
		}
	}
	likely[0].weight = nothing
	return likely
}

// addLogs is the log of the sum of exponentials.
func addLogs(terms ...float64) float64 {
	top := math.Inf(-1)
	for _, t := range terms {
		top = math.Max(top, t)
	}
	if math.IsInf(top, 0) {
		return top
	}
	sum := 0.0
	for _, t := range terms {
		switch d := t - top; {
		case d == 0: // the commonest; the rest may be too small to count
			sum++
		case d > -37:
			sum += math.Exp(d)
		}
	}
	if sum == 1 {
		return top
	}
	return top + math.Log(sum)
}
