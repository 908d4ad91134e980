package blame

import (
	"maps"
	"math"
	"slices"
)

const (
	sees        = 0.9 // share of a link's drops that hosts lose, of those that they could
	strayLosses = 0.05
	strayCost   = -6 // nats that one port which does not fit can cost a device at most
)

// honesty asks of each device that reports drops of links whether all that it
// reports, together, is where hosts lost packets, or at its other ports: one who
// reports a wrong port for much does so for little too. e.lies is the
// probability that it does.
func (e *engine) honesty() {
	if e.lies == nil {
		e.lies = make([]float64, e.n.Devices())
	}
	lost := make(map[int32]float64) // by link, as hosts tell
	whole := make(map[int32]bool)   // devices at fault themselves
	for _, f := range e.faults {
		switch {
		case f.weak:
		case f.at.Kind == Link:
			lost[f.at.ID] = e.lostAt(f)
		case f.at.Kind == Device:
			whole[f.at.ID] = true
		}
	}
	told := make(map[int32]*[2]map[int32]float64) // by device, side and link
	for _, r := range e.order {
		if r.about.Kind != Link || whole[r.device] {
			continue
		}
		sides := told[r.device]
		if sides == nil {
			sides = &[2]map[int32]float64{}
			told[r.device] = sides
		}
		if sides[r.side] == nil {
			sides[r.side] = make(map[int32]float64)
		}
		sides[r.side][r.about.ID] += r.count
	}
	for d := range e.lies {
		odds := math.Log(e.errs/2) - math.Log1p(-e.errs)
		if sides := told[int32(d)]; sides != nil {
			for s, counts := range sides {
				if counts != nil {
					odds += e.scatter(e.ports(&report{device: int32(d), side: side(s)}), counts, lost)
				}
			}
		}
		e.lies[d] = 1 / (1 + math.Exp(-odds))
	}
	for _, r := range e.order {
		if r.at == r.about {
			e.trust(r)
		}
	}
}

// scatter is the log of how likely hosts lost what they lost at a device's ports
// if its counts are of any other ports, over that if they are of those it says.
func (e *engine) scatter(ports []int32, counts, lost map[int32]float64) (nats float64) {
	if len(ports) < 2 {
		return 0
	}
	fits := func(l int32, count float64) float64 {
		mean := strayLosses + count*e.reach(Component{Link, l})*sees
		// Its losses are scattered more than a Poisson number's: hosts count flows.
		return math.Max(strayCost, logPoisson(math.Round(lost[l]), mean)/(1+0.02*mean))
	}
	reported := slices.Sorted(maps.Keys(counts)) // in order, that sums repeat to the last bit
	for _, l := range ports {
		if e.packets[l] == 0 || counts[l] == 0 && lost[l] < 1 {
			continue // nothing there to compare
		}
		others := math.Log(float64(len(ports)-1-len(counts))+1) + fits(l, 0)
		n := float64(len(ports)-1-len(counts)) + 1
		for _, m := range reported {
			if m != l {
				others = addLogs(others, fits(l, counts[m]))
				n++
			}
		}
		nats += others - math.Log(n) - fits(l, counts[l])
	}
	return nats
}
