package topology

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// Every look-up finds every part of every fabric again.
func TestLookupsFindEverything(t *testing.T) {
	for _, s := range sizes {
		topo := build(t, s)
		for _, l := range topo.Links {
			if got, ok := topo.Link(l.Name); !ok || got != l {
				t.Fatalf("%v: link %s is lost", s, l)
			}
			back := topo.Reverse(l)
			if back == nil || back.From != l.To || back.To != l.From || topo.Reverse(back) != l {
				t.Fatalf("%v: reverse of %s is %v", s, l, back)
			}
			if between := topo.LinkBetween(l.From.Node, l.To.Node); len(between) != 1 || between[0] != l {
				t.Fatalf("%v: between the ends of %s: %v", s, l, between)
			}
			if got, _ := topo.LinkFrom(l.From.Node, l.From.Name); got != l {
				t.Fatalf("%v: link from %s is %v", s, l.From, got)
			}
			if got, _ := topo.LinkInto(l.To.Node, l.To.Name); got != l {
				t.Fatalf("%v: link into %s is %v", s, l.To, got)
			}
			if got, _ := topo.InterfaceOf(l.From.Node, l.From.Name); got != l.From {
				t.Fatalf("%v: interface %s is %v", s, l.From, got)
			}
			if got, _ := topo.InterfaceAt(l.From.Addr.Addr()); got != l.From {
				t.Fatalf("%v: at %s: %v", s, l.From.Addr, got)
			}
		}
		for _, h := range topo.Hosts {
			for _, key := range []string{h.Name, h.Addresses[0].String(), "::ffff:" + h.Addresses[0].String()} {
				if got, err := topo.ResolveHost(key); err != nil || got != h {
					t.Fatalf("%v: %s resolves to %v, %v", s, key, got, err)
				}
			}
			if got, ok := topo.HostAt(h.Addresses[0]); !ok || got != h {
				t.Fatalf("%v: host at %s is %v", s, h.Addresses[0], got)
			}
			up := topo.LinksFrom(h.Name)[0]
			for _, l := range []*Link{up, topo.Reverse(up)} {
				if name, ok := topo.HostLink(l); !ok || name != h.Name {
					t.Fatalf("%v: %s is no link of %s", s, l, h.Name)
				}
			}
		}
		for _, d := range topo.Devices {
			if got, ok := topo.Device(d.Name); !ok || got != d {
				t.Fatalf("%v: device %s is lost", s, d.Name)
			}
		}
	}
}

func TestLookupsOfWhatIsNotThere(t *testing.T) {
	topo := build(t, sizes[0])
	nowhere := netip.MustParseAddr("192.0.2.1")
	for what, found := range map[string]bool{
		"link":         has(topo.Link("a>b")),
		"device":       has(topo.Device("p0-tor0-h0")),
		"host":         has(topo.Host("p0-tor0")),
		"interface at": has(topo.InterfaceAt(nowhere)),
		"host at":      has(topo.HostAt(nowhere)),
		"host at none": has(topo.HostAt(netip.Addr{})),
		"interface of": has(topo.InterfaceOf("p0-tor0", "eth99")),
		"link from":    has(topo.LinkFrom("nobody", "eth1")),
		"link into":    has(topo.LinkInto("nobody", "eth1")),
		"between":      topo.LinkBetween("p0-tor0", "t2-0") != nil,
		"links from":   topo.LinksFrom("nobody") != nil,
		"reverse":      topo.Reverse(&Link{}) != nil,
		"reverse nil":  topo.Reverse(nil) != nil,
		"empty link":   has((&Topology{}).Link("a>b")),
	} {
		if found {
			t.Errorf("%s: found what is not there", what)
		}
	}
	if l, _ := topo.Link("p0-tor0>p0-t1-0"); l != nil {
		if h, ok := topo.HostLink(l); ok {
			t.Errorf("%s counts as a link of host %s", l, h)
		}
	}
}

func has[T any](_ T, ok bool) bool { return ok }

// What a person who typed a wrong host is told.
func TestResolveHostSaysWhatIsWrong(t *testing.T) {
	topo := build(t, sizes[0])
	for key, want := range map[string]string{
		"p0-tor0-h7":   `no host named "p0-tor0-h7" in the topology; did you mean "p0-tor0-h0"?`,
		"database":     `no host named "database" in the topology`,
		"":             `no host named "" in the topology`,
		"p0-tor0":      `"p0-tor0" is a device, not a host`,
		"192.0.2.1":    `address 192.0.2.1 belongs to no host of the topology`,
		"10.128.0.0":   `address 10.128.0.0 belongs to device p0-tor0 (eth1), not to a host`,
		"fe80::1%eth0": `address fe80::1%eth0 belongs to no host of the topology`,
	} {
		if _, err := topo.ResolveHost(key); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", key, err, want)
		}
	}
}

// A host's interface address is its address too, listed or not; and listed
// addresses need not be on an interface (loopbacks, addresses of services).
func TestHostAddresses(t *testing.T) {
	topo, err := Parse("t.yaml", []byte(`
devices: [{name: s}]
hosts: [{name: h, addresses: [192.0.2.9, "2001:db8::9"]}]
links: [{a: "s:e1", a_addr: 10.0.0.0/31, b: "h:eth0", b_addr: 10.0.0.1/31}]
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"192.0.2.9", "2001:db8::9", "10.0.0.1"} {
		if h, ok := topo.HostAt(netip.MustParseAddr(a)); !ok || h.Name != "h" {
			t.Errorf("host at %s: %v", a, h)
		}
	}
	if _, ok := topo.HostAt(netip.MustParseAddr("10.0.0.0")); ok {
		t.Error("the switch's address is a host's")
	}
}

func TestParallelLinksAreNamedByInterface(t *testing.T) {
	topo := nets(t, [2]string{"a", "b"}, [2]string{"b", "a"}, [2]string{"a", "c"})
	var names []string
	for _, l := range topo.Links {
		names = append(names, l.Name)
	}
	want := "[a:eth1>b:eth1 b:eth1>a:eth1 b:eth2>a:eth2 a:eth2>b:eth2 a>c c>a]"
	if got := fmt.Sprint(names); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if n := len(topo.LinkBetween("a", "b")); n != 2 {
		t.Errorf("%d links from a to b", n)
	}
	for _, l := range topo.Links {
		if b := topo.Reverse(l); b == nil || !strings.HasPrefix(b.Name, l.To.Node) {
			t.Errorf("reverse of %s is %v", l, b)
		}
	}
}
