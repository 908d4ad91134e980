package device

import (
	"cmp"
	"slices"
)

// heavy finds the keys with the most packets in bounded memory: Space-Saving
// (Metwally, Agrawal, El Abbadi: Efficient Computation of Frequent and Top-k
// Elements in Data Streams, ICDT 2005), with weights. With room for m keys and n
// packets counted:
//
//   - of a key that is kept, packets - error <= truth <= packets;
//   - error is never more than n/m;
//   - every key with more than n/m packets is kept.
//
// It does no I/O and is not safe for concurrent use.
type heavy[K comparable] struct {
	room  int
	kept  map[K]*hitter[K]
	heap  []*hitter[K] // the fewest packets first
	total uint64       // n
}

// hitter is a key that is kept, and its bounds.
type hitter[K comparable] struct {
	key     K
	packets uint64
	err     uint64 // packets may be too high by this
	at      int    // in the heap
}

func newHeavy[K comparable](room int) *heavy[K] {
	return &heavy[K]{room: max(room, 1), kept: map[K]*hitter[K]{}}
}

// add counts packets of a key.
func (h *heavy[K]) add(key K, packets uint64) {
	h.total += packets
	if e := h.kept[key]; e != nil {
		e.packets += packets
		h.sink(e.at)
		return
	}
	if len(h.heap) < h.room {
		e := &hitter[K]{key: key, packets: packets, at: len(h.heap)}
		h.kept[key] = e
		h.heap = append(h.heap, e)
		h.rise(e.at)
		return
	}
	// The newcomer takes the place of the least, and may have had as many.
	e := h.heap[0]
	delete(h.kept, e.key)
	e.key, e.err = key, e.packets
	e.packets += packets
	h.kept[key] = e
	h.sink(0)
}

func (h *heavy[K]) rise(i int) {
	for i > 0 {
		up := (i - 1) / 2
		if h.heap[up].packets <= h.heap[i].packets {
			return
		}
		h.swap(i, up)
		i = up
	}
}

func (h *heavy[K]) sink(i int) {
	for {
		least := i
		for _, c := range [2]int{2*i + 1, 2*i + 2} {
			if c < len(h.heap) && h.heap[c].packets < h.heap[least].packets {
				least = c
			}
		}
		if least == i {
			return
		}
		h.swap(i, least)
		i = least
	}
}

func (h *heavy[K]) swap(i, j int) {
	h.heap[i], h.heap[j] = h.heap[j], h.heap[i]
	h.heap[i].at, h.heap[j].at = i, j
}

// of returns what a key has, kept or not, and by how much that may be too high.
func (h *heavy[K]) of(key K) (packets, err uint64) {
	if e := h.kept[key]; e != nil {
		return e.packets, e.err
	}
	if len(h.heap) < h.room {
		return 0, 0
	}
	return h.heap[0].packets, h.heap[0].packets
}

// top returns those that are kept as top does.
func (h *heavy[K]) top(share float64, some int) []hitter[K] {
	list := make([]hitter[K], 0, len(h.heap))
	for _, e := range h.heap {
		list = append(list, *e)
	}
	return top(list, share*float64(h.total), some)
}

// top sorts keys, those with the most packets first, and returns each that can
// have more than least packets, and up to some more of which at least half of the
// packets are certain.
func top[K comparable](sorted []hitter[K], least float64, some int) []hitter[K] {
	slices.SortStableFunc(sorted, func(a, b hitter[K]) int {
		return cmp.Or(cmp.Compare(b.packets, a.packets), cmp.Compare(a.err, b.err))
	})
	out := sorted[:0]
	for _, e := range sorted {
		if float64(e.packets) > least {
			out = append(out, e)
		} else if some > 0 && e.err <= e.packets/2 {
			out = append(out, e)
			some--
		}
	}
	return out
}
