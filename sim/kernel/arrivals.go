package kernel

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// arrivals draws one host's connections: when the next comes, where it goes, how
// many packets it carries. Drawn by seed alone.
type arrivals struct {
	rng      *rand.Rand
	rate     float64 // per second
	min, max int
	targets  []netip.AddrPort
	upTo     []float64 // running sum of the targets' weights
}

// connection is one to be made.
type connection struct {
	after   time.Duration // since the one before
	to      netip.AddrPort
	packets int
}

func newArrivals(seed uint64, rate float64, packetsMin, packetsMax int, targets []Target) *arrivals {
	a := &arrivals{rng: rand.New(rand.NewPCG(seed, 0xa771)), rate: rate, min: packetsMin, max: packetsMax}
	var sum float64
	for _, t := range targets {
		sum += t.Weight
		a.targets = append(a.targets, t.Addr)
		a.upTo = append(a.upTo, sum)
	}
	return a
}

// next draws a connection of a Poisson process.
func (a *arrivals) next() connection {
	at := a.rng.Float64() * a.upTo[len(a.upTo)-1]
	i, _ := slices.BinarySearch(a.upTo, at)
	return connection{
		after:   time.Duration(a.rng.ExpFloat64() / a.rate * float64(time.Second)),
		to:      a.targets[min(i, len(a.targets)-1)],
		packets: a.min + a.rng.IntN(a.max-a.min+1),
	}
}
