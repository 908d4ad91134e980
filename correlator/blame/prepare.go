package blame

import "math"

// row is a lossy flow ready for the likelihood.
type row struct {
	lost  float64 // at most 1: see addLossy
	total float64 // packets lost
	hops  float64 // mean number of links: what noise acts on
	src   int32
	dst   int32
	known bool      // a path was reported, so it may be a wrong one
	set   *shareSet // of its hosts' devices; nil when unknown
}

// hit is a lossy flow that may cross a component: with weight own as reported,
// with weight share by its ECMP set, which counts when the report is wrong.
type hit struct {
	flow       int32
	own, share float32
}

// engine is the state of one inference.
type engine struct {
	n *Network
	e *Epoch
	o Options
	s *spreader

	rows      []row
	input     []int32 // row of each lossy flow given, -1 when it says nothing
	entStart  []int32 // links and weights of a row
	entLink   []int32
	entWeight []float32
	hitStart  []int32 // hits of a link, by link
	hits      []hit
	touched   []int32 // links with hits

	packets  []float64  // through each link
	carried  float64    // their sum
	carrying [2]float64 // links with packets, between devices and to hosts
	lossSum  float64
	coverage float64 // share of hosts heard from
	assumed  bool    // there were no loss-free packets: traffic is assumed even
	pathless float64 // losses without a path

	noise  float64 // loss rate of a good link, g
	stale  float64 // share of reported paths that are wrong, ε
	rate   []float64
	faults []*fault
	links  []bool // taken by a fault
	pruned map[Component]int

	faint []suspect // links too weak to be suspects

	reports map[Component]*report
	mute    map[int32]bool // instrumented devices that reported nothing
	devNoise,
	visible float64

	sumR, sumA []float64 // scratch, by link
	mark       []float64 // scratch, by row
}

// packetsAssumed per host stand in where no loss-free packet was counted: 007's
// set-up. Only their distribution matters, not their number.
const packetsAssumed = 3000

// prepare turns the epoch into rows and packets per link.
func prepare(n *Network, ep *Epoch, o Options) *engine {
	e := &engine{n: n, e: ep, o: o.withDefaults(), s: n.newSpreader(),
		packets: make([]float64, n.Links()), input: make([]int32, len(ep.Lossy)), entStart: []int32{0}}
	sources := make([]bool, n.Hosts())
	e.addClean(sources)
	for i := range ep.Lossy {
		e.input[i] = -1
		f := &ep.Lossy[i]
		if lost := sane(f.Lost); lost > 0 {
			e.addLossy(f, lost, math.Max(sane(f.Packets), lost))
			e.input[i] = int32(len(e.rows) - 1)
			if n.validHost(f.Src) {
				sources[f.Src] = true
			}
		}
	}
	for _, heard := range sources {
		if heard {
			e.coverage += 1 / float64(len(sources))
		}
	}
	e.invert()
	for l, p := range e.packets {
		e.carried += p
		switch {
		case p == 0:
		case int32(l) < n.fabric():
			e.carrying[0]++
		default:
			e.carrying[1]++
		}
	}
	e.rate = make([]float64, len(e.rows))
	e.mark = make([]float64, len(e.rows))
	e.sumR = make([]float64, n.Links())
	e.sumA = make([]float64, n.Links())
	e.links = make([]bool, n.Links())
	e.pruned = make(map[Component]int)
	return e
}

// addClean counts the loss-free packets.
func (e *engine) addClean(sources []bool) {
	n := e.n
	t := NewTally(n)
	seen := 0.0
	for i := range e.e.Clean {
		f := &e.e.Clean[i]
		packets := sane(f.Packets)
		if packets == 0 {
			continue
		}
		if n.validHost(f.Src) {
			sources[f.Src] = true
		}
		switch {
		case len(f.Path) > 0 || len(f.Candidates) > 0:
			e.row(f, func(l int32, w float64) { e.packets[l] += packets * w })
			seen += packets
		default:
			t.Add(f.Src, f.Dst, packets)
		}
	}
	for _, t := range []*Tally{t, e.e.Tally} {
		if t == nil || t.n != n || t.total == 0 {
			continue
		}
		seen += t.total
		t.spread(e.s, e.packets)
		for h, heard := range t.sources {
			sources[h] = sources[h] || heard
		}
	}
	if seen == 0 {
		e.assume()
	}
}

// assume spreads even traffic, for want of counts.
func (e *engine) assume() {
	n := e.n
	e.assumed = true
	all := float64(n.Hosts())
	if all < 2 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for h := range n.tor {
		e.packets[n.Up(int32(h))] += packetsAssumed
		e.packets[n.Down(int32(h))] += packetsAssumed
	}
	for dst, there := range n.torHosts {
		if there == 0 {
			continue
		}
		hops := n.hopsTo(int32(dst))
		for src, here := range n.torHosts {
			if src != dst {
				e.s.add(int32(src), int32(dst), hops, packetsAssumed*float64(here)*float64(there)/(all-1))
			}
		}
		e.s.push(int32(dst), hops, func(l int32, amount float64) { e.packets[l] += amount })
	}
}

// row calls emit with the links a flow crosses, and with what probability.
// Where the path has gaps or stops early, shortest paths fill them.
func (e *engine) row(f *Flow, emit func(link int32, weight float64)) (complete bool) {
	n := e.n
	if len(f.Path) == 0 && len(f.Candidates) > 0 {
		w := 1 / float64(len(f.Candidates))
		for _, path := range f.Candidates {
			for _, l := range path {
				if n.valid(l) {
					emit(l, w)
				}
			}
		}
		return false
	}
	at := int32(-1)
	if n.validHost(f.Src) {
		at = n.tor[f.Src]
		emit(n.Up(f.Src), 1)
	}
	fill := func(to int32) {
		if at >= 0 && to >= 0 && at != to {
			complete = false
			if set := e.s.between(at, to); set != nil {
				for i, l := range set.links {
					emit(l, float64(set.share[i]))
				}
			}
		}
	}
	complete = true
	for _, l := range f.Path {
		if !n.valid(l) || l >= n.fabric() {
			continue // the hosts' own links are known anyway
		}
		fill(n.linkFrom[l])
		emit(l, 1)
		at = n.linkTo[l]
	}
	if n.validHost(f.Dst) {
		fill(n.tor[f.Dst])
		emit(n.Down(f.Dst), 1)
	}
	return complete
}

// addLossy makes a row. A flow counts once, however many packets it lost, as in
// 007: losses of one flow come in bursts, and where its path is in doubt they
// are all in doubt together.
func (e *engine) addLossy(f *Flow, lost, packets float64) {
	r := row{lost: math.Min(1, lost), total: lost, src: f.Src, dst: f.Dst}
	first := len(e.entLink)
	complete := e.row(f, func(l int32, w float64) {
		e.packets[l] += packets * w
		r.hops += w
		for i := first; i < len(e.entLink); i++ {
			if e.entLink[i] == l { // a candidate or a loop brings it again
				e.entWeight[i] = min(1, e.entWeight[i]+float32(w))
				return
			}
		}
		e.entLink = append(e.entLink, l)
		e.entWeight = append(e.entWeight, float32(w))
	})
	if e.n.validHost(f.Src) && e.n.validHost(f.Dst) {
		r.set = e.s.between(e.n.tor[f.Src], e.n.tor[f.Dst])
	}
	r.known = complete && r.set != nil && len(r.set.links) > 0
	if !complete {
		e.pathless += r.lost
	}
	e.lossSum += r.lost
	e.rows = append(e.rows, r)
	e.entStart = append(e.entStart, int32(len(e.entLink)))
}

// invert sorts the rows' entries by link.
func (e *engine) invert() {
	var order []int32
	e.hitStart, order = bucket(e.entLink, e.n.Links())
	owner := make([]int32, len(e.entLink))
	for i := range e.rows {
		for j := e.entStart[i]; j < e.entStart[i+1]; j++ {
			owner[j] = int32(i)
		}
	}
	e.hits = make([]hit, len(order))
	for i, j := range order {
		w := e.entWeight[j]
		e.hits[i] = hit{flow: owner[j], own: w, share: w}
	}
	for l := range e.packets {
		if e.hitStart[l+1] > e.hitStart[l] {
			e.touched = append(e.touched, int32(l))
		}
	}
}

// onLink gives the rows that cross a link as reported.
func (e *engine) onLink(l int32) []hit { return e.hits[e.hitStart[l]:e.hitStart[l+1]] }

// through gives the rows that cross a component as reported.
func (e *engine) through(c Component) []hit {
	links := e.n.entries(c)
	if len(links) == 1 {
		return e.onLink(links[0])
	}
	var out []hit
	for _, l := range links {
		for _, h := range e.onLink(l) {
			if e.mark[h.flow] == 0 {
				out = append(out, hit{flow: h.flow})
			}
			e.mark[h.flow] += float64(h.own)
		}
	}
	for i := range out {
		h := &out[i]
		h.own = float32(math.Min(1, e.mark[h.flow]))
		h.share = h.own
		e.mark[h.flow] = 0
	}
	return out
}

// packetsThrough a component.
func (e *engine) packetsThrough(c Component) float64 {
	sum := 0.0
	for _, l := range e.n.entries(c) {
		sum += e.packets[l]
	}
	return sum
}

// withShares gives the hits of a link with the weight they have if the path
// reported is wrong, and adds the rows that cross it only then.
func (e *engine) withShares(l int32) []hit {
	own := e.onLink(l)
	if l >= e.n.fabric() {
		return own // a host has one link: nothing to get wrong
	}
	out := make([]hit, 0, 2*len(own))
	var last *shareSet
	share := float32(0)
	for i := range e.rows {
		r := &e.rows[i]
		h := hit{flow: int32(i)}
		if len(own) > 0 && own[0].flow == int32(i) {
			h.own, h.share = own[0].own, own[0].own
			own = own[1:]
		}
		if r.known {
			if r.set != last {
				last, share = r.set, r.set.of(l)
			}
			h.share = share
		}
		if h.own > 0 || h.share > 0 {
			out = append(out, h)
		}
	}
	return out
}
