package device

import (
	"math/rand/v2"
	"testing"
)

// streams of keys by how they are spread.
var spreads = []struct {
	name string
	next func(r *rand.Rand, i int) int
}{
	{"few", func(r *rand.Rand, _ int) int { return r.IntN(20) }},
	{"uniform over many", func(r *rand.Rand, _ int) int { return r.IntN(100_000) }},
	{"Zipf", func() func(*rand.Rand, int) int {
		return func(r *rand.Rand, _ int) int { return int(rand.NewZipf(r, 1.2, 1, 1_000_000).Uint64()) }
	}()},
	{"one elephant among mice", func(r *rand.Rand, i int) int {
		if r.IntN(50) == 0 {
			return -1
		}
		return i
	}},
	{"each key once", func(_ *rand.Rand, i int) int { return i }},
	{"the heavy ones last", func(r *rand.Rand, i int) int {
		if i > 15_000 {
			return -1 - r.IntN(30)
		}
		return i
	}},
}

// TestHeavyBounds: for any stream and any room the three promises hold.
func TestHeavyBounds(t *testing.T) {
	for _, sp := range spreads {
		for _, room := range []int{1, 7, 64, 200} {
			for seed := range uint64(3) {
				r := rand.New(rand.NewPCG(seed, uint64(room)))
				h, truth, n := newHeavy[int](room), map[int]uint64{}, uint64(0)
				for i := range 20_000 {
					key, weight := sp.next(r, i), uint64(1)
					if r.IntN(10) == 0 {
						weight = 1 + uint64(r.IntN(44)) // a segmentation offload packet
					}
					h.add(key, weight)
					truth[key] += weight
					n += weight
				}
				if h.total != n || len(h.heap) > room || len(h.kept) != len(h.heap) {
					t.Fatalf("%s: counted %d of %d, kept %d and %d in room for %d", sp.name, h.total, n, len(h.heap), len(h.kept), room)
				}
				for key, e := range h.kept {
					if e.key != key || h.heap[e.at] != e {
						t.Fatalf("%s: key %d is not where it should be", sp.name, key)
					}
					if e.packets < truth[key] || e.packets-e.err > truth[key] || e.err > n/uint64(room) {
						t.Errorf("%s, room %d: key %d has %d packets, told [%d, %d]; n/m is %d", sp.name, room, key, truth[key], e.packets-e.err, e.packets, n/uint64(room))
					}
				}
				const share = 0.01
				listed := map[int]bool{}
				top := h.top(share, 10)
				for i, e := range top {
					listed[e.key] = true
					if i > 0 && e.packets > top[i-1].packets {
						t.Errorf("%s: rank %d has more than rank %d", sp.name, i+1, i)
					}
				}
				for key, c := range truth {
					if c > n/uint64(room) && h.kept[key] == nil {
						t.Errorf("%s, room %d: key %d with %d of %d packets is not kept", sp.name, room, key, c, n)
					}
					if room > 100 && float64(c) > share*float64(n) && !listed[key] {
						t.Errorf("%s, room %d: key %d with %d of %d packets is not in the top", sp.name, room, key, c, n)
					}
				}
			}
		}
	}
}

// What is in the top beside those above the share has more certain packets than
// uncertain ones.
func TestHeavyTopLeavesOutNoise(t *testing.T) {
	h := newHeavy[int](4)
	for i := range 1000 {
		h.add(i, 1)
	}
	if top := h.top(0.5, 10); len(top) != 0 {
		t.Errorf("out of noise: %+v", top)
	}
	h = newHeavy[int](4)
	h.add(1, 3)
	h.add(2, 5)
	if top := h.top(0.5, 10); len(top) != 2 || top[0].key != 2 || top[0].packets != 5 || top[1].err != 0 {
		t.Errorf("top: %+v", top)
	}
	if top := h.top(0.5, 0); len(top) != 1 {
		t.Errorf("top above the share alone: %+v", top)
	}
}

func BenchmarkHeavyAdd(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	keys := make([]int, 1<<16)
	for i := range keys {
		keys[i] = r.IntN(100_000)
	}
	h := newHeavy[int](200)
	for i := 0; b.Loop(); i++ {
		h.add(keys[i&(1<<16-1)], 1)
	}
}
