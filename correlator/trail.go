package correlator

import (
	"net/netip"
	"slices"

	"decaf/api/decafpb"
	"decaf/topology"
)

// maxTrails bounds the traces that are kept of one flow.
const maxTrails = 4

// trail is what one trace showed of who is alive.
type trail struct {
	at       int64    // ns, when it began
	answered []string // devices, by TTL
	last     string   // the device of the highest TTL that answered; "" none
	// stopped says that from there on nobody answered, as far as the path goes.
	stopped bool

	looked bool     // after is known
	after  []string // see next
}

// trailOf reads a trace; false for what is none of its own or says nothing.
func trailOf(t *topology.Topology, p *decafpb.Path) (trail, bool) {
	if p.GetStartNs() == 0 || len(p.GetHops()) == 0 {
		return trail{}, false
	}
	x := trail{at: int64(p.GetStartNs())}
	last := uint32(0)
	for _, h := range p.GetHops() {
		if h.GetStatus() != decafpb.HopStatus_HOP_STATUS_ANSWERED {
			continue
		}
		addr, ok := netip.AddrFromSlice(h.GetAddress())
		if !ok {
			continue
		}
		if i, ok := t.InterfaceAt(addr); ok {
			x.answered = append(x.answered, i.Node)
			if h.GetTtl() > last {
				last, x.last = h.GetTtl(), i.Node
			}
		}
	}
	x.stopped = last < p.GetDistance()
	return x, true
}

// stopped says whether any trace of the flow stopped on its way.
func (f *Flow) stopped() bool {
	for i := range f.trails {
		if f.trails[i].stopped {
			return true
		}
	}
	return false
}

// next lists the devices that a stopped trace may have stopped at: those that
// follow the last that answered on the ways from src to dst.
func (x *trail) next(p *pathSets, src, dst string) []string {
	if x.looked {
		return x.after
	}
	x.looked = true
	from := x.last
	if from == "" {
		from = src
	}
	for l := range p.from(src, dst) {
		if l.From.Node == from {
			if _, ok := p.topo.Device(l.To.Node); ok {
				x.after = append(x.after, l.To.Node)
			}
		}
	}
	slices.Sort(x.after)
	return x.after
}
