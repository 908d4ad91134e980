package kernel

import (
	"net/netip"
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
	const link, device = "link p0-t1-0>t2-1", "device t2-1"
	f("", scenario.Fault{Kind: "silent-loss", On: link, Rate: 1e-6, Match: scenario.Match{Src: "p0-tor0-h0", Dst: "10.1.0.0/16", Port: 80}})
	f("", scenario.Fault{Kind: "acl", On: device, Rate: 1, Match: scenario.Match{Dst: "10.1.1.1"}})
	f("", scenario.Fault{Kind: "no-route", On: device, Match: scenario.Match{Dst: "p0-tor0-h0"}})
	f("", scenario.Fault{Kind: "queue", On: link, Rate: 1})

	f("it can make acl, no-route, queue, silent-loss", scenario.Fault{Kind: "corrupt", On: link})
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
	f("IPv4 only", scenario.Fault{Kind: "acl", On: device, Match: scenario.Match{Src: "2001:db8::/32"}})
	f("not in 1..65535", scenario.Fault{Kind: "acl", On: device, Match: scenario.Match{Port: 70000}})

	f("smallest that can be drawn", scenario.Fault{Kind: "acl", On: device, Rate: 1e-12})
}

// record is a dropped segment of TCP with IP and TCP options: 1000 bytes of
// payload behind 24 and 32 bytes of headers.
var record = append(make([]byte, 8),
	0x46, 0, 0x04, 0x20, 0x12, 0x34, 0x40, 0, 61, 6, 0, 0, 10, 0, 0, 1, 10, 1, 1, 3,
	0x9c, 0x40, 0x14, 0x51, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 1, 0x80, 0x18, 0, 0, 0, 0, 0, 0)

func TestParseDrop(t *testing.T) {
	boot := time.Unix(1000, 0)
	d, err := parseDrop(record, boot)
	if err != nil {
		t.Fatal(err)
	}
	want := Drop{
		Time: boot,
		Src:  netip.MustParseAddrPort("10.0.0.1:40000"), Dst: netip.MustParseAddrPort("10.1.1.3:5201"),
		Protocol: 6, IPID: 0x1234, TTL: 61, Seq: 0xdeadbeef, Flags: 0x18, Payload: 1000,
	}
	if d != want {
		t.Errorf("got %+v, want %+v", d, want)
	}
}

func FuzzParseDrop(f *testing.F) {
	f.Add(record)
	f.Add(record[:20])
	f.Add(make([]byte, recordSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parseDrop(b, time.Unix(0, 0))
		if err == nil && (d.Payload < 0 || !d.Src.IsValid()) {
			t.Errorf("%+v", d)
		}
	})
}
