package kernel

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"decaf/sim/scenario"
	"decaf/topology"
)

func TestFaultsThatCannotBeHonoured(t *testing.T) {
	top, err := topology.Clos(topology.ClosSpec{Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2})
	if err != nil {
		t.Fatal(err)
	}
	f := func(want string, fault scenario.Fault) {
		t.Helper()
		err := CheckFault(top, fault)
		if want == "" {
			if err != nil {
				t.Errorf("%+v: %v", fault, err)
			}
			return
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want one with %q", fault, err, want)
		}
	}
	const link, device, host = "link p0-t1-0>t2-1", "device t2-1", "host p0-tor0-h0"
	f("", scenario.Fault{Kind: "silent-loss", On: link, Rate: 1e-6, Match: scenario.Match{Src: "p0-tor0-h0", Dst: "10.1.0.0/16", Port: 80}})
	f("", scenario.Fault{Kind: "acl", On: device, Rate: 1, Match: scenario.Match{Dst: "10.1.1.1"}})
	f("", scenario.Fault{Kind: "no-route", On: device, Match: scenario.Match{Dst: "p0-tor0-h0"}})
	f("", scenario.Fault{Kind: "queue", On: link, Rate: 1})

	all := scenario.Match{Src: "p0-tor0-h0", Dst: "10.1.0.0/16", Port: 80}
	f("", scenario.Fault{Kind: "corrupt", On: link, Rate: 0.1, Match: all})
	f("", scenario.Fault{Kind: "mtu", On: device, Rate: 0.1, Match: all})
	f("", scenario.Fault{Kind: "device-loss", On: device, Rate: 0.1, Match: all})
	f("", scenario.Fault{Kind: "syn-blackhole", On: device, Rate: 0.1, Match: all})
	f("", scenario.Fault{Kind: "blackhole", On: device, Rate: 0.1, Match: scenario.Match{Dst: "10.1.0.0/16"}})
	f("", scenario.Fault{Kind: "route-flap", On: device, Rate: 0.1, Match: scenario.Match{Dst: "10.1.0.0/16"}})
	f("", scenario.Fault{Kind: "ttl-loop", On: device, Match: scenario.Match{Dst: "10.1.0.0/16"}})
	f("", scenario.Fault{Kind: "ttl-loop", On: "device p0-tor0", Match: scenario.Match{Dst: "p0-tor0-h0"}})
	f("", scenario.Fault{Kind: "device-down", On: device, Rate: 1})
	f("", scenario.Fault{Kind: "host-slow", On: host})
	f("", scenario.Fault{Kind: "server-slow", On: host})
	f("", scenario.Fault{Kind: "server-reset", On: host, Rate: 0.1, Match: scenario.Match{Src: "p1-tor0-h0", Port: 80}})

	f("it can make acl, blackhole, corrupt, device-down, device-loss, host-slow, mtu, no-route, queue, route-flap, "+
		"server-reset, server-slow, silent-loss, syn-blackhole, ttl-loop", scenario.Fault{Kind: "duplex", On: link})
	f("knows destinations only", scenario.Fault{Kind: "blackhole", On: device, Match: scenario.Match{Src: "p0-tor0-h0"}})
	f("knows destinations only", scenario.Fault{Kind: "route-flap", On: device, Match: scenario.Match{Port: 80}})
	f("comes by again", scenario.Fault{Kind: "ttl-loop", On: device, Rate: 0.5})
	f("links are down", scenario.Fault{Kind: "device-down", On: device, Rate: 0.5})
	f("links are down", scenario.Fault{Kind: "device-down", On: device, Match: scenario.Match{Dst: "p0-tor0-h0"}})
	f("in one queue", scenario.Fault{Kind: "host-slow", On: host, Rate: 0.5})
	f("stand still", scenario.Fault{Kind: "server-slow", On: host, Match: scenario.Match{Port: 80}})
	f("is the destination", scenario.Fault{Kind: "server-reset", On: host, Match: scenario.Match{Dst: "p0-tor0-h0"}})
	f("no host", scenario.Fault{Kind: "server-reset", On: "host p9-tor0-h0"})
	f("happens on a host", scenario.Fault{Kind: "host-slow", On: device})
	for _, kind := range []string{"no-route", "route-flap", "blackhole"} {
		f("not on its own links", scenario.Fault{Kind: kind, On: "device p0-tor0", Match: scenario.Match{Dst: "p0-tor0-h0"}})
		f("there is no host in", scenario.Fault{Kind: kind, On: device, Match: scenario.Match{Dst: "192.0.2.0/24"}})
	}
	f("there is no host in", scenario.Fault{Kind: "mtu", On: device, Match: scenario.Match{Dst: "192.0.2.1"}})
	f("there is no host in", scenario.Fault{Kind: "ttl-loop", On: device, Match: scenario.Match{Dst: "192.0.2.1"}})
	f("happens on a link", scenario.Fault{Kind: "silent-loss", On: device})
	f("happens on a device", scenario.Fault{Kind: "acl", On: link})
	f("names no component", scenario.Fault{Kind: "acl", On: "t2-1"})
	f("names no component", scenario.Fault{Kind: "acl", On: "random t2"})
	f("no link", scenario.Fault{Kind: "queue", On: "link p0-t1-0>t2-9"})
	f("no device", scenario.Fault{Kind: "acl", On: "device t2-9"})
	f("not a share", scenario.Fault{Kind: "acl", On: device, Rate: 1.5})
	f("not a share", scenario.Fault{Kind: "acl", On: device, Rate: -0.1})
	f("cannot hit a share", scenario.Fault{Kind: "no-route", On: device, Rate: 0.5})
	f("cannot hit a share", scenario.Fault{Kind: "queue", On: link, Rate: 0.5})
	f("by src", scenario.Fault{Kind: "no-route", On: device, Match: scenario.Match{Src: "p0-tor0-h0"}})
	f("by port", scenario.Fault{Kind: "no-route", On: device, Match: scenario.Match{Port: 80}})
	f("by dst", scenario.Fault{Kind: "queue", On: link, Match: scenario.Match{Dst: "p0-tor0-h0"}})
	f("p9-tor0-h0", scenario.Fault{Kind: "acl", On: device, Match: scenario.Match{Src: "p9-tor0-h0"}})
	f("no addresses of IPv6", scenario.Fault{Kind: "acl", On: device, Match: scenario.Match{Src: "2001:db8::/32"}})
	f("not in 1..65535", scenario.Fault{Kind: "acl", On: device, Match: scenario.Match{Port: 70000}})

	f("smallest that can be drawn", scenario.Fault{Kind: "acl", On: device, Rate: 1e-12})
}

// A device on its own cannot loop; every kind that CheckFault lets pass can be begun.
func TestFaultKindsAreWhole(t *testing.T) {
	alone, err := topology.New("x", []*topology.Device{{Name: "s"}},
		[]*topology.Host{{Name: "h", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}},
		[]topology.Cable{{
			A: topology.Interface{Node: "s", Name: "eth1", Addr: netip.MustParsePrefix("10.0.0.0/31")},
			B: topology.Interface{Node: "h", Name: "eth0", Addr: netip.MustParsePrefix("10.0.0.1/31")},
		}})
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckFault(alone, scenario.Fault{Kind: "ttl-loop", On: "device s"}); err == nil || !strings.Contains(err.Error(), "needs another device") {
		t.Errorf("loop of one device: %v", err)
	}
	for name, k := range kinds {
		if on := scenario.HappensOn(name); on != k.on {
			t.Errorf("%s happens on a %s here, on a %s in scenarios", name, k.on, on)
		}
		if !k.rate && k.noRate == "" || len(k.match) < len(anyPacket) && k.noMatch == "" {
			t.Errorf("%s: does not say why it takes no more", name)
		}
	}
}

// record is a dropped segment of TCP with IP and TCP options: 1000 bytes of
// payload behind 24 and 32 bytes of headers.
var record = slices.Concat(make([]byte, 8),
	[]byte{0x46, 0, 0x04, 0x20, 0x12, 0x34, 0x40, 0, 61, 6, 0, 0, 10, 0, 0, 1, 10, 1, 1, 3}, make([]byte, 20), segment)

var segment = []byte{0x9c, 0x40, 0x14, 0x51, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 1, 0x80, 0x18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// record6 is the same segment over IPv6.
var record6 = slices.Concat(make([]byte, 8),
	[]byte{0x60, 0, 0, 0, 0x04, 0x08, 6, 61},
	netip.MustParseAddr("fd0a::a00:1").AsSlice(), netip.MustParseAddr("fd0a::a01:103").AsSlice(), segment)

func TestParseDrop(t *testing.T) {
	boot := time.Unix(1000, 0)
	want := Drop{
		Time: boot,
		Src:  netip.MustParseAddrPort("10.0.0.1:40000"), Dst: netip.MustParseAddrPort("10.1.1.3:5201"),
		Protocol: 6, IPID: 0x1234, TTL: 61, Seq: 0xdeadbeef, Flags: 0x18, Payload: 1000,
	}
	want6 := want
	want6.Src, want6.Dst, want6.IPID = netip.MustParseAddrPort("[fd0a::a00:1]:40000"), netip.MustParseAddrPort("[fd0a::a01:103]:5201"), 0
	for _, c := range []struct {
		record []byte
		want   Drop
	}{{record, want}, {record6, want6}} {
		if d, err := parseDrop(c.record, boot); err != nil || d != c.want {
			t.Errorf("got %+v, %v; want %+v", d, err, c.want)
		}
	}
	for _, short := range [][]byte{record[:recordSize-1], make([]byte, recordSize)} {
		if d, err := parseDrop(short, boot); err == nil {
			t.Errorf("%x is taken for %+v", short, d)
		}
	}
}

func FuzzParseDrop(f *testing.F) {
	f.Add(record)
	f.Add(record6)
	f.Add(record[:20])
	f.Add(make([]byte, recordSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parseDrop(b, time.Unix(0, 0))
		if err == nil && (d.Payload < 0 || !d.Src.IsValid()) {
			t.Errorf("%+v", d)
		}
	})
}
