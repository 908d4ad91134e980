package blame

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// setup is 007's set-up (Arzani et al., NSDI 2018, section 6) with its knobs:
// drops are drawn per packet and link in path order, and truth is where the
// packet died.
type setup struct {
	pods, tors, t1, t2, hosts int
	connections               int
	noise                     float64 // good links lose U(0, noise)
	links                     int     // failed links between devices
	hostLinks                 int
	low, high                 float64 // their rates
	uneven                    bool    // one link of 10-100 %, four of .01-.1 %
	device                    string  // a whole tor, t1 or t2
	oneRate                   bool    // for all links of the device
	pair                      bool    // two failed links on one device
	skew                      bool    // 80 % of flows to 25 % of ToRs
	hot                       float64 // share of flows to one ToR
	stale                     float64 // share of lossy flows with a wrong path
	reporting                 float64 // share of hosts that report
	refused                   float64 // share of traces refused
	partial                   float64 // share of traces that stop early
	unequal                   bool    // ECMP weights 1..4
	noisy                     float64 // share of links 30 times noisier
	noPaths                   bool
	noClean                   bool
	instrumented              float64
	visible                   bool // devices see the faults
	seesNoise                 bool // and mere noise
	lying                     float64
	epochs                    int
}

// paper is 007's own: 4160 directed links, 96,000 flows.
func paper() setup {
	return setup{pods: 2, tors: 20, t1: 8, t2: 10, hosts: 40, connections: 60, noise: 1e-6, low: .0005, high: .01, links: 4, reporting: 1, epochs: 1}
}

type fabric struct {
	*Network
	set        setup
	tor        []int32
	t1, t2     []int32
	weight     []float64 // of a link among the next hops
	rate       []float64
	bad        []bool
	truth      []Component
	deviceDown Component
}

func names(s setup) (links [][2]string, hosts map[string]string) {
	hosts = make(map[string]string)
	for p := range s.pods {
		for t := range s.tors {
			tor := fmt.Sprintf("p%d-tor%d", p, t)
			for a := range s.t1 {
				links = append(links, [2]string{tor, fmt.Sprintf("p%d-t1-%d", p, a)})
			}
			for h := range s.hosts {
				hosts[fmt.Sprintf("%s-h%d", tor, h)] = tor
			}
		}
		for a := range s.t1 {
			for c := range s.t2 {
				links = append(links, [2]string{fmt.Sprintf("p%d-t1-%d", p, a), fmt.Sprintf("t2-%d", c)})
			}
		}
	}
	return links, hosts
}

func build(s setup) (*Network, error) { return NewNetwork(names(s)) }

// draw makes a fabric with its faults.
func draw(n *Network, s setup, r *rand.Rand) *fabric {
	f := &fabric{Network: n, set: s, rate: make([]float64, n.Links()), bad: make([]bool, n.Links()), weight: make([]float64, n.Links())}
	for p := range s.pods {
		for t := range s.tors {
			d, _ := n.Device(fmt.Sprintf("p%d-tor%d", p, t))
			f.tor = append(f.tor, d)
		}
		for a := range s.t1 {
			d, _ := n.Device(fmt.Sprintf("p%d-t1-%d", p, a))
			f.t1 = append(f.t1, d)
		}
	}
	for c := range s.t2 {
		if d, ok := n.Device(fmt.Sprintf("t2-%d", c)); ok {
			f.t2 = append(f.t2, d)
		}
	}
	for l := range f.rate {
		noise := s.noise
		if r.Float64() < s.noisy {
			noise *= 30
		}
		f.rate[l] = noise * r.Float64()
		f.weight[l] = 1
		if s.unequal {
			f.weight[l] = float64(1 + r.IntN(4))
		}
	}
	uniform := func(low, high float64) float64 { return low + (high-low)*r.Float64() }
	fail := func(l int32, rate float64) {
		if !f.bad[l] {
			f.bad[l] = true
			f.rate[l] = rate
			f.truth = append(f.truth, Component{Link, l})
		}
	}
	// The type of the link is drawn first, then the link: ToR>T1, T1>T2, T2>T1, T1>ToR.
	random := func() int32 {
		for {
			var a, b int32
			p := r.IntN(s.pods)
			tor, t1 := f.tor[p*s.tors+r.IntN(s.tors)], f.t1[p*s.t1+r.IntN(s.t1)]
			switch r.IntN(4) {
			case 0:
				a, b = tor, t1
			case 1:
				a, b = t1, tor
			case 2:
				a, b = t1, f.t2[r.IntN(s.t2)]
			default:
				a, b = f.t2[r.IntN(s.t2)], t1
			}
			if l, ok := n.Between(a, b); ok && !f.bad[l] {
				return l
			}
		}
	}
	switch {
	case s.device != "":
		list := map[string][]int32{"tor": f.tor, "t1": f.t1, "t2": f.t2}[s.device]
		c := Component{Device, list[r.IntN(len(list))]}
		one := uniform(s.low, s.high)
		for _, l := range n.linksOf(c) {
			rate := uniform(s.low, s.high)
			if s.oneRate {
				rate = one / 2
			}
			fail(l, rate)
		}
		f.deviceDown, f.truth = c, []Component{c}
	case s.uneven:
		fail(random(), uniform(.1, 1))
		for range 4 {
			fail(random(), uniform(.0001, .001))
		}
	case s.pair:
		d := f.t1[r.IntN(len(f.t1))]
		links := n.linksInto(d)
		i := r.IntN(len(links))
		fail(links[i], uniform(s.low, s.high))
		out := n.linksOutOf(d)
		fail(out[r.IntN(len(out))], uniform(s.low, s.high))
	default:
		for range s.links {
			fail(random(), uniform(s.low, s.high))
		}
		for range s.hostLinks {
			fail(n.fabric()+int32(r.IntN(2*n.Hosts())), uniform(s.low, s.high))
		}
	}
	return f
}

// run draws the epoch's traffic. cause is, per lossy flow, the faulty link it
// lost most on, -1 when only noise took its packets; drops are by link, of the
// flows that were reported.
func (f *fabric) run(r *rand.Rand) (ep *Epoch, cause []int32, drops []float64) {
	s, n := f.set, f.Network
	ep = &Epoch{}
	drops = make([]float64, n.Links())
	all := make([]float64, n.Links())
	report := make([]bool, n.Hosts())
	for h := range report {
		report[h] = r.Float64() < s.reporting
	}
	spread := n.newSpreader()
	hotToR := r.IntN(len(f.tor))
	skewed := r.Perm(len(f.tor))[:max(1, len(f.tor)/4)]
	var path, lost []int32
	var at []float64
	for range s.epochs {
		for src := range int32(n.Hosts()) {
			for range s.connections {
				t := r.IntN(len(f.tor))
				switch {
				case s.skew && r.Float64() < .8:
					t = skewed[r.IntN(len(skewed))]
				case s.hot > 0 && r.Float64() < s.hot:
					t = hotToR
				}
				near := n.hostsOf(f.tor[t])
				dst := near[r.IntN(len(near))]
				if dst == src || f.tor[t] == n.ToR(src) {
					continue
				}
				packets := 1 + r.IntN(100)
				path = f.route(spread, src, dst, r, path[:0])
				lost, at = lost[:0], at[:0]
				left := packets
				for _, l := range path {
					if k := binomial(r, left, f.rate[l]); k > 0 {
						left -= k
						lost, at = append(lost, l), append(at, float64(k))
						all[l] += float64(k)
						if report[src] {
							drops[l] += float64(k)
						}
					}
				}
				if !report[src] {
					continue
				}
				fl := Flow{Src: src, Dst: dst, Packets: float64(packets), Lost: float64(packets - left)}
				if len(lost) == 0 {
					if !s.noClean {
						ep.Clean = append(ep.Clean, fl)
					}
					continue
				}
				worst, most := int32(-1), 0.0
				for i, l := range lost {
					if f.bad[l] && at[i] > most {
						worst, most = l, at[i]
					}
				}
				cause = append(cause, worst)
				fl.Path = slices.Clone(path)
				switch u := r.Float64(); {
				case r.Float64() < s.refused || s.noPaths:
					fl.Path = nil
				case u < s.stale:
					fl.Path = f.route(spread, src, dst, r, nil)
				case u < s.stale+s.partial:
					fl.Path = fl.Path[:1+r.IntN(len(fl.Path)-1)]
				}
				ep.Lossy = append(ep.Lossy, fl)
			}
		}
	}
	f.agents(ep, all, r)
	return ep, cause, drops
}

// agents adds what the devices report.
func (f *fabric) agents(ep *Epoch, all []float64, r *rand.Rand) {
	for d := range int32(f.Devices()) {
		if r.Float64() >= f.set.instrumented {
			continue
		}
		ep.Instrumented = append(ep.Instrumented, d)
		lies := r.Float64() < f.set.lying
		silent := r.IntN(2) == 0
		out := slices.Clone(f.linksOutOf(d))
		for _, h := range f.hostsOf(d) {
			out = append(out, f.Down(h))
		}
		for i, l := range out {
			if all[l] == 0 || f.bad[l] && !f.set.visible || !f.bad[l] && !f.set.seesNoise {
				continue
			}
			if lies {
				if silent {
					continue
				}
				l = out[(i+1+r.IntN(len(out)-1))%len(out)]
			}
			to := int32(len(f.devices)) + (l-f.fabric())/2
			if l < f.fabric() {
				to = f.linkTo[l]
			}
			ep.Drops = append(ep.Drops, Drop{Device: d, From: -1, To: to, Class: "no-buffer", Count: all[out[i]]})
		}
	}
}

func (f *fabric) route(s *spreader, src, dst int32, r *rand.Rand, path []int32) []int32 {
	n := f.Network
	path = append(path, n.Up(src))
	u, to := n.ToR(src), n.ToR(dst)
	n.mu.Lock()
	hops := n.hopsTo(to)
	n.mu.Unlock()
	for u != to {
		total, pick := 0.0, int32(-1)
		for _, l := range n.linksOutOf(u) {
			v := n.linkTo[l]
			if v == to || hops[u] > 1 && hops[v] == hops[u]-1 {
				total += f.weight[l]
				if r.Float64()*total < f.weight[l] {
					pick = l
				}
			}
		}
		path = append(path, pick)
		u = n.linkTo[pick]
	}
	return append(path, n.Down(dst))
}

// binomial draws how many of n packets are lost at rate p.
func binomial(r *rand.Rand, n int, p float64) int {
	if float64(n)*p < 1e-3 { // rarely any
		if r.Float64() >= -math.Expm1(float64(n)*math.Log1p(-p)) {
			return 0
		}
		// Given that there is one; a second one is drawn among the rest.
		return 1 + binomialPlain(r, n-1, p)
	}
	return binomialPlain(r, n, p)
}

func binomialPlain(r *rand.Rand, n int, p float64) (k int) {
	if p < .05 { // from loss to loss
		for i := 0; ; {
			i += 1 + int(math.Log(1-r.Float64())/math.Log1p(-p))
			if i > n {
				return k
			}
			k++
		}
	}
	for range n {
		if r.Float64() < p {
			k++
		}
	}
	return k
}

// oracle sees the true link of every drop and names those that noise does not
// explain.
func (f *fabric) oracle(ep *Epoch, drops []float64) []Component {
	e := prepare(f.Network, ep, Options{})
	var out []Component
	clean := 0.0
	for l, k := range drops {
		if !f.bad[l] {
			clean += k
		}
	}
	g := (clean + .5) / e.carried
	for l, k := range drops {
		mean := g * e.packets[l]
		if k > mean && mean > 0 {
			gain := k*math.Log(k/mean) - (k - mean)
			if gain+0.5*math.Log(2*math.Pi/k)-math.Log(rateRange)+math.Log(float64(len(f.truth)+1)/4160) > 0 {
				out = append(out, Component{Link, int32(l)})
			}
		}
	}
	return out
}

// score is how well a row of the benchmark did, over its seeds.
type score struct {
	named, right, truth, found  int
	flows, flowsRight           int
	falseEpochs                 int
	oracleNamed, oracleFound    int
	bins                        [10]struct{ p, hit, n float64 }
	millis, slowest, stale, all float64
}

func (s *score) add(f *fabric, ep *Epoch, cause []int32, drops []float64, r Result, millis float64) {
	s.all++
	s.millis += millis
	s.slowest = max(s.slowest, millis)
	s.stale += r.Stale
	found := make(map[Component]bool)
	hit := func(b Blame) bool {
		for _, c := range append([]Component{b.Component}, b.Equivalent...) {
			if slices.Contains(f.truth, c) {
				found[c] = true
				return true
			}
		}
		return false
	}
	wrong := false
	for _, b := range r.Components {
		s.named++
		if hit(b) {
			s.right++
		} else {
			wrong = true
		}
	}
	if wrong {
		s.falseEpochs++
	}
	s.truth += len(f.truth)
	s.found += len(found)
	for _, b := range slices.Concat(r.Components, r.Suspects) {
		if b.Probability >= .01 {
			bin := &s.bins[min(9, int(b.Probability*10))]
			bin.p += b.Probability
			bin.n++
			if hit(b) {
				bin.hit++
			}
		}
	}
	for i, l := range cause {
		if l < 0 {
			continue
		}
		s.flows++
		if c := r.Causes[i].Component; c == (Component{Link, l}) || f.deviceDown.Kind != None && c == f.deviceDown {
			s.flowsRight++
		}
	}
	for _, c := range f.oracle(ep, drops) {
		s.oracleNamed++
		if slices.Contains(f.truth, c) {
			s.oracleFound++
		}
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
func (s *score) accuracy() float64  { return ratio(s.flowsRight, s.flows) }

// calibration is the expected calibration error over 10 bins.
func (s *score) calibration() float64 {
	off, n := 0.0, 0.0
	for _, b := range s.bins {
		off += math.Abs(b.p - b.hit)
		n += b.n
	}
	if n == 0 {
		return 0
	}
	return off / n
}
