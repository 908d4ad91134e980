package kernel

import (
	"errors"
	"slices"

	"decaf/topology"
)

// wires is a fault of several links at once.
type wires []*wire

// deviceLoss drops packets of all links of a device, both ways, and nobody sees it.
func (f *Fabric) deviceLoss(g *target) (effect, error) {
	var all []*topology.Link
	for _, l := range f.topology.LinksFrom(g.device) {
		all = append(all, l, f.topology.Reverse(l))
	}
	return f.wires(g, all, harm{})
}

// synBlackhole drops what asks for a TCP connection as the device gets it, and nobody
// sees it: new connections through the device never come about, those that are there
// go on.
func (f *Fabric) synBlackhole(g *target) (effect, error) {
	var into []*topology.Link
	for _, l := range f.topology.LinksFrom(g.device) {
		into = append(into, f.topology.Reverse(l))
	}
	return f.wires(g, into, harm{syn: true})
}

func (f *Fabric) wires(g *target, links []*topology.Link, h harm) (effect, error) {
	var e wires
	for _, l := range links {
		w, err := f.wire(g, l, h)
		if err != nil {
			return nil, errors.Join(err, e.undo())
		}
		e = append(e, w)
	}
	return e, nil
}

func (e wires) read(t *Truth) error {
	var all Truth
	var errs []error
	for _, w := range e {
		var one Truth
		errs = append(errs, w.read(&one))
		all.Packets += one.Packets
		all.Seen += one.Seen
		all.LeftOut += one.LeftOut
		all.Drops = append(all.Drops, one.Drops...)
	}
	slices.SortStableFunc(all.Drops, func(a, b Drop) int { return a.Time.Compare(b.Time) })
	if more := len(all.Drops) - maxDrops; more > 0 {
		all.Drops = all.Drops[:maxDrops]
		all.LeftOut += uint64(more)
	}
	t.Packets, t.Seen, t.Drops, t.LeftOut = all.Packets, all.Seen, all.Drops, all.LeftOut
	return errors.Join(errs...)
}

func (e wires) undo() error {
	var errs []error
	for _, w := range e {
		errs = append(errs, w.undo())
	}
	return errors.Join(errs...)
}
