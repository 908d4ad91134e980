package device

import (
	"encoding/binary"
	"maps"
	"slices"
	"testing"
	"time"

	"decaf/api/packet"

	"github.com/vishvananda/netlink"
)

// vxlanFrame is a frame to the router with a packet in VXLAN: outer is the outer
// packet's type of service, inside what stands behind the VXLAN header.
func (l *lab) vxlanFrame(tos byte, inside []byte) []byte {
	f := frames{from: l.h1.link("eth0").Attrs().HardwareAddr, to: l.r.link("eth1").Attrs().HardwareAddr}
	udp := binary.BigEndian.AppendUint16([]byte{0xd9, 3}, 4789)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+8+len(inside)))
	udp = append(append(udp, 0, 0, 8, 0, 0, 0, 0, 0, 7, 0), inside...)
	return f.udp4("10.0.1.2", "10.0.1.1", 9, 20+len(udp), 7, func(ip []byte) {
		ip[1] = tos
		copy(ip[20:], udp)
	}, nil)
}

// addVXLAN adds the router's end of a tunnel to h1.
func (l *lab) addVXLAN() netlink.Link {
	l.r.must("vxlan", l.r.nl.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vx0"}, VxlanId: 7, Port: 4789, Learning: true}))
	l.r.address("vx0", "10.0.9.1/24")
	l.r.up("vx0")
	return l.r.link("vx0")
}

// Errors that an interface counts: with the kernel's word they are told of once, as
// what the kernel says they are; without it as what the counter says.
func TestCountersOfErrors(t *testing.T) {
	const each = 5
	for _, tc := range []struct {
		name   string
		kernel bool
		want   map[string]uint64 // packets by class
		events []string          // that there are: observer, reason and ingress
	}{
		{"beside the kernel", true, map[string]uint64{ErrorsL3RxInvalid: 2 * each},
			[]string{"kernel IP_TUNNEL_ECN vx0", "kernel PKT_TOO_SMALL vx0"}},
		{"alone", false, map[string]uint64{ErrorsL2RxFrame: 2 * each},
			[]string{"counters rx_frame_errors vx0", "counters rx_length_errors vx0"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t)
			l.withoutIPv6() // its housekeeping would find no way out of the tunnel
			vx := l.addVXLAN()
			cfg := testConfig()
			cfg.Counters.Interval, cfg.Kernel = minInterval, tc.kernel
			a := startAgent(t, l.r, cfg)
			events := watch(t, dial(t, l.r, a, nil))
			told := func() map[string]uint64 {
				out := map[string]uint64{}
				for _, c := range a.ledger.totals().classes {
					if c.Packets > 0 {
						out[c.Name] = c.Packets
					}
				}
				return out
			}

			user := packet.Probe{Flow: packet.Flow{Src: addrPort("192.168.0.1:50000"), Dst: addrPort("192.168.0.2:443"), Proto: packet.TCP}, TTL: 33, Seq: 99, ID: 77}
			inside, err := user.Marshal(nil)
			l.r.must("inner packet", err)
			eth := append(append([]byte(nil), vx.Attrs().HardwareAddr...), 2, 0, 0, 0, 0, 9, 8, 0)
			const congested = 3 // says the outer packet of an inner one that knows nothing of it (RFC 6040)
			l.h1.sendFrames("eth0", each, func(int) []byte { return l.vxlanFrame(congested, append(eth[:14:14], inside...)) })
			l.h1.sendFrames("eth0", each, func(int) []byte { return l.vxlanFrame(0, append(eth[:14:14], inside[:10]...)) })
			until(t, "the interfaces' own counters", func() bool {
				v := l.r.link("vx0").Attrs().Statistics
				return v.RxErrors == 2*each && v.RxFrameErrors == each && v.RxLengthErrors == each
			})
			before := a.sources.counters.left().readings
			until(t, "all readings that can tell of it", func() bool { return a.sources.counters.left().readings >= before+5 })
			within(10*time.Second, func() bool { return maps.Equal(told(), tc.want) })
			if got := told(); !maps.Equal(got, tc.want) {
				t.Errorf("told of %v, want %v", got, tc.want)
			}
			seen := map[string]bool{}
			for len(events) > 0 {
				ev := <-events
				seen[ev.Source+" "+ev.Reason+" "+ev.Ingress] = true
				if ev.Egress != "" {
					t.Errorf("%s on its way out by %s", ev.Reason, ev.Egress)
				}
			}
			if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, tc.events) {
				t.Errorf("events %q, want %q", got, tc.events)
			}
			i := slices.IndexFunc(a.Interfaces(), func(c InterfaceCounters) bool { return c.Name == "vx0" })
			if c := a.Interfaces()[i]; c.InErrors != 2*each {
				t.Errorf("%+v", c)
			}
		})
	}
}
