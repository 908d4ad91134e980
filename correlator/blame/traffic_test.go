package blame

import (
	"math"
	"math/rand/v2"
	"slices"
)

// count is packets by link: those that came to it, and those it lost, the
// congestion drops among them apart too.
type count struct{ sent, lost, burst []float64 }

func newCount(links int) count {
	return count{make([]float64, links), make([]float64, links), make([]float64, links)}
}

// evidence is what was seen of a fabric, and what was not.
type evidence struct {
	// whole is all of it as one epoch.
	// epochs is the same one by one: what a method starts from that carries
	// evidence over.
	whole  *Epoch
	epochs []*Epoch
	// cause is, per lossy flow of the whole, the faulty link it lost most on,
	// -1 when only noise or congestion took its packets.
	cause []int32
	// way is, per lossy flow, the path that took its packets; nil where nobody
	// traced that one.
	way [][]int32
	// told is what the hosts that report lost, by part: by epoch, or by 2 s where
	// something does not last that long; all is of all hosts.
	told, all []count
}

// run draws the traffic and gives it as one epoch; drops are by link, of the
// flows that were reported.
func (f *fabric) run(r *rand.Rand) (ep *Epoch, cause []int32, drops []float64) {
	e := f.observe(r)
	drops = make([]float64, f.n.Links())
	for _, c := range e.told {
		for l, k := range c.lost {
			drops[l] += k
		}
	}
	return e.whole, e.cause, drops
}

// flight is one flow being drawn.
type flight struct {
	path, second []int32 // what it took, and takes after a reroute
	traced       []int32 // the one that a trace shows
	lost         []int32 // links that took packets, and how many
	took         []float64
	arrived      int
}

// fly sends packets down the path at a time and says how many arrive. Each
// packet dies on one link at most; told is nil where nobody tells.
func (f *fabric) fly(fl *flight, path []int32, packets, epoch int, at float64, all, told *count, r *rand.Rand) (arrived int) {
	var rate [8]float64
	var burst [8]bool
	sum := 0.0
	for i, l := range path {
		rate[i], burst[i] = f.hazard(l, epoch, at)
		sum += rate[i]
	}
	arrived = packets
	var died [8]int
	// The distance to the next packet that dies is geometric.
	for i := 0; sum > 0; {
		i += 1 + int(math.Min(1e9, -math.Log1p(-r.Float64())/sum))
		if i > packets {
			break
		}
		// Where, given that it dies.
		u := -math.Log1p(r.Float64() * math.Expm1(-sum))
		for j := range path {
			if u -= rate[j]; u < 0 || j == len(path)-1 {
				died[j]++
				break
			}
		}
		arrived--
	}
	left := packets
	for j, l := range path {
		for _, c := range [2]*count{all, told} {
			if c == nil {
				continue
			}
			c.sent[l] += float64(left)
			if died[j] > 0 {
				c.lost[l] += float64(died[j])
				if burst[j] {
					c.burst[l] += float64(died[j])
				}
			}
		}
		if died[j] > 0 {
			fl.lost, fl.took = append(fl.lost, l), append(fl.took, float64(died[j]))
		}
		left -= died[j]
	}
	return arrived
}

// send draws one flow of the time given.
func (f *fabric) send(fl *flight, src, dst int32, packets, epoch int, at float64, all, told *count, r *rand.Rand) {
	fl.lost, fl.took = fl.lost[:0], fl.took[:0]
	fl.path = f.route(src, dst, f.weight, r, fl.path[:0])
	fl.traced = fl.path
	if f.after == nil {
		fl.arrived = f.fly(fl, fl.path, packets, epoch, at, all, told, r)
		return
	}
	// A flow lasts up to 6 s; what of it comes after the reroute takes another
	// path, and so does a trace, 1 s after the first loss.
	const middle, longest = epochLasts / 2, 6.0
	before := min(1, max(0, (middle-at)/(longest*r.Float64())))
	first := int(before*float64(packets) + r.Float64())
	fl.second = f.route(src, dst, f.after, r, fl.second[:0])
	fl.traced = fl.second
	fl.arrived = f.fly(fl, fl.path, first, epoch, at, all, told, r)
	if lost := first - fl.arrived; lost > 0 && at+r.Float64()*min(longest, middle-at)/float64(lost) < middle-1 {
		fl.traced = fl.path
	}
	fl.arrived += f.fly(fl, fl.second, packets-first, epoch, at, all, told, r)
}

// pattern gives the ToR that a host of the ToR given sends to, by the set-up.
func (f *fabric) pattern(r *rand.Rand) func(home int) int {
	s := f.set
	hot := r.IntN(len(f.tor))
	skewed := r.Perm(len(f.tor))[:max(2, len(f.tor)/4)]
	return func(home int) int {
		for {
			t := -1
			switch {
			case s.skew && r.Float64() < .8:
				t = skewed[r.IntN(len(skewed))]
			case s.hot > 0 && home != hot && r.Float64() < s.hot:
				t = hot
			default:
				t = r.IntN(len(f.tor))
			}
			if t != home {
				return t
			}
		}
	}
}

// observe draws the traffic and what is seen of it.
func (f *fabric) observe(r *rand.Rand) *evidence {
	s, n := f.set, f.n
	e := &evidence{whole: &Epoch{During: Span{0, epochLasts * float64(s.epochs)}}, epochs: make([]*Epoch, s.epochs)}
	for range s.parts() {
		e.told, e.all = append(e.told, newCount(n.Links())), append(e.all, newCount(n.Links()))
	}
	if s.epochs == 1 {
		e.epochs[0] = e.whole
	} else {
		e.whole.Tally = NewTally(n)
		for i := range e.epochs {
			e.epochs[i] = &Epoch{During: Span{epochLasts * float64(i), epochLasts * float64(i+1)}, Tally: NewTally(n)}
		}
	}
	report := make([]bool, n.Hosts())
	for h := range report {
		report[h] = r.Float64() < s.reporting
	}
	destination := f.pattern(r)
	// Where nothing changes over time, the time of a flow is drawn apart, so as
	// not to change what is lost.
	clock := rand.New(rand.NewPCG(9, 9))
	if s.once || s.bursts > 0 || s.reroute > 0 {
		clock = r
	}
	var fl flight
	for epoch := range s.epochs {
		for src := range int32(n.Hosts()) {
			for range s.connections {
				near := f.near[destination(int(f.home[src]))]
				dst := near[r.IntN(len(near))]
				packets := 1 + r.IntN(100)
				at, part := clock.Float64()*epochLasts, epoch
				if per := len(e.told) / s.epochs; per > 1 {
					part = epoch*per + int(at/epochLasts*float64(per))
				}
				told := &e.told[part]
				if !report[src] {
					told = nil
				}
				f.send(&fl, src, dst, packets, epoch, at, &e.all[part], told, r)
				switch {
				case !report[src]:
				case len(fl.lost) == 0:
					f.sawClean(e, e.epochs[epoch], src, dst, packets)
				default:
					f.sawLoss(e, e.epochs[epoch], &fl, src, dst, packets, float64(epoch)*epochLasts+at, r)
				}
			}
		}
	}
	f.devices(e, r)
	return e
}

// sawClean adds a flow that lost nothing.
func (f *fabric) sawClean(e *evidence, part *Epoch, src, dst int32, packets int) {
	switch {
	case f.set.noClean:
	case f.clean != nil:
		f.clean(src, dst, packets)
	case part == e.whole:
		part.Clean = append(part.Clean, Flow{Src: src, Dst: dst, Packets: float64(packets)})
	default:
		e.whole.Tally.Add(src, dst, float64(packets))
		part.Tally.Add(src, dst, float64(packets))
	}
}

// sawLoss adds a flow that lost packets, with what is known of its path.
func (f *fabric) sawLoss(e *evidence, part *Epoch, fl *flight, src, dst int32, packets int, at float64, r *rand.Rand) {
	s := f.set
	worst, most := int32(-1), 0.0
	for i, l := range fl.lost {
		if f.bad[l] && fl.took[i] > most {
			worst, most = l, fl.took[i]
		}
	}
	flow := Flow{Src: src, Dst: dst, Packets: float64(packets), Lost: float64(packets - fl.arrived)}
	if !s.noTimes { // a retransmit is late by a timeout
		flow.When = Span{at, at + 0.2}
	}
	traced := slices.Clone(fl.traced)
	way := traced
	switch u := r.Float64(); {
	case s.noPaths || r.Float64() < s.refused:
		way = nil
	case u < s.stale:
		flow.Path, way = f.route(src, dst, f.weight, r, nil), nil
	case u < s.stale+s.partial:
		flow.Path = traced[:1+r.IntN(len(traced)-1)]
	default:
		flow.Path = traced
	}
	if !slices.Contains(way, worst) {
		way = nil // lost before the reroute
	}
	e.cause, e.way = append(e.cause, worst), append(e.way, way)
	e.whole.Lossy = append(e.whole.Lossy, flow)
	if part != e.whole {
		part.Lossy = append(part.Lossy, flow)
	}
}

// reporter says which device reports what dies on a link, and as what: frames
// that arrive broken are the receiver's to count, those that hosts would
// receive the sender's, and a failed device reports its own.
func (f *fabric) reporter(l int32) (device int32, class string) {
	switch from, to := f.from[l], f.to[l]; {
	case f.failed.Kind != None && f.bad[l]:
		return f.failed.ID, "errors/internal/parity-error"
	case f.isDevice(to):
		return to, "errors/l2/rx/crc-error"
	default:
		return from, "errors/l2/tx"
	}
}

// devices adds what the devices report: congestion as no-buffer, always;
// faults if they are visible; noise if the set-up says so. An agent that lies
// says nothing, or names a wrong port of the right direction.
func (f *fabric) devices(e *evidence, r *rand.Rand) {
	s := f.set
	var instrumented []int32
	shift := make([]int, len(f.agent)) // ports that a liar is off by; -1: silent
	for d, there := range f.agent {
		if !there {
			continue
		}
		instrumented = append(instrumented, int32(d))
		if !f.honest[d] {
			shift[d] = -1
			if r.IntN(2) == 0 {
				shift[d] = 1 + r.IntN(len(f.out[d])-1)
			}
		}
	}
	e.whole.Instrumented = instrumented
	report := func(ep *Epoch, when Span, d, l int32, class string, packets float64) {
		if packets == 0 || !f.agent[d] || shift[d] < 0 {
			return
		}
		drop := Drop{Device: d, From: -1, To: -1, Class: class, Count: packets, When: when}
		wrong := func(ports []int32) int32 {
			return ports[(slices.Index(ports, l)+shift[d])%len(ports)]
		}
		if f.from[l] == d {
			drop.To = f.to[wrong(f.out[d])]
		} else {
			drop.From = f.from[wrong(f.in[d])]
		}
		ep.Drops = append(ep.Drops, drop)
		if ep != e.whole {
			e.whole.Drops = append(e.whole.Drops, drop)
		}
	}
	for _, ep := range e.epochs {
		ep.Instrumented = instrumented
	}
	for i := range e.told {
		ep := e.epochs[i*len(e.epochs)/len(e.told)]
		var when Span
		if lasts := epochLasts * float64(len(e.epochs)) / float64(len(e.told)); !s.noTimes {
			when = Span{float64(i) * lasts, float64(i+1) * lasts}
		}
		for l := range int32(f.n.Links()) {
			c := &e.all[i]
			if c.lost[l] == 0 {
				continue
			}
			if f.burst[l] {
				report(ep, when, f.from[l], l, "no-buffer", c.burst[l])
			}
			if f.bad[l] && s.visible || !f.bad[l] && s.seesNoise {
				d, class := f.reporter(l)
				report(ep, when, d, l, class, c.lost[l]-c.burst[l])
			}
		}
	}
}
