package device

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"decaf/api/packet"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// What comes over a link and is no plain IP: an MPLS packet that nobody here
// switches, an ARP packet that a rule drops, a tagged frame. What else there is on a
// link is told of to nobody.
func TestDropsOfOtherFrames(t *testing.T) {
	l := newLab(t)
	from, to := l.h1.link("eth0").Attrs().HardwareAddr, l.r.link("eth1").Attrs().HardwareAddr
	user := packet.Probe{Flow: packet.Flow{Src: addrPort("192.168.0.1:50000"), Dst: addrPort("192.168.0.2:443"), Proto: packet.TCP}, TTL: 33, Seq: 99, ID: 77}
	inside, err := user.Marshal(nil)
	l.r.must("inner packet", err)
	frame := func(etherType uint16, parts ...[]byte) []byte {
		b := binary.BigEndian.AppendUint16(append(append([]byte(nil), to...), from...), etherType)
		for _, p := range parts {
			b = append(b, p...)
		}
		return append(b, make([]byte, max(0, 60-len(b)))...)
	}
	// To an address at the far side, so that the filter on the way in alone drops it.
	l.r.nftRule(nftables.TableFamilyNetdev, nftables.Chain{Name: "in", Hooknum: nftables.ChainHookIngress, Device: "eth1"},
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{8, 0}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{192, 168, 0, 2}}, dropped)
	l.r.nftRule(nftables.TableFamilyARP, nftables.Chain{Name: "in", Hooknum: nftables.ChainHookPrerouting}, dropped) // of ARP: what comes in
	a := startAgent(t, l.r, testConfig())
	events := watch(t, dial(t, l.r, a, nil))

	arp := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, from...)
	arp = append(append(arp, 10, 0, 1, 2), append(make([]byte, 6), 10, 0, 1, 1)...)
	label := func(number uint32, bottom byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, number<<12|64)
		b[2] |= bottom
		return b
	}
	for _, tc := range []struct {
		name          string
		frame         []byte
		class, reason string
		length, vlan  uint32
		header        []byte // the first bytes of the event's
		flow          packet.Flow
		encapsulation string
	}{
		{"mpls", frame(etherMPLS, label(100, 0), label(200, 1), inside), ErrorsL3RxLabel, "UNHANDLED_PROTO", uint32(max(8+len(inside), 46)), 0, label(100, 0), user.Flow, packet.MPLS},
		{"mpls that looks like IPv4", frame(etherMPLSMulti, label(0x45000, 1), inside), ErrorsL3RxLabel, "UNHANDLED_PROTO", uint32(max(4+len(inside), 46)), 0, label(0x45000, 1), user.Flow, packet.MPLS},
		{"arp", frame(etherARP, arp), PolicyL2ACL, "NETFILTER_DROP", 46, 0, arp,
			packet.Flow{Src: netip.AddrPortFrom(netip.MustParseAddr("10.0.1.2"), 0), Dst: netip.AddrPortFrom(netip.MustParseAddr("10.0.1.1"), 0)}, ""},
		{"vlan", frame(0x8100, []byte{0x20, 12, 8, 0}, inside), PolicyL3ACL, "NETFILTER_DROP", 60 - 18, 12, inside, user.Flow, ""},
	} {
		l.h1.sendFrames("eth0", 1, func(int) []byte { return frame(0x88cc, []byte{2, 7, 4}) }) // LLDP
		l.h1.sendFrames("eth0", 1, func(int) []byte { return tc.frame })
		var ev seen
		select {
		case ev = <-events:
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: no event", tc.name)
		}
		t.Logf("%s: %s at %s", tc.name, ev.Reason, ev.Function)
		if ev.Class != tc.class || ev.Reason != tc.reason || ev.Ingress != "eth1" || ev.Egress != "" || ev.Encapsulation != tc.encapsulation {
			t.Errorf("%s: %v", tc.name, ev)
		}
		p := ev.Packet
		if f := eventFlow(ev.DropEvent); f != tc.flow {
			t.Errorf("%s: flow %v, want %v", tc.name, f, tc.flow)
		}
		if p.GetVlan() != tc.vlan || p.GetLength() != tc.length || len(p.GetHeader()) < len(tc.header) || string(p.GetHeader()[:len(tc.header)]) != string(tc.header) {
			t.Errorf("%s: %v, want vlan %d and %d bytes from %x on", tc.name, p, tc.vlan, tc.length, tc.header)
		}
		if got := net.HardwareAddr(p.GetSrcMac()).String(); got != from.String() {
			t.Errorf("%s: from %s, want %s", tc.name, got, from)
		}
	}
	s := a.State()
	if s.DropsUnclassified != 0 || s.Events != 4 {
		t.Errorf("%d unclassified, %d events", s.DropsUnclassified, s.Events)
	}
	if s.DropsIgnored < 4 {
		t.Errorf("%d ignored, four frames of another protocol were sent", s.DropsIgnored)
	}
}

// A class that rules made for IP is another for what is none.
func TestEtherClass(t *testing.T) {
	for _, tc := range []struct {
		class     string
		etherType uint16
		want      string
	}{
		{PolicyL3ACL, etherIPv4, PolicyL3ACL}, {PolicyL3ACL, etherIPv6, PolicyL3ACL}, {PolicyL3ACL, etherARP, PolicyL2ACL}, {PolicyL3ACL, etherMPLS, PolicyL2ACL},
		{ErrorsL3RxInvalid, etherIPv4, ErrorsL3RxInvalid}, {ErrorsL3RxInvalid, etherARP, ErrorsL2RxFrame}, {ErrorsL3RxInvalid, etherMPLSMulti, ErrorsL3RxLabel},
		{NoBuffer, etherARP, NoBuffer}, {Unknown, etherMPLS, Unknown}, {"", etherMPLS, ""},
	} {
		if got := etherClass(tc.class, tc.etherType); got != tc.want {
			t.Errorf("%s of %#x is %s, want %s", tc.class, tc.etherType, got, tc.want)
		}
	}
}
