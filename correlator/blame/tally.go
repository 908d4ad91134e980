package blame

import (
	"maps"
	"slices"
)

// Tally counts loss-free packets on the way in: per host and per pair of the
// hosts' devices, so that millions of flows take no memory each.
type Tally struct {
	n        *Network
	up, down []float64 // by host
	sources  []bool    // hosts heard from
	index    []int32   // device → row, -1 without hosts
	tors     []int32   // row → device
	dense    []float64 // rows × rows
	sparse   map[uint64]float64
	total    float64
}

// denseRows is the number of devices with hosts up to which pairs are a plain
// matrix (32 MiB).
const denseRows = 2048

// NewTally makes an empty tally.
func NewTally(n *Network) *Tally {
	t := &Tally{n: n, up: make([]float64, len(n.hosts)), down: make([]float64, len(n.hosts)), sources: make([]bool, len(n.hosts)), index: make([]int32, len(n.devices))}
	for d, hosts := range n.torHosts {
		t.index[d] = -1
		if hosts > 0 {
			t.index[d] = int32(len(t.tors))
			t.tors = append(t.tors, int32(d))
		}
	}
	if len(t.tors) <= denseRows {
		t.dense = make([]float64, len(t.tors)*len(t.tors))
	} else {
		t.sparse = make(map[uint64]float64)
	}
	return t
}

// Add counts packets between two hosts over their ECMP set. Unknown hosts are
// left out.
func (t *Tally) Add(src, dst int32, packets float64) {
	packets = sane(packets)
	if packets == 0 || !t.n.validHost(src) || !t.n.validHost(dst) || src == dst {
		return
	}
	t.total += packets
	t.sources[src] = true
	t.up[src] += packets
	t.down[dst] += packets
	a, b := t.index[t.n.tor[src]], t.index[t.n.tor[dst]]
	switch {
	case a == b:
	case t.dense != nil:
		t.dense[int(b)*len(t.tors)+int(a)] += packets
	default:
		t.sparse[uint64(uint32(b))<<32|uint64(uint32(a))] += packets
	}
}

// spread adds the tally to packets per link.
func (t *Tally) spread(s *spreader, packets []float64) {
	n := t.n
	for h := range n.hosts {
		packets[n.Up(int32(h))] += t.up[h]
		packets[n.Down(int32(h))] += t.down[h]
	}
	emit := func(l int32, amount float64) { packets[l] += amount }
	n.mu.Lock()
	defer n.mu.Unlock()
	if t.dense != nil {
		for b, dst := range t.tors {
			row := t.dense[b*len(t.tors) : (b+1)*len(t.tors)]
			hops := n.hopsTo(dst)
			for a, amount := range row {
				if amount > 0 {
					s.add(t.tors[a], dst, hops, amount)
				}
			}
			s.push(dst, hops, emit)
		}
		return
	}
	keys := slices.Sorted(maps.Keys(t.sparse)) // in order, that sums repeat exactly
	for len(keys) > 0 {
		b := keys[0] >> 32
		dst := t.tors[b]
		hops := n.hopsTo(dst)
		for len(keys) > 0 && keys[0]>>32 == b {
			s.add(t.tors[uint32(keys[0])], dst, hops, t.sparse[keys[0]])
			keys = keys[1:]
		}
		s.push(dst, hops, emit)
	}
}
