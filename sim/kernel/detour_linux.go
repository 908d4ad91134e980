package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// detour sends chosen packets by other routes than the device's own: a packet filter
// marks them as they arrive, and a routing rule leads the marked to a table of the
// fault's. The filter comes last and goes first, and what it has marked it has
// counted, so the fault begins and ends between two packets. Packets that the device
// sends itself are not marked.
type detour struct {
	space  *space
	filter *filter
	rules  []netlink.Rule
	routes []netlink.Route
}

// firstDetour is the lowest number of a detour, which is its mark, its rule's priority
// (behind that of the device's own addresses, 0, and before the main table's, 32766) and
// its table.
const firstDetour = 1000

// numbers finds n numbers in a row that no other detour of the device has. Faults begin
// one after the other, so they stay free until they are taken.
func (d *detour) numbers(n int) (first int, err error) {
	var rules []netlink.Rule
	for range 5 { // a listing during which something changed is taken again
		if rules, err = d.space.rt.RuleList(netlink.FAMILY_ALL); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return 0, fmt.Errorf("list routing rules: %w", err)
	}
	first = firstDetour
	for {
		i := slices.IndexFunc(rules, func(r netlink.Rule) bool { return r.Priority >= first && r.Priority < first+n })
		if i < 0 {
			return first, nil
		}
		first = rules[i].Priority + 1
	}
}

// route adds a route to a table of the detour's.
func (d *detour) route(r netlink.Route) error {
	if err := d.space.rt.RouteAdd(&r); err != nil {
		return fmt.Errorf("add a route to table %d: %w", r.Table, err)
	}
	d.routes = append(d.routes, r)
	return nil
}

// rule adds a routing rule for a version.
func (d *detour) rule(v version, change func(*netlink.Rule)) error {
	r := netlink.NewRule()
	r.Family = v.family()
	change(r)
	if err := d.space.rt.RuleAdd(r); err != nil {
		return fmt.Errorf("add routing rule %d: %w", r.Priority, err)
	}
	d.rules = append(d.rules, *r)
	return nil
}

// mark is what a rule does with packets that take the detour; those that another
// fault has marked are left to it.
func mark(number int) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make([]byte, 4)},
		count,
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(uint32(number))},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}
}

// begin lets the rules choose packets.
func (d *detour) begin(rules [][]expr.Any) (err error) {
	d.filter, err = newFilter(d.space, nftables.ChainHookPrerouting, nftables.ChainPriorityMangle, rules)
	return err
}

func (d *detour) read(t *Truth) (err error) {
	if d.filter != nil {
		t.Packets, err = d.filter.packets()
	}
	return err
}

func (d *detour) undo() error {
	var errs []error
	if d.filter != nil {
		errs = append(errs, d.filter.remove())
	}
	for _, r := range d.rules {
		if err := d.space.rt.RuleDel(&r); err != nil {
			errs = append(errs, fmt.Errorf("remove routing rule %d: %w", r.Priority, err))
		}
	}
	for _, r := range d.routes {
		if err := d.space.rt.RouteDel(&r); err != nil {
			errs = append(errs, fmt.Errorf("remove a route from table %d: %w", r.Table, err))
		}
	}
	return errors.Join(errs...)
}

// detour begins one on the fault's device. What build has made goes again when it
// fails.
func (f *Fabric) detour(g *target, build func(*detour, *node) error) (effect, error) {
	n, err := f.node(g.device)
	if err != nil {
		return nil, err
	}
	d := &detour{space: n.space}
	if err := build(d, n); err != nil {
		return nil, errors.Join(err, d.undo())
	}
	return d, nil
}

// blackhole routes packets to a route that discards them without a word. Devices say
// policy/l3/null-route; no counter of the kernel moves, so the filter counts.
func (f *Fabric) blackhole(g *target) (effect, error) {
	return f.detour(g, func(d *detour, n *node) error {
		number, err := d.numbers(1)
		if err != nil {
			return err
		}
		for _, v := range f.versions {
			if err := d.route(netlink.Route{Dst: ipNet(v.anywhere()), Type: unix.RTN_BLACKHOLE, Table: number}); err != nil {
				return err
			}
			if err := d.rule(v, func(r *netlink.Rule) { r.Priority, r.Table, r.Mark = number, number, uint32(number) }); err != nil {
				return err
			}
		}
		var rules [][]expr.Any
		for _, match := range matches(nil, g.towards, 0) {
			rules = append(rules, slices.Concat(match, g.chance(), mark(number)))
		}
		return d.begin(rules)
	})
}

// ttlLoop sends packets back to the neighbour they came from. That one's route leads
// to this device, and its choice among equal paths depends on the flow alone, so they
// go to and fro until their TTL ends. A host sends with TTL 64 and every turn takes 2,
// so where it ends depends on the distance: in a Clos at the T1, be that the device
// itself or its neighbour. There the device says errors/l3/rx/ttl-expired.
//
// Counted are packets on their last turn: those that have a TTL of 1 here, and those
// that have 2 and will end at the neighbour. A probe whose TTL was meant to end at the
// device is among them.
func (f *Fabric) ttlLoop(g *target) (effect, error) {
	return f.detour(g, func(d *detour, n *node) error {
		back := deviceLinks(f.topology, g.device)
		number, err := d.numbers(len(back))
		if err != nil {
			return err
		}
		var rules [][]expr.Any
		for i, l := range back {
			index := n.index[l.From.Name]
			for _, v := range f.versions {
				err := d.route(netlink.Route{Dst: ipNet(v.anywhere()), Gw: v.at(l.To).Addr().AsSlice(), LinkIndex: index, Table: number + i})
				if err != nil {
					return err
				}
				err = d.rule(v, func(r *netlink.Rule) { r.Priority, r.Table, r.Mark = number+i, number+i, uint32(number+i) })
				if err != nil {
					return err
				}
			}
			came := []expr.Any{
				&expr.Meta{Key: expr.MetaKeyIIF, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(uint32(index))},
			}
			for _, to := range g.towards {
				last := []expr.Any{
					ttl.load(versionOf(to.Addr()), 1),
					&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: []byte{2}},
					count,
				}
				all := slices.DeleteFunc(mark(number+i), func(e expr.Any) bool { return e == expr.Any(count) })
				for _, match := range matches(nil, []netip.Prefix{to}, 0) {
					rules = append(rules, slices.Concat(came, match, last), slices.Concat(came, match, all))
				}
			}
		}
		return d.begin(rules)
	})
}

// smallMTU is that of the mtu fault: full segments do not fit, all else does.
const smallMTU = 1400

// tooBig is type and code of the ICMP message that tells a sender of a smaller MTU:
// fragmentation needed, and packet too big. A routing rule finds them where other
// protocols have their destination port (union flowi_uli of include/net/flow.h).
var tooBig = map[version]struct{ protocol, message int }{
	ipv4: {unix.IPPROTO_ICMP, 3<<8 | 4},
	ipv6: {unix.IPPROTO_ICMPV6, 2 << 8},
}

// mtu gives routes a smaller MTU than the links have, and keeps the device from
// telling senders: with the message they would adapt, and nothing be lost after the
// first packet. Devices say errors/l3/rx/mtu-exceeded.
func (f *Fabric) mtu(g *target) (effect, error) {
	return f.detour(g, func(d *detour, n *node) error {
		number, err := d.numbers(2)
		if err != nil {
			return err
		}
		routes, err := n.space.routes()
		if err != nil {
			return err
		}
		for _, r := range routes {
			if r.LinkIndex == n.index[ManagementInterface] {
				continue
			}
			r.Table, r.MTU = number, smallMTU
			// Unlocked, IPv6 forwards by the link's MTU and finds out when it sends.
			r.MTULock = r.Family == unix.AF_INET6
			if err := d.route(r); err != nil {
				return err
			}
		}
		for _, v := range f.versions {
			err = d.rule(v, func(r *netlink.Rule) { r.Priority, r.Table, r.Mark = number, number, uint32(number) })
			if err != nil {
				return err
			}
			err = d.rule(v, func(r *netlink.Rule) {
				r.Priority, r.Type, r.IifName = number+1, unix.RTN_BLACKHOLE, "lo" // that is: sent by the device itself
				r.IPProto, r.Dport = tooBig[v].protocol, netlink.NewRulePortRange(uint16(tooBig[v].message), uint16(tooBig[v].message))
			})
			if err != nil {
				return err
			}
		}
		var rules [][]expr.Any
		for _, v := range f.versions {
			src, some := v.only(g.src)
			towards, any := v.only(g.towards)
			if !some || !any {
				continue
			}
			for _, match := range matches(src, towards, g.port) {
				rules = append(rules, slices.Concat(match, big(v), g.chance(), mark(number)))
			}
		}
		return d.begin(rules)
	})
}

// big goes on with packets that do not fit smallMTU and may not be taken apart. Those
// whose TTL ends here are gone before their size is looked at.
func big(v version) []expr.Any {
	longest := uint16(smallMTU)
	var whole []expr.Any
	if v == ipv4 {
		whole = []expr.Any{ // don't fragment
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 6, Len: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{0x40}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0}},
		}
	} else {
		longest -= 40 // its length is without the header
	}
	return slices.Concat([]expr.Any{
		lengthField.load(v, 1),
		&expr.Cmp{Op: expr.CmpOpGt, Register: 1, Data: binaryutil.BigEndian.PutUint16(longest)},
	}, whole, []expr.Any{
		ttl.load(v, 1),
		&expr.Cmp{Op: expr.CmpOpGt, Register: 1, Data: []byte{1}},
	})
}
