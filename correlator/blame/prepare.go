package blame

import (
	"math"
	"slices"
)

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
	crossing  map[int32][]hit // of links, as [engine.withShares] gives them
	held      int             // hits in it
	touched   []int32         // links with hits
	groups    []*bundle
	groupOf   []*bundle // by device, then by host
	bundles   []bundle  // all of them

	clock    clock
	timeless bool       // nobody is asked for a period yet
	windows  windows    // scratch of [engine.periodOf]
	packets  []float64  // through each link
	carried  float64    // their sum
	carrying [2]float64 // links with packets, between devices and to hosts
	lossSum  float64
	coverage float64 // share of hosts heard from
	assumed  bool    // there were no loss-free packets: traffic is assumed even
	pathless float64 // losses without a path

	noise  float64 // loss rate of a good link, g
	stale  float64 // share of reported paths that are wrong, ε
	fresh  bool    // it stays as it is
	rate   []float64
	faults []*fault
	links  []bool // taken by a fault
	pruned map[Component]int

	faint []suspect // links too weak to be suspects
	list  []suspect // scratch of [engine.screen]

	reports   map[Component]*report   // by what they say
	order     []*report               // most drops first
	placed    map[Component][]*report // by where the drops were
	watching  map[int32]bool          // devices known to report all drops
	heard     []float64               // by device: share of what leaves it that hosts tell of
	devNoise  float64                 // noise that devices see, of that kind of device
	seesNoise float64                 // log of the probability that they are of that kind
	visible   [2]float64              // share of the faults that devices see, by side
	lies      []float64               // by device: the probability that it reports wrong ports; nil: not asked yet
	errs      float64                 // share of the devices that report wrongly, or nothing
	usual     [2]float64              // packets through a link, between devices and to hosts

	sumR, sumA []float64 // scratch, by link, all zero
	mark       []float64 // scratch, by row, all zero
	taken      []bool    // scratch, by row
}

// prepare turns the epoch into rows and packets per link.
func prepare(n *Network, ep *Epoch, o Options) *engine {
	return prepareOn(condense(n, ep.Clean, ep.Tally), ep, o)
}

// prepareOn is [prepare] with the loss-free traffic counted already.
func prepareOn(clean *Tally, ep *Epoch, o Options) *engine {
	m := newRowMaker(clean.n)
	rows := make([]prepared, len(ep.Lossy))
	for i := range ep.Lossy {
		rows[i] = m.row(&ep.Lossy[i])
	}
	return assemble(clean.n, ep, o, clean.traffic(), rows, nil)
}

// assemble makes an engine of the loss-free traffic and the lossy flows, in
// this order: the same evidence gives the same sums, to the last bit. It takes the
// memory of an engine of the same network that is needed no more; nil: there is none.
func assemble(n *Network, ep *Epoch, o Options, t traffic, rows []prepared, old *engine) *engine {
	if old == nil {
		old = &engine{s: n.newSpreader()}
	}
	e := &engine{n: n, e: ep, o: o.withDefaults(), s: old.s, assumed: t.assumed,
		packets: append(old.packets[:0], t.packets...), input: again(old.input, len(rows)), entStart: append(old.entStart[:0], 0),
		hits: old.hits, touched: old.touched[:0], groups: old.groups[:0], groupOf: old.groupOf, bundles: old.bundles, list: old.list}
	sources := slices.Clone(t.sources)
	entries := 0
	for i := range rows {
		entries += len(rows[i].links)
	}
	e.rows = slices.Grow(old.rows[:0], len(rows))
	e.entLink, e.entWeight = slices.Grow(old.entLink[:0], entries), slices.Grow(old.entWeight[:0], entries)
	for i := range rows {
		p := &rows[i]
		e.input[i] = -1
		if p.lost == 0 {
			continue
		}
		for j, l := range p.crossed {
			e.packets[l] += p.packets * float64(p.way[j])
		}
		if p.pathless {
			e.pathless += p.lost
		}
		e.lossSum += p.lost
		e.input[i] = int32(len(e.rows))
		e.rows = append(e.rows, p.row)
		e.entLink = append(e.entLink, p.links...)
		e.entWeight = append(e.entWeight, p.weights...)
		e.entStart = append(e.entStart, int32(len(e.entLink)))
		if n.validHost(p.src) {
			sources[p.src] = true
		}
	}
	for _, heard := range sources {
		if heard {
			e.coverage += 1 / float64(len(sources))
		}
	}
	e.invert()
	e.gather()
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
	e.clock = newClock(ep, e.rows)
	e.rate = again(old.rate, len(e.rows))
	e.mark = again(old.mark, len(e.rows))
	e.taken = again(old.taken, len(e.rows))
	e.sumR = again(old.sumR, n.Links())
	e.sumA = again(old.sumA, n.Links())
	e.links = again(old.links, n.Links())
	e.pruned = make(map[Component]int)
	e.crossing = make(map[int32][]hit)
	return e
}

// again makes a slice of zeros, of old memory if there is enough.
func again[T any](old []T, n int) []T {
	if cap(old) < n {
		return make([]T, n, n+n/8)
	}
	old = old[:n]
	clear(old)
	return old
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
	e.hits = again(e.hits, len(order))
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

// bundle is a device or host that losses touch.
type bundle struct {
	at      Component
	entries []int32
	packets float64
	hits    []hit // once asked for
}

// gather lists the devices and hosts that losses touch.
func (e *engine) gather() {
	e.groupOf = again(e.groupOf, e.n.Devices()+e.n.Hosts())
	e.bundles = slices.Grow(e.bundles[:0], len(e.groupOf)) // never more: they stay where they are
	for _, l := range e.touched {
		if _, to := e.n.ends(l); to >= 0 {
			e.group(Component{Device, to})
		}
		if l >= e.n.fabric() {
			e.group(Component{Host, (l - e.n.fabric()) / 2})
		}
	}
}

func (e *engine) group(c Component) *bundle {
	i := c.ID
	if c.Kind == Host {
		i += int32(e.n.Devices())
	}
	g := e.groupOf[i]
	if g == nil {
		e.bundles = append(e.bundles, bundle{at: c, entries: e.n.entries(c)})
		g = &e.bundles[len(e.bundles)-1]
		for _, l := range g.entries {
			g.packets += e.packets[l]
		}
		e.groupOf[i] = g
		e.groups = append(e.groups, g)
	}
	return g
}

// through gives the rows that cross a component as reported.
func (e *engine) through(c Component) []hit {
	if c.Kind == Link {
		return e.onLink(c.ID)
	}
	g := e.group(c)
	if g.hits != nil {
		return g.hits
	}
	out := []hit{}
	for _, l := range g.entries {
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
	g.hits = out
	return out
}

// packetsThrough a component.
func (e *engine) packetsThrough(c Component) float64 {
	if c.Kind == Link {
		return e.packets[c.ID]
	}
	return e.group(c).packets
}

// withShares gives the hits of a link with the weight they have if the path
// reported is wrong, and adds the rows that cross it only then. Nobody changes
// them.
func (e *engine) withShares(l int32) []hit {
	if l >= e.n.fabric() {
		return e.onLink(l) // a host has one link: nothing to get wrong
	}
	out, found := e.crossing[l]
	if !found {
		out = e.shareOut(l)
		if e.held += len(out); e.held <= maxHeld {
			e.crossing[l] = out
		}
	}
	return out
}

// maxHeld bounds the hits that withShares keeps: 12 bytes each.
const maxHeld = 4 << 20

func (e *engine) shareOut(l int32) []hit {
	own := e.onLink(l)
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
