package device

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"decaf/api/decafpb"
)

func hops(index uint32, addrs ...string) []nextHop {
	var out []nextHop
	for _, a := range addrs {
		out = append(out, nextHop{addr: netip.MustParseAddr(a), index: index})
	}
	return out
}

func routeTo(prefix string, metric uint32, h []nextHop) routeMessage {
	return routeMessage{routeKey: routeKey{table: 254, prefix: netip.MustParsePrefix(prefix)}, route: route{metric: metric, hops: h}}
}

func deleted(m routeMessage) routeMessage { m.deleted = true; return m }

func TestRouteTable(t *testing.T) {
	a, b, ab := hops(2, "10.0.0.1"), hops(2, "10.0.0.2"), hops(2, "10.0.0.1", "10.0.0.2")
	const p, p6 = "10.1.0.0/16", "fd00:1::/64"
	appended := routeTo(p6, 1, hops(2, "fd00::2"))
	appended.appends = true
	type step struct {
		m         routeMessage
		changed   bool
		before    []nextHop
		after     []nextHop
		withdrawn bool
	}
	for name, steps := range map[string][]step{
		"comes, changes, goes": {
			{m: routeTo(p, 0, a), changed: true, after: a},
			{m: routeTo(p, 0, a)},
			{m: routeTo(p, 0, b), changed: true, before: a, after: b},
			{m: deleted(routeTo(p, 0, b)), changed: true, before: b, withdrawn: true},
			{m: deleted(routeTo(p, 0, b)), withdrawn: true},
		},
		"the order of next hops says nothing": {
			{m: routeTo(p, 0, ab), changed: true, after: ab},
			{m: routeTo(p, 0, []nextHop{ab[1], ab[0]})},
		},
		"a second route stands by": {
			{m: routeTo(p, 10, a), changed: true, after: a},
			{m: routeTo(p, 20, b)},
			{m: deleted(routeTo(p, 10, a)), changed: true, before: a, after: b},
			{m: routeTo(p, 10, a), changed: true, before: b, after: a},
			{m: deleted(routeTo(p, 20, b))},
		},
		"one of several next hops goes, and returns": {
			{m: routeTo(p6, 1, hops(2, "fd00::1", "fd00::2")), changed: true, after: hops(2, "fd00::1", "fd00::2")},
			{m: deleted(routeTo(p6, 1, hops(2, "fd00::2"))), changed: true, before: hops(2, "fd00::1", "fd00::2"), after: hops(2, "fd00::1")},
			{m: appended, changed: true, before: hops(2, "fd00::1"), after: hops(2, "fd00::1", "fd00::2")},
		},
		"into a null route": {
			{m: routeTo(p, 0, a), changed: true, after: a},
			{m: routeTo(p, 0, nil), changed: true, before: a},
			{m: deleted(routeTo(p, 0, nil)), changed: true, withdrawn: true},
		},
	} {
		table := newRouteTable(10)
		for i, s := range steps {
			c, changed := table.apply(s.m)
			if changed != s.changed || changed && (!slices.Equal(c.before, s.before) || !slices.Equal(c.after, s.after)) || c.withdrawn != s.withdrawn {
				t.Errorf("%s: step %d: %v %+v, want %+v", name, i, changed, c, s)
			}
		}
	}
}

// A list of all routes tells what went while nobody told.
func TestRouteTableReplaced(t *testing.T) {
	a, b := hops(2, "10.0.0.1"), hops(3, "10.0.0.2")
	table := newRouteTable(10)
	for _, m := range []routeMessage{routeTo("10.1.0.0/16", 0, a), routeTo("10.2.0.0/16", 0, a), routeTo("10.3.0.0/16", 0, a)} {
		table.apply(m)
	}
	got := table.replace([]routeMessage{routeTo("10.1.0.0/16", 0, a), routeTo("10.2.0.0/16", 0, b), routeTo("10.4.0.0/16", 0, b)})
	if len(got) != 3 ||
		got[0].prefix.String() != "10.2.0.0/16" || !slices.Equal(got[0].before, a) || !slices.Equal(got[0].after, b) ||
		got[1].prefix.String() != "10.3.0.0/16" || !got[1].withdrawn || !slices.Equal(got[1].before, a) ||
		got[2].prefix.String() != "10.4.0.0/16" || got[2].withdrawn || got[2].before != nil {
		t.Errorf("%+v", got)
	}
	if got := table.over()[3]; !slices.Equal(got.list, prefixList("10.2.0.0/16", "10.4.0.0/16")) {
		t.Errorf("over 3: %v", got)
	}
	if again := table.replace([]routeMessage{routeTo("10.1.0.0/16", 0, a), routeTo("10.2.0.0/16", 0, b), routeTo("10.4.0.0/16", 0, b)}); again != nil {
		t.Errorf("the same again: %+v", again)
	}
}

func TestRouteTableIsBounded(t *testing.T) {
	table := newRouteTable(2)
	for _, p := range []string{"10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"} {
		table.apply(routeTo(p, 0, hops(2, "10.0.0.1")))
	}
	if len(table.routes) != 2 || table.leftOut != 1 {
		t.Errorf("%d routes, %d left out", len(table.routes), table.leftOut)
	}
	if c, changed := table.apply(deleted(routeTo("10.3.0.0/16", 0, hops(2, "10.0.0.1")))); changed {
		t.Errorf("the end of one that is not known: %+v", c)
	}
}

func TestRouteEvent(t *testing.T) {
	name := func(i uint32) string { return map[uint32]string{2: "eth1"}[i] }
	c := routeChange{routeKey: routeKey{prefix: netip.MustParsePrefix("10.1.0.0/16")}, before: hops(2, "10.0.0.1"), withdrawn: true}
	ev := c.event(time.Unix(0, 7), name)
	if ev.TimeNs != 7 || ev.Change != decafpb.RouteChange_ROUTE_CHANGE_WITHDRAWN || ev.Interface != "eth1" || len(ev.OldNextHops) != 1 || ev.NewNextHops != nil || ev.Prefix.Length != 16 {
		t.Errorf("%v", ev)
	}
	// Connected: no address, but an interface.
	c = routeChange{routeKey: c.routeKey, after: []nextHop{{index: 2}}}
	if ev = c.event(time.Unix(0, 7), name); ev.Change != decafpb.RouteChange_ROUTE_CHANGE_CHANGED || ev.Interface != "eth1" || ev.NewNextHops != nil {
		t.Errorf("%v", ev)
	}
}

func TestNeighbours(t *testing.T) {
	key := neighbourKey{2, netip.MustParseAddr("10.0.0.1")}
	told := func(state uint16, mac byte) neighbourMessage {
		return neighbourMessage{neighbourKey: key, state: state, mac: [6]byte{2, 0, 0, 0, 0, mac}}
	}
	gone := neighbourMessage{neighbourKey: key, deleted: true}
	const incomplete = 0x01
	for name, steps := range map[string][]struct {
		m                  neighbourMessage
		changed, withdrawn bool
	}{
		"never there":           {{told(incomplete, 0), false, false}, {told(nudFailed, 0), false, false}},
		"comes":                 {{told(incomplete, 0), false, false}, {told(nudReachable, 1), false, false}, {told(nudStale, 1), false, false}},
		"is lost, and back":     {{told(nudReachable, 1), false, false}, {told(nudFailed, 1), true, true}, {told(nudFailed, 1), false, false}, {gone, false, false}, {told(nudReachable, 1), true, false}},
		"is another machine":    {{told(nudReachable, 1), false, false}, {told(nudStale, 2), true, false}},
		"nobody needs it":       {{told(nudStale, 1), false, false}, {gone, false, false}, {told(nudReachable, 1), false, false}},
		"is asked for, is well": {{told(nudReachable, 1), false, false}, {told(nudProbe, 1), false, false}, {told(nudReachable, 1), false, false}},
	} {
		n := newNeighbours(2)
		for i, s := range steps {
			if c, changed := n.apply(s.m); changed != s.changed || changed && c.withdrawn != s.withdrawn {
				t.Errorf("%s: step %d: %v %+v", name, i, changed, c)
			}
		}
	}
	n := newNeighbours(1)
	n.apply(told(nudReachable, 1))
	other := told(nudReachable, 2)
	other.index = 3
	n.apply(other)
	if len(n.known) != 1 || n.leftOut != 1 {
		t.Errorf("%d known, %d left out", len(n.known), n.leftOut)
	}
	n.forget(2)
	if c, changed := n.apply(told(nudFailed, 1)); changed {
		t.Errorf("told of one on an interface that is gone: %+v", c)
	}
}

// BenchmarkRoutesOver is what it takes to know which prefixes are routed over each
// interface, of as many routes as are kept.
func BenchmarkRoutesOver(b *testing.B) {
	table := newRouteTable(maxRoutes)
	for i := range maxRoutes {
		a := netip.AddrFrom4([4]byte{byte(1 + i>>14), byte(i >> 6), byte(i << 2), 0})
		table.put(routeMessage{routeKey: routeKey{table: 254, prefix: netip.PrefixFrom(a, 22)}, route: route{hops: []nextHop{{index: uint32(1 + i%48)}}}})
	}
	b.ReportAllocs()
	for b.Loop() {
		table.over()
	}
}
