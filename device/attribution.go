package device

import (
	"cmp"
	"maps"
	"slices"

	"decaf/api/packet"
)

// heldFlows is what is known, by aggregate, of the flows of drops that were held
// back and sketched since the last time.
type heldFlows struct {
	// least is how many packets the flows had at least that may have had many.
	least map[aggregateKey]map[packet.Flow]uint64
	// most is how many packets a flow can have had; rest is that of each flow
	// that is not in least.
	most func(aggregateKey, packet.Flow) uint64
	rest func(aggregateKey) uint64
}

// divided is how many packets of each cause were counted in each class: those of
// firewall rules of several classes may have one cause.
type divided map[[causeKeySize]byte]map[string]uint64

func (d divided) add(cause []byte, class string, packets uint64) {
	if len(cause) != causeKeySize {
		return
	}
	key := [causeKeySize]byte(cause)
	if d[key] == nil {
		d[key] = map[string]uint64{}
	}
	d[key][class] += packets
}

// bounds are how many packets there are at least and at most.
type bounds struct{ least, most uint64 }

// attribution keeps the bounds of the flows of an aggregate's sketched packets,
// over one sketch or several: of a flow that is kept they hold, and another one
// has floor packets at most. It does no I/O.
type attribution struct {
	packets uint64 // of all flows
	flows   map[packet.Flow]bounds
	floor   uint64
}

// of returns the bounds of any flow.
func (a *attribution) of(f packet.Flow) bounds {
	if b, ok := a.flows[f]; ok {
		return b
	}
	return bounds{most: a.floor}
}

// add takes in n packets, of which is known what least, most and rest say (as in
// heldFlows), and keeps the bounds of those that matter, and of the flows also. It
// returns which packets are certain.
func (a *attribution) add(n uint64, least map[packet.Flow]uint64, also []packet.Flow, most func(packet.Flow) uint64, rest uint64) (certain map[packet.Flow]uint64) {
	// A flow of fewer packets than half of what is to be told of is noise.
	noise := uint64(topShare / 2 * float64(n))
	certain = map[packet.Flow]uint64{}
	if a.flows == nil {
		a.flows = map[packet.Flow]bounds{}
	}
	var sum uint64
	for _, f := range slices.SortedFunc(maps.Keys(least), compareFlows) {
		if most(f) <= noise {
			continue
		}
		a.flows[f] = a.of(f)
		if sure := min(least[f], n-sum); sure > 0 {
			certain[f] = sure
			sum += sure
		}
	}
	for _, f := range also {
		a.flows[f] = a.of(f)
	}
	for f, b := range a.flows {
		sure := certain[f]
		b.least += sure
		b.most += min(max(most(f), sure), n-sum+sure) // what is certain is nobody else's
		a.flows[f] = b
	}
	a.floor += min(max(rest, noise), n-sum)
	a.packets += n
	a.prune()
	return certain
}

// prune makes do with 2*hitters flows, those that can have most.
func (a *attribution) prune() {
	if len(a.flows) <= 2*hitters {
		return
	}
	list := slices.SortedFunc(maps.Keys(a.flows), func(x, y packet.Flow) int {
		return cmp.Or(cmp.Compare(a.flows[y].most, a.flows[x].most), compareFlows(x, y))
	})
	for _, f := range list[2*hitters:] {
		a.floor = max(a.floor, a.flows[f].most)
		delete(a.flows, f)
	}
}

func compareFlows(x, y packet.Flow) int {
	return cmp.Or(x.Src.Compare(y.Src), x.Dst.Compare(y.Dst), cmp.Compare(x.Proto, y.Proto))
}
