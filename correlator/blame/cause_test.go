package blame

import (
	"slices"
	"testing"
)

// Where paths are wrong, how many packets a flow lost tells that it met a fault
// all the same, and so how many paths are wrong.
func TestCauseOffTheReportedPath(t *testing.T) {
	for _, c := range []struct {
		situation
		least float64
	}{
		{situation{"20 % stale", func(s *setup) { s.stale = .2 }}, .935},
		{situation{"half stale", func(s *setup) { s.stale = .5 }}, .88},
		{situation{"none stale", func(*setup) {}}, .99},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := paper()
			c.edit(&s)
			n, err := build(s)
			if err != nil {
				t.Fatal(err)
			}
			var sum score
			for seed := range uint64(6) {
				measure(t, n, s, 30+seed, &sum)
			}
			if sum.accuracy() < c.least {
				t.Errorf("%.3f of %d flows have the right cause, want at least %v", sum.accuracy(), sum.flows, c.least)
			}
		})
	}
}

// What a flow's cause is said to be is right as often as its probability says.
func TestCausesAreCalibrated(t *testing.T) {
	s := paper()
	s.stale, s.refused, s.unequal = .2, .1, true
	n, err := build(s)
	if err != nil {
		t.Fatal(err)
	}
	var bins [5]bin
	for seed := range uint64(6) {
		f, e := scene(n, s, 40+seed)
		r := Infer(n, e.whole, Options{})
		for i, c := range r.Causes {
			right := c.Component.Kind == None && e.cause[i] < 0
			if l := e.cause[i]; l >= 0 {
				right = c.Component == Component{Link, l} && slices.Contains(f.truth, c.Component)
			}
			if !(c.Probability >= 0 && c.Probability <= 1) {
				t.Fatalf("flow %d: probability %v", i, c.Probability)
			}
			b := &bins[min(4, int(c.Probability*5))]
			b.p, b.n = b.p+c.Probability, b.n+1
			if right {
				b.hit++
			}
		}
	}
	off, all := 0.0, 0.0
	for _, b := range bins {
		off += max(b.p-b.hit, b.hit-b.p)
		all += b.n
	}
	if off/all > .03 {
		t.Errorf("calibration error %.3f: %+v", off/all, bins)
	}
}
