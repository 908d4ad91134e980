package blame

import (
	"cmp"
	"math"
	"slices"
)

// maxShares bounds the entries kept in the cache of shares: 12 bytes each.
const maxShares = 8 << 20

// shareSet is what share of the traffic between two devices each link of their
// shortest paths carries when every device splits evenly over its next hops.
// Links ascend.
type shareSet struct {
	links []int32
	share []float32
	hops  float32 // mean number of links
}

// of gives the share of one link.
func (s *shareSet) of(link int32) float32 {
	// This is asked for each lossy flow and fault: halves are chosen without a branch,
	// which would be mispredicted every other time.
	at, n := 0, len(s.links)
	if n == 0 {
		return 0
	}
	for n > 1 {
		half := n / 2
		middle := at + half
		if s.links[middle] <= link {
			at = middle
		}
		n -= half
	}
	if s.links[at] != link {
		return 0
	}
	return s.share[at]
}

const unreachable = math.MaxInt16

// hopsTo gives the distance of every device to the neighbours of v, plus one.
// For all but v itself that is the distance to v, and devices with the same
// neighbours share it. The caller holds n.mu.
func (n *Network) hopsTo(v int32) []int16 {
	if d, ok := n.distance[n.twin[v]]; ok {
		return d
	}
	d := make([]int16, len(n.devices))
	for i := range d {
		d[i] = unreachable
	}
	var queue []int32
	for _, l := range n.linksInto(v) {
		u := n.linkFrom[l]
		if d[u] == unreachable {
			d[u] = 1
			queue = append(queue, u)
		}
	}
	for len(queue) > 0 {
		u := queue[0]
		queue = queue[1:]
		if d[u] == unreachable-1 {
			continue // farther than a packet lives
		}
		for _, l := range n.linksInto(u) {
			if w := n.linkFrom[l]; d[w] == unreachable {
				d[w] = d[u] + 1
				queue = append(queue, w)
			}
		}
	}
	n.distance[n.twin[v]] = d
	return d
}

// hopCount is how far all devices are from one, and it from them: links go both ways.
type hopCount struct {
	device int32
	hops   []int16 // see [Network.hopsTo]
}

func (n *Network) hopsOf(device int32) hopCount {
	n.mu.Lock()
	defer n.mu.Unlock()
	return hopCount{device, n.hopsTo(device)}
}

func (c hopCount) of(device int32) int32 {
	if device == c.device {
		return 0
	}
	return int32(c.hops[device])
}

// spreader pushes traffic towards one device down the shortest paths.
type spreader struct {
	n      *Network
	amount []float64 // by device
	level  [][]int32 // devices with traffic by distance

	towards int32      // the destination that next hops are remembered for; -1: none
	first   []hopRange // by device
	links   []int32    // next hops
}

// hopRange is a device's next hops; a device has one at least, so end 0 means
// that they have not been looked up.
type hopRange struct{ start, end int32 }

func (n *Network) newSpreader() *spreader {
	return &spreader{n: n, amount: make([]float64, len(n.devices)), towards: -1, first: make([]hopRange, len(n.devices))}
}

// nextHops gives the links out of u that lead to dst by a shortest path; to is
// the destination's distance table.
func (s *spreader) nextHops(u, dst int32, to []int16) []int32 {
	if s.towards != dst {
		s.towards = dst
		clear(s.first)
		s.links = s.links[:0]
	}
	r := &s.first[u]
	if r.end == 0 {
		d := int(to[u])
		r.start = int32(len(s.links))
		for _, l := range s.n.linksOutOf(u) {
			if v := s.n.linkTo[l]; d == 1 && v == dst || d > 1 && v != dst && int(to[v]) == d-1 {
				s.links = append(s.links, l)
			}
		}
		r.end = int32(len(s.links))
	}
	return s.links[r.start:r.end]
}

// add puts traffic on a device; to is the distance table of its destination,
// dst. It says whether there is a way.
func (s *spreader) add(at, dst int32, to []int16, amount float64) bool {
	if at == dst || amount <= 0 {
		return at == dst
	}
	d := int(to[at])
	if d >= unreachable {
		return false
	}
	for len(s.level) <= d {
		s.level = append(s.level, nil)
	}
	if s.amount[at] == 0 {
		s.level[d] = append(s.level[d], at)
	}
	s.amount[at] += amount
	return true
}

// push moves all traffic to dst and calls emit with what each link carries.
func (s *spreader) push(dst int32, to []int16, emit func(link int32, amount float64)) {
	for d := len(s.level) - 1; d >= 1; d-- {
		for _, u := range s.level[d] {
			next := s.nextHops(u, dst, to)
			part := s.amount[u] / float64(len(next))
			s.amount[u] = 0
			for _, l := range next {
				emit(l, part)
				if v := s.n.linkTo[l]; v != dst {
					s.add(v, dst, to, part)
				}
			}
		}
		s.level[d] = s.level[d][:0]
	}
}

// between gives the shares between two devices; nil when there is no way.
func (s *spreader) between(from, to int32) *shareSet {
	key := [2]int32{from, to}
	n := s.n
	n.mu.Lock()
	defer n.mu.Unlock()
	if set, ok := n.shares[key]; ok {
		return set
	}
	var set *shareSet
	switch hops := n.hopsTo(to); {
	case from == to:
		set = &shareSet{}
	case s.add(from, to, hops, 1):
		type entry struct {
			link  int32
			share float32
		}
		var list []entry
		s.push(to, hops, func(l int32, amount float64) { list = append(list, entry{l, float32(amount)}) })
		slices.SortFunc(list, func(a, b entry) int { return cmp.Compare(a.link, b.link) })
		set = &shareSet{links: make([]int32, len(list)), share: make([]float32, len(list))}
		for i, e := range list {
			set.links[i], set.share[i] = e.link, e.share
			set.hops += e.share
		}
	}
	if cost := 4; set == nil || n.held+len(set.links)+cost <= maxShares {
		n.shares[key] = set
		n.held += cost
		if set != nil {
			n.held += len(set.links)
		}
	}
	return set
}
