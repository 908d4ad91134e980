package blame

// traffic is the loss-free packets, spread over the links.
type traffic struct {
	packets []float64 // by link
	sources []bool    // hosts heard from
	assumed bool      // nothing was counted: even traffic stands in
}

// condense counts loss-free flows and tallies of this network into one tally.
func condense(n *Network, flows []Flow, others ...*Tally) *Tally {
	t := NewTally(n)
	m := newRowMaker(n)
	for i := range flows {
		f := &flows[i]
		packets := sane(f.Packets)
		switch {
		case packets == 0:
		case len(f.Path) == 0 && len(f.Candidates) == 0:
			t.Add(f.Src, f.Dst, packets)
		default:
			t.total += packets
			m.cross(f, func(l int32, w float64) { t.addOn(l, packets*w) })
		}
	}
	for _, o := range others {
		if o != nil && o.n == n {
			t.merge(o)
		}
	}
	return t
}

// traffic gives the packets per link.
func (t *Tally) traffic() traffic {
	n := t.n
	out := traffic{packets: make([]float64, n.Links()), sources: make([]bool, len(n.hosts)), assumed: t.total <= 0}
	s := n.newSpreader()
	if out.assumed {
		n.assume(s, out.packets)
		return out
	}
	t.spread(s, out.packets)
	for h := range n.hosts {
		out.sources[h] = out.packets[n.Up(int32(h))] > 0
	}
	return out
}

// packetsAssumed per host stand in where no loss-free packet was counted: 007's
// set-up. Only their distribution matters, not their number.
const packetsAssumed = 3000

// assume spreads even traffic, for want of counts.
func (n *Network) assume(s *spreader, packets []float64) {
	all := float64(n.Hosts())
	if all < 2 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for h := range n.tor {
		packets[n.Up(int32(h))] += packetsAssumed
		packets[n.Down(int32(h))] += packetsAssumed
	}
	for dst, there := range n.torHosts {
		if there == 0 {
			continue
		}
		hops := n.hopsTo(int32(dst))
		for src, here := range n.torHosts {
			if src != dst {
				s.add(int32(src), int32(dst), hops, packetsAssumed*float64(here)*float64(there)/(all-1))
			}
		}
		s.push(int32(dst), hops, func(l int32, amount float64) { packets[l] += amount })
	}
}
