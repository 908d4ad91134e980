package blame

import (
	"math"
	"slices"
)

// bin is a tenth of the probabilities: their sum, how many were right, how many.
type bin struct{ p, hit, n float64 }

// score is how well a method did on a row of the benchmark, over its seeds.
//
// A class of interchangeable components is right if a faulty one is among them,
// as is the cause of a flow that is such a class. Of a device that failed as a
// whole its links are wrong: it must be named itself. A link whose queue
// overflowed is right while it is named as congested and for the epoch in which
// that was; named as anything else, or for a later one, it is wrong. A fault that
// lasts and is named as congested is right, but misclassed. Precision is of all
// that is named; that of faults leaves out what is named as congested, rightly or
// wrongly, unless it is a fault.
type score struct {
	named, right, truth, found int
	shown                      int // faults that lost a reported packet
	flows, flowsRight          int
	explicable                 int // flows whose cause can be told at best
	claimed                    int // named as faults
	claimedRight               int
	bursts, burstsNamed        int // congested links that lost enough to be seen
	burstsFaulted              int // congested links named as faults
	misclassed                 int // faults that last, taken for congestion
	falseEpochs                int
	bins                       [10]bin
	millis, slowest, all       float64
}

// burstShows is the drops from which congestion counts as having been there to
// be found.
const burstShows = 5

func (s *score) add(f *fabric, e *evidence, r Result, millis float64) {
	s.all++
	s.millis += millis
	s.slowest = max(s.slowest, millis)
	found := make(map[Component]bool)
	members := func(b Blame) []Component { return append([]Component{b.Component}, b.Equivalent...) }
	hit := func(b Blame) (right bool) {
		for _, c := range members(b) {
			if slices.Contains(f.truth, c) {
				found[c] = true
				return true
			}
		}
		return false
	}
	last := epochLasts * float64(f.set.epochs-1) // when the epoch asked about began
	congested := func(b Blame) bool {
		ended := b.During.Known() && b.During.To < last+1
		return b.Class == congestion && (ended || !f.set.over) && slices.ContainsFunc(members(b), func(c Component) bool { return c.Kind == Link && f.burst[c.ID] })
	}
	wrong := false
	classes := make(map[Component]Blame) // of more than one component
	burst := make(map[int32]bool)
	for _, b := range r.Components {
		if len(b.Equivalent) > 0 {
			classes[b.Component] = b
		}
		right := hit(b)
		if right && b.Class == congestion && !f.set.once {
			s.misclassed++
		}
		if !right && congested(b) {
			for _, c := range members(b) {
				burst[c.ID] = true
			}
			s.named++
			s.right++
			continue
		}
		s.named++
		if right || b.Class != congestion {
			s.claimed++
		}
		if right {
			s.right++
			s.claimedRight++
		} else {
			wrong = true
			if b.Component.Kind == Link && f.burst[b.Component.ID] {
				s.burstsFaulted++
			}
		}
	}
	if wrong {
		s.falseEpochs++
	}
	s.truth += len(f.truth)
	s.found += len(found)
	s.shown += f.shown(e)
	s.explicable += f.explicable(e)
	for l, was := range f.burst {
		lost := 0.0
		for i := range e.all {
			lost += e.all[i].burst[l]
		}
		if was && !f.set.over && lost >= burstShows {
			s.bursts++
			if burst[int32(l)] {
				s.burstsNamed++
			}
		}
	}
	for _, b := range slices.Concat(r.Components, r.Suspects) {
		right := hit(b) || congested(b)
		if b.Probability < .01 {
			continue
		}
		bin := &s.bins[min(9, int(b.Probability*10))]
		bin.p += b.Probability
		bin.n++
		if right {
			bin.hit++
		}
	}
	for i, l := range e.cause {
		if l < 0 {
			continue
		}
		s.flows++
		at := Component{Link, l}
		if f.failed.Kind != None {
			at = f.failed
		}
		c := r.Causes[i].Component
		if c == at || slices.Contains(classes[c].Equivalent, at) {
			s.flowsRight++
		}
	}
}

// join adds another score's epochs.
func (s *score) join(o *score) {
	s.named += o.named
	s.right += o.right
	s.truth += o.truth
	s.found += o.found
	s.shown += o.shown
	s.explicable += o.explicable
	s.flows += o.flows
	s.flowsRight += o.flowsRight
	s.claimed += o.claimed
	s.claimedRight += o.claimedRight
	s.burstsFaulted += o.burstsFaulted
	s.bursts += o.bursts
	s.burstsNamed += o.burstsNamed
	s.misclassed += o.misclassed
	s.falseEpochs += o.falseEpochs
	s.millis += o.millis
	s.slowest = max(s.slowest, o.slowest)
	s.all += o.all
	for i, b := range o.bins {
		s.bins[i].p += b.p
		s.bins[i].hit += b.hit
		s.bins[i].n += b.n
	}
}

func ratio(a, b int) float64 {
	if b == 0 {
		return 1
	}
	return float64(a) / float64(b)
}

func (s *score) precision() float64 { return ratio(s.right, s.named) }
func (s *score) recall() float64    { return ratio(s.found, s.truth) }

// faults is the precision of what is named as a fault.
func (s *score) faults() float64 { return ratio(s.claimedRight, s.claimed) }

func (s *score) accuracy() float64 { return ratio(s.flowsRight, s.flows) }

// possible is the recall of naming every fault that lost a reported packet.
func (s *score) possible() float64 { return ratio(s.shown, s.truth) }

// flowsPossible is the flow accuracy of one who knows all faults and their
// rates, but not where each packet died.
func (s *score) flowsPossible() float64 { return ratio(s.explicable, s.flows) }

// calibration is the expected calibration error over 10 bins; false when there
// were no probabilities.
func (s *score) calibration() (float64, bool) {
	off, n := 0.0, 0.0
	for _, b := range s.bins {
		off += math.Abs(b.p - b.hit)
		n += b.n
	}
	return off / max(n, 1), n > 0
}
