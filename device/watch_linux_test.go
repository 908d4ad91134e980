package device

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/api/yang"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// until polls.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	if !within(10*time.Second, done) {
		t.Fatalf("never: %s", what)
	}
}

// within polls, and reports whether it is done in time.
func within(limit time.Duration, done func() bool) bool {
	deadline := time.After(limit)
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for !done() {
		select {
		case <-again.C:
		case <-deadline:
			return false
		}
	}
	return true
}

// pair adds an interface that goes nowhere but to another.
func (n *node) pair(name string, index int) {
	n.t.Helper()
	n.must("add "+name, n.nl.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, Index: index}, PeerName: name + "p"}))
}

// tapThatDrops adds a tap interface and returns what makes it drop a frame before
// the kernel has made a packet of it, as hardware does: only its counter tells.
func (n *node) tapThatDrops(name string) (drop func()) {
	n.t.Helper()
	tap := -1
	n.must("tap", n.do(func() (err error) {
		if tap, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return err
		}
		req, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		return unix.IoctlIfreq(tap, unix.TUNSETIFF, req)
	}))
	n.t.Cleanup(func() { unix.Close(tap) })
	n.up(name)
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R0, 1), asm.Return(), // XDP_DROP
	}})
	n.must("XDP program", err)
	n.t.Cleanup(func() { program.Close() })
	n.must("XDP", n.do(func() error {
		return netlink.LinkSetXdpFdWithFlags(n.link(name), program.FD(), unix.XDP_FLAGS_DRV_MODE)
	}))
	return func() {
		n.t.Helper()
		if _, err := unix.Write(tap, make([]byte, 60)); err != nil {
			n.t.Errorf("write to the tap: %v", err)
		}
	}
}

// A loss that only the interface counts is an event without a packet, with the
// prefixes routed over the interface, and in the aggregates; what the kernel told
// of is not told of again.
func TestCountersTellOfWhatShowsNoPacket(t *testing.T) {
	l := newLab(t)
	drop := l.r.tapThatDrops("tap0")
	l.r.address("tap0", "10.0.3.1/24")
	l.r.neighbourSet("tap0", "10.0.3.2")
	l.r.route("10.7.0.0/25", "10.0.3.2", unix.RTN_UNICAST)
	l.r.route("10.7.0.128/25", "10.0.3.2", unix.RTN_UNICAST)
	cfg := testConfig()
	cfg.Counters.Interval = minInterval
	a := startAgent(t, l.r, cfg)
	c := dial(t, l.r, a, nil)
	events := watch(t, c)
	const frames = 7
	for range frames {
		drop()
	}
	var packets uint64
	var ev seen
	deadline := time.After(5 * time.Second)
	for packets < frames {
		select {
		case ev = <-events:
		case <-deadline:
			t.Fatalf("%d of %d frames in the counters: %v", packets, frames, a.Interfaces())
		}
		if ev.Source != "counters" {
			t.Errorf("event of another source: %v", ev)
			continue
		}
		packets = classPackets(a, Unknown)
	}
	if ev.Class != Unknown || ev.Reason != "rx_dropped" || ev.Ingress != "tap0" || ev.Egress != "" || ev.Packet != nil {
		t.Errorf("%v", ev)
	}
	var got []string
	for _, p := range ev.Prefixes {
		a, _ := netip.AddrFromSlice(p.Address)
		got = append(got, netip.PrefixFrom(a, int(p.Length)).String())
	}
	if want := []string{"10.0.3.0/24", "10.7.0.0/24"}; !slices.Equal(got, want) {
		t.Errorf("prefixes %v, want %v", got, want)
	}
	if packets != frames {
		t.Errorf("%d packets, want %d", packets, frames)
	}
	// The event says how many prefixes those stand for.
	r, err := c.Get(t.Context(), &gnmipb.GetRequest{Encoding: gnmipb.Encoding_PROTO, Path: []*gnmipb.Path{{Elem: []*gnmipb.PathElem{
		{Name: "loss"}, {Name: "events"}, {Name: "event", Key: map[string]string{"slot": strconv.FormatUint(ev.Origin.Seq%uint64(cfg.Ring), 10)}}, {Name: "state"}, {Name: "prefixes-routed"},
	}}}})
	if err != nil || r.GetNotification()[0].GetUpdate()[0].GetVal().GetUintVal() != 3 {
		t.Errorf("prefixes routed: %v, %v", r, err)
	}
	i := slices.IndexFunc(a.Interfaces(), func(c InterfaceCounters) bool { return c.Name == "tap0" })
	if i < 0 || a.Interfaces()[i].InDiscards != frames {
		t.Errorf("tap0 in %v", a.Interfaces())
	}
}

// More prefixes than an event lists are in wider ones, and it says so.
func TestEventOfManyPrefixes(t *testing.T) {
	var routed []netip.Prefix
	for i := range 300 {
		routed = append(routed, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 7), byte(i << 1), 0}), 24)) // every other one
	}
	x := rise{class: ErrorsL2RxCRC, reason: "rx_crc_errors", name: "eth1", ingress: true, packets: 5, at: time.Unix(1, 0)}
	o := x.event(func(uint32) ranges { return summarize(routed, maxEventPrefixes) })
	if n := len(o.event.Prefixes); n > maxEventPrefixes || o.routed != 300 || !o.widened {
		t.Errorf("%d prefixes for %d, widened: %v", n, o.routed, o.widened)
	}
	n := yang.MarkedEventUpdates(o.event, 1, 2, yang.Mark{PrefixesRouted: uint64(o.routed), PrefixesWidened: o.widened})
	told := map[string]*gnmipb.TypedValue{}
	for _, u := range n.Update {
		told[u.Path.Elem[0].Name] = u.Val
	}
	if told["prefixes-routed"].GetUintVal() != 300 || !told["prefix-widened"].GetBoolVal() || len(told["prefix"].GetLeaflistVal().GetElement()) != len(o.event.Prefixes) {
		t.Errorf("told: %v", told)
	}
}

func classPackets(a *Agent, class string) uint64 {
	for _, c := range a.ledger.totals().classes {
		if c.Name == class {
			return c.Packets
		}
	}
	return 0
}

// neighbourSet makes an address reachable, by a machine that there is none of.
func (n *node) neighbourSet(ifname string, address string) {
	n.t.Helper()
	n.must("neighbour "+address, n.nl.NeighSet(&netlink.Neigh{
		LinkIndex: n.link(ifname).Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: net.ParseIP(address), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9},
	}))
}

// Without the kernel's word the counters are all there is: queue drops and those
// of routes' interfaces come from them.
func TestCountersAlone(t *testing.T) {
	l := newLab(t)
	index := l.r.link("eth2").Attrs().Index
	l.r.must("queue", l.r.nl.QdiscAdd(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       8000, Limit: 3000, Buffer: netlink.Xmittime(8000, 1600), // bytes a second, bytes
	}))
	cfg := testConfig()
	cfg.Kernel, cfg.Counters.Interval = false, minInterval
	a := startAgent(t, l.r, cfg)
	events := watch(t, dial(t, l.r, a, nil))
	for i := range uint16(400) {
		l.sendTo("10.0.2.2:7001", 40000+i, 9)
	}
	ev := <-events
	for ev.Reason == "tx_dropped" { // on a busy machine the other end may have no room
		ev = <-events
	}
	if ev.Class != NoBuffer || ev.Reason != "tbf_drops" || ev.Egress != "eth2" || ev.Ingress != "" || len(ev.Prefixes) != 1+1 {
		t.Errorf("%v", ev)
	}
	if s := a.State(); s.EventSource != "counters+routes" {
		t.Errorf("%+v", s)
	}
	drops := func() (queue, all uint64) {
		list, err := l.r.nl.QdiscList(l.r.link("eth2"))
		l.r.must("queue", err)
		queue = uint64(list[0].Attrs().Statistics.Queue.Drops)
		return queue, queue + l.r.link("eth2").Attrs().Statistics.TxDropped
	}
	until(t, "as many as the queue counts", func() bool { _, all := drops(); return classPackets(a, NoBuffer) == all })
	c := a.Interfaces()
	i := slices.IndexFunc(c, func(c InterfaceCounters) bool { return c.Name == "eth2" })
	queue, all := drops()
	if i < 0 || c[i].OutDiscards != all || c[i].Queues[0].DroppedPkts != queue || len(c[i].Queues) != 1 || c[i].Queues[0].Name != "tbf-1:" {
		t.Errorf("%+v", c)
	}
}

// routeLog keeps what a routes source tells.
type routeLog struct {
	mu        sync.Mutex
	routes    []*decafpb.RouteEvent
	anomalies []*decafpb.DropEvent
}

func (k *routeLog) route(ev *decafpb.RouteEvent) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.routes = append(k.routes, ev)
}

func (k *routeLog) anomaly(o observed) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.anomalies = append(k.anomalies, o.event)
}

// words are the route events so far: "changed 10.1.0.0/16 eth1 [10.0.0.1] [10.0.0.2]".
func (k *routeLog) words() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []string
	for _, ev := range k.routes {
		a, _ := netip.AddrFromSlice(ev.Prefix.Address)
		hops := func(list [][]byte) string {
			var s []string
			for _, b := range list {
				a, _ := netip.AddrFromSlice(b)
				s = append(s, a.String())
			}
			return "[" + strings.Join(s, " ") + "]"
		}
		change := strings.ToLower(strings.TrimPrefix(ev.Change.String(), "ROUTE_CHANGE_"))
		out = append(out, strings.Join([]string{change, netip.PrefixFrom(a, int(ev.Prefix.Length)).String(), ev.Interface, hops(ev.OldNextHops), hops(ev.NewNextHops)}, " "))
	}
	return out
}

// watchRoutes runs a routes source in the node until the test ends.
func (n *node) watchRoutes(cfg RoutesConfig) (*routeSource, *routeLog) {
	n.t.Helper()
	var s *routeSource
	log := slog.New(slog.NewTextHandler(n.t.Output(), nil))
	var done func()
	n.must("routes", n.do(func() (err error) {
		name, closeNames, err := openNames(log)
		if err != nil {
			return err
		}
		done = closeNames
		s, err = openRoutes(cfg, name, log)
		return err
	}))
	k := &routeLog{}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.observe(ctx, k) }()
	n.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			n.t.Errorf("routes: %v", err)
		}
		s.close()
		done()
	})
	return s, k
}

// heard waits until the source has told of a change, and of all before it, by a
// change of a route that no test looks at.
func (n *node) heard(k *routeLog) {
	n.t.Helper()
	before := len(k.words())
	n.route("10.255.255.0/24", "", unix.RTN_BLACKHOLE)
	_, dst, _ := net.ParseCIDR("10.255.255.0/24")
	n.must("route", n.nl.RouteDel(&netlink.Route{Dst: dst, Type: unix.RTN_BLACKHOLE}))
	until(n.t, "the mark's end", func() bool {
		w := k.words()
		return len(w) > before && slices.Contains(w[before:], "withdrawn 10.255.255.0/24  [] []")
	})
	k.mu.Lock()
	defer k.mu.Unlock()
	k.routes = slices.DeleteFunc(k.routes, func(ev *decafpb.RouteEvent) bool { return ev.Prefix.Address[1] == 255 })
}

func (n *node) expect(k *routeLog, want ...string) {
	n.t.Helper()
	n.heard(k)
	got := k.words()
	k.mu.Lock()
	k.routes = nil
	k.mu.Unlock()
	if !slices.Equal(got, want) {
		n.t.Errorf("told:\n %s\nwant:\n %s", strings.Join(got, "\n "), strings.Join(want, "\n "))
	}
}

func TestRoutesAsTheyChange(t *testing.T) {
	l := newLab(t)
	l.r.route("10.9.0.0/16", "10.0.2.2", unix.RTN_UNICAST)
	s, k := l.r.watchRoutes(defaultRoutes())
	replace := func(dst, via string) {
		t.Helper()
		_, ipnet, err := net.ParseCIDR(dst)
		l.r.must(dst, err)
		l.r.must("replace "+dst, l.r.nl.RouteReplace(&netlink.Route{Dst: ipnet, Gw: net.ParseIP(via)}))
	}
	remove := func(dst string) {
		t.Helper()
		_, ipnet, err := net.ParseCIDR(dst)
		l.r.must(dst, err)
		l.r.must("remove "+dst, l.r.nl.RouteDel(&netlink.Route{Dst: ipnet}))
	}
	l.r.route("10.8.0.0/16", "10.0.1.2", unix.RTN_UNICAST)
	replace("10.8.0.0/16", "10.0.2.2")
	replace("10.9.0.0/16", "10.0.1.2")
	remove("10.8.0.0/16")
	l.r.route("fd08::/16", "fd00:1::2", unix.RTN_UNICAST)
	remove("fd08::/16")
	l.r.expect(k,
		"changed 10.8.0.0/16 eth1 [] [10.0.1.2]",
		"changed 10.8.0.0/16 eth2 [10.0.1.2] [10.0.2.2]",
		"changed 10.9.0.0/16 eth1 [10.0.2.2] [10.0.1.2]",
		"withdrawn 10.8.0.0/16 eth2 [10.0.2.2] []",
		"changed fd08::/16 eth1 [] [fd00:1::2]",
		"withdrawn fd08::/16 eth1 [fd00:1::2] []",
	)

	// An interface that goes down takes its IPv4 routes along and says nothing of
	// them.
	l.r.must("down", l.r.nl.LinkSetDown(l.r.link("eth1")))
	until(t, "the routes over eth1 are withdrawn", func() bool {
		w := k.words()
		return slices.Contains(w, "withdrawn 10.9.0.0/16 eth1 [10.0.1.2] []") && slices.Contains(w, "withdrawn 10.0.1.0/24 eth1 [] []")
	})
	l.r.up("eth1")
	until(t, "the network of eth1 is back", func() bool { return slices.Contains(k.words(), "changed 10.0.1.0/24 eth1 [] []") })
	if got := s.over(uint32(l.r.link("eth2").Attrs().Index)); !slices.Contains(got.list, netip.MustParsePrefix("10.0.2.0/24")) {
		t.Errorf("over eth2: %v", got)
	}
}

// What came while nobody could listen is found by listing again.
func TestRoutesMissed(t *testing.T) {
	l := newLab(t)
	s, k := l.r.watchRoutes(defaultRoutes())
	// No room at all: the kernel overflows the socket at once.
	s.mu.Lock() // nothing is read meanwhile
	l.r.must("small buffer", s.changes.control(func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1)
	}))
	for i := range 200 {
		l.r.must("route", l.r.nl.RouteAdd(&netlink.Route{
			Dst: &net.IPNet{IP: net.IPv4(10, 77, byte(i), 0).To4(), Mask: net.CIDRMask(24, 32)}, Gw: net.ParseIP("10.0.2.2"),
		}))
	}
	s.mu.Unlock()
	until(t, "all 200", func() bool {
		n := 0
		for _, w := range k.words() {
			if strings.HasPrefix(w, "changed 10.77.") && strings.HasSuffix(w, "eth2 [] [10.0.2.2]") {
				n++
			}
		}
		return n == 200
	})
	if c, _, _ := s.left(); c.missed == 0 || c.lists < 2 {
		t.Errorf("%+v", c)
	}
}

// A neighbour that answers no more is told of, and one that answers again.
func TestNeighbourIsLost(t *testing.T) {
	l := newLab(t)
	_, k := l.r.watchRoutes(defaultRoutes())
	n := &netlink.Neigh{LinkIndex: l.r.link("eth1").Attrs().Index, IP: net.ParseIP("10.0.1.77"), State: netlink.NUD_REACHABLE, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 7}}
	l.r.must("neighbour", l.r.nl.NeighSet(n))
	n.HardwareAddr[5] = 8
	l.r.must("another machine", l.r.nl.NeighSet(n))
	n.State = netlink.NUD_FAILED
	l.r.must("fails", l.r.nl.NeighSet(n))
	n.State = netlink.NUD_REACHABLE
	l.r.must("is back", l.r.nl.NeighSet(n))
	l.r.expect(k, "changed 10.0.1.77/32 eth1 [] []", "withdrawn 10.0.1.77/32 eth1 [] []", "changed 10.0.1.77/32 eth1 [] []")
}

// A prefix that changes again and again is an anomaly among the drops that a gNMI
// client sees, and a route event each; it counts no packets.
func TestRouteFlapReachesTheClient(t *testing.T) {
	l := newLab(t)
	cfg := testConfig()
	cfg.Routes = RoutesConfig{Window: time.Minute, Changes: 4}
	a := startAgent(t, l.r, cfg)
	c := dial(t, l.r, a, nil)
	events := watch(t, c)
	_, dst, _ := net.ParseCIDR("10.9.0.0/16")
	r := &netlink.Route{Dst: dst, Gw: net.ParseIP("10.0.2.2")}
	for range 2 {
		l.r.must("add", l.r.nl.RouteAdd(r))
		l.r.must("remove", l.r.nl.RouteDel(r))
	}
	select {
	case ev := <-events:
		if ev.Class != AnomalyRouteFlap || ev.Source != "routes" || ev.Packet != nil || len(ev.Prefixes) != 1 || ev.Egress != "eth2" {
			t.Errorf("%v", ev)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("no event")
	}
	if n := classPackets(a, AnomalyRouteFlap); n != 0 {
		t.Errorf("%d packets lost of a route that flaps", n)
	}
	routes := getRoutes(t, c)
	want := []decafpb.RouteChange{2, 1, 2, 1, 3}
	if len(routes) != len(want) {
		t.Fatalf("%d route events: %v", len(routes), routes)
	}
	for i, ev := range routes {
		if ev.Change != want[i] || ev.Interface != "eth2" || ev.Origin.Seq != uint64(i+1) {
			t.Errorf("%d: %v", i, ev)
		}
	}
	if routes[4].Changes != 4 {
		t.Errorf("%v", routes[4])
	}
}

// getRoutes reads the route events a device keeps.
func getRoutes(t *testing.T, c gnmipb.GNMIClient) []*decafpb.RouteEvent {
	t.Helper()
	stream, err := c.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&gnmipb.SubscribeRequest{Request: &gnmipb.SubscribeRequest_Subscribe{Subscribe: &gnmipb.SubscriptionList{
		Encoding: gnmipb.Encoding_PROTO, Mode: gnmipb.SubscriptionList_ONCE,
		Subscription: []*gnmipb.Subscription{{Path: &gnmipb.Path{Elem: []*gnmipb.PathElem{{Name: "loss"}, {Name: "routes"}}}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	var out []*decafpb.RouteEvent
	for {
		m, err := stream.Recv()
		if err != nil || m.GetSyncResponse() {
			return out
		}
		ev, is, err := yang.DecodeRoute(m.GetUpdate())
		if err != nil || !is {
			t.Fatalf("%v: %v", err, m)
		}
		out = append(out, ev)
	}
}

// interfaces opens the names of a node's interfaces.
func (n *node) interfaces(t *testing.T) (names *interfaces) {
	t.Helper()
	n.must("names", n.do(func() (err error) {
		names, err = openInterfaces(slog.New(slog.NewTextHandler(t.Output(), nil)))
		return err
	}))
	t.Cleanup(names.close)
	return names
}

// An interface that is renamed has its new name at once, one that is gone its last,
// and an index that is used again its new one.
func TestInterfaceNames(t *testing.T) {
	n := newNode(t)
	n.pair("d0", 0)
	names := n.interfaces(t)
	index := uint32(n.link("d0").Attrs().Index)
	if got := names.name(index); got != "d0" {
		t.Errorf("%q", got)
	}
	if got := names.name(0); got != "" {
		t.Errorf("no interface is %q", got)
	}
	n.must("rename", n.nl.LinkSetName(n.link("d0"), "uplink"))
	until(t, "the new name", func() bool { return names.name(index) == "uplink" })
	n.must("remove", n.nl.LinkDel(n.link("uplink")))
	n.pair("d1", int(index)+100)
	if got := names.name(index + 100); got != "d1" {
		t.Errorf("the next one is %q", got)
	}
	if got := names.name(index); got != "uplink" {
		t.Errorf("one that is gone is %q", got)
	}
	if got := names.name(4711); got != "if4711" {
		t.Errorf("one that never was is %q", got)
	}
	n.pair("d2", int(index))
	until(t, "the index's new owner", func() bool { return names.name(index) == "d2" })
}

// More changes than there is room for do not make names old.
func TestInterfaceNamesMissed(t *testing.T) {
	n := newNode(t)
	n.pair("d0", 0)
	names := n.interfaces(t)
	n.must("small buffer", names.changes.control(func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1)
	}))
	index := n.link("d0").Attrs().Index
	name := ""
	for i := range 300 {
		name = "d" + strings.Repeat("x", 1+i%10)
		n.must("rename", n.nl.LinkSetName(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index}}, name))
	}
	until(t, "the last name", func() bool { return names.name(uint32(index)) == name })
}

// Whatever netlink says, taking it apart neither fails hard nor reads beyond it.
func FuzzNetlink(f *testing.F) {
	seed := func(kind uint16, body []byte) {
		m := binary.NativeEndian.AppendUint32(nil, uint32(16+len(body)))
		m = binary.NativeEndian.AppendUint16(m, kind)
		f.Add(append(append(m, make([]byte, 10)...), body...))
	}
	attr := func(b []byte, kind uint16, v ...byte) []byte {
		b = binary.NativeEndian.AppendUint16(b, uint16(4+len(v)))
		b = append(binary.NativeEndian.AppendUint16(b, kind), v...)
		return append(b, make([]byte, -len(v)&3)...)
	}
	hop := append([]byte{16, 0, 0, 0, 3, 0, 0, 0}, attr(nil, unix.RTA_GATEWAY, 10, 0, 0, 1)...)
	seed(unix.RTM_NEWROUTE, attr(attr([]byte{unix.AF_INET, 16, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0}, unix.RTA_DST, 10, 1, 0, 0), unix.RTA_MULTIPATH, hop...))
	seed(unix.RTM_DELROUTE, attr([]byte{unix.AF_INET6, 129, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0}, unix.RTA_DST, make([]byte, 16)...))
	seed(unix.RTM_NEWNEIGH, attr(attr([]byte{unix.AF_INET, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 1}, 1, 10, 0, 0, 1), 2, 2, 0, 0, 0, 0, 1))
	seed(unix.RTM_NEWLINK, attr(attr(make([]byte, 16), unix.IFLA_IFNAME, 'e', 0), unix.IFLA_LINKINFO, attr(nil, unix.IFLA_INFO_KIND, 'v')...))
	seed(unix.RTM_NEWQDISC, attr(attr(make([]byte, 20), tcaKind, 't', 0), tcaStats2, attr(nil, tcaStatsQueue, make([]byte, 20)...)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		table, around := newRouteTable(4), newNeighbours(4)
		_ = eachMessage(b, func(h nlHeader, body []byte) {
			if m, ok, err := parseRoute(h, body); ok && err == nil {
				if !m.prefix.IsValid() || m.prefix != m.prefix.Masked() {
					t.Errorf("prefix %v", m.prefix)
				}
				table.apply(m)
			}
			if m, ok, err := parseNeighbour(h.kind == unix.RTM_DELNEIGH, body); ok && err == nil {
				around.apply(m)
			}
			if l, err := parseLink(body); err == nil {
				(&portReading{}).count(l.stats)
			}
			_, _, _ = parseQueue(body)
			if r, err := parseRule(body); err == nil {
				newRuleSets().add(&r)
			}
		})
	})
}

// Packets that nobody should have sent here: martians and loops have their
// classes, and a loop its anomaly beside the drop, which counts once.
func TestMisroutedPackets(t *testing.T) {
	l := newLab(t)
	// Back where it came from.
	l.r.route("10.66.0.0/16", "10.0.1.2", unix.RTN_UNICAST)
	l.r.sysctl("net/ipv4/conf/eth2/rp_filter", "1")
	a := startAgent(t, l.r, testConfig())
	events := watch(t, dial(t, l.r, a, nil))
	send := func(n *node, src, dst string, ttl uint8) packet.Flow {
		p := packet.Probe{Flow: packet.Flow{Src: addrPort(src), Dst: addrPort(dst), Proto: packet.TCP}, TTL: ttl, Seq: 1, ID: 7}
		b, err := p.Marshal(nil)
		n.must("probe", err)
		n.sendRaw(b)
		return p.Flow
	}
	for _, tc := range []struct {
		name, src, dst string
		from           *node
		ttl            uint8
		class, reason  string
	}{
		{"source of the device itself", "10.0.1.1:1", "10.0.2.2:2", l.h1, 9, ErrorsL3RxInvalid, "IP_LOCAL_SOURCE"},
		{"source of many", "224.0.0.1:1", "10.0.2.2:2", l.h1, 9, ErrorsL3RxInvalid, "IP_INVALID_SOURCE"},
		{"source of nobody", "127.0.0.5:1", "10.0.2.2:2", l.h1, 9, ErrorsL3RxInvalid, ""},
		{"source that lives elsewhere", "10.0.1.9:1", "10.0.1.2:2", l.h2, 9, PolicyL3RPF, "IP_RPFILTER"},
		{"nowhere to go", "10.0.1.2:1", "192.0.2.1:2", l.h1, 9, ErrorsL3RxNoRoute, ""},
	} {
		f := send(tc.from, tc.src, tc.dst, tc.ttl)
		if ev := next(t, events, f); ev.Class != tc.class || tc.reason != "" && ev.Reason != tc.reason {
			t.Errorf("%s: %s, %s at %s", tc.name, ev.Class, ev.Reason, ev.Function)
		}
	}
	f := send(l.h1, "10.0.1.2:1", "10.66.0.1:2", 1)
	if ev := next(t, events, f); ev.Class != ErrorsL3RxTTL || ev.Ingress != "eth1" || ev.Egress != "eth1" {
		t.Errorf("drop: %v", ev)
	}
	if ev := next(t, events, f); ev.Class != AnomalyLoop || ev.Reason != loopBack || ev.Ingress != "eth1" {
		t.Errorf("anomaly: %v", ev)
	}
	if ttl, loop := classPackets(a, ErrorsL3RxTTL), classPackets(a, AnomalyLoop); ttl != 1 || loop != 0 {
		t.Errorf("%d packets expired, %d in the anomaly", ttl, loop)
	}
}

// What is switched off is not there; what cannot run says why, and the rest goes
// on.
func TestSourcesSwitchedOff(t *testing.T) {
	n := newNode(t)
	open := func(change func(*Config)) (*sources, string, error) {
		cfg := testConfig()
		change(&cfg)
		var log strings.Builder
		var s *sources
		err := n.do(func() (err error) {
			s, err = openSources(&cfg, nil, slog.New(slog.NewTextHandler(&log, nil)))
			return err
		})
		if s != nil {
			t.Cleanup(s.close)
		}
		return s, log.String(), err
	}
	for want, change := range map[string]func(*Config){
		"tp_btf+counters+routes": func(*Config) {},
		"tp_btf":                 func(c *Config) { c.Counters.Interval, c.Routes.Window = 0, 0 },
		"tp_btf+routes":          func(c *Config) { c.Counters.Interval = 0 },
		"tp_btf+counters":        func(c *Config) { c.Routes.Window = 0 },
		"counters":               func(c *Config) { c.Kernel, c.Routes.Window = false, 0 },
		"nflog+counters+routes":  func(c *Config) { c.Kernel, c.NFLOG.Groups = false, []uint16{3} },
	} {
		s, log, err := open(change)
		if err != nil || s.name() != want {
			t.Errorf("want %s: %v, %v\n%s", want, s, err, log)
		}
	}
	if _, _, err := open(func(c *Config) { c.Kernel, c.Counters.Interval = false, 0 }); err == nil {
		t.Error("routes alone tell of no drop")
	}
}
