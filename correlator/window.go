package correlator

import (
	"math"
	"slices"

	"decaf/topology"
)

// Window is the evidence of a span of time, sorted by what may be done with it.
type Window struct {
	Topo       *topology.Topology
	Start, End int64 // ns; the span is [Start, End)

	Flows    []*Flow      // lossy flows whose loss no device told of: these vote
	Pathless []*Flow      // the same without a path: these cannot vote
	Joined   []JoinedFlow // lossy flows with a device's drop of theirs: these do not
	Drops    []*Drop      // device drops that are evidence
	Traffic  []Traffic    // loss-free packets, as far as hosts count them
	// TrafficAt is the place of the first row of Traffic among all that ever came:
	// what is counted already is known by it.
	TrafficAt int
	// Watching are the devices whose agents were heard all through the window:
	// they would have told of drops that they can see.
	Watching []string
	// Open are the components that are named already: they explain their flows
	// without having to meet the rule again.
	Open map[Component]bool
	// Current is from when on a finding needs support, ns; what is older is
	// history and weighs less the older it is, by e in Decay ns. A window without
	// history has Current = Start.
	Current, Decay int64
	// Known and Counted are up to when losses and loss-free traffic have come, ns:
	// what is later may still be told of. 0: nobody knows.
	Known, Counted int64

	Waiting   int // flows too fresh to vote
	Settled   int // flows that belong to a finding that is resolved
	Explained int // flows explained by a device that told of most of its loss

	kind  viewKind
	blind func(device string) string // why a device did not tell of all drops; nil: nobody knows
	log   *trafficLog                // whose rows Traffic is
	paths *pathSets
	spent []Settled // components whose flows of some time are not among Flows
}

// since gives the part of the window's vote that begins at start.
func (w *Window) since(start int64, kind viewKind) *Window {
	part := *w
	part.kind = kind
	part.Start = max(start, w.Start)
	part.Current = part.Start
	out := func(f *Flow) bool { return !f.overlaps(part.Start, part.End) }
	part.Flows = slices.DeleteFunc(slices.Clone(w.Flows), out)
	part.Pathless = slices.DeleteFunc(slices.Clone(w.Pathless), out)
	part.Joined = slices.DeleteFunc(slices.Clone(w.Joined), func(j JoinedFlow) bool { return out(j.Flow) })
	part.Drops = slices.DeleteFunc(slices.Clone(w.Drops), func(d *Drop) bool { return d.Time < part.Start })
	return &part
}

// weight is what evidence of this time counts for.
func (w *Window) weight(at int64) float64 {
	if at >= w.Current || w.Decay <= 0 {
		return 1
	}
	return math.Exp(-float64(w.Current-at) / float64(w.Decay))
}

// held is the weight of all the time in the window before Current, in units of
// the current part.
func (w *Window) held() float64 {
	if w.Start >= w.Current || w.Decay <= 0 || w.End <= w.Current {
		return 0
	}
	return float64(w.Decay) * (1 - math.Exp(-float64(w.Current-w.Start)/float64(w.Decay))) / float64(w.End-w.Current)
}

// avoids says which of the spent components a flow of this time would not be
// here for, had it crossed them: a bit for each of the first 31.
func (w *Window) avoids(f *Flow) int {
	bits := 0
	for i, p := range w.spent[:min(len(w.spent), 31)] {
		if f.Last >= p.From && f.Last <= p.Last {
			bits |= 1 << i
		}
	}
	return bits
}

// avoided says whether a link belongs to one of these spent components.
func (w *Window) avoided(bits int, l *topology.Link) bool {
	for i := 0; bits != 0; i, bits = i+1, bits>>1 {
		if bits&1 != 0 && w.spent[i].Component.touches(l) {
			return true
		}
	}
	return false
}

// JoinedFlow is a lossy flow and the device drops that explain it.
type JoinedFlow struct {
	Flow *Flow
	Join Join
}

// Settled is a finding's past: evidence from its time is spent and names
// nothing any more.
type Settled struct {
	Component  Component
	From, Last int64 // ns
	Down       bool  // it had gone: traces stop before it
}

// settleSlack is how long before and after a finding lost acknowledgements may
// show as timeouts elsewhere.
const settleSlack = 5e9

// spent says whether a flow's loss belongs to a resolved finding.
func (p Settled) spent(f *Flow, paths *pathSets) bool {
	if f.Last <= p.Last && f.Last >= p.From && p.Component.on(f) {
		return true
	}
	if p.Down && !f.Route.Full && f.Last <= p.Last+settleSlack && f.Last >= p.From-settleSlack && paths.mayCross(f.Src, f.Dst, p.Component) {
		return true
	}
	return !f.Proof() && f.Last <= p.Last+settleSlack && f.Last >= p.From-settleSlack &&
		paths.mayCross(f.Dst, f.Src, p.Component)
}

// span gathers the evidence of [start, end). Flows first received after ripe
// are not taken yet: device drops and undone notices may still come.
func (s *Store) span(start, end, ripe int64, past []Settled, paths *pathSets) *Window {
	w := &Window{Topo: s.topo, Start: start, End: end, Current: start, Open: map[Component]bool{}, paths: paths, spent: slices.Clone(past)}
	w.Known = ripe - s.late.max(ripe) - minRTO
	w.Counted = ripe - s.rows.max(ripe)
	w.log = &s.traffic
	w.Traffic, w.TrafficAt = s.traffic.of(start)
flows:
	for _, f := range s.order {
		if !f.overlaps(start, end) {
			continue
		}
		if f.Undone() {
			continue
		}
		j := s.join(f)
		if len(j.Drops) > 0 {
			w.Joined = append(w.Joined, JoinedFlow{f, j})
			continue
		}
		if f.Received > ripe || j.Waiting {
			w.Waiting++
			continue
		}
		for _, p := range past {
			if p.spent(f, paths) {
				w.Settled++
				continue flows
			}
		}
		if f.votes() {
			w.Flows = append(w.Flows, f)
		} else {
			w.Pathless = append(w.Pathless, f)
		}
	}
drops:
	for _, d := range s.drops {
		if !d.evidence() || d.Time < start || d.Time >= end {
			continue
		}
		for _, p := range past {
			if d.Component == p.Component && d.Time <= p.Last || p.Down && d.Component.within(p.Component) && d.Time <= p.Last+settleSlack {
				continue drops
			}
		}
		d.in = w
		w.Drops = append(w.Drops, d)
	}
	return w
}
