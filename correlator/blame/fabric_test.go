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
	planes                    bool // each T1 of a pod has its own t2 T2s; otherwise all share them
	connections               int
	epochs                    int

	noise float64 // good links lose U(0, noise)
	noisy float64 // share of links 30 times noisier

	links     int     // failed links between devices
	hostLinks int     // and to hosts
	low, high float64 // their rates
	uneven    bool    // one link of 10-100 %, four of .01-.1 %
	device    string  // a whole tor, t1 or t2
	oneRate   bool    // for all links of the device
	pair      bool    // two failed links on one device, one in, one out
	once      bool    // faults last eventLasts, at any time of the epoch

	// bursts is the share of links out of devices whose queue overflows once,
	// for eventLasts, losing U(burstLow, burstHigh) of the packets; over: that
	// was in the epoch before the last.
	bursts float64
	over   bool
	// reroute is the share of links between devices that are taken out of
	// service in the middle of the epoch; the network does not tell.
	reroute float64

	skew      bool    // 80 % of flows to 25 % of ToRs
	hot       float64 // share of flows to one ToR
	unequal   bool    // ECMP weights 1..4
	stale     float64 // share of lossy flows with a wrong path
	reporting float64 // share of hosts that report
	refused   float64 // share of traces refused
	partial   float64 // share of traces that stop early
	noPaths   bool
	noClean   bool
	noTimes   bool // nobody knows when losses were

	instrumented float64 // share of devices with an agent
	visible      bool    // devices see the faults
	seesNoise    bool    // and mere noise
	lying        float64 // share of agents that report a wrong port or nothing
}

const (
	epochLasts = 30.0 // seconds
	eventLasts = 2.0
	parts      = 15 // of an epoch, where something in it does not last

	burstLow, burstHigh = .01, .05
	noisier             = 30
)

// paper is 007's own: 4160 directed links, 96,000 flows.
func paper() setup {
	return setup{pods: 2, tors: 20, t1: 8, t2: 10, hosts: 40, connections: 60, noise: 1e-6, low: .0005, high: .01, links: 4, reporting: 1, epochs: 1}
}

// parts says in how many parts the epochs' losses are counted.
func (s setup) parts() int {
	if s.once || s.bursts > 0 {
		return parts * s.epochs
	}
	return s.epochs
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
				links = append(links, [2]string{fmt.Sprintf("p%d-t1-%d", p, a), fmt.Sprintf("t2-%d", s.spine(a, c))})
			}
		}
	}
	return links, hosts
}

// spine numbers the T2 that is the c-th of the a-th T1 of any pod.
func (s setup) spine(a, c int) int {
	if s.planes {
		return a*s.t2 + c
	}
	return c
}

func build(s setup) (*Network, error) { return NewNetwork(names(s)) }

// clos is a network's ids in the order of its tiers.
type clos struct {
	n       *Network
	set     setup
	tor     []int32   // device, by pod and ToR
	t1, t2  []int32   // devices
	near    [][]int32 // hosts, by ToR
	home    []int32   // ToR, by host
	torUp   []int32   // ToR>T1, by ToR and T1
	torDown []int32   // T1>ToR, alike
	t1Up    []int32   // T1>T2, by pod, T1 and T2
	t1Down  []int32   // T2>T1, alike
	from    []int32   // node at the near end of a link; hosts after the devices
	to      []int32   // node at its far end
	out, in [][]int32 // links of a device, those to hosts included
}

func layOut(n *Network, s setup) *clos {
	c := &clos{n: n, set: s, home: make([]int32, n.Hosts()), from: make([]int32, n.Links()), to: make([]int32, n.Links()), out: make([][]int32, n.Devices()), in: make([][]int32, n.Devices())}
	device := func(format string, args ...any) int32 {
		name := fmt.Sprintf(format, args...)
		d, ok := n.Device(name)
		if !ok {
			panic("no device " + name)
		}
		return d
	}
	join := func(a, b int32) (there, back int32) {
		there, _ = n.Between(a, b)
		back, _ = n.Between(b, a)
		c.from[there], c.to[there], c.from[back], c.to[back] = a, b, b, a
		c.out[a], c.in[b] = append(c.out[a], there), append(c.in[b], there)
		c.out[b], c.in[a] = append(c.out[b], back), append(c.in[a], back)
		return there, back
	}
	spines := s.t2
	if s.planes {
		spines *= s.t1
	}
	for i := range spines {
		c.t2 = append(c.t2, device("t2-%d", i))
	}
	for p := range s.pods {
		for a := range s.t1 {
			t1 := device("p%d-t1-%d", p, a)
			c.t1 = append(c.t1, t1)
			for i := range s.t2 {
				up, down := join(t1, c.t2[s.spine(a, i)])
				c.t1Up, c.t1Down = append(c.t1Up, up), append(c.t1Down, down)
			}
		}
		for t := range s.tors {
			tor := device("p%d-tor%d", p, t)
			for a := range s.t1 {
				up, down := join(tor, c.t1[p*s.t1+a])
				c.torUp, c.torDown = append(c.torUp, up), append(c.torDown, down)
			}
			var near []int32
			for i := range s.hosts {
				h, ok := n.Host(fmt.Sprintf("p%d-tor%d-h%d", p, t, i))
				if !ok {
					panic("a host is missing")
				}
				near = append(near, h)
				c.home[h] = int32(len(c.tor))
				up, down := n.Up(h), n.Down(h)
				node := int32(n.Devices()) + h
				c.from[up], c.to[up], c.from[down], c.to[down] = node, tor, tor, node
				c.in[tor], c.out[tor] = append(c.in[tor], up), append(c.out[tor], down)
			}
			c.tor, c.near = append(c.tor, tor), append(c.near, near)
		}
	}
	return c
}

// isDevice says whether a node is one.
func (c *clos) isDevice(node int32) bool { return int(node) < c.n.Devices() }

// touching gives all links of a device.
func (c *clos) touching(d int32) []int32 { return slices.Concat(c.in[d], c.out[d]) }

// kinds are the links between devices by type, as 007 draws them: the type of
// a failed link is drawn first, then the link. Those that carry nothing, for
// want of a second pod, are left out.
func (c *clos) kinds() [][]int32 {
	if c.set.pods == 1 {
		return [][]int32{c.torUp, c.torDown}
	}
	return [][]int32{c.torUp, c.t1Up, c.t1Down, c.torDown}
}

// event is loss that does not last.
type event struct{ rate, from, to float64 }

// group is faults drawn alike.
type group struct {
	count     int
	low, high float64
	hosts     bool // links to hosts, not between devices
}

// groups is what the links' faults are drawn from.
func (s setup) groups() []group {
	switch {
	case s.device != "" || s.pair:
		return nil
	case s.uneven:
		return []group{{count: 1, low: .1, high: 1}, {count: 4, low: .0001, high: .001}}
	default:
		return []group{{count: s.links, low: s.low, high: s.high}, {count: s.hostLinks, low: s.low, high: s.high, hosts: true}}
	}
}

// fabric is a network with its faults.
type fabric struct {
	*clos
	weight []float64 // of a link among the next hops; nil: all alike
	after  []float64 // the same after a reroute; nil: there is none
	rate   []float64 // loss rate that lasts
	lasts  []float64 // the same as the rate of a Poisson process
	bad    []bool
	burst  []bool
	events map[int32]event // by link
	truth  []Component
	failed Component // the whole device, if one is

	agent  []bool // device has one
	honest []bool // and it tells the truth

	clean func(src, dst int32, packets int) // gets the loss-free flows in place of the epoch; nil: it does not
}

// draw makes a fabric with its faults.
func draw(n *Network, s setup, r *rand.Rand) *fabric {
	f := &fabric{clos: layOut(n, s), rate: make([]float64, n.Links()), bad: make([]bool, n.Links()), burst: make([]bool, n.Links()), events: make(map[int32]event),
		agent: make([]bool, n.Devices()), honest: make([]bool, n.Devices())}
	uniform := func(low, high float64) float64 { return low + (high-low)*r.Float64() }
	for l := range f.rate {
		noise := s.noise
		if r.Float64() < s.noisy {
			noise *= noisier
		}
		f.rate[l] = noise * r.Float64()
	}
	if s.unequal {
		f.weight = make([]float64, n.Links())
		for l := range f.weight {
			f.weight[l] = float64(1 + r.IntN(4))
		}
	}
	f.drawFaults(r, uniform)
	if s.bursts > 0 {
		for d := range f.out {
			for _, l := range f.out[d] {
				if r.Float64() < s.bursts && !f.bad[l] {
					f.burst[l] = true
					from := uniform(0, epochLasts-eventLasts)
					f.events[l] = event{uniform(burstLow, burstHigh), from, from + eventLasts}
				}
			}
		}
	}
	if s.reroute > 0 {
		f.after = make([]float64, n.Links())
		for l := range f.after {
			f.after[l] = 1
			if f.weight != nil {
				f.after[l] = f.weight[l]
			}
		}
		for _, pairs := range [][2][]int32{{f.torUp, f.torDown}, {f.t1Up, f.t1Down}} {
			for i := range pairs[0] {
				if r.Float64() < s.reroute {
					f.after[pairs[0][i]], f.after[pairs[1][i]] = 0, 0
				}
			}
		}
	}
	f.lasts = make([]float64, n.Links())
	for l, rate := range f.rate {
		f.lasts[l] = hazard(rate)
	}
	for d := range f.agent {
		// One draw for both, so that all columns of a row have the same traffic.
		u := r.Float64()
		f.agent[d] = u < s.instrumented
		f.honest[d] = f.agent[d] && u >= s.instrumented*s.lying
	}
	return f
}

func (f *fabric) drawFaults(r *rand.Rand, uniform func(low, high float64) float64) {
	s := f.set
	fail := func(l int32, rate float64) {
		f.bad[l] = true
		f.truth = append(f.truth, Component{Link, l})
		if s.once {
			from := uniform(0, epochLasts-eventLasts)
			f.events[l] = event{rate, from, from + eventLasts}
			return
		}
		f.rate[l] = rate
	}
	switch {
	case s.device != "":
		list := map[string][]int32{"tor": f.tor, "t1": f.t1, "t2": f.t2}[s.device]
		f.failed = Component{Device, list[r.IntN(len(list))]}
		one := uniform(s.low, s.high)
		for _, l := range f.touching(f.failed.ID) {
			rate := uniform(s.low, s.high)
			if s.oneRate {
				rate = one / 2 // a packet passes two of its links
			}
			fail(l, rate)
		}
		f.truth = []Component{f.failed}
		return
	case s.pair:
		d := f.t1[r.IntN(len(f.t1))]
		fail(f.in[d][r.IntN(len(f.in[d]))], uniform(s.low, s.high))
		fail(f.out[d][r.IntN(len(f.out[d]))], uniform(s.low, s.high))
		return
	}
	kinds := f.kinds()
	for _, g := range s.groups() {
		for range g.count {
			for {
				kind := kinds[r.IntN(len(kinds))]
				l := kind[r.IntN(len(kind))]
				if g.hosts {
					h := int32(r.IntN(f.n.Hosts()))
					l = f.n.Up(h)
					if r.IntN(2) == 0 {
						l = f.n.Down(h)
					}
				}
				if !f.bad[l] {
					fail(l, uniform(g.low, g.high))
					break
				}
			}
		}
	}
}

// route draws the path between hosts of two ToRs; with weights nil all next
// hops are alike, and those of weight 0 are out of service.
func (f *fabric) route(src, dst int32, weight []float64, r *rand.Rand, path []int32) []int32 {
	s := f.set
	from, to := int(f.home[src]), int(f.home[dst])
	up, down := f.torUp[from*s.t1:(from+1)*s.t1], f.torDown[to*s.t1:(to+1)*s.t1]
	path = append(path, f.n.Up(src))
	near, far := from/s.tors, to/s.tors
	if near == far {
		a := pick(r, weight, up, down)
		return append(path, up[a], down[a], f.n.Down(dst))
	}
	var a int
	if s.planes {
		a = pick(r, weight, up, down)
	} else {
		a = pick(r, weight, up, nil)
	}
	spines := f.t1Up[(near*s.t1+a)*s.t2 : (near*s.t1+a+1)*s.t2]
	c := pick(r, weight, spines, nil)
	b := a
	if !s.planes {
		var next [64]int32 // T2>T1 of that pod
		for i := range s.t1 {
			next[i] = f.t1Down[(far*s.t1+i)*s.t2+c]
		}
		b = pick(r, weight, next[:s.t1], down)
	}
	return append(path, up[a], spines[c], f.t1Down[(far*s.t1+b)*s.t2+c], down[b], f.n.Down(dst))
}

// pick draws one of the links by weight; then, where given, must be in service
// too, as a device does not offer what it has no way to.
func pick(r *rand.Rand, weight []float64, links, then []int32) int {
	if weight == nil {
		return r.IntN(len(links))
	}
	var sum float64
	usable := func(i int) float64 {
		if then != nil && weight[then[i]] == 0 {
			return 0
		}
		return weight[links[i]]
	}
	for i := range links {
		sum += usable(i)
	}
	if sum == 0 { // nothing left: whatever was there
		return r.IntN(len(links))
	}
	u := r.Float64() * sum
	for i := range links {
		if u -= usable(i); u < 0 {
			return i
		}
	}
	return len(links) - 1
}

// hazard is the rate of the Poisson process that loses a packet with the
// probability given.
func hazard(rate float64) float64 { return -math.Log1p(-min(rate, 1-1e-9)) }

// hazard is that of a link at a time of an epoch, and says whether losses then
// are congestion. Events are of the first epoch.
func (f *fabric) hazard(l int32, epoch int, at float64) (float64, bool) {
	if len(f.events) > 0 && epoch == 0 {
		if e, ok := f.events[l]; ok && at >= e.from && at < e.to {
			return f.lasts[l] + hazard(e.rate), f.burst[l]
		}
	}
	return f.lasts[l], false
}
