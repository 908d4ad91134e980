package blame

import (
	"math"
	"slices"
)

// row is a lossy flow ready for the likelihood.
type row struct {
	lost    float64 // at most 1: see rowMaker.row
	total   float64 // packets lost
	packets float64
	hops    float64 // mean number of links: what noise acts on
	src     int32
	dst     int32
	when    Span      // its losses
	known   bool      // a path was reported, so it may be a wrong one
	apart   int32     // hops between its hosts' devices
	set     *shareSet // of those; nil when unknown
}

// prepared is a row with its links: where its packets went, and where they may
// have been lost, which is not the same when a device showed the drop, or when
// acknowledgements may have been lost on the way back.
type prepared struct {
	row
	crossed  []int32
	way      []float32 // how likely it went there
	links    []int32
	weights  []float32
	pathless bool
}

// rowMaker turns flows into rows.
type rowMaker struct {
	n *Network
	s *spreader
}

func newRowMaker(n *Network) *rowMaker { return &rowMaker{n, n.newSpreader()} }

// cross calls emit with the links a flow crosses, and with what probability.
// Where the path has gaps or stops early, shortest paths fill them.
func (m *rowMaker) cross(f *Flow, emit func(link int32, weight float64)) (complete bool) {
	n := m.n
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
			if set := m.s.between(at, to); set != nil {
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

// maxRoom is the links for which there is room from the start: a path with its
// host links.
const maxRoom = 16

// row makes a row; one without losses when the flow says nothing. A flow counts
// once, however many packets it lost, as in 007: losses of one flow come in
// bursts, and where its path is in doubt they are all in doubt together.
func (m *rowMaker) row(f *Flow) prepared {
	n := m.n
	p := prepared{row: row{total: sane(f.Lost), src: f.Src, dst: f.Dst, when: f.When}}
	if p.total == 0 {
		return p
	}
	p.lost, p.packets = math.Min(1, p.total), math.Max(sane(f.Packets), p.total)
	if room := len(f.Path) + 2; room <= maxRoom {
		p.crossed, p.way = make([]int32, 0, room), make([]float32, 0, room)
	}
	complete := m.cross(f, func(l int32, w float64) {
		p.hops += w
		p.crossed, p.way = merge(p.crossed, p.way, l, w)
	})
	p.pathless = !complete
	p.links, p.weights = p.crossed, p.way
	switch {
	case f.Seen.Kind != None:
		p.witnessed(n, f.Seen)
	case f.Back > 0 && n.validHost(f.Src) && n.validHost(f.Dst):
		p.links, p.weights = slices.Clone(p.links), slices.Clone(p.weights)
		back := math.Min(f.Back, 1)
		for i := range p.weights {
			p.weights[i] *= float32(1 - back)
		}
		m.cross(&Flow{Src: f.Dst, Dst: f.Src}, func(l int32, w float64) {
			p.links, p.weights = merge(p.links, p.weights, l, w*back)
		})
		complete = false
	}
	if n.validHost(f.Src) && n.validHost(f.Dst) {
		p.set = m.s.between(n.tor[f.Src], n.tor[f.Dst])
	}
	if p.set != nil {
		p.apart = int32(math.Round(float64(p.set.hops)))
	}
	p.known = complete && f.Seen.Kind == None && p.set != nil && len(p.set.links) > 0
	return p
}

// witnessed confines the losses to the component that was seen to drop them:
// of its links those that the flow may have crossed, the first one with a device
// at its end. A witness that was not on the way is not heard.
func (p *prepared) witnessed(n *Network, c Component) {
	if c.Kind == Link && !n.valid(c.ID) || c.Kind == Device && !n.validDevice(c.ID) || c.Kind == Host && !n.validHost(c.ID) {
		return
	}
	var links []int32
	var weights []float32
	all := float32(0)
	for _, l := range n.entries(c) {
		if i := slices.Index(p.crossed, l); i >= 0 {
			links, weights = append(links, l), append(weights, p.way[i])
			all += p.way[i]
		}
	}
	if all == 0 {
		return
	}
	for i := range weights {
		weights[i] /= all
	}
	p.links, p.weights, p.hops = links, weights, 1
}

// merge adds a link: a candidate or a loop brings it again.
func merge(links []int32, weights []float32, l int32, w float64) ([]int32, []float32) {
	if i := slices.Index(links, l); i >= 0 {
		weights[i] = min(1, weights[i]+float32(w))
		return links, weights
	}
	return append(links, l), append(weights, float32(w))
}
