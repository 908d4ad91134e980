package correlator

import (
	"cmp"
	"slices"

	"decaf/topology"
)

// maxPathSets bounds how many (node, destination) pairs are remembered; past
// it the memory starts afresh.
const (
	maxPathSets  = 1 << 13
	maxPathLists = 1 << 10
)

// pathSets answers how ECMP spreads the flows of a pair over links, assuming
// that each switch spreads them evenly over its next hops.
type pathSets struct {
	topo   *topology.Topology
	shares map[[2]string]map[*topology.Link]float64
	paths  map[[2]string][]weighted
	same   map[[2]*topology.Link]bool // links that alike was asked about

	index map[*topology.Link]int32 // in Topology.Links
	hosts map[string]int32         // in Topology.Hosts, from 1; 0 for all that lie outside
	rank  []int32                  // of the links by name

	// scratch of tally
	first, crossing []int32
	weak            []bool
	seen            [][2]int64 // by host: the latest link it was seen at, as source and as destination
	mark            int64
}

func newPathSets(t *topology.Topology) *pathSets {
	p := &pathSets{
		topo: t, shares: make(map[[2]string]map[*topology.Link]float64), paths: make(map[[2]string][]weighted), same: make(map[[2]*topology.Link]bool),
		index: make(map[*topology.Link]int32, len(t.Links)), hosts: make(map[string]int32, len(t.Hosts)), rank: make([]int32, len(t.Links)),
	}
	byName := make([]int32, len(t.Links))
	for i, l := range t.Links {
		p.index[l], byName[i] = int32(i), int32(i)
	}
	slices.SortFunc(byName, func(a, b int32) int { return cmp.Compare(t.Links[a].Name, t.Links[b].Name) })
	for at, i := range byName {
		p.rank[i] = int32(at)
	}
	for i, h := range t.Hosts {
		p.hosts[h.Name] = int32(i) + 1
	}
	return p
}

// alike says whether two links carry the same share of every pair of hosts. Of
// the hosts of a switch two stand for all.
func (p *pathSets) alike(a, b *topology.Link) bool {
	key := [2]*topology.Link{a, b}
	if is, ok := p.same[key]; ok {
		return is
	}
	if len(p.same) >= maxPathSets {
		clear(p.same)
	}
	var some []string
	of := make(map[string]int)
	for _, h := range p.topo.Hosts {
		for _, l := range p.topo.LinksFrom(h.Name) {
			if of[l.To.Node]++; of[l.To.Node] <= 2 || l == a || l == b || p.topo.Reverse(l) == a || p.topo.Reverse(l) == b {
				some = append(some, h.Name)
				break
			}
		}
	}
	is := true
pairs:
	for _, src := range some {
		for _, dst := range some {
			if src == dst {
				continue
			}
			shares := p.from(src, dst)
			if d := shares[a] - shares[b]; d < -1e-9 || d > 1e-9 {
				is = false
				break pairs
			}
		}
	}
	p.same[key] = is
	return is
}

// from gives the share of each link in the flows from a node to a destination.
func (p *pathSets) from(node, dst string) map[*topology.Link]float64 {
	key := [2]string{node, dst}
	if m, ok := p.shares[key]; ok {
		return m
	}
	if len(p.shares) >= maxPathSets {
		clear(p.shares)
	}
	m := make(map[*topology.Link]float64)
	for _, s := range p.topo.Shares(node, dst) {
		m[s.Link] = s.Share
	}
	p.shares[key] = m
	return m
}

// share is the probability that a flow from src to dst crosses l.
func (p *pathSets) share(src, dst string, l *topology.Link) float64 {
	return p.from(src, dst)[l]
}

// weighted is one path of a pair's ECMP set and the share of flows on it.
type weighted struct {
	links topology.Path
	share float64
}

// list gives a pair's ECMP set with shares. A set larger than
// [topology.MaxPaths] is cut, and then stands for the whole.
func (p *pathSets) list(src, dst string) []weighted {
	key := [2]string{src, dst}
	if l, ok := p.paths[key]; ok {
		return l
	}
	if len(p.paths) >= maxPathLists {
		clear(p.paths)
	}
	shares := p.from(src, dst)
	out := make(map[string]float64) // by node: what leaves it
	for l, s := range shares {
		out[l.From.Node] += s
	}
	var list []weighted
	for _, path := range p.topo.Paths(src, dst) {
		w := weighted{links: path, share: 1}
		for _, l := range path {
			w.share *= shares[l] / out[l.From.Node]
		}
		list = append(list, w)
	}
	p.paths[key] = list
	return list
}

// chances are, for a flow between two hosts that avoids what is explained
// already, the probabilities that it crosses one link, another, and both.
type chances struct{ a, b, both float64 }

// chances looks at the pair's paths through none of the links to avoid.
//
// Hosts with one link share their switch's paths: in a fabric of many hosts
// there are far fewer pairs of switches than of hosts.
func (p *pathSets) chances(src, dst string, a, b *topology.Link, avoid func(*topology.Link) bool) chances {
	var c chances
	always := [2]bool{}
	ends := func(l *topology.Link) bool {
		always[0], always[1] = always[0] || l == a, always[1] || l == b
		return avoid(l)
	}
	if out := p.topo.LinksFrom(src); len(out) == 1 {
		if src = out[0].To.Node; ends(out[0]) {
			return c
		}
	}
	if back := p.topo.LinksFrom(dst); len(back) == 1 {
		in := p.topo.Reverse(back[0])
		if dst = back[0].To.Node; ends(in) {
			return c
		}
	}
	if src == dst {
		c.a, c.b = one(always[0]), one(always[1])
		c.both = c.a * c.b
		return c
	}
paths:
	for _, w := range p.list(src, dst) {
		onA, onB := always[0], always[1]
		for _, l := range w.links {
			if avoid(l) {
				continue paths
			}
			onA, onB = onA || l == a, onB || l == b
		}
		if onA {
			c.a += w.share
		}
		if onB {
			c.b += w.share
		}
		if onA && onB {
			c.both += w.share
		}
	}
	return c
}

func one(b bool) float64 { return float64(btoi(b)) }

// mayCross says whether any of a pair's paths crosses the component.
func (p *pathSets) mayCross(src, dst string, c Component) bool {
	if src == "" || dst == "" {
		return false
	}
	for l := range p.from(src, dst) {
		if c.touches(l) {
			return true
		}
	}
	return false
}

// shareOf is the share of a pair's flows that cross the component: of a device,
// the larger of what enters and what leaves it.
func (p *pathSets) shareOf(src, dst string, c Component) float64 {
	into, out := 0.0, 0.0
	for l, s := range p.from(src, dst) {
		switch {
		case c.Link != nil:
			if l == c.Link {
				return s
			}
		case l.To.Node == c.Node:
			into += s
		case l.From.Node == c.Node:
			out += s
		}
	}
	return max(into, out)
}
