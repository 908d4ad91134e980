package packet

import (
	"bytes"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"google.golang.org/protobuf/testing/protocmp"

	"decaf/api/decafpb"
)

// build makes a whole packet with gopacket, the other opinion on what headers
// look like.
func build(t testing.TB, l ...gopacket.SerializableLayer) []byte {
	t.Helper()
	var network gopacket.NetworkLayer
	for _, layer := range l {
		switch layer := layer.(type) {
		case gopacket.NetworkLayer:
			network = layer
		case interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}:
			if err := layer.SetNetworkLayerForChecksum(network); err != nil {
				t.Fatal(err)
			}
		}
	}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, l...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(b.Bytes())
}

func v4(proto layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 61, Id: 0x1234, Protocol: proto, SrcIP: net.IP{10, 0, 0, 1}, DstIP: net.IP{10, 0, 0, 2}}
}

func v6(proto layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 60, FlowLabel: 0x54321, NextHeader: proto,
		SrcIP: net.ParseIP("2001:db8::1"), DstIP: net.ParseIP("2001:db8::2")}
}

func tcpSegment() *layers.TCP {
	return &layers.TCP{SrcPort: 40000, DstPort: 80, Seq: 0xdeadbeef, Ack: 7, PSH: true, ACK: true, ECE: true, Window: 1,
		Options: []layers.TCPOption{{OptionType: layers.TCPOptionKindNop}, {OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)}}}
}

func tcpBytes(t testing.TB) []byte { return build(t, v4(layers.IPProtocolTCP), tcpSegment())[20:] }

func TestDecode(t *testing.T) {
	const tcpFlags = uint32(PSH | ACK | ECE)
	payload := gopacket.Payload(make([]byte, 100))
	fragment := v4(layers.IPProtocolTCP)
	fragment.FragOffset = 185
	options := v4(layers.IPProtocolUDP)
	options.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}} // router alert
	hop := gopacket.Payload{6, 0, 5, 2, 0, 0, 1, 0}                                                     // TCP next; router alert
	zeroLength := build(t, v4(layers.IPProtocolTCP), tcpSegment(), payload)
	zeroLength[2], zeroLength[3] = 0, 0
	badIHL := build(t, v4(layers.IPProtocolTCP), tcpSegment())
	badIHL[0] = 0x41
	frag6 := append(build(t, v6(44)), 6, 0, 0, 1, 0, 0, 0, 9)
	frag6[5] = 8
	padded := append(build(t, v4(layers.IPProtocolUDP)), 1, 2, 3, 4, 5, 6, 7, 8)

	for name, c := range map[string]struct {
		header []byte
		want   *decafpb.Packet
	}{
		"tcp over ipv4": {build(t, v4(layers.IPProtocolTCP), tcpSegment(), payload), &decafpb.Packet{
			Flow: flow("10.0.0.1:40000", "10.0.0.2:80", TCP).PB(), IpId: 0x1234, Ttl: 61, Length: 152,
			TcpFlags: tcpFlags, TcpSeq: 0xdeadbeef, TcpAck: 7}},
		"tcp over ipv6": {build(t, v6(layers.IPProtocolTCP), tcpSegment(), payload), &decafpb.Packet{
			Flow: flow("[2001:db8::1]:40000", "[2001:db8::2]:80", TCP).PB(), Ttl: 60, Length: 172,
			TcpFlags: tcpFlags, TcpSeq: 0xdeadbeef, TcpAck: 7}},
		"udp": {build(t, v4(layers.IPProtocolUDP), &layers.UDP{SrcPort: 5, DstPort: 53}, payload), &decafpb.Packet{
			Flow: flow("10.0.0.1:5", "10.0.0.2:53", UDP).PB(), IpId: 0x1234, Ttl: 61, Length: 128}},
		"udp behind ip options": {build(t, options, &layers.UDP{SrcPort: 5, DstPort: 53}), &decafpb.Packet{
			Flow: flow("10.0.0.1:5", "10.0.0.2:53", UDP).PB(), IpId: 0x1234, Ttl: 61, Length: 32}},
		"icmp: type and code as IPFIX has them": {build(t, v4(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(11, 1)}), &decafpb.Packet{
			Flow: flow("10.0.0.1:0", "10.0.0.2:2817", ICMP).PB(), IpId: 0x1234, Ttl: 61, Length: 28}},
		"icmpv6": {build(t, v6(layers.IPProtocolICMPv6), &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(135, 0)}), &decafpb.Packet{
			Flow: flow("[2001:db8::1]:0", "[2001:db8::2]:34560", ICMPv6).PB(), Ttl: 60, Length: 44}},
		"sctp has ports": {build(t, v4(layers.IPProtocolSCTP), gopacket.Payload{0, 5, 0, 80, 0, 0, 0, 0}), &decafpb.Packet{
			Flow: flow("10.0.0.1:5", "10.0.0.2:80", SCTP).PB(), IpId: 0x1234, Ttl: 61, Length: 28}},
		"no ports in a protocol without": {build(t, v4(89), payload), &decafpb.Packet{
			Flow: flow("10.0.0.1:0", "10.0.0.2:0", 89).PB(), IpId: 0x1234, Ttl: 61, Length: 120}},
		"no ports in a later fragment": {build(t, fragment, tcpSegment()), &decafpb.Packet{
			Flow: flow("10.0.0.1:0", "10.0.0.2:0", TCP).PB(), IpId: 0x1234, Ttl: 61, Length: 52}},
		"no ports in a later ipv6 fragment": {frag6, &decafpb.Packet{
			Flow: flow("[2001:db8::1]:0", "[2001:db8::2]:0", TCP).PB(), Ttl: 60, Length: 48}},
		"tcp behind a hop-by-hop header": {build(t, v6(0), append(hop, tcpBytes(t)...)), &decafpb.Packet{
			Flow: flow("[2001:db8::1]:40000", "[2001:db8::2]:80", TCP).PB(), Ttl: 60, Length: 80,
			TcpFlags: tcpFlags, TcpSeq: 0xdeadbeef, TcpAck: 7}},
		"length 0 of a segmentation offload": {zeroLength, &decafpb.Packet{
			Flow: flow("10.0.0.1:40000", "10.0.0.2:80", TCP).PB(), IpId: 0x1234, Ttl: 61,
			TcpFlags: tcpFlags, TcpSeq: 0xdeadbeef, TcpAck: 7}},
		"broken header length: the addresses all the same": {badIHL, &decafpb.Packet{
			Flow: flow("10.0.0.1:0", "10.0.0.2:0", TCP).PB(), IpId: 0x1234, Ttl: 61, Length: 52}},
		"ethernet padding is no header": {padded, &decafpb.Packet{
			Flow: flow("10.0.0.1:0", "10.0.0.2:0", UDP).PB(), IpId: 0x1234, Ttl: 61, Length: 20}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Decode(c.header)
			if err != nil {
				t.Fatal(err)
			}
			c.want.Header = c.header[:min(len(c.header), 128)]
			if d := cmp.Diff(c.want, got, protocmp.Transform()); d != "" {
				t.Error(d)
			}
		})
	}
}

// A header cut short gives what stands before the cut.
func TestDecodeGoesAsFarAsTheBytes(t *testing.T) {
	whole := build(t, v4(layers.IPProtocolTCP), &layers.TCP{SrcPort: 40000, DstPort: 80, Seq: 0xdeadbeef, Ack: 7, SYN: true})
	for _, c := range []struct {
		bytes                 int
		port, seq, ack, flags uint32
	}{
		{20, 0, 0, 0, 0},
		{23, 0, 0, 0, 0},
		{24, 80, 0, 0, 0},
		{27, 80, 0, 0, 0},
		{28, 80, 0xdeadbeef, 0, 0},
		{32, 80, 0xdeadbeef, 7, 0},
		{34, 80, 0xdeadbeef, 7, uint32(SYN)},
	} {
		p, err := Decode(whole[:c.bytes])
		if err != nil {
			t.Fatalf("%d bytes: %v", c.bytes, err)
		}
		if p.GetFlow().GetDstPort() != c.port || p.GetTcpSeq() != c.seq || p.GetTcpAck() != c.ack || p.GetTcpFlags() != c.flags {
			t.Errorf("%d bytes: %v", c.bytes, p)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		header []byte
		want   string
	}{
		"nothing":            {nil, "empty"},
		"an ethernet header": {make([]byte, 60), "IP version 0"},
		"half an ipv4":       {append([]byte{0x45}, make([]byte, 18)...), "19 bytes of IPv4"},
		"half an ipv6":       {append([]byte{0x60}, make([]byte, 38)...), "39 bytes of IPv6"},
	} {
		if p, err := Decode(c.header); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v; want %q", name, p, err, c.want)
		}
	}
}

// The result may be kept while the buffer is used again.
func TestDecodeSharesNoMemory(t *testing.T) {
	b := build(t, v4(layers.IPProtocolTCP), tcpSegment())
	p, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	before := p.String()
	for i := range b {
		b[i] = 0xff
	}
	if p.String() != before {
		t.Error("the packet changed with its buffer")
	}
}

// FuzzDecode: no input panics, what is decoded travels, and where gopacket reads a
// whole TCP packet it reads the same.
func FuzzDecode(f *testing.F) {
	hop := gopacket.Payload{6, 0, 5, 2, 0, 0, 1, 0}
	f.Add(build(f, v4(layers.IPProtocolTCP), tcpSegment()))
	f.Add(build(f, v6(layers.IPProtocolTCP), tcpSegment()))
	f.Add(build(f, v4(layers.IPProtocolUDP), &layers.UDP{SrcPort: 5, DstPort: 53}))
	f.Add(build(f, v4(layers.IPProtocolICMPv4), &layers.ICMPv4{}))
	f.Add(build(f, v6(0), append(hop, tcpBytes(f)...)))
	f.Add(append(build(f, v6(44)), 6, 0, 0, 1, 0, 0, 0, 9))
	f.Add([]byte{0x4f})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Decode(b)
		if err != nil {
			return
		}
		fl, err := FlowFromPB(p.GetFlow())
		if err != nil {
			t.Fatalf("flow of a decoded packet: %v", err)
		}
		if len(p.GetHeader()) > 128 {
			t.Fatalf("%d bytes of header kept", len(p.GetHeader()))
		}
		var ip layers.IPv4
		var tcp layers.TCP
		if ip.DecodeFromBytes(b, gopacket.NilDecodeFeedback) != nil || ip.Version != 4 || ip.Protocol != layers.IPProtocolTCP || ip.FragOffset != 0 ||
			tcp.DecodeFromBytes(ip.Payload, gopacket.NilDecodeFeedback) != nil {
			return
		}
		if uint16(tcp.SrcPort) != fl.Src.Port() || uint16(tcp.DstPort) != fl.Dst.Port() || tcp.Seq != p.GetTcpSeq() || tcp.Ack != p.GetTcpAck() ||
			uint32(ip.Id) != p.GetIpId() || uint32(ip.TTL) != p.GetTtl() || ip.SrcIP.String() != fl.Src.Addr().String() {
			t.Fatalf("we read %v, gopacket %v %v", p, ip, tcp)
		}
	})
}
