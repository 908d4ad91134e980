package topology

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// shownOf is what walks over these paths of a network show at a moment, all of them
// made then, ns.
func shownOf(t *testing.T, truth *Topology, at int64, takes func(Path) bool) Shown {
	t.Helper()
	return shownAs(t, truth, at, takes, func(*Walk) {}, true)
}

// shownAs is shownOf of walks that were changed, and without hosts' names if not named.
func shownAs(t *testing.T, truth *Topology, at int64, takes func(Path) bool, change func(*Walk), named bool) Shown {
	t.Helper()
	var walks []Walk
	hosts := make(map[netip.Addr]string)
	s := Shown{At: make(map[netip.Addr]int64)}
	for _, a := range truth.Hosts {
		if named {
			hosts[a.Addresses[0]] = a.Name
		}
		for _, b := range truth.Hosts {
			for _, p := range truth.Paths(a.Name, b.Name) {
				if !takes(p) {
					continue
				}
				w := walked(t, truth, p)
				change(&w)
				walks = append(walks, w)
				for _, x := range append([]netip.Addr{w.Src, w.Dst}, w.Hops...) {
					s.At[x] = at
				}
			}
		}
	}
	if len(walks) == 0 {
		return s
	}
	top, _, err := Learn("lab", walks, hosts)
	if err != nil {
		t.Fatal(err)
	}
	s.Topology = top
	return s
}

func (l Lasting) must(t *testing.T, s Shown, now int64) Lasting {
	t.Helper()
	next, dropped, err := l.Next("lab", s, now, 48*time.Hour)
	if err != nil || dropped != nil {
		t.Fatal(err, dropped)
	}
	return next
}

const hour = int64(time.Hour)

func everyPath(Path) bool { return true }

// around leaves out the paths over a device.
func around(device string) func(Path) bool {
	return func(p Path) bool { return !slices.ContainsFunc(p, func(l *Link) bool { return l.To.Node == device }) }
}

// While a device is at fault no walk goes over it. It stays for two days, with its name
// and its links, and then it has gone.
func TestWhatIsNotShownStaysForATime(t *testing.T) {
	truth := build(t, ClosSpec{Site: "lab", Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2})
	whole := Lasting{}.must(t, shownOf(t, truth, 0, everyPath), 0)
	if n := len(whole.Topology.Links); n != len(truth.Links) {
		t.Fatalf("%d links, want %d", n, len(truth.Links))
	}
	part := shownOf(t, truth, 10*hour, around("t2-0"))
	if len(part.Topology.Links) >= len(truth.Links) {
		t.Fatal("walks around a device show all links")
	}
	for _, at := range []int64{10 * hour, 47 * hour} {
		if next := whole.must(t, part, at); !next.Topology.Equal(whole.Topology) {
			t.Errorf("after %d h %d links, want all as they were", at/hour, len(next.Topology.Links))
		}
	}
	gone := whole.must(t, part, 48*hour)
	if !gone.Topology.Equal(Lasting{}.must(t, part, 48*hour).Topology) {
		t.Errorf("after two days %d links, want those shown, %d", len(gone.Topology.Links), len(part.Topology.Links))
	}
	// Nor does it matter how often that was looked at, or that nothing is shown at all.
	step := whole
	for at := hour; at < 48*hour; at += hour {
		step = step.must(t, Shown{}, at)
	}
	if !step.Topology.Equal(whole.Topology) {
		t.Error("it changes while nothing is shown")
	}
	if step = step.must(t, Shown{}, 48*hour); len(step.Topology.Links)+len(step.Topology.Devices) != 0 {
		t.Errorf("two days later %d links", len(step.Topology.Links))
	}
}

// A device has the name of its lowest address that is known. It keeps it when a lower
// one turns up, and when two that were taken for two turn out to be one, or one two.
func TestDevicesKeepTheirNames(t *testing.T) {
	truth := build(t, ClosSpec{Site: "lab", Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2})
	lowest := func(top *Topology) (names map[string]bool) {
		names = make(map[string]bool)
		for _, d := range top.Devices {
			names[d.Name] = true
		}
		return names
	}
	for _, part := range []struct{ src, dst string }{{"p1", "p1"}, {"p1", "p0"}, {"p0", "p1"}} {
		between := func(p Path) bool {
			return strings.HasPrefix(p[0].From.Node, part.src) && strings.HasPrefix(p[len(p)-1].To.Node, part.dst)
		}
		first := Lasting{}.must(t, shownOf(t, truth, 0, between), 0)
		shown := shownOf(t, truth, hour, everyPath)
		all := first.must(t, shown, hour)
		if len(all.Topology.Links) != len(truth.Links) || len(all.Topology.Devices) != len(truth.Devices) {
			t.Fatalf("%v: %d links and %d devices", part, len(all.Topology.Links), len(all.Topology.Devices))
		}
		renamed := 0
		for _, l := range first.Topology.Links {
			if !first.Topology.isDevice(l.To.Node) || !l.To.Addr.IsValid() {
				continue
			}
			before, _ := first.Topology.InterfaceAt(l.To.Addr.Addr())
			now, ok := all.Topology.InterfaceAt(l.To.Addr.Addr())
			if bare, _ := shown.Topology.InterfaceAt(l.To.Addr.Addr()); bare.Node != before.Node {
				renamed++
			}
			// Two that are one now have the name of one of them.
			if !ok || now.String() != before.String() && !lowest(first.Topology)[now.Node] {
				t.Errorf("%v: %s is %s", part, before, now)
			}
		}
		if renamed == 0 && part.src != part.dst {
			t.Errorf("%v: no device would have another name", part)
		}
	}
	// Half of the pairs alone show parts of devices as devices of their own.
	oneWay := func(p Path) bool { return p[0].From.Node < p[len(p)-1].To.Node }
	some := Lasting{}.must(t, shownOf(t, truth, 0, oneWay), 0)
	whole := some.must(t, shownOf(t, truth, hour, everyPath), hour)
	if len(whole.Topology.Devices) != len(truth.Devices) || len(whole.Topology.Links) != len(truth.Links) {
		t.Errorf("after both ways were walked %d devices and %d links", len(whole.Topology.Devices), len(whole.Topology.Links))
	}
	if back := whole.must(t, shownOf(t, truth, 2*hour, oneWay), 2*hour); len(back.Topology.Links) < len(truth.Links) {
		t.Errorf("%d links, want no less than before", len(back.Topology.Links))
	}
}

// Traffic between two pairs of pods shows the switch between all of them as two devices.
// Once it turns out to be one, what is kept of both is that one's.
func TestTwoDevicesTurnOutToBeOne(t *testing.T) {
	truth := build(t, ClosSpec{Site: "lab", Pods: 4, ToRs: 1, T1s: 1, T2s: 1, Hosts: 1})
	between := func(pods ...string) func(Path) bool {
		return func(p Path) bool {
			return slices.Contains(pods, p[0].From.Node[:2]+">"+p[len(p)-1].To.Node[:2])
		}
	}
	two := Lasting{}.must(t, shownOf(t, truth, 0, between("p0>p1", "p2>p3")), 0)
	if n := len(two.Topology.Devices); n != len(truth.Devices)+1 {
		t.Fatalf("%d devices, want one more than %d", n, len(truth.Devices))
	}
	one := two.must(t, shownOf(t, truth, hour, between("p0>p1", "p1>p0", "p0>p2", "p2>p0", "p1>p2", "p2>p1")), hour)
	if len(one.Topology.Devices) != len(truth.Devices) || len(one.Topology.Links) != len(truth.Links) {
		t.Errorf("%d devices and %d links, want %d and %d", len(one.Topology.Devices), len(one.Topology.Links), len(truth.Devices), len(truth.Links))
	}
	if n := len(one.Topology.Paths("p0-tor0-h0", "p3-tor0-h0")); n != 1 {
		t.Errorf("%d paths to the pod that is not shown any more", n)
	}
}

// What is shown under other names takes nothing from what is kept beside it.
func TestOtherNamesLeaveTheRest(t *testing.T) {
	truth := build(t, ClosSpec{Site: "lab", Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2})
	oneWay := func(p Path) bool { return p[0].From.Node < p[len(p)-1].To.Node }
	naming := func(w *Walk) {
		for _, a := range w.Hops {
			w.Names = append(w.Names, addressName("Ethernet", a))
		}
	}
	for _, c := range []struct {
		name   string
		before Shown
		now    func(at int64, takes func(Path) bool) Shown
	}{
		{"routers tell of their interfaces", shownOf(t, truth, 0, everyPath), func(at int64, takes func(Path) bool) Shown {
			return shownAs(t, truth, at, takes, naming, true)
		}},
		{"hosts tell their names", shownAs(t, truth, 0, oneWay, func(*Walk) {}, false), func(at int64, takes func(Path) bool) Shown {
			return shownOf(t, truth, at, func(p Path) bool { return oneWay(p) && takes(p) })
		}},
	} {
		before := Lasting{}.must(t, c.before, 0)
		all := before.must(t, c.now(hour, everyPath), hour)
		part := before.must(t, c.now(hour, around("t2-0")), hour)
		if len(part.Topology.Links) != len(before.Topology.Links) || len(part.Topology.Links) != len(all.Topology.Links) || len(part.Topology.Hosts) != len(truth.Hosts) {
			t.Errorf("%s: %d links of %d hosts, all are %d, before %d", c.name, len(part.Topology.Links), len(part.Topology.Hosts), len(all.Topology.Links), len(before.Topology.Links))
		}
	}
}

// A host that has moved is at its new switch alone, though its old link was seen a
// moment ago; one that was only heard of is there without a link.
func TestHostsMoveAndAreHeardOf(t *testing.T) {
	truth := build(t, ClosSpec{Site: "lab", Pods: 1, ToRs: 3, T1s: 2, T2s: 1, Hosts: 1})
	whole := Lasting{}.must(t, shownOf(t, truth, 0, everyPath), 0)
	moved := shownOf(t, truth, hour, around("p0-tor2"))
	// The host of the third ToR answers at the second now.
	_, there := truth.Host("p0-tor1-h0")
	host, here := truth.Host("p0-tor2-h0")
	if !there || !here {
		t.Fatal("no such hosts")
	}
	var walks []Walk
	for _, p := range truth.Paths("p0-tor0-h0", "p0-tor1-h0") {
		w := walked(t, truth, p)
		walks = append(walks, w)
		w.Dst = host.Addresses[0]
		walks = append(walks, w)
	}
	top, _, err := Learn("lab", walks, map[netip.Addr]string{host.Addresses[0]: host.Name})
	if err != nil {
		t.Fatal(err)
	}
	moved.Topology, moved.Hosts = top, map[string]int64{"spare": hour, "p0-tor2-h0": hour, "not.a.name": hour}
	next := whole.must(t, moved, hour)
	out := next.Topology.LinksFrom(host.Name)
	beside := next.Topology.LinksFrom("h" + addressName("", truth.Hosts[1].Addresses[0]))
	if len(out) != 1 || len(beside) != 1 || out[0].To.Node != beside[0].To.Node {
		t.Errorf("the host's links: %v, those of the one beside it: %v", out, beside)
	}
	if spare, ok := next.Topology.Host("spare"); !ok || len(spare.Addresses)+len(next.Topology.LinksFrom("spare")) != 0 {
		t.Errorf("%+v, %v", spare, ok)
	}
	if _, ok := next.must(t, Shown{}, 48*hour).Topology.Host("spare"); !ok {
		t.Error("a host is forgotten after less than two days")
	}
	if _, ok := next.must(t, Shown{}, 49*hour).Topology.Host("spare"); ok {
		t.Error("a host that nobody has heard of for two days is still there")
	}
}

func TestLastingIsReadAsItWasWritten(t *testing.T) {
	truth := build(t, ClosSpec{Site: "lab", Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2})
	for _, l := range []Lasting{
		Lasting{}.must(t, Shown{}, 0),
		Lasting{}.must(t, Shown{Hosts: map[string]int64{"spare": 1}}, 2),
		Lasting{}.must(t, shownOf(t, truth, 5, everyPath), 5),
	} {
		text, err := l.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := DecodeLasting("kept", text)
		if err != nil || !again.Topology.Equal(l.Topology) || len(again.Seen) != len(l.Seen) {
			t.Fatalf("%v: %s", err, text)
		}
		// It goes on as if it had never stopped.
		a, b := l.must(t, Shown{}, 3*hour), again.must(t, Shown{}, 3*hour)
		if !a.Topology.Equal(b.Topology) {
			t.Errorf("%d links, %d as read", len(a.Topology.Links), len(b.Topology.Links))
		}
	}
	if _, err := DecodeLasting("kept", []byte(`{"topology": "links: [`)); err == nil {
		t.Error("half a file is read")
	}
}

// What is kept goes where it contradicts what is shown, and that is said.
func TestWhatIsKeptGivesWay(t *testing.T) {
	shown, _, err := Learn("lab", fanWalks(2, true), fanHosts)
	if err != nil {
		t.Fatal(err)
	}
	// A host of before has a device's name.
	cable := Cable{A: Interface{Node: shown.Devices[0].Name, Name: "eth0"}, B: Interface{Node: "elsewhere", Name: "eth1"}}
	old, err := New("lab", []*Device{{Name: "elsewhere"}}, []*Host{{Name: cable.A.Node, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}}, []Cable{cable})
	if err != nil {
		t.Fatal(err)
	}
	before := Lasting{Topology: old, Seen: map[string]int64{cable.oriented().key(): 1}}
	next, dropped, err := before.Next("lab", Shown{Topology: shown}, 2, time.Hour)
	if err != nil || dropped == nil || !strings.Contains(dropped.Error(), cable.A.Node) || len(next.Topology.Links) != len(shown.Links) {
		t.Errorf("%d links, want %d; dropped: %v; %v", len(next.Topology.Links), len(shown.Links), dropped, err)
	}
	if _, dropped, err := before.Next("lab", Shown{}, 2, time.Hour); err != nil || dropped != nil {
		t.Errorf("by itself: %v, %v", dropped, err)
	}
}
