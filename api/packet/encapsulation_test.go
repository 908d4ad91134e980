package packet

import (
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"decaf/api/decafpb"
)

var (
	innerSrc = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	innerDst = net.HardwareAddr{2, 0, 0, 0, 0, 2}
)

func ethernet(kind layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: innerSrc, DstMAC: innerDst, EthernetType: kind}
}

// carried are the inner packets of the tests, with what is to be read of them.
func carried4() (*layers.IPv4, *layers.TCP, *decafpb.Packet) {
	ip := &layers.IPv4{Version: 4, TTL: 33, Id: 77, Protocol: layers.IPProtocolTCP, SrcIP: net.IP{192, 168, 0, 1}, DstIP: net.IP{192, 168, 0, 2}}
	tcp := &layers.TCP{SrcPort: 50000, DstPort: 443, Seq: 99, Ack: 98, SYN: true, Window: 1}
	return ip, tcp, &decafpb.Packet{
		Flow: &decafpb.Flow{Src: []byte{192, 168, 0, 1}, Dst: []byte{192, 168, 0, 2}, SrcPort: 50000, DstPort: 443, Protocol: 6},
		IpId: 77, Ttl: 33, Length: 40, TcpFlags: uint32(SYN), TcpSeq: 99, TcpAck: 98,
	}
}

func outerUDP(port layers.UDPPort) *layers.UDP { return &layers.UDP{SrcPort: 55555, DstPort: port} }

// encapsulated is one packet of each kind.
func encapsulated(t testing.TB) map[string]struct {
	etherType uint16
	bytes     []byte
	want      *decafpb.Packet
	kind      string
} {
	ip, tcp, plain := carried4()
	framed := func(vlan uint32) *decafpb.Packet {
		p := &decafpb.Packet{SrcMac: innerSrc, DstMac: innerDst, Vlan: vlan}
		p.Flow, p.IpId, p.Ttl, p.Length, p.TcpFlags, p.TcpSeq, p.TcpAck = plain.Flow, plain.IpId, plain.Ttl, plain.Length, plain.TcpFlags, plain.TcpSeq, plain.TcpAck
		return p
	}
	six := &decafpb.Packet{
		Flow: &decafpb.Flow{Src: net.ParseIP("2001:db8::1"), Dst: net.ParseIP("2001:db8::2"), SrcPort: 5, DstPort: 6, Protocol: 17},
		Ttl:  60, Length: 48, SrcMac: innerSrc, DstMac: innerDst,
	}
	arp := &layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: 1,
		SourceHwAddress: innerSrc, SourceProtAddress: []byte{10, 9, 0, 1}, DstHwAddress: make([]byte, 6), DstProtAddress: []byte{10, 9, 0, 2}}
	asks := &decafpb.Packet{Flow: &decafpb.Flow{Src: []byte{10, 9, 0, 1}, Dst: []byte{10, 9, 0, 2}}, Length: 28, SrcMac: innerSrc, DstMac: innerDst}
	vxlan := &layers.VXLAN{ValidIDFlag: true, VNI: 7}
	label := func(bottom bool) *layers.MPLS { return &layers.MPLS{Label: 100, StackBottom: bottom, TTL: 9} }
	return map[string]struct {
		etherType uint16
		bytes     []byte
		want      *decafpb.Packet
		kind      string
	}{
		"vxlan":           {etherIPv4, build(t, v4(layers.IPProtocolUDP), outerUDP(4789), vxlan, ethernet(layers.EthernetTypeIPv4), ip, tcp), framed(0), VXLAN},
		"vxlan of Linux":  {0, build(t, v4(layers.IPProtocolUDP), outerUDP(8472), vxlan, ethernet(layers.EthernetTypeIPv4), ip, tcp), framed(0), VXLAN},
		"vxlan over IPv6": {etherIPv6, build(t, v6(layers.IPProtocolUDP), outerUDP(4789), vxlan, ethernet(layers.EthernetTypeIPv4), ip, tcp), framed(0), VXLAN},
		"vxlan, tagged": {0, build(t, v4(layers.IPProtocolUDP), outerUDP(4789), vxlan, ethernet(layers.EthernetTypeDot1Q),
			&layers.Dot1Q{VLANIdentifier: 12, Type: layers.EthernetTypeIPv4}, ip, tcp), framed(12), VXLAN},
		"vxlan with IPv6": {0, build(t, v4(layers.IPProtocolUDP), outerUDP(4789), vxlan, ethernet(layers.EthernetTypeIPv6),
			v6(layers.IPProtocolUDP), &layers.UDP{SrcPort: 5, DstPort: 6}), six, VXLAN},
		"vxlan with ARP":           {0, build(t, v4(layers.IPProtocolUDP), outerUDP(4789), vxlan, ethernet(layers.EthernetTypeARP), arp), asks, VXLAN},
		"vxlan without identifier": {0, build(t, v4(layers.IPProtocolUDP), outerUDP(4789), &layers.VXLAN{}, ethernet(layers.EthernetTypeIPv4), ip, tcp), nil, ""},
		"gre":                      {0, build(t, v4(layers.IPProtocolGRE), &layers.GRE{Protocol: layers.EthernetTypeIPv4}, ip, tcp), plain, GRE},
		"gre with key, sequence and sum": {0, build(t, v4(layers.IPProtocolGRE),
			&layers.GRE{Protocol: layers.EthernetTypeIPv4, KeyPresent: true, Key: 7, SeqPresent: true, Seq: 8, ChecksumPresent: true}, ip, tcp), plain, GRE},
		"gre over IPv6":      {0, build(t, v6(layers.IPProtocolGRE), &layers.GRE{Protocol: layers.EthernetTypeIPv4}, ip, tcp), plain, GRE},
		"gre with frame":     {0, build(t, v4(layers.IPProtocolGRE), &layers.GRE{Protocol: 0x6558, KeyPresent: true, Key: 7}, ethernet(layers.EthernetTypeIPv4), ip, tcp), framed(0), GRE},
		"gre with mpls":      {0, build(t, v4(layers.IPProtocolGRE), &layers.GRE{Protocol: layers.EthernetTypeMPLSUnicast}, label(true), ip, tcp), plain, GRE},
		"gre of PPTP":        {0, build(t, v4(layers.IPProtocolGRE), &layers.GRE{Protocol: 0x880b, Version: 1}, ip, tcp), nil, ""},
		"mpls":               {etherMPLS, build(t, label(false), label(true), ip, tcp), plain, MPLS},
		"mpls in udp":        {0, build(t, v4(layers.IPProtocolUDP), outerUDP(6635), label(true), ip, tcp), plain, MPLS},
		"mpls, a pseudowire": {etherMPLS, build(t, label(true), gopacket.Payload{0, 0, 0, 1}, ethernet(layers.EthernetTypeIPv4), ip, tcp), framed(0), MPLS},
		"no tunnel":          {0, build(t, ip, tcp), nil, ""},
		"no IP":              {0x88cc, []byte{2, 7, 4, 0}, nil, ""},
	}
}

func TestInner(t *testing.T) {
	for name, tc := range encapsulated(t) {
		got, kind := Inner(tc.etherType, tc.bytes)
		if d := cmp.Diff(tc.want, got, protocmp.Transform()); d != "" || kind != tc.kind {
			t.Errorf("%s: %q\n%s", name, kind, d)
		}
	}
}

// Cut anywhere, what stands before the cut is read or nothing is: never something
// else.
func TestInnerCutShort(t *testing.T) {
	for name, tc := range encapsulated(t) {
		if tc.want == nil {
			continue
		}
		for n := range tc.bytes {
			got, kind := Inner(tc.etherType, tc.bytes[:n])
			if (got == nil) != (kind == "") {
				t.Fatalf("%s cut to %d: %v, %q", name, n, got, kind)
			}
			if got == nil {
				continue
			}
			if d := cmp.Diff(tc.want.Flow.Src, got.Flow.Src); d != "" {
				t.Errorf("%s cut to %d: source\n%s", name, n, d)
			}
			if p := got.Flow.DstPort; p != 0 && p != tc.want.Flow.DstPort {
				t.Errorf("%s cut to %d: port %d", name, n, p)
			}
		}
		// As much as an event carries holds the flow.
		if got, _ := Inner(tc.etherType, tc.bytes[:min(len(tc.bytes), maxHeader)]); got == nil || cmp.Diff(tc.want.Flow, got.Flow, protocmp.Transform()) != "" {
			t.Errorf("%s cut to %d: %v", name, maxHeader, got)
		}
	}
}

// Of tunnels in tunnels the innermost packet is the user's; more than are opened,
// and one that the bytes do not reach, leave the tunnel around it.
func TestInnerOfNestedTunnels(t *testing.T) {
	ip, tcp, plain := carried4()
	framed := func() *decafpb.Packet {
		p := proto.CloneOf(plain)
		p.SrcMac, p.DstMac = innerSrc, innerDst
		return p
	}
	through := func(kind layers.IPProtocol) *layers.IPv4 {
		return &layers.IPv4{Version: 4, TTL: 9, Protocol: kind, SrcIP: net.IP{172, 16, 0, 1}, DstIP: net.IP{172, 16, 0, 2}}
	}
	vxlan := &layers.VXLAN{ValidIDFlag: true, VNI: 7}
	tunnel := &layers.GRE{Protocol: layers.EthernetTypeIPv4}
	label := &layers.MPLS{Label: 100, StackBottom: true, TTL: 9}
	for _, tc := range []struct {
		name      string
		etherType uint16
		bytes     []byte
		want      *decafpb.Packet
		kind      string
	}{
		{"vxlan in gre", 0, build(t, v4(layers.IPProtocolGRE), tunnel, through(layers.IPProtocolUDP), outerUDP(4789), vxlan, ethernet(layers.EthernetTypeIPv4), ip, tcp), framed(), "gre/vxlan"},
		{"gre in vxlan", 0, build(t, v4(layers.IPProtocolUDP), outerUDP(4789), vxlan, ethernet(layers.EthernetTypeIPv4), through(layers.IPProtocolGRE), tunnel, ip, tcp), plain, "vxlan/gre"},
		{"vxlan under labels", etherMPLS, build(t, label, through(layers.IPProtocolUDP), outerUDP(4789), vxlan, ethernet(layers.EthernetTypeIPv4), ip, tcp), framed(), "mpls/vxlan"},
		{"labels in vxlan", 0, build(t, v4(layers.IPProtocolUDP), outerUDP(4789), vxlan, ethernet(layers.EthernetTypeMPLSUnicast), label, ip, tcp), framed(), "vxlan"},
		{"three", 0, build(t, v4(layers.IPProtocolGRE), tunnel, through(layers.IPProtocolGRE), tunnel, through(layers.IPProtocolUDP), outerUDP(6635), label, ip, tcp), plain, "gre/gre/mpls"},
		{"four", 0, build(t, v4(layers.IPProtocolGRE), tunnel, through(layers.IPProtocolGRE), tunnel, through(layers.IPProtocolGRE), tunnel, through(layers.IPProtocolGRE), tunnel, ip, tcp), plain, "gre/gre/gre/gre"},
	} {
		got, kind := Inner(tc.etherType, tc.bytes)
		if d := cmp.Diff(tc.want, got, protocmp.Transform()); d != "" || kind != tc.kind {
			t.Errorf("%s: %q\n%s", tc.name, kind, d)
		}
	}
	five := build(t, v4(layers.IPProtocolGRE), tunnel, through(layers.IPProtocolGRE), tunnel, through(layers.IPProtocolGRE), tunnel, through(layers.IPProtocolGRE), tunnel, through(layers.IPProtocolGRE), tunnel, ip, tcp)
	if got, kind := Inner(0, five); kind != "gre/gre/gre/gre" || got.GetFlow().GetProtocol() != 47 {
		t.Errorf("five: %q, %v", kind, got)
	}
	cut := build(t, v4(layers.IPProtocolGRE), tunnel, through(layers.IPProtocolUDP), outerUDP(4789), vxlan, ethernet(layers.EthernetTypeIPv4), ip, tcp)
	if got, kind := Inner(0, cut[:20+4+20+8+8+14+19]); kind != "gre" || got.GetFlow().GetDstPort() != 4789 {
		t.Errorf("cut: %q, %v", kind, got)
	}
}

func TestDecodeARP(t *testing.T) {
	b := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, 2, 0, 0, 0, 0, 1, 10, 9, 0, 1, 0, 0, 0, 0, 0, 0, 10, 9, 0, 2)
	got, err := Decode(append(b, make([]byte, 18)...)) // padded to Ethernet's minimum
	if err != nil || got.Length != 28 || len(got.Header) != 46 {
		t.Fatalf("%v, %v", got, err)
	}
	if f, err := FlowFromPB(got.Flow); err != nil || f.Src.Addr().String() != "10.9.0.1" || f.Dst.Addr().String() != "10.9.0.2" || f.Proto != 0 {
		t.Errorf("%v, %v", f, err)
	}
	if _, err := Decode(b[:27]); err == nil {
		t.Error("one cut short is read")
	}
}

func FuzzInner(f *testing.F) {
	for _, tc := range encapsulated(f) {
		f.Add(tc.etherType, tc.bytes)
	}
	ip, tcp, _ := carried4()
	f.Add(uint16(0), build(f, v4(layers.IPProtocolGRE), &layers.GRE{Protocol: layers.EthernetTypeIPv4}, v4(layers.IPProtocolGRE), &layers.GRE{Protocol: layers.EthernetTypeIPv4}, ip, tcp))
	f.Fuzz(func(t *testing.T, etherType uint16, b []byte) {
		p, kind := Inner(etherType, b)
		if (p == nil) != (kind == "") {
			t.Fatalf("%v, %q", p, kind)
		}
		if p == nil {
			return
		}
		if _, err := FlowFromPB(p.Flow); err != nil {
			t.Fatalf("flow of an inner packet: %v", err)
		}
		if len(p.Header) != 0 || p.Vlan > 4095 || len(p.SrcMac) != 0 && len(p.SrcMac) != 6 {
			t.Fatalf("%v", p)
		}
		for i := range b { // it shares no memory
			b[i] = 0xff
		}
		if q, _ := Inner(etherType, b); q != nil {
			t.Fatalf("all ones are %v", q)
		}
	})
}
