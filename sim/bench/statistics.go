package bench

import (
	"math"
	"slices"
	"time"
)

// mean of values; NaN of none.
func mean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}

// median of values, which it sorts; NaN of none.
func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// quantile of durations, which it sorts, in a unit; NaN of none.
func quantile(d []time.Duration, q float64, unit time.Duration) float64 {
	if len(d) == 0 {
		return math.NaN()
	}
	slices.Sort(d)
	return float64(d[min(int(q*float64(len(d))), len(d)-1)]) / float64(unit)
}

// meanWithin is the mean of a sample, and how far from it the true one is at most,
// either way, with 95 % confidence; NaN of fewer than two.
func meanWithin(v []float64) (m, ci float64) {
	m = mean(v)
	sum := 0.0
	for _, x := range v {
		sum += (x - m) * (x - m)
	}
	n := float64(len(v))
	return m, student95(n-1) * math.Sqrt(sum/(n-1)/n)
}

// blocks are means of consecutive samples, n of them.
func blocks(v []float64, n int) []float64 {
	n = min(n, len(v))
	out := make([]float64, n)
	for i := range out {
		out[i] = mean(v[i*len(v)/n : (i+1)*len(v)/n])
	}
	return out
}

// slope of y over x by least squares, and how far from it the true one is at most,
// either way, with 95 % confidence, if what is off the line is off by chance; NaN
// of fewer than three.
func slope(x, y []float64) (slope, ci float64) {
	mx, my := mean(x), mean(y)
	var xx, xy, off float64
	for i := range x {
		xx += (x[i] - mx) * (x[i] - mx)
		xy += (x[i] - mx) * (y[i] - my)
	}
	slope = xy / xx
	for i := range x {
		d := y[i] - my - slope*(x[i]-mx)
		off += d * d
	}
	free := float64(len(x)) - 2
	return slope, student95(free) * math.Sqrt(off/free/xx)
}

// studentFew is student95 of one degree of freedom and more, where the series is
// no good.
var studentFew = []float64{12.706, 4.303, 3.182, 2.776, 2.571, 2.447}

// student95 is how many standard errors a figure lies from the true one at most,
// with 95 % confidence, by Student's distribution of so many degrees of freedom
// (Abramowitz and Stegun, 26.7.5); NaN of none.
func student95(free float64) float64 {
	if !(free >= 1) {
		return math.NaN()
	}
	if n := int(free); n <= len(studentFew) {
		return studentFew[n-1]
	}
	const z = 1.959964
	z3, z5 := z*z*z, z*z*z*z*z
	return z + (z3+z)/(4*free) + (5*z5+16*z3+3*z)/(96*free*free)
}
