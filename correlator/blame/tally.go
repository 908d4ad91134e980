package blame

import (
	"cmp"
	"maps"
	"slices"
)

// Tally counts loss-free packets on the way in, so that millions of flows take
// no memory each: per host, and between the hosts' devices.
//
// Devices with the same neighbours (the ToRs of a pod) are one class: what one of
// them sends to another class takes the same ways, but for the first link, as
// what the others send. So packets are counted per device and class of the far
// end, and spread over the links once per pair of classes.
type Tally struct {
	n        *Network
	up, down []float64          // by host
	links    []float64          // of flows whose path is known; nil without any
	row      []int32            // device → row, -1 without hosts
	place    []place            // by host: its device's row and class
	tors     []int32            // row → device
	class    []int32            // row → class
	members  [][]int32          // class → rows
	near     []bool             // class × class: joined by links of their own
	to, from []float64          // row × class: packets to the class, from the class
	direct   map[uint64]float64 // row<<32|row: packets between devices that are neighbours
	total    float64
}

// place is a row with its class.
type place struct{ row, class int32 }

// NewTally makes an empty tally.
func NewTally(n *Network) *Tally {
	t := &Tally{n: n, up: make([]float64, len(n.hosts)), down: make([]float64, len(n.hosts)), row: make([]int32, len(n.devices)), direct: make(map[uint64]float64)}
	class := make(map[int32]int32)
	for d, hosts := range n.torHosts {
		t.row[d] = -1
		if hosts == 0 {
			continue
		}
		c, ok := class[n.twin[d]]
		if !ok {
			c = int32(len(t.members))
			class[n.twin[d]] = c
			t.members = append(t.members, nil)
		}
		row := int32(len(t.tors))
		t.row[d] = row
		t.tors = append(t.tors, int32(d))
		t.class = append(t.class, c)
		t.members[c] = append(t.members[c], row)
	}
	k := len(t.members)
	t.near = make([]bool, k*k)
	for a, list := range t.members {
		for _, l := range n.linksOutOf(t.tors[list[0]]) {
			if row := t.row[n.linkTo[l]]; row >= 0 {
				t.near[a*k+int(t.class[row])] = true
			}
		}
	}
	t.to, t.from = make([]float64, len(t.tors)*k), make([]float64, len(t.tors)*k)
	t.place = make([]place, len(n.hosts))
	for h, tor := range n.tor {
		row := t.row[tor]
		t.place[h] = place{row, t.class[row]}
	}
	return t
}

// Add counts packets between two hosts over their ECMP set. Unknown hosts are
// left out.
func (t *Tally) Add(src, dst int32, packets float64) { t.count(src, dst, sane(packets)) }

// Remove takes back what was added.
func (t *Tally) Remove(src, dst int32, packets float64) { t.count(src, dst, -sane(packets)) }

// count is what each flow on the way in costs, a hundred thousand times an epoch.
func (t *Tally) count(src, dst int32, packets float64) {
	if packets == 0 || !t.n.validHost(src) || !t.n.validHost(dst) || src == dst {
		return
	}
	t.total = max(0, t.total+packets)
	t.up[src] = max(0, t.up[src]+packets)
	t.down[dst] = max(0, t.down[dst]+packets)
	a, b := t.place[src], t.place[dst]
	if a.row == b.row {
		return
	}
	k := int32(len(t.members))
	if t.near[a.class*k+b.class] {
		key := uint64(uint32(a.row))<<32 | uint64(uint32(b.row))
		if sum := t.direct[key] + packets; sum > 0 {
			t.direct[key] = sum
		} else {
			delete(t.direct, key)
		}
		return
	}
	to, from := &t.to[a.row*k+b.class], &t.from[b.row*k+a.class]
	*to = max(0, *to+packets)
	*from = max(0, *from+packets)
}

// addOn counts packets on links that are known to carry them.
func (t *Tally) addOn(l int32, packets float64) {
	if t.links == nil {
		t.links = make([]float64, t.n.Links())
	}
	t.links[l] += packets
}

// scale multiplies all counts.
func (t *Tally) scale(by float64) {
	t.total *= by
	for _, list := range [][]float64{t.up, t.down, t.links, t.to, t.from} {
		for i := range list {
			list[i] *= by
		}
	}
	for k := range t.direct {
		t.direct[k] *= by
	}
}

// merge adds all of another tally of the same network.
func (t *Tally) merge(o *Tally) {
	t.total += o.total
	if o.links != nil && t.links == nil {
		t.links = make([]float64, t.n.Links())
	}
	for _, pair := range [][2][]float64{{t.up, o.up}, {t.down, o.down}, {t.links, o.links}, {t.to, o.to}, {t.from, o.from}} {
		for i, x := range pair[1] {
			pair[0][i] += x
		}
	}
	for k, x := range o.direct {
		t.direct[k] += x
	}
}

// spread adds the tally to packets per link.
func (t *Tally) spread(s *spreader, packets []float64) {
	n := t.n
	for h := range n.hosts {
		packets[n.Up(int32(h))] += t.up[h]
		packets[n.Down(int32(h))] += t.down[h]
	}
	for l, x := range t.links {
		packets[l] += x
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range t.members {
		for a := range t.members {
			t.spreadBetween(s, int32(a), int32(c), packets)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(t.direct)) { // in order, that sums repeat exactly
		if l, ok := n.linkID[[2]int32{t.tors[key>>32], t.tors[uint32(key)]}]; ok {
			packets[l] += t.direct[key]
		}
	}
}

// spreadBetween spreads what the devices of one class sent to those of another,
// by the shares between one of each: they differ in the first and last link alone.
// The caller holds n.mu.
func (t *Tally) spreadBetween(s *spreader, a, c int32, packets []float64) {
	n, k := t.n, int32(len(t.members))
	sum := 0.0
	for _, row := range t.members[a] {
		sum += t.to[row*k+c]
	}
	if sum == 0 {
		return
	}
	src, dst := t.tors[t.members[a][0]], t.tors[t.members[c][0]]
	if src == dst { // within a class: between its first and second member
		dst = t.tors[t.members[c][1]]
	}
	hops := n.hopsTo(dst)
	if !s.add(src, dst, hops, 1) {
		return
	}
	s.push(dst, hops, func(l int32, share float64) {
		switch {
		case n.linkFrom[l] == src:
			i := n.position(n.linksOutOf(src), n.linkTo, n.linkTo[l])
			for _, row := range t.members[a] {
				packets[n.linksOutOf(t.tors[row])[i]] += share * t.to[row*k+c]
			}
		case n.linkTo[l] == dst:
			i := n.position(n.linksInto(dst), n.linkFrom, n.linkFrom[l])
			for _, row := range t.members[c] {
				packets[n.linksInto(t.tors[row])[i]] += share * t.from[row*k+a]
			}
		default:
			packets[l] += share * sum
		}
	})
}

// position finds a neighbour among a device's links, which are in the order of
// their far ends.
func (n *Network) position(links, far []int32, neighbour int32) int {
	i, _ := slices.BinarySearchFunc(links, neighbour, func(l, want int32) int { return cmp.Compare(far[l], want) })
	return i
}
