package replay

import "slices"

// Blamed is a component that an engine names, and those it cannot tell it from: one
// entry for a whole equivalence class.
type Blamed struct {
	Component  Component
	Equivalent []Component
}

// Score is how right an engine was, as counts, so that scores add up over epochs.
type Score struct {
	Blamed int // entries named
	Right  int // of these, at fault
	Faulty int // components at fault
	// Flows lost packets on a component at fault; Known of them have the right cause
	// named.
	Flows, Known int
}

// Precision is the share of what was named that was at fault; 1 when nothing was.
func (s Score) Precision() float64 { return share(s.Right, s.Blamed) }

// Recall is the share of what was at fault that was named; 1 when nothing was at
// fault.
func (s Score) Recall() float64 { return share(s.Right, s.Faulty) }

// FlowAccuracy is the share of flows with the right cause; 1 without any.
func (s Score) FlowAccuracy() float64 { return share(s.Known, s.Flows) }

func share(part, all int) float64 {
	if all == 0 {
		return 1
	}
	return float64(part) / float64(all)
}

// Add gives both scores as one.
func (s Score) Add(o Score) Score {
	return Score{s.Blamed + o.Blamed, s.Right + o.Right, s.Faulty + o.Faulty, s.Flows + o.Flows, s.Known + o.Known}
}

// Score holds what an engine named against the epoch's truth. cause gives the
// component that it names for a flow, by index, false for none; it may be nil, then
// no flow counts. Without a truth all is zero, and ok false.
//
// An entry is right when it, or one that it cannot be told from, is at fault and no
// entry before has claimed it; each entry claims one. A link of a device at fault is
// not the device.
//
// A flow counts when it lost packets on a link at fault, or on one of a device or
// host at fault. Its cause is right when it is a link where the flow lost packets,
// or the device or host at fault on such a link.
func (e *Epoch) Score(t *Topology, blamed []Blamed, cause func(flow int) (Component, bool)) (s Score, ok bool) {
	truth := e.Truth
	if truth == nil {
		return Score{}, false
	}
	faulty := make(map[Component]bool, len(truth.Links)+len(truth.Devices)+len(truth.Hosts))
	for _, l := range truth.Links {
		faulty[LinkComponent(l)] = true
	}
	for _, n := range slices.Concat(truth.Devices, truth.Hosts) {
		faulty[t.NodeComponent(n)] = true
	}
	s.Faulty = len(faulty)
	claimed := make(map[Component]bool)
	// Entries that name one component claim first: a class must not take theirs.
	for _, classes := range []bool{false, true} {
		for _, b := range blamed {
			if classes != (len(b.Equivalent) > 0) {
				continue
			}
			s.Blamed++
			for _, c := range append([]Component{b.Component}, b.Equivalent...) {
				if faulty[c] && !claimed[c] {
					claimed[c] = true
					s.Right++
					break
				}
			}
		}
	}
	if cause == nil {
		return s, true
	}
	byFlow := slices.SortedStableFunc(slices.Values(truth.Causes), func(a, b Cause) int { return int(a.Flow) - int(b.Flow) })
	for i := 0; i < len(byFlow); {
		j := i
		counts, right := false, false
		named, isNamed := cause(int(byFlow[i].Flow))
		for ; j < len(byFlow) && byFlow[j].Flow == byFlow[i].Flow; j++ {
			l := byFlow[j].Link
			from, to := t.NodeComponent(t.from[l]), t.NodeComponent(t.to[l])
			counts = counts || faulty[LinkComponent(l)] || faulty[from] || faulty[to]
			right = right || isNamed && (named == LinkComponent(l) || faulty[named] && (named == from || named == to))
		}
		if counts {
			s.Flows++
			if right {
				s.Known++
			}
		}
		i = j
	}
	return s, true
}
