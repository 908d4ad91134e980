package correlator

import (
	"fmt"
	"math"
	"slices"

	"decaf/api/decafpb"
	"decaf/correlator/blame"
)

// A queue that overflows and a link that loses packets look alike at first: losses
// that have just begun. They differ in how losses follow one another. A bad link takes
// packets one by one, so that the one behind a lost packet is lost as seldom as any; a
// full queue takes what comes at that moment, and the packets of a connection come in
// trains: the conditional loss probability is many times the unconditional one (Bolot,
// SIGCOMM 1993).

// trains is how the lost packets of connections followed one another.
type trains struct {
	lost   float64 // packets
	behind float64 // of these, right behind another that was lost
}

// trainsOf counts the packets that flows lost in [from, to], zeros for at any time. Only
// segments count that later ones overtook: a timeout sends again what had arrived.
func trainsOf(flows []*Flow, from, to int64) (t trains) {
	var list []*decafpb.Retransmit
	for _, f := range flows {
		list = list[:0]
		for _, r := range f.Retransmits {
			at := int64(r.GetTimeNs())
			if dataKind(r) == decafpb.RetransmitKind_RETRANSMIT_KIND_FAST && (to == 0 || at >= from && at <= to) {
				list = append(list, r)
			}
		}
		if len(list) == 0 {
			continue
		}
		first := list[0].GetTcpSeq()
		slices.SortFunc(list, func(a, b *decafpb.Retransmit) int {
			return int(int32(a.GetTcpSeq()-first)) - int(int32(b.GetTcpSeq()-first))
		})
		for i, r := range list {
			if i > 0 && r.GetTcpSeq() == list[i-1].GetTcpSeq() {
				continue // sent again once more
			}
			n := float64(max(1, r.GetSegments()))
			t.lost, t.behind = t.lost+n, t.behind+n-1
			if i > 0 && r.GetTcpSeq() == list[i-1].GetTcpEndSeq() {
				t.behind++
			}
		}
	}
	return t
}

const (
	// A packet behind one that a full queue took is taken with at least this
	// probability, and that many times as often as any: Bolot saw .3 to .6 at 3 to 23 %.
	behindLeast = 0.15
	behindTimes = 2
	// rateLeast and rateMost bound what a link may lose, and rateSteps are tried between.
	rateLeast, rateMost, rateSteps = 1e-4, 0.35, 24
	// sentSure is how well it is known how many packets were sent: as a Gamma density of
	// this shape, give or take a third.
	sentSure = 12
)

// nats is the log of how much likelier the trains are if a queue took the packets than
// if they were lost one by one. sent is how many packets there were then, 0 if nobody
// knows. Packets lost one by one have a rate of which nothing is known but what fits
// both numbers; so has the packet behind another in a queue, above that rate.
func (t trains) nats(sent float64) float64 {
	if t.lost == 0 {
		return 0
	}
	apart := t.lost - t.behind
	var single, queue []float64
	for i := range rateSteps {
		x := rateLeast * math.Pow(rateMost/rateLeast, float64(i)/(rateSteps-1))
		rate := 0.0
		if sent > 0 { // a negative binomial: Poisson of what may have been sent
			mean := sent * x
			rate = t.lost*math.Log(mean/(mean+sentSure)) - sentSure*math.Log(mean+sentSure)
		}
		single = append(single, rate+t.behind*math.Log(x)+apart*math.Log1p(-x))
		least := max(behindLeast, behindTimes*x)
		var some []float64
		for j := range rateSteps {
			y := least + (1-least)*(float64(j)+0.5)/rateSteps
			some = append(some, t.behind*math.Log(y)+apart*math.Log1p(-y))
		}
		queue = append(queue, rate+logMean(some))
	}
	return logMean(queue) - logMean(single)
}

// logMean is the log of the mean of what these are the logs of.
func logMean(logs []float64) float64 {
	most := slices.Max(logs)
	sum := 0.0
	for _, l := range logs {
		sum += math.Exp(l - most)
	}
	return most + math.Log(sum/float64(len(logs)))
}

// CongestionRule says when losses that devices told nothing of are put down to a full
// queue. All in nats.
type CongestionRule struct {
	// Sure is from which odds on it is said, and against which it is denied.
	Sure float64
	// Passed is what speaks for a queue where losses are over: most such were one.
	// Lasting is what speaks against it where they go on beyond [congestionLasts].
	Passed, Lasting float64
	// Silence is what speaks against it where the device whose queue it would be tells
	// of all that it drops and told of none; devices err.
	Silence float64
}

// DefaultCongestionRule is sure at ten to one.
func DefaultCongestionRule() CongestionRule {
	return CongestionRule{Sure: math.Log(10), Passed: math.Log(10), Lasting: math.Log(10), Silence: math.Log(10)}
}

// congestionLasts is how long congestion lasts at most, unless it shows otherwise, ns: as
// long as the longest period that package blame tries.
const congestionLasts = 8e9

// judge says whether a link that devices told nothing of is at fault or congested, as
// far as that is known, and why. sent is how many packets went through it in the window,
// 0 if nobody knows. Without a reason to think otherwise what has passed was congestion,
// what lasts is a fault, and what has begun just now is neither yet.
func (r CongestionRule) judge(w *Window, c *Candidate, b blame.Blame, sent float64) {
	link := c.Component.Link
	if link == nil || b.Evidence.Drops > 0 {
		return
	}
	timed := c.during != [2]int64{}
	lasted := c.during[1] - c.during[0]
	brief := isClass(b.Class, classNoBuffer) // for a moment, and no more than a queue takes
	if !brief && (timed && lasted <= congestionLasts || b.Evidence.Rate > rateMost) {
		return
	}
	if !timed && w.Known-w.Start <= congestionLasts { // all that was looked at is a moment
		brief = true
	}
	if timed {
		sent *= min(1, float64(lasted)/float64(w.End-w.Start))
	}
	t := trainsOf(c.Flows, c.during[0], c.during[1])
	odds := t.nats(sent)
	c.say("%g of %g packets known to be lost there were right behind another: %s", t.behind, t.lost, t.words(odds))
	if slices.Contains(w.Watching, link.From.Node) {
		odds -= r.Silence
		c.say("against congestion: %s would tell of what its queue drops, and told of nothing", link.From.Node)
	}
	c.Class, c.Congested = "", false
	passed := w.Known > c.during[1]+timeStep
	if !timed {
		passed = w.Known-w.Start > congestionLasts
	}
	switch {
	case brief && passed:
		odds += r.Passed
		c.Congested = odds > -r.Sure
	case brief:
		c.Congested = odds >= r.Sure
		if c.undecided = !c.Congested && odds > -r.Sure; c.undecided {
			c.say("its losses have just begun: whether a queue overflows or the link is at fault is not known yet")
		}
	default:
		odds -= r.Lasting
		c.Congested = odds >= r.Sure
	}
	if c.Congested {
		c.Class = classNoBuffer
	}
}

// words is for people.
func (t trains) words(nats float64) string {
	switch {
	case t.lost == 0:
		return "that says nothing"
	case nats > 0:
		return fmt.Sprintf("as of a queue that overflows (%.1f nats)", nats)
	}
	return fmt.Sprintf("as of a link that loses them one by one (%.1f nats)", -nats)
}

// say adds a reason.
func (c *Candidate) say(format string, args ...any) {
	c.Reasons = append(c.Reasons, fmt.Sprintf(format, args...))
}
