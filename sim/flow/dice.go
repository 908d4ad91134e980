package flow

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

type timeNS = time.Duration

// Path is the links that a flow's packets cross, in order.
type Path struct {
	links [MaxHops]Link
	n     uint8
}

// Links are the path's; the slice shares its memory.
func (p *Path) Links() []Link { return p.links[:p.n] }

func (p *Path) add(l Link) {
	p.links[p.n] = l
	p.n++
}

// dice draws which packets die. Each packet meets a chance to die on each link, in
// path order. Instead of one draw for each, the hazard −ln(1−p) of all chances that
// a packet meets is summed up until the sum passes an exponential variate; the
// chance at which it does is the one that took the packet. This is the same
// process exactly, and a packet that lives costs an addition.
type dice struct {
	src  *rand.PCG
	rng  *rand.Rand // over src
	left float64    // hazard to go until the next death
}

func newDice(seed uint64, parts ...any) *dice {
	sum := sha256.Sum256(fmt.Appendln(nil, append([]any{seed}, parts...)...))
	d := &dice{src: rand.NewPCG(binary.LittleEndian.Uint64(sum[:]), binary.LittleEndian.Uint64(sum[8:]))}
	d.rng = rand.New(d.src)
	d.left = d.rng.ExpFloat64()
	return d
}

// meets is one chance to die, by its hazard.
func (d *dice) meets(h float64) bool {
	if d.left >= h {
		d.left -= h
		return false
	}
	d.left = d.rng.ExpFloat64()
	return true
}

// below draws from 0 to n-1.
func (d *dice) below(n int) int {
	return int(uint64(uint32(d.src.Uint64()>>32)) * uint64(n) >> 32)
}

// What took a packet: a fault by its number, or one of these.
const (
	byNoise int32 = -1
	byNone  int32 = -2
)

// faultsOn lists the faults that act on a link, by stage.
func (f *Fabric) faultsOn(l Link) []int32 {
	if f.acting == nil {
		return nil
	}
	return f.lists[f.acting[l]]
}

// lay enters the faults on their links.
func (f *Fabric) lay() {
	for i, ft := range f.faults {
		links := ft.acts(f.graph)
		if len(links) == 0 {
			continue
		}
		if f.acting == nil {
			f.acting = make([]int32, f.graph.Links())
			f.lists = [][]int32{nil}
		}
		for _, l := range links {
			if f.acting[l] == 0 {
				f.acting[l] = int32(len(f.lists))
				f.lists = append(f.lists, nil)
			}
			list := &f.lists[f.acting[l]]
			*list = append(*list, int32(i))
			slices.SortStableFunc(*list, func(a, b int32) int { return int(f.faults[a].stage) - int(f.faults[b].stage) })
		}
	}
}

// walk sends a packet over links. It gives the index of the link where it died and
// what took it, byNone when it arrived. ends says that its TTL ends at the end of
// the last link.
func (f *Fabric) walk(d *dice, path []Link, p *packetHead, t timeNS, ends bool) (hop int, cause int32) {
	for i, l := range path {
		noise := f.noise[l]
		for _, k := range f.faultsOn(l) {
			ft := f.faults[k]
			if ft.stage != stageQueue && noise > 0 {
				if d.meets(noise) {
					return i, byNoise
				}
				noise = 0
			}
			if h := ft.takes(f.graph, p, t, ends && i == len(path)-1); h > 0 && d.meets(h) {
				return i, k
			}
		}
		if noise > 0 && d.meets(noise) {
			return i, byNoise
		}
	}
	return len(path), byNone
}

// route draws the path from a node to a host: each switch picks one of its next
// hops, evenly or by their weights.
func (f *Fabric) route(d *dice, from Node, host int, p *Path) {
	p.n = 0
	f.extend(d, from, host, p)
}

func (f *Fabric) extend(d *dice, from Node, host int, p *Path) {
	end := f.graph.HostNode(host)
	for n := from; n != end; {
		l, step, count := f.graph.choices(n, host)
		if count > 1 {
			l += step * Link(f.pick(d, l, step, count))
		}
		p.add(l)
		n = f.graph.to[l]
	}
}

func (f *Fabric) pick(d *dice, first, step Link, count int) int {
	if f.weight == nil {
		return d.below(count)
	}
	var sum float64
	for i := range count {
		sum += f.weight(first + step*Link(i))
	}
	at := unit(d.src.Uint64()) * sum
	for i := range count - 1 {
		if at -= f.weight(first + step*Link(i)); at < 0 {
			return i
		}
	}
	return count - 1
}

// PathDrawer gives a function that draws paths between hosts, by number, as the
// fabric's switches do: for what a flow's path might have been. It is a sequence of
// its own, by the seed given, and for one goroutine.
func (f *Fabric) PathDrawer(seed uint64) func(src, dst int) Path {
	d := newDice(f.seed, "paths", seed)
	return func(src, dst int) (p Path) {
		f.route(d, f.graph.HostNode(src), dst, &p)
		return p
	}
}
