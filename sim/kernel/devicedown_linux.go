package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"decaf/topology"
)

// deviceDown takes all links of a device down, as its end of power does. Its
// neighbours lose the carrier; they go on sending over their routes, and the packets
// end at their ports to the device: there they say no-buffer (QDISC_DROP: without a
// carrier the port has no queue), and so does a host. The device itself gets nothing
// and says nothing.
//
// Counted is what neighbours send towards the device, in their packet filters'
// postrouting: what is on its way as the links go and come may be counted or not.
type deviceDown struct {
	space      *space
	links      []*topology.Link // the device's
	own        []netip.Prefix   // its addresses
	index      map[string]int   // its interfaces
	routes     []netlink.Route  // gone with the links
	neighbours []netlink.Neigh  // the same
	far        []farEnd
}

// farEnd is a neighbour's interface to the device.
type farEnd struct {
	space  *space
	index  int
	filter *filter
	before uint64 // packets when the link had gone down
}

func (f *Fabric) deviceDown(g *target) (_ effect, err error) {
	n, err := f.node(g.device)
	if err != nil {
		return nil, err
	}
	e := &deviceDown{space: n.space, links: f.topology.LinksFrom(g.device), own: f.own(g.device), index: n.index}
	routes, err := n.space.routes()
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		if overNeighbour(r) {
			e.routes = append(e.routes, r)
		}
	}
	for _, l := range e.links {
		list, err := n.space.rt.NeighList(n.index[l.From.Name], netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("list neighbours: %w", err)
		}
		for _, x := range list {
			if x.State == netlink.NUD_PERMANENT {
				e.neighbours = append(e.neighbours, x)
			}
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.undo())
		}
	}()
	for _, l := range e.links {
		far, err := f.node(l.To.Node)
		if err != nil {
			return nil, err
		}
		x := farEnd{space: far.space, index: far.index[l.To.Name]}
		x.filter, err = newFilter(far.space, nftables.ChainHookPostrouting, nftables.ChainPriorityLast, [][]expr.Any{{
			&expr.Meta{Key: expr.MetaKeyOIF, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(uint32(x.index))},
			count,
		}})
		if err != nil {
			return nil, err
		}
		e.far = append(e.far, x)
	}
	for _, l := range e.links {
		if err := n.space.rt.LinkSetDown(e.link(l)); err != nil {
			return nil, fmt.Errorf("take %s down: %w", l.From, err)
		}
	}
	for i := range e.far {
		x := &e.far[i]
		if err := x.space.await(false, x.index); err != nil {
			return nil, err
		}
		if x.before, err = x.filter.packets(); err != nil {
			return nil, err
		}
	}
	return e, nil
}

func (e *deviceDown) link(l *topology.Link) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: e.index[l.From.Name]}}
}

func (e *deviceDown) read(t *Truth) error {
	var errs []error
	t.Packets = 0
	for _, x := range e.far {
		n, err := x.filter.packets()
		errs = append(errs, err)
		if n > x.before {
			t.Packets += n - x.before
		}
	}
	return errors.Join(errs...)
}

func (e *deviceDown) undo() error {
	var errs []error
	for _, x := range e.far {
		errs = append(errs, x.filter.remove())
	}
	for _, l := range e.links {
		if err := e.space.rt.LinkSetUp(e.link(l)); err != nil {
			errs = append(errs, fmt.Errorf("bring %s up: %w", l.From, err))
		}
	}
	for _, x := range e.neighbours {
		if err := e.space.rt.NeighSet(&x); err != nil {
			errs = append(errs, fmt.Errorf("put neighbour %s back: %w", x.IP, err))
		}
	}
	errs = append(errs, e.space.restore(e.routes))
	for _, x := range e.far {
		errs = append(errs, x.space.await(true, x.index))
	}
	var own []int
	for _, l := range e.links {
		own = append(own, e.index[l.From.Name])
	}
	errs = append(errs, e.space.await(true, own...), e.space.awaitOwn(e.own))
	return errors.Join(errs...)
}
