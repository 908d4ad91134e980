package device

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"decaf/api/decafpb"
)

// RoutesConfig makes the agent tell of changes of the device's routes and
// neighbours, and of those that change again and again.
type RoutesConfig struct {
	// Window is the time within which a prefix changes Changes times when it
	// flaps; 0 switches the source off.
	Window  time.Duration `yaml:"window"`
	Changes int           `yaml:"changes"`
}

// defaultRoutes takes the third withdrawal within a minute for a flap: what route
// flap damping has suppressed at by default (RFC 2439, section 4.2; a withdrawal
// and the route's return are two changes).
func defaultRoutes() RoutesConfig { return RoutesConfig{Window: time.Minute, Changes: 5} }

// maxFlapChanges bounds the times that are kept of one prefix.
const maxFlapChanges = 100

// Validate says what is wrong with the configuration and what to do about it.
func (c *RoutesConfig) Validate() error {
	switch {
	case c.Window == 0:
		return nil
	case c.Window < time.Second || c.Window > maxInterval:
		return fmt.Errorf("routes: window %s: give 0s (off), or a duration from 1s to %s", c.Window, maxInterval)
	case c.Changes < 2 || c.Changes > maxFlapChanges:
		return fmt.Errorf("routes: changes %d: give a number from 2 to %d, which within the window make a flap", c.Changes, maxFlapChanges)
	}
	return nil
}

// routeTeller is told of what changes, and of prefixes that flap.
type routeTeller interface {
	route(ev *decafpb.RouteEvent)
	anomaly(o observed)
}

// routeCounts is what came of routes and what was left out.
type routeCounts struct {
	changes, suppressed, flaps uint64 // events, those left out above routeRate, and those of flaps
	missed, lists              uint64 // times that the kernel had no room, and that all was listed
	malformed                  uint64
}

// nextHop is where packets to a prefix go.
type nextHop struct {
	addr  netip.Addr // invalid: the addresses are on the interface's own network
	index uint32     // of the interface
}

// route is one way to a prefix. Several differ in their metric; the lowest
// counts.
type route struct {
	metric  uint32
	hops    []nextHop // none: packets are discarded
	appends bool      // as told: a further next hop of a route there is
}

// routeKey names what routes lead to.
type routeKey struct {
	table  uint32
	prefix netip.Prefix
}

// routeMessage is what the kernel tells of one route.
type routeMessage struct {
	routeKey
	route
	deleted  bool
	replaces bool // as told: all next hops of the route there is
}

// routeChange is that packets to a prefix go another way than before.
type routeChange struct {
	routeKey
	before, after []nextHop
	withdrawn     bool // there is no way
}

// maxRoutes bounds the prefixes whose next hops are known: some 30 MB.
const maxRoutes = 1 << 17

// routeTable knows where packets to each prefix go. It does no I/O and is not
// safe for concurrent use.
type routeTable struct {
	most    int
	routes  map[routeKey][]route
	version uint64 // counts changes
	leftOut uint64 // routes beyond most
}

func newRouteTable(most int) *routeTable {
	return &routeTable{most: most, routes: map[routeKey][]route{}}
}

// best is the route that counts, nil for none.
func (t *routeTable) best(k routeKey) *route {
	var out *route
	for i, r := range t.routes[k] {
		if out == nil || r.metric < out.metric {
			out = &t.routes[k][i]
		}
	}
	return out
}

// apply takes in what the kernel tells; it reports false when packets go the same
// way as before.
func (t *routeTable) apply(m routeMessage) (routeChange, bool) {
	before := t.best(m.routeKey)
	was := before != nil
	var hops []nextHop
	if was {
		hops = slices.Clone(before.hops)
	}
	t.put(m)
	after := t.best(m.routeKey)
	c := routeChange{routeKey: m.routeKey, before: hops, withdrawn: after == nil}
	if after != nil {
		c.after = slices.Clone(after.hops)
	}
	if !was && after == nil {
		return c, false // of one that is not kept
	}
	return c, was != (after != nil) || !sameHops(c.before, c.after)
}

func (t *routeTable) put(m routeMessage) {
	t.version++
	list := t.routes[m.routeKey]
	i := slices.IndexFunc(list, func(r route) bool { return r.metric == m.metric })
	if m.deleted {
		if i < 0 {
			return
		}
		// IPv6 may withdraw a single next hop of several.
		left := slices.DeleteFunc(slices.Clone(list[i].hops), func(h nextHop) bool { return slices.Contains(m.hops, h) })
		if len(left) > 0 && len(left) < len(list[i].hops) {
			list[i].hops = left
			return
		}
		if list = slices.Delete(list, i, i+1); len(list) == 0 {
			delete(t.routes, m.routeKey)
			return
		}
		t.routes[m.routeKey] = list
		return
	}
	m.hops = sortedHops(m.hops)
	switch {
	case i >= 0 && m.appends && !m.replaces:
		list[i].hops = sortedHops(append(slices.Clone(list[i].hops), m.hops...))
	case i >= 0:
		list[i].hops = m.hops
	case len(list) == 0 && len(t.routes) >= t.most:
		t.leftOut++
		return
	default:
		list = append(list, route{metric: m.metric, hops: m.hops})
	}
	t.routes[m.routeKey] = list
}

// replace takes in all routes that there are, as listed, and returns what is
// different from before.
func (t *routeTable) replace(all []routeMessage) []routeChange {
	next := newRouteTable(t.most)
	next.leftOut = t.leftOut
	for _, m := range all {
		next.put(m)
	}
	var out []routeChange
	keys := map[routeKey]bool{}
	for k := range t.routes {
		keys[k] = true
	}
	for k := range next.routes {
		keys[k] = true
	}
	for k := range keys {
		before, after := t.best(k), next.best(k)
		c := routeChange{routeKey: k, withdrawn: after == nil}
		if before != nil {
			c.before = before.hops
		}
		if after != nil {
			c.after = after.hops
		}
		if (before == nil) != (after == nil) || !sameHops(c.before, c.after) {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b routeChange) int {
		return cmp.Or(cmp.Compare(a.table, b.table), comparePrefixes(a.prefix, b.prefix))
	})
	t.routes, t.leftOut = next.routes, next.leftOut
	t.version++
	return out
}

// over lists the prefixes routed over each interface, as few ranges that hold them
// all.
func (t *routeTable) over() map[uint32]ranges {
	lists := map[uint32][]netip.Prefix{}
	for k := range t.routes {
		for _, h := range t.best(k).hops {
			lists[h.index] = append(lists[h.index], k.prefix) // once for each next hop: they are joined
		}
	}
	out := make(map[uint32]ranges, len(lists))
	for index, list := range lists {
		out[index] = summarize(list, maxEventPrefixes)
	}
	return out
}

func sortedHops(hops []nextHop) []nextHop {
	hops = slices.Clone(hops)
	slices.SortFunc(hops, func(a, b nextHop) int {
		return cmp.Or(a.addr.Compare(b.addr), cmp.Compare(a.index, b.index))
	})
	return slices.Compact(hops)
}

func sameHops(a, b []nextHop) bool { return slices.Equal(a, b) }

// neighbourKey names a neighbour.
type neighbourKey struct {
	index uint32
	addr  netip.Addr
}

// States of a neighbour, of include/uapi/linux/neighbour.h.
const (
	nudReachable = 0x02
	nudStale     = 0x04
	nudDelay     = 0x08
	nudProbe     = 0x10
	nudFailed    = 0x20
	nudPermanent = 0x80
	nudUsable    = nudReachable | nudStale | nudDelay | nudProbe | nudPermanent
)

// neighbourMessage is what the kernel tells of one neighbour.
type neighbourMessage struct {
	neighbourKey
	state   uint16
	mac     [6]byte
	deleted bool
}

// neighbour is one that could be reached.
type neighbour struct {
	mac  [6]byte
	lost bool // since
}

// neighbourChange is that a neighbour cannot be reached any more, or can again, or
// is another machine than before.
type neighbourChange struct {
	neighbourKey
	withdrawn bool
}

// maxNeighbours bounds the neighbours that are known.
const maxNeighbours = 1 << 14

// neighbours knows the neighbours that could be reached. One that nobody needed
// any more, and the kernel forgot, is no loss; nor is one that never was. It does
// no I/O and is not safe for concurrent use.
type neighbours struct {
	most    int
	known   map[neighbourKey]neighbour
	leftOut uint64 // beyond most
}

func newNeighbours(most int) *neighbours {
	return &neighbours{most: most, known: map[neighbourKey]neighbour{}}
}

// apply takes in what the kernel tells.
func (n *neighbours) apply(m neighbourMessage) (neighbourChange, bool) {
	c := neighbourChange{neighbourKey: m.neighbourKey}
	was, known := n.known[m.neighbourKey]
	switch {
	case m.deleted:
		if !was.lost { // the return of one that was lost is still to be told
			delete(n.known, m.neighbourKey)
		}
		return c, false
	case m.state&nudFailed != 0:
		if !known || was.lost {
			return c, false
		}
		was.lost, c.withdrawn = true, true
		n.known[m.neighbourKey] = was
		return c, true
	case m.state&nudUsable == 0:
		return c, false
	case !known && len(n.known) >= n.most:
		n.leftOut++
		return c, false
	}
	n.known[m.neighbourKey] = neighbour{mac: m.mac}
	return c, known && (was.lost || was.mac != m.mac)
}

// forget forgets the neighbours on an interface that is gone, and those that were
// lost on it: none of them comes back.
func (n *neighbours) forget(index uint32) {
	maps.DeleteFunc(n.known, func(k neighbourKey, _ neighbour) bool { return k.index == index })
}

// event makes a route event of a change, without its origin.
func (c *routeChange) event(at time.Time, ifname func(uint32) string) *decafpb.RouteEvent {
	ev := &decafpb.RouteEvent{TimeNs: uint64(at.UnixNano()), Prefix: prefixPB(c.prefix), Change: decafpb.RouteChange_ROUTE_CHANGE_CHANGED}
	if c.withdrawn {
		ev.Change = decafpb.RouteChange_ROUTE_CHANGE_WITHDRAWN
	}
	ev.OldNextHops, ev.NewNextHops = addresses(c.before), addresses(c.after)
	ev.Interface = ifname(c.index())
	return ev
}

// index is of the interface that the change is about: the next hop's now, or
// before.
func (c *routeChange) index() uint32 {
	for _, list := range [][]nextHop{c.after, c.before} {
		if len(list) > 0 {
			return list[0].index
		}
	}
	return 0
}

// event makes a route event of a change, without its origin.
func (c *neighbourChange) event(at time.Time, ifname func(uint32) string) *decafpb.RouteEvent {
	ev := &decafpb.RouteEvent{
		TimeNs: uint64(at.UnixNano()), Prefix: prefixPB(netip.PrefixFrom(c.addr, c.addr.BitLen())),
		Change: decafpb.RouteChange_ROUTE_CHANGE_CHANGED, Interface: ifname(c.neighbourKey.index),
	}
	if c.withdrawn {
		ev.Change = decafpb.RouteChange_ROUTE_CHANGE_WITHDRAWN
	}
	return ev
}

// maxNextHops bounds the next hops that an event lists.
const maxNextHops = 128

func addresses(hops []nextHop) [][]byte {
	var out [][]byte
	for _, h := range hops[:min(len(hops), maxNextHops)] {
		if h.addr.IsValid() {
			out = append(out, h.addr.AsSlice())
		}
	}
	return out
}
