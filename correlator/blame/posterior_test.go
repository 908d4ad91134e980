package blame

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestPriorIsAnAverage compares the prior with the integral it stands for: the
// density of a Gamma variable about each known rate, over the likelihood of the
// losses.
func TestPriorIsAnAverage(t *testing.T) {
	n, err := build(paper())
	if err != nil {
		t.Fatal(err)
	}
	e := prepare(n, &Epoch{}, Options{})
	e.carrying = [2]float64{960, 3200}
	r := rand.New(rand.NewPCG(5, 5))
	for range 100 {
		var others learned
		var rates []float64
		for range 1 + r.IntN(12) {
			rates = append(rates, math.Exp(math.Log(rateFloor)*r.Float64()))
			others[fabricLinks] = append(others[fabricLinks], known{nil, math.Log(rates[len(rates)-1]), 1})
		}
		x, losses := math.Exp(math.Log(rateFloor)*r.Float64()), math.Exp(6*r.Float64())
		self := new(fault)
		got := e.priorAt(fabricLinks, x, losses, others, self)

		a := shape(float64(len(rates)))
		gamma, _ := math.Lgamma(a)
		sum, width := 0.0, 0.0
		const step = 0.01
		for u := -14.0; u < 6; u += step { // log of the rate over x
			likely := math.Exp(losses * (u - math.Expm1(u)))
			width += likely * step
			for _, k := range rates {
				z := x * math.Exp(u) / k * a
				sum += likely * step * math.Exp(a*math.Log(z)-z-gamma)
			}
		}
		// The Bayes factor has Laplace's width of the likelihood.
		want := math.Log((expectedFaults[fabricLinks]/rateRange + sum/math.Sqrt(2*math.Pi/losses)) / 960)
		if math.Abs(got-want) > 0.01 {
			t.Fatalf("rates %v, %.3g losses at %.3g: prior %.4f, the integral gives %.4f (likelihood %.4f wide)", rates, losses, x, got, want, width)
		}
		if most := e.priorBound(fabricLinks, others); got > most {
			t.Fatalf("prior %.4f is above its bound %.4f", got, most)
		}
	}
}

// TestNoisyLinksDoNotVouchForOneAnother is about a fabric of which some links are
// noisy by nature: were each of them to make the others likelier, some would be
// named.
func TestNoisyLinksDoNotVouchForOneAnother(t *testing.T) {
	s := paper()
	s.noisy, s.noise = .02, 1e-5
	n, err := build(s)
	if err != nil {
		t.Fatal(err)
	}
	var sum score
	for seed := range uint64(30) {
		measure(t, n, s, 150+seed, &sum)
	}
	if sum.precision() < .97 || sum.recall() < .94 {
		t.Errorf("precision %.3f, recall %.3f; want at least .97, .94", sum.precision(), sum.recall())
	}
}
