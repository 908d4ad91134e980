package topology

import (
	"maps"
	"math/bits"
	"slices"
)

// MaxPaths bounds how many paths [Topology.Paths] lists. [Topology.CountPaths]
// tells how many there are.
const MaxPaths = 1024

// maxFieldNumbers bounds the remembered distance fields, which hold one number
// per node each.
const maxFieldNumbers = 4 << 20

// Path is a way through the network, link by link, from source to destination.
type Path []*Link

// field is the number of links from every node to one destination along a
// shortest path that no host forwards on; -1 where there is no way.
type field struct {
	to   int
	dist []int32
}

// field computes, or remembers, the distances towards a node.
func (t *Topology) field(to int) *field {
	t.mu.Lock()
	f, ok := t.fields[to]
	t.mu.Unlock()
	if ok {
		return f
	}
	f = t.graph().distances(to)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fields == nil {
		t.fields = make(map[int]*field)
	}
	if len(t.fields)*len(f.dist) >= maxFieldNumbers {
		clear(t.fields)
	}
	t.fields[to] = f
	return f
}

// distances is a breadth-first search against the direction of the links.
// Cables have both directions, so leaving links serve as entering ones.
func (g *graph) distances(to int) *field {
	f := &field{to: to, dist: make([]int32, len(g.names))}
	for i := range f.dist {
		f.dist[i] = -1
	}
	f.dist[to] = 0
	queue := make([]int32, 1, len(g.names))
	queue[0] = int32(to)
	for len(queue) > 0 {
		n := queue[0]
		queue = queue[1:]
		if int(n) != to && g.host[n] {
			continue // hosts do not forward
		}
		for _, m := range g.to[n] {
			if f.dist[m] < 0 {
				f.dist[m] = f.dist[n] + 1
				queue = append(queue, m)
			}
		}
	}
	return f
}

// hop is a link and the number of the node it leads to.
type hop struct {
	link *Link
	to   int
}

// next gives the links by which a shortest path goes on from node n: exactly
// those one step nearer. A host other than the destination is never next, since
// its distance is good only for paths that start there.
func (g *graph) next(f *field, n int) []hop {
	var hops []hop
	for i, m := range g.to[n] {
		if f.dist[m] == f.dist[n]-1 && (int(m) == f.to || !g.host[m]) {
			hops = append(hops, hop{g.out[n][i], int(m)})
		}
	}
	return hops
}

// route looks up both ends; false when there is no way between two different nodes.
func (t *Topology) route(src, dst string) (from int, f *field, ok bool) {
	g := t.graph()
	from, okS := g.node[src]
	to, okD := g.node[dst]
	if !okS || !okD || from == to {
		return 0, nil, false
	}
	f = t.field(to)
	return from, f, f.dist[from] > 0
}

// Paths gives all shortest paths from one node to another, the ECMP set of
// their flows, in a fixed order. Nodes are named; usually both are hosts, and no
// host is on the way. Nil when either is unknown, both are the same, or there is
// no way. At most [MaxPaths] are given: when [Topology.CountPaths] says more,
// the set is cut.
func (t *Topology) Paths(src, dst string) []Path {
	from, f, ok := t.route(src, dst)
	if !ok {
		return nil
	}
	g := t.graph()
	var paths []Path
	walk := make(Path, 0, f.dist[from])
	var visit func(n int)
	visit = func(n int) {
		if n == f.to {
			paths = append(paths, slices.Clone(walk))
			return
		}
		for _, h := range g.next(f, n) {
			if len(paths) == MaxPaths {
				return
			}
			walk = append(walk, h.link)
			visit(h.to)
			walk = walk[:len(walk)-1]
		}
	}
	visit(from)
	return paths
}

// CountPaths says how many shortest paths there are, listed or not, up to the
// largest uint64; 0 when there is none.
func (t *Topology) CountPaths(src, dst string) uint64 {
	from, f, ok := t.route(src, dst)
	if !ok {
		return 0
	}
	g := t.graph()
	known := make(map[int]uint64)
	var count func(n int) uint64
	count = func(n int) uint64 {
		if n == f.to {
			return 1
		}
		if c, ok := known[n]; ok {
			return c
		}
		var sum uint64
		for _, h := range g.next(f, n) {
			s, carry := bits.Add64(sum, count(h.to), 0)
			if carry != 0 {
				s = 1<<64 - 1
			}
			sum = s
		}
		known[n] = sum
		return sum
	}
	return count(from)
}

// Distance is the number of switches on a shortest path between two nodes: the
// TTL with which a probe from src still dies before dst. 0 when it is not known,
// and between hosts joined back to back.
func (t *Topology) Distance(src, dst string) int {
	from, f, ok := t.route(src, dst)
	if !ok {
		return 0
	}
	return int(f.dist[from]) - 1
}

// LinkShare is the share of a pair's flows that cross a link.
type LinkShare struct {
	Link  *Link
	Share float64 // (0, 1]
}

// Shares gives every link that flows from src to dst may cross, and the share of
// flows that do when each switch spreads them evenly over its next hops, as
// hash-based ECMP does. Unlike Paths it is never cut: its size is that of the
// network. In order of distance from src, then file order; nil when there is no way.
func (t *Topology) Shares(src, dst string) []LinkShare {
	from, f, ok := t.route(src, dst)
	if !ok {
		return nil
	}
	g := t.graph()
	var shares []LinkShare
	here := map[int]float64{from: 1}
	for level := f.dist[from]; level > 0; level-- {
		after := make(map[int]float64)
		for _, n := range slices.Sorted(maps.Keys(here)) {
			hops := g.next(f, n)
			for _, h := range hops {
				s := here[n] / float64(len(hops))
				shares = append(shares, LinkShare{Link: h.link, Share: s})
				after[h.to] += s
			}
		}
		here = after
	}
	return shares
}
