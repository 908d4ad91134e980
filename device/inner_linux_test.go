package device

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"decaf/api/packet"

	"github.com/google/nftables"
)

// What a tunnel carries is read of a packet that the kernel dropped, and reaches
// the client; an ARP packet has who asks whom.
func TestInnerPacketReachesTheClient(t *testing.T) {
	l := newLab(t)
	l.r.nftCount(nftables.ChainHookForward, "10.0.2.99", true)
	f := frames{from: l.h1.link("eth0").Attrs().HardwareAddr, to: l.r.link("eth1").Attrs().HardwareAddr}
	user := packet.Probe{Flow: packet.Flow{Src: addrPort("192.168.0.1:50000"), Dst: addrPort("192.168.0.2:443"), Proto: packet.TCP}, TTL: 33, Seq: 99, ID: 77}
	inside, err := user.Marshal(nil)
	l.r.must("inner packet", err)

	vxlan := append([]byte{8, 0, 0, 0, 0, 0, 7, 0}, make([]byte, 14)...) // and an Ethernet header
	vxlan[8+12] = 8
	vxlan = append(vxlan, inside...)
	gre := append([]byte{0, 0, 8, 0}, inside...)
	mpls := append([]byte{0, 0, 16, 9, 0, 0, 17, 9}, inside...)
	outer := func(proto byte, payload []byte) []byte {
		return f.udp4("10.0.1.2", "10.0.2.99", 9, 20+len(payload), 7, func(ip []byte) {
			ip[9] = proto
			copy(ip[20:], payload)
		}, nil)
	}
	udp := func(port uint16, payload []byte) []byte {
		h := binary.BigEndian.AppendUint16([]byte{0xd9, 3}, port)
		h = binary.BigEndian.AppendUint16(h, uint16(8+len(payload)))
		return append(append(h, 0, 0), payload...)
	}
	a := startAgent(t, l.r, testConfig())
	events := watch(t, dial(t, l.r, a, nil))
	for _, tc := range []struct {
		encapsulation string
		frame         []byte
		proto         uint32
	}{
		{packet.VXLAN, outer(17, udp(4789, vxlan)), 17},
		{packet.GRE, outer(47, gre), 47},
		{packet.MPLS, outer(17, udp(6635, mpls)), 17},
		{packet.GRE + "/" + packet.VXLAN, outer(47, append([]byte{0, 0, 8, 0}, outer(17, udp(4789, vxlan))[14:]...)), 47},
	} {
		l.h1.sendFrames("eth0", 1, func(int) []byte { return tc.frame })
		select {
		case ev := <-events:
			got, err := packet.FlowFromPB(ev.GetInner().GetFlow())
			if err != nil || got != user.Flow || ev.Encapsulation != tc.encapsulation || ev.Inner.TcpSeq != 99 || ev.Inner.Ttl != 33 {
				t.Errorf("%s: %v, inner %v", tc.encapsulation, ev.Encapsulation, ev.Inner)
			}
			if ev.Packet.GetFlow().GetProtocol() != tc.proto || ev.Class != PolicyL3ACL || len(ev.Packet.Header) < 60 {
				t.Errorf("%s: outer %v", tc.encapsulation, ev.Packet)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: no event", tc.encapsulation)
		}
	}
}

// A label stack has no addresses: the event's flow is that of what it carries.
func TestEventUnderLabels(t *testing.T) {
	user := packet.Probe{Flow: packet.Flow{Src: addrPort("192.168.0.1:50000"), Dst: addrPort("192.168.0.2:443"), Proto: packet.TCP}, TTL: 33, Seq: 99, ID: 77}
	inside, err := user.Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	// A label that looks like the version of IPv4.
	r := record{protocol: 0x8847, header: append([]byte{0x45, 0, 1, 9}, inside...), linkLayer: make([]byte, 14), length: uint32(4 + len(inside))}
	ev := newEvent(&r, time.Unix(0, 1), ErrorsL3RxLabel, "", "", "a", "b")
	if f := eventFlow(ev); f != user.Flow || ev.Encapsulation != packet.MPLS || ev.Packet.Flow != nil || ev.Packet.Length != r.length || len(ev.Packet.SrcMac) != 6 {
		t.Errorf("%v: %v", f, ev)
	}
	arp := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, 2, 0, 0, 0, 0, 1, 10, 9, 0, 1, 0, 0, 0, 0, 0, 0, 10, 9, 0, 2)
	ev = newEvent(&record{protocol: 0x0806, header: arp, length: 28}, time.Unix(0, 1), Unknown, "", "", "a", "")
	if f := eventFlow(ev); f.Src.Addr() != netip.MustParseAddr("10.9.0.1") || f.Dst.Addr() != netip.MustParseAddr("10.9.0.2") || f.Proto != 0 {
		t.Errorf("%v: %v", f, ev)
	}
}
