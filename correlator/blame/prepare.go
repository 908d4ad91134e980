package blame

import "slices"

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
	lost      []float64 // of each row, packed: every likelihood reads them
	hops      []float64
	known     []bool
	input     []int32 // row of each lossy flow given, -1 when it says nothing
	entStart  []int32 // links and weights of a row
	entLink   []int32
	entWeight []float32
	hitStart  []int32 // hits of a link, by link
	hits      []hit
	lostOn    []float64       // losses of the rows on a link, by link
	crossing  map[int32][]hit // of links, as [engine.withShares] gives them
	held      int             // hits in it
	touched   []int32         // links with hits
	groups    []bundle        // devices and hosts that losses touch, and those asked for
	groupOf   []int32         // by device, then by host: which of groups, one more; 0: none yet

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

	faint []suspect // links too weak to be suspects, of several flows
	list  []suspect // scratch of [engine.screen]

	reports   map[Component]*report   // by what they say
	order     []*report               // most drops first
	placed    map[Component][]*report // by where the drops were
	watching  map[int32]bool          // devices known to report all drops
	perFlow   float64                 // packets of a lossy flow, on average; 0: no device spoke
	heard     []float64               // by device: share of what leaves it that hosts tell of
	devNoise  float64                 // noise that devices see, of that kind of device
	seesNoise float64                 // log of the probability that they are of that kind
	visible   [2]float64              // share of the faults that devices see, by side
	lies      []float64               // by device: the probability that it reports wrong ports; nil: not asked yet
	errs      float64                 // share of the devices that report wrongly, or nothing
	usual     [2]float64              // packets through a link, between devices and to hosts

	gammas [strata]gamma // the latest of each

	sumA     []float64 // scratch, by link, all zero
	mark     []float64 // scratch, by row, all zero
	taken    []bool    // scratch, by row
	weighted []hit     // scratch of [engine.effective]
	readings ways      // scratch of [engine.ways]
}

// prepare turns the epoch into rows and packets per link.
func prepare(n *Network, ep *Epoch, o Options) *engine {
	return prepareOn(condense(n, ep.Clean, ep.Tally), ep, o)
}

// prepareOn is [prepare] with the loss-free traffic counted already.
func prepareOn(clean *Tally, ep *Epoch, o Options) *engine {
	m := newRowMaker(clean.n)
	made, rows := make([]prepared, len(ep.Lossy)), make([]*prepared, len(ep.Lossy))
	for i := range ep.Lossy {
		made[i] = m.row(&ep.Lossy[i])
		rows[i] = &made[i]
	}
	return assemble(clean.n, ep, o, clean.traffic(), rows, nil)
}

// assemble makes an engine of the loss-free traffic and the lossy flows, in
// this order: the same evidence gives the same sums, to the last bit. It takes the
// memory of an engine of the same network that is needed no more; nil: there is none.
func assemble(n *Network, ep *Epoch, o Options, t traffic, rows []*prepared, old *engine) *engine {
	if old == nil {
		old = &engine{s: n.newSpreader()}
	}
	e := &engine{n: n, e: ep, o: o.withDefaults(), s: old.s, assumed: t.assumed,
		packets: append(old.packets[:0], t.packets...), input: again(old.input, len(rows)), entStart: append(old.entStart[:0], 0),
		hitStart: old.hitStart, hits: old.hits, touched: old.touched[:0], groups: old.groups, groupOf: old.groupOf, list: old.list, weighted: old.weighted, windows: old.windows, readings: old.readings}
	e.windows.c, e.readings.e = nil, nil
	sources := slices.Clone(t.sources)
	entries := 0
	for _, p := range rows {
		entries += len(p.links)
	}
	e.rows, e.known = slices.Grow(old.rows[:0], len(rows)), slices.Grow(old.known[:0], len(rows))
	e.lost, e.hops = slices.Grow(old.lost[:0], len(rows)), slices.Grow(old.hops[:0], len(rows))
	e.entLink, e.entWeight = slices.Grow(old.entLink[:0], entries), slices.Grow(old.entWeight[:0], entries)
	for i, p := range rows {
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
		e.rows, e.known = append(e.rows, p.row), append(e.known, p.known)
		e.lost, e.hops = append(e.lost, p.lost), append(e.hops, p.hops)
		e.entLink = append(e.entLink, p.links...)
		e.entWeight = append(e.entWeight, p.weights...)
		e.entStart = append(e.entStart, int32(len(e.entLink)))
		if n.validHost(p.src) {
			sources[p.src] = true
		}
	}
	each := 1 / float64(len(sources))
	for _, heard := range sources {
		if heard {
			e.coverage += each
		}
	}
	e.lostOn = again(old.lostOn, n.Links())
	e.invert()
	e.gather()
	for l, p := range e.packets {
		e.carried += p
		if p == 0 {
			continue
		}
		if int32(l) < n.fabric() {
			e.carrying[0]++
		} else {
			e.carrying[1]++
		}
	}
	e.clock = newClock(ep, e.rows)
	e.rate = again(old.rate, len(e.rows))
	e.mark = again(old.mark, len(e.rows))
	e.taken = again(old.taken, len(e.rows))
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

// invert sorts the rows' entries by link, and on a link by row.
func (e *engine) invert() {
	links := e.n.Links()
	// Counted two places on, each start is where the next hit of its link goes while
	// they are put in order, and where the hits of the link before ended after it.
	start := again(e.hitStart, links+2)
	for _, l := range e.entLink {
		start[l+2]++
	}
	for l := range links {
		if start[l+2] > 0 {
			e.touched = append(e.touched, int32(l))
		}
		start[l+2] += start[l+1]
	}
	e.hitStart = start
	start = start[1:]
	e.hits = again(e.hits, len(e.entLink))
	for i := range e.rows {
		lost := e.lost[i]
		for j := e.entStart[i]; j < e.entStart[i+1]; j++ {
			l, w := e.entLink[j], e.entWeight[j]
			e.hits[start[l]] = hit{flow: int32(i), own: w, share: w}
			start[l]++
			e.lostOn[l] += lost
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
	lost    float64 // losses on its links
	hits    []hit   // once asked for
}

// gather lists the devices and hosts that losses touch.
func (e *engine) gather() {
	e.groupOf = again(e.groupOf, e.n.Devices()+e.n.Hosts())
	e.groups = slices.Grow(e.groups[:0], len(e.groupOf)) // never more: they stay where they are
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
	if at := e.groupOf[i]; at > 0 {
		return &e.groups[at-1]
	}
	g := bundle{at: c, entries: e.n.entries(c)}
	for _, l := range g.entries {
		g.packets += e.packets[l]
		g.lost += e.lostOn[l]
	}
	e.groups = append(e.groups, g)
	e.groupOf[i] = int32(len(e.groups))
	return &e.groups[len(e.groups)-1]
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
		h.own = float32(min(1, e.mark[h.flow]))
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

// maxNear is the devices up to which the distances to each cost less, in time and
// memory, than they spare.
const maxNear = 1024

func (e *engine) shareOut(l int32) []hit {
	own := e.onLink(l)
	out := make([]hit, 0, 2*len(own))
	from, to := e.n.ends(l)
	near := e.n.Devices() <= maxNear
	var before, after hopCount
	if near {
		before, after = e.n.hopsOf(from), e.n.hopsOf(to)
	}
	for i := range e.rows {
		r := &e.rows[i]
		h := hit{flow: int32(i)}
		if len(own) > 0 && own[0].flow == int32(i) {
			h.own, h.share = own[0].own, own[0].own
			own = own[1:]
		}
		if r.known {
			h.share = 0
			// Most sets do not hold the link; distances tell without a search.
			if !near || before.of(e.n.tor[r.src])+1+after.of(e.n.tor[r.dst]) == r.apart {
				h.share = r.set.of(l)
			}
		}
		if h.own > 0 || h.share > 0 {
			out = append(out, h)
		}
	}
	return out
}
