package flow

import (
	"fmt"
	"net/netip"
	"testing"

	"google.golang.org/protobuf/proto"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/sim/scenario"
	"decaf/topology"
)

// speaking is a run of half a minute with one fault, over a version of the Internet
// Protocol or both.
func speaking(t testing.TB, ip, fault string) *scenario.Scenario {
	return parse(t, fmt.Sprintf("duration: 30s\ntraffic: {connections_per_host: 10/s, ip: %s}\nfaults:\n  - {at: 0s, %s}\n", ip, fault))
}

// Every record of a run shows addresses that the fabric has, of the version that it
// speaks, and with both about as many of each; packets are whole, and what is dropped is
// sent again.
func TestRunsSpeakIPv6(t *testing.T) {
	for _, fault := range []string{
		"on: device t2-1, kind: acl, rate: 3%",
		"on: device t2-1, kind: blackhole, rate: 3%",
		"on: device p0-t1-0, kind: ttl-loop, rate: 3%",
		"on: device p0-tor0, kind: mtu, rate: 3%",
		"on: device t2-1, kind: route-flap",
		"on: link p0-t1-0>t2-1, kind: corrupt, rate: 3%",
	} {
		for ip, want := range map[string][2]bool{"6": {false, true}, "both": {true, true}} {
			f := build(t, speaking(t, ip, fault), 1, Options{Exchanges: true})
			topo, err := f.Scenario().Fabric.Topology()
			if err != nil {
				t.Fatal(err)
			}
			all := play(t, f)
			var flows [2]int
			ends := func(what string, pb *decafpb.Flow) packet.Flow {
				t.Helper()
				flow, err := packet.FlowFromPB(pb)
				if err != nil {
					t.Fatal(err)
				}
				for _, a := range []netip.Addr{flow.Src.Addr(), flow.Dst.Addr()} {
					_, host := topo.HostAt(a)
					_, iface := topo.InterfaceAt(a)
					if !host && !iface || !want[version(a)] {
						t.Fatalf("ip %s, %s: %s of %s", ip, fault, what, flow)
					}
				}
				flows[version(flow.Src.Addr())]++
				return flow
			}
			type segment struct {
				flow packet.Flow
				seq  uint32
			}
			again := map[segment]bool{}
			for _, r := range all.retransmits {
				flow := ends("retransmit", r.Flow)
				again[segment{flow, r.TcpSeq}] = true
				for _, h := range r.Path.GetHops() {
					if a, ok := netip.AddrFromSlice(h.Address); ok {
						if _, known := topo.InterfaceAt(a); !known || version(a) != version(flow.Src.Addr()) {
							t.Fatalf("ip %s, %s: the path of %s leads over %s", ip, fault, flow, a)
						}
					}
				}
				if six := flow.Is6(); len(r.Path.GetHops()) > 0 && (r.Path.ProbeId == 0) != six {
					t.Fatalf("ip %s, %s: probes of %s have the IP ID %d", ip, fault, flow, r.Path.ProbeId)
				}
			}
			matched := 0
			for _, d := range all.drops {
				if d.Packet == nil {
					if len(d.Prefixes) == 0 {
						t.Fatalf("ip %s, %s: a drop without packet and prefixes", ip, fault)
					}
					continue
				}
				flow := ends("drop", d.Packet.Flow)
				p, err := packet.Decode(d.Packet.Header)
				if err != nil {
					t.Fatal(err)
				}
				p.SrcMac, p.DstMac = d.Packet.SrcMac, d.Packet.DstMac
				if !proto.Equal(p, d.Packet) || p.Length > fullSize {
					t.Fatalf("the header reads %v, the event says %v", p, d.Packet)
				}
				if again[segment{flow, p.TcpSeq}] {
					matched++
				}
			}
			for _, r := range all.flows {
				ends("flow record", r.Flow)
			}
			for _, r := range all.exchanges {
				ends("exchange", r.Flow)
			}
			for _, r := range all.routes {
				a, ok := netip.AddrFromSlice(r.Prefix.Address)
				if p, err := a.Prefix(int(r.Prefix.Length)); !ok || err != nil || !want[version(a)] || !p.Contains(f.Graph().HostAddress(0, a.Is6())) {
					t.Fatalf("ip %s: route of %v", ip, r.Prefix)
				}
			}
			if len(all.retransmits) == 0 || flows[1] == 0 || want[0] && (flows[0] < flows[1]/2 || flows[1] < flows[0]/2) {
				t.Errorf("ip %s, %s: %d records of IPv4, %d of IPv6", ip, fault, flows[0], flows[1])
			}
			if kind := f.faults[0].name; matched == 0 && kind != "corrupt" {
				t.Errorf("ip %s, %s: no dropped segment is sent again", ip, fault)
			}
		}
	}
}

// version is 1 for IPv6.
func version(a netip.Addr) int {
	if a.Is6() {
		return 1
	}
	return 0
}

// A fault that is given addresses takes packets of their version only.
func TestMatchesOfOneVersion(t *testing.T) {
	six := topology.ClosAddr6(netip.MustParseAddr("10.1.0.1")).String()
	for match, want := range map[string][2]bool{
		"dst: 10.1.0.1":                    {true, false},
		"dst: '" + six + "'":               {false, true},
		"dst: '" + six[:6] + "a01:0/112'":  {false, true},
		"dst: '::/0'":                      {false, true},
		"dst: '2001:db8::/32'":             {false, false},
		"dst: p1-tor0-h0":                  {true, true},
		"src: p0-tor0-h0, dst: p1-tor0-h0": {true, true},
	} {
		for _, epoch := range []bool{false, true} {
			f := build(t, speaking(t, "both", "on: device p1-tor0, kind: acl, match: {"+match+"}"), 1, Options{})
			var lost [2]int
			if epoch {
				for _, fl := range f.Flows(0, f.Scenario().Duration, nil).Flows {
					if fl.Lost > 0 && fl.V6 {
						lost[1]++
					} else if fl.Lost > 0 {
						lost[0]++
					}
				}
			} else {
				for _, d := range play(t, f).drops {
					if flow, err := packet.FlowFromPB(d.Packet.Flow); err == nil && d.Class == "policy/l3/acl" {
						lost[version(flow.Dst.Addr())]++
					}
				}
			}
			if got := [2]bool{lost[0] > 0, lost[1] > 0}; got != want {
				t.Errorf("%s (epoch form %v): lost %v of IPv4 and IPv6", match, epoch, lost)
			}
		}
	}
}
