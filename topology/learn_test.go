package topology

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// fanWalks are the traces through a fan of n switches between r1 and r2, there and,
// if both, back: 10.1.0.0/31 h1–r1, 10.2.i.0/31 r1–si, 10.3.i.0/31 si–r2,
// 10.4.0.0/31 r2–h2.
func fanWalks(n int, both bool) (walks []Walk) {
	at := func(net, i, side byte) netip.Addr { return netip.AddrFrom4([4]byte{10, net, i, side}) }
	for i := byte(1); i <= byte(n); i++ {
		walks = append(walks, Walk{Src: at(1, 0, 0), Dst: at(4, 0, 1), Hops: []netip.Addr{at(1, 0, 1), at(2, i, 1), at(3, i, 1)}})
		if both {
			walks = append(walks, Walk{Src: at(4, 0, 1), Dst: at(1, 0, 0), Hops: []netip.Addr{at(4, 0, 0), at(3, i, 0), at(2, i, 0)}})
		}
	}
	return walks
}

var fanHosts = map[netip.Addr]string{netip.MustParseAddr("10.1.0.0"): "h1", netip.MustParseAddr("10.4.0.1"): "h2"}

func TestLearnAFan(t *testing.T) {
	for _, both := range []bool{false, true} {
		top, left, err := Learn("lab", fanWalks(4, both), fanHosts)
		if err != nil {
			t.Fatal(err)
		}
		want := Learning{}
		if !both {
			want.Unaddressed = 1 // r2's side of h2's link answers to nobody
		}
		if left != want {
			t.Errorf("both ways %v: %+v", both, left)
		}
		// r1, r2 and four spines; 2 + 8 cables; the ECMP set is there, both ways.
		if len(top.Devices) != 6 || len(top.Hosts) != 2 || len(top.Links) != 20 {
			t.Errorf("both ways %v: %d devices, %d hosts, %d links", both, len(top.Devices), len(top.Hosts), len(top.Links))
		}
		for _, pair := range [][2]string{{"h1", "h2"}, {"h2", "h1"}} {
			if n := len(top.Paths(pair[0], pair[1])); n != 4 || top.Distance(pair[0], pair[1]) != 3 {
				t.Errorf("both ways %v, %v: %d paths over %d switches", both, pair, n, top.Distance(pair[0], pair[1]))
			}
		}
		// An address on the way names the link by which packets come.
		i, ok := top.InterfaceAt(netip.MustParseAddr("10.3.2.1"))
		if !ok {
			t.Fatal("10.3.2.1 is of no interface")
		}
		if l, ok := top.LinkInto(i.Node, i.Name); !ok || !l.From.Addr.Contains(netip.MustParseAddr("10.3.2.0")) {
			t.Errorf("%v does not lead from 10.3.2.0", l)
		}
		// What is written is read back the same.
		text, err := top.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("learnt", text)
		if err != nil || !again.Equal(top) {
			t.Errorf("%v\n%s", err, text)
		}
	}
}

func TestLearnNames(t *testing.T) {
	walks := fanWalks(2, false)
	for i := range walks {
		walks[i].Names = []string{"Ethernet1/1", "bad name", "ge-0/0/" + string(rune('1'+i))}
	}
	top, _, err := Learn("lab", walks, nil)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, l := range top.Links {
		names = append(names, l.To.String())
	}
	text := strings.Join(names, " ")
	for _, want := range []string{":Ethernet1/1", ":ge-0/0/1", ":ge-0/0/2", ":if10-2-1-1"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	if _, ok := top.Host("h10-1-0-0"); !ok {
		t.Error("a host without a name has none")
	}
}

func TestLearnFromWhatIsMissing(t *testing.T) {
	silent := fanWalks(4, false)
	for i := range silent {
		silent[i].Hops[1] = netip.Addr{}
	}
	top, left, err := Learn("lab", silent, fanHosts)
	if err != nil || left.Cut != 4 {
		t.Fatalf("%+v, %v", left, err)
	}
	if n := len(top.Paths("h1", "h2")); n != 0 {
		t.Errorf("%d paths through a hop that nobody saw", n)
	}
	looped := fanWalks(1, false)
	looped[0].Hops = append(looped[0].Hops, looped[0].Hops[0])
	if _, left, err = Learn("lab", looped, fanHosts); err == nil || left.Looped != 1 {
		t.Errorf("%+v, %v", left, err)
	}
	if _, _, err = Learn("lab", nil, nil); err == nil || !strings.Contains(err.Error(), "none of 0 walks") {
		t.Error(err)
	}
}

// A Clos' own paths, walked from every host to every other, give the Clos back, over
// IPv4 as over IPv6, and the file of it says what can be found there.
func TestLearnAClos(t *testing.T) {
	for _, ip := range []IP{IPv4, IPv6} {
		truth := build(t, ClosSpec{Site: "lab", Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2, IP: ip})
		var walks []Walk
		hosts := map[netip.Addr]string{}
		for _, a := range truth.Hosts {
			hosts[a.Addresses[0]] = a.Name
			for _, b := range truth.Hosts {
				for _, p := range truth.Paths(a.Name, b.Name) {
					w := Walk{Src: a.Addresses[0], Dst: b.Addresses[0]}
					for _, l := range p[:len(p)-1] {
						w.Hops = append(w.Hops, l.To.Addr.Addr())
					}
					walks = append(walks, w)
				}
			}
		}
		top, left, err := Learn("lab", walks, hosts)
		if err != nil {
			t.Fatal(err)
		}
		if len(top.Devices) != len(truth.Devices) || len(top.Hosts) != len(truth.Hosts) || len(top.Links) != len(truth.Links) {
			t.Errorf("%d devices, %d hosts, %d links; want %d, %d, %d; %+v", len(top.Devices), len(top.Hosts), len(top.Links),
				len(truth.Devices), len(truth.Hosts), len(truth.Links), left)
		}
		for _, a := range truth.Hosts {
			for _, b := range truth.Hosts {
				if x, y := len(top.Paths(a.Name, b.Name)), len(truth.Paths(a.Name, b.Name)); x != y {
					t.Errorf("%s to %s: %d paths, want %d", a.Name, b.Name, x, y)
				}
			}
		}
		if s, err := top.ClosShape(); err != nil || s.Pods != 2 || s.T2s != 2 {
			t.Errorf("%+v, %v", s, err)
		}
		if !slices.IsSortedFunc(top.Devices, func(a, b *Device) int { return strings.Compare(a.Name, b.Name) }) {
			t.Error("the order of devices is not fixed")
		}
		if said := checked(t, top); !strings.Contains(said, "devices    10  (10 no tier)") || !strings.Contains(said, "up to 2 bad links at once") || strings.Contains(said, "warning") {
			t.Errorf("of what was learnt of IP %s the check says\n%s", ip, said)
		}
	}
}

// checked is what `topology check` says of a topology's file.
func checked(t *testing.T, top *Topology) string {
	t.Helper()
	text, err := top.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	said, err := run(t, string(text), "check", "-")
	if err != nil {
		t.Fatal(err)
	}
	return said
}

// What one host has found of the ways to another is a topology too; the check says what
// the file cannot place.
func TestCheckOfWhatOneHostLearnt(t *testing.T) {
	top, _, err := Learn("lab", fanWalks(4, false), fanHosts)
	if err != nil {
		t.Fatal(err)
	}
	said := checked(t, top)
	for _, want := range []string{"devices    6", "hosts      2", "links      20", "without an address, so traced paths cannot name them", "does not apply: the theorem compares links within and between pods"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in\n%s", want, said)
		}
	}
}

// Walks that were under way while routes changed go from a device to one that it is
// not joined to. They make no two devices one, and no cable.
func TestLearnBesideChangingRoutes(t *testing.T) {
	top := build(t, ClosSpec{Site: "lab", Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2})
	var walks []Walk
	hosts := make(map[netip.Addr]string)
	for _, a := range top.Hosts {
		hosts[a.Addresses[0]] = a.Name
		for _, b := range top.Hosts {
			for _, p := range top.Paths(a.Name, b.Name) {
				walks = append(walks, walked(t, top, p))
			}
		}
	}
	// The first half by one T1, the other as if by the other one.
	paths := top.Paths("p0-tor0-h0", "p1-tor1-h0")
	first, last := walked(t, top, paths[0]), walked(t, top, paths[len(paths)-1])
	torn := Walk{Src: first.Src, Dst: first.Dst, Hops: slices.Concat(first.Hops[:2], last.Hops[2:])}
	learned, left, err := Learn("lab", append(walks, torn), hosts)
	if err != nil {
		t.Fatal(err)
	}
	if left.Doubted != 1 || len(learned.Devices) != len(top.Devices) || len(learned.Links) != len(top.Links) {
		t.Errorf("%d devices and %d links, want %d and %d; %+v", len(learned.Devices), len(learned.Links), len(top.Devices), len(top.Links), left)
	}
}

// A host that surveys from, or to, a switch's address does not stop learning, nor does
// one that says that a host's is a switch's: what more hosts say is so.
func TestLearnBesideWhatContradictsIt(t *testing.T) {
	top := build(t, ClosSpec{Site: "lab", Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2})
	var walks []Walk
	names := make(map[netip.Addr]string)
	for _, a := range top.Hosts {
		names[a.Addresses[0]] = a.Name
		for _, b := range top.Hosts {
			for _, p := range top.Paths(a.Name, b.Name) {
				walks = append(walks, walked(t, top, p))
			}
		}
	}
	paths := top.Paths("p0-tor0-h0", "p1-tor1-h0")
	one := walked(t, top, paths[0])
	liar := netip.MustParseAddr("192.0.2.1")
	for _, c := range []struct {
		name    string
		walk    Walk
		through int
	}{
		{"from a switch", Walk{Src: one.Hops[2], Dst: one.Dst, Hops: one.Hops[3:]}, 1},
		{"from a switch that is on the way", Walk{Src: one.Hops[2], Dst: one.Dst, Hops: one.Hops}, 1},
		{"to a switch", Walk{Src: one.Src, Dst: one.Hops[2], Hops: one.Hops[:2]}, 0},
		{"to a switch that is on the way", Walk{Src: one.Src, Dst: one.Hops[2], Hops: one.Hops[:3]}, 0},
		{"through a host", Walk{Src: one.Src, Dst: one.Dst, Hops: slices.Concat(one.Hops[:1], []netip.Addr{top.Hosts[3].Addresses[0]})}, 0},
		{"through its own address", Walk{Src: one.Src, Dst: one.Dst, Hops: append([]netip.Addr{one.Src}, one.Hops...)}, 0},
	} {
		names := maps.Clone(names)
		if _, known := names[c.walk.Src]; !known {
			names[c.walk.Src] = "liar"
		}
		given := maps.Clone(names)
		learned, left, err := Learn("lab", append(slices.Clone(walks), c.walk), names)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if left.Through != c.through || len(learned.Devices) != len(top.Devices) || len(learned.Links) != len(top.Links) || len(learned.Hosts) != len(top.Hosts) {
			t.Errorf("%s: %d devices, %d hosts and %d links; %+v", c.name, len(learned.Devices), len(learned.Hosts), len(learned.Links), left)
		}
		if !maps.Equal(names, given) {
			t.Errorf("%s: what was given is changed", c.name)
		}
	}
	// Of two hosts that say otherwise neither is believed more: it is a host.
	forged := Walk{Src: one.Hops[0], Dst: liar, Hops: []netip.Addr{netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("192.0.2.5")}}
	if _, left, err := Learn("lab", append(walks[:0:0], one, forged), map[netip.Addr]string{one.Src: "h", forged.Src: "liar"}); err != nil || left.Cut != 1 || left.Through != 0 {
		t.Errorf("%+v, %v", left, err)
	}
}

// A host with an agent may forward to machines of its own: more walk through it than to
// it. It is a device then, and so are found the machines behind.
func TestLearnBehindAHostThatForwards(t *testing.T) {
	walks, names := fanWalks(4, false), maps.Clone(fanHosts)
	forwards, behind := netip.MustParseAddr("10.4.0.1"), netip.MustParseAddr("10.5.0.1")
	for i := range walks {
		walks[i].Dst, walks[i].Hops = behind, append(walks[i].Hops, forwards)
	}
	own := Walk{Src: forwards, Dst: netip.MustParseAddr("10.1.0.0"), Hops: []netip.Addr{netip.MustParseAddr("10.4.0.0"), netip.MustParseAddr("10.3.1.0")}}
	for _, others := range []int{1, 2} {
		list := append(slices.Clone(walks), own)
		if others == 2 {
			second := walks[0]
			second.Src = netip.MustParseAddr("10.6.0.0")
			second.Hops = append([]netip.Addr{netip.MustParseAddr("10.6.0.1")}, walks[0].Hops[1:]...)
			list = append(list, second)
		}
		top, left, err := Learn("lab", list, names)
		if err != nil {
			t.Fatal(err)
		}
		_, host := top.Host("h2")
		_, vm := top.HostAt(behind)
		if host != (others == 1) || vm == host || left.Through != others-1 {
			t.Errorf("by %d others: it is a host %v, and behind it is one %v; %+v", others, host, vm, left)
		}
	}
}
